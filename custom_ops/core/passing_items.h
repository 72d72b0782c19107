#ifndef CUSTOM_OPS_CORE_PASSING_ITEMS_H_
#define CUSTOM_OPS_CORE_PASSING_ITEMS_H_

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace nann {

// The items of an index that pass a filter, one bit for each item. Immutable, and so thread-safe:
// requests with the same filter share it.
class PassingItems {
 public:
  static constexpr int kBits = 64;
  static size_t NumWords(int64_t num_items) { return (num_items + kBits - 1) / kBits; }

  // Bit i % 64 of words[i / 64] says whether item i passes. `words` has NumWords(num_items) words;
  // bits behind the last item must be 0.
  explicit PassingItems(std::vector<uint64_t> words) : words_(std::move(words)) {
    for (const uint64_t word : words_) count_ += __builtin_popcountll(word);
  }

  // Returns the items that pass both filters, which are of the same index.
  PassingItems And(const PassingItems& other) const {
    std::vector<uint64_t> words = words_;
    for (size_t at = 0; at < words.size(); ++at) words[at] &= other.words_[at];
    return PassingItems(std::move(words));
  }

  const std::vector<uint64_t>& words() const { return words_; }
  // `item` must be in the index.
  bool Has(int32_t item) const { return words_[item / kBits] >> (item % kBits) & 1; }
  int64_t count() const { return count_; }

  // Returns the first passing item from `item` on, which must not be negative; if there is none, a number
  // that no item has.
  int64_t Next(int64_t item) const {
    size_t at = item / kBits;
    if (at >= words_.size()) return item;
    uint64_t word = words_[at] & ~uint64_t{0} << (item % kBits);
    while (word == 0 && ++at < words_.size()) word = words_[at];
    return at * kBits + (word == 0 ? 0 : __builtin_ctzll(word));
  }

  // Appends the passing items to `items`, in ascending order.
  void AppendTo(std::vector<int32_t>& items) const {
    items.reserve(items.size() + count_);
    for (size_t at = 0; at < words_.size(); ++at) {
      for (uint64_t word = words_[at]; word != 0; word &= word - 1) {
        items.push_back(static_cast<int32_t>(at * kBits + __builtin_ctzll(word)));
      }
    }
  }

 private:
  std::vector<uint64_t> words_;
  int64_t count_ = 0;
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_PASSING_ITEMS_H_
