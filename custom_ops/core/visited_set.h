#ifndef CUSTOM_OPS_CORE_VISITED_SET_H_
#define CUSTOM_OPS_CORE_VISITED_SET_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace nann {

// Remembers which items the walk has met in the current layer, and the scores of items evaluated in
// this request, so that an item that an upper layer rejected is not evaluated again when the ground
// layer meets it.
//
// Items are marked with epochs, so that starting a layer or a request is O(1) and touches no other
// memory. Eight bytes per item, one cache line per look-up. Not thread-safe; every worker owns one.
template <typename Epoch>
class BasicVisitedSet {
 public:
  // Far above the layers of any HNSW graph. Epochs wrap around only between two requests, never in
  // the middle of one.
  static constexpr Epoch kMaxLayers = 64;

  enum class State {
    kNew,      // Not met in this request; it must be evaluated.
    kScored,   // Met in an upper layer; `*score` is its score.
    kVisited,  // Already met in this layer.
  };

  // Forgets everything, and makes room for items 0..num_items-1.
  void StartRequest(size_t num_items) {
    if (entries_.size() != num_items ||
        layer_epoch_ > std::numeric_limits<Epoch>::max() - kMaxLayers) {
      entries_.assign(num_items, Entry{});
      layer_epoch_ = 0;
    }
    request_epoch_ = ++layer_epoch_;
  }

  // Starts a layer in which no item is visited; keeps the scores of this request.
  void StartLayer() { ++layer_epoch_; }

  // Marks `item` as visited and returns the state that it had before.
  State Visit(int32_t item, float* score) {
    Entry& entry = entries_[item];
    const Epoch met = entry.epoch;
    if (met == layer_epoch_) return State::kVisited;
    entry.epoch = layer_epoch_;
    if (met < request_epoch_) return State::kNew;
    *score = entry.score;
    return State::kScored;
  }

  // Prefetches the entry that `Visit` reads. An item outside the set does no harm.
  void Prefetch(int32_t item) const {
    const auto begin = reinterpret_cast<uintptr_t>(entries_.data());
    __builtin_prefetch(
        reinterpret_cast<const void*>(begin + sizeof(Entry) * static_cast<uint32_t>(item)), 1);
  }

  void SetScore(int32_t item, float score) { entries_[item].score = score; }

 private:
  struct Entry {
    Epoch epoch = 0;
    float score = 0;
  };

  std::vector<Entry> entries_;
  Epoch request_epoch_ = 0;
  Epoch layer_epoch_ = 0;
};

using VisitedSet = BasicVisitedSet<uint32_t>;

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_VISITED_SET_H_
