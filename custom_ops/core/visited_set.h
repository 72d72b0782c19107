#ifndef CUSTOM_OPS_CORE_VISITED_SET_H_
#define CUSTOM_OPS_CORE_VISITED_SET_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace nann {

// Which items the walk has met in the current layer, and the scores of those that were evaluated in
// this request, so that an item which an upper layer rejected is not evaluated a second time when
// the ground layer meets it again.
//
// Marks are epochs: starting a layer or a request is O(1) and touches no memory. Eight bytes an
// item, one cache line a look-up. Not thread-safe; every worker owns one.
template <typename Epoch>
class BasicVisitedSet {
 public:
  // Far above the layers of any HNSW graph: a request never wraps half way through.
  static constexpr Epoch kMaxLayers = 64;

  enum class State {
    kNew,      // Not met in this request: must be evaluated.
    kScored,   // Met in an upper layer: `*score` is its score.
    kVisited,  // Met in this layer already.
  };

  // Forgets everything; room for items 0..num_items-1.
  void StartRequest(size_t num_items) {
    if (entries_.size() != num_items ||
        layer_epoch_ > std::numeric_limits<Epoch>::max() - kMaxLayers) {
      entries_.assign(num_items, Entry{});
      layer_epoch_ = 0;
    }
    request_epoch_ = ++layer_epoch_;
  }

  // No item is visited in the new layer; scores of this request are kept.
  void StartLayer() { ++layer_epoch_; }

  // Marks `item` visited and tells what was known of it.
  State Visit(int32_t item, float* score) {
    Entry& entry = entries_[item];
    const Epoch met = entry.epoch;
    if (met == layer_epoch_) return State::kVisited;
    entry.epoch = layer_epoch_;
    if (met < request_epoch_) return State::kNew;
    *score = entry.score;
    return State::kScored;
  }

  // Fetches ahead what `Visit` will read; an address outside the set does no harm.
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
