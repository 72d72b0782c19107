#ifndef CUSTOM_OPS_CORE_ITEM_KEYS_H_
#define CUSTOM_OPS_CORE_ITEM_KEYS_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "custom_ops/core/index_view.h"
#include "custom_ops/core/item_lookup.h"

namespace nann {

// The texts that stand for item ids in requests and answers: a read-only view of the file
// item_keys.bin, which must outlive it (docs/format.md). The first keys are those of the index's
// items, in their order; the others stand for numbers that the model knows and the index has no item
// of. Thread-safe.
class ItemKeys {
 public:
  // The number of no item, and of a key that is unknown.
  static constexpr int64_t kNoItem = -1;

  // Reads the whole file once and checks it. Returns InvalidArgument, with the file and the position,
  // if it is not a file of keys for items with `item_ids`, which must outlive this object, an entry is
  // out of bounds, a key repeats, or a key is not where its hash says.
  static absl::StatusOr<ItemKeys> Create(const IndexFile& file, absl::Span<const int64_t> item_ids);

  int64_t size() const { return static_cast<int64_t>(ends_.size()); }

  // Returns the key at a place, which must be below `size`. That of an item is at its dense index.
  absl::string_view Key(int64_t place) const {
    const int64_t base = blocks_[place / kBlock];
    const int64_t begin = place % kBlock == 0 ? 0 : ends_[place - 1];
    return text_.substr(base + begin, ends_[place] - begin);
  }

  // Returns the key of a number that is no item of the index, or an empty one if it has none.
  absl::string_view OtherKey(int64_t number) const {
    const int32_t other = others_->Find(number);
    return other < 0 ? absl::string_view() : Key(static_cast<int64_t>(item_ids_.size()) + other);
  }

  // Writes the number that each of `keys` stands for to `numbers`, or kNoItem if the key is unknown.
  // The keys may be of any type that converts to a string_view.
  template <typename Text>
  void Numbers(absl::Span<const Text> keys, int64_t* numbers) const {
    // Far more time goes into waiting for memory than into hashing. Some keys are looked up side by side,
    // so that they wait together.
    for (size_t from = 0; from < keys.size(); from += kAtOnce) {
      absl::string_view some[kAtOnce];
      const size_t count = keys.size() - from < kAtOnce ? keys.size() - from : kAtOnce;
      for (size_t i = 0; i < count; ++i) some[i] = keys[from + i];
      NumbersOfSome(absl::MakeConstSpan(some, count), numbers + from);
    }
  }

 private:
  static constexpr int64_t kBlock = 1 << 16;
  static constexpr size_t kAtOnce = 32;
  static constexpr uint32_t kNone = 0xFFFFFFFF;

  ItemKeys() = default;

  void NumbersOfSome(absl::Span<const absl::string_view> keys, int64_t* numbers) const;
  // Returns the first entry of the hash's bucket, from one in it on, that has the hash's tag, or kNone.
  uint32_t NextTagged(uint64_t hash, uint32_t from) const;
  int64_t Number(uint32_t place) const;
  uint64_t Hash(absl::string_view key) const;
  int64_t Bucket(uint64_t hash) const {
    return static_cast<int64_t>(bits_ == 0 ? 0 : hash >> (64 - bits_));
  }
  absl::Status CheckTexts(const IndexFile& file) const;
  absl::Status CheckBuckets(const IndexFile& file) const;

  absl::Span<const int64_t> item_ids_;
  uint64_t seed_ = 0;
  int64_t bits_ = 0;                          // There are 2^bits_ buckets.
  absl::Span<const int64_t> numbers_;         // Of the keys that follow those of the items.
  std::shared_ptr<const ItemLookup> others_;  // Finds these numbers.
  absl::Span<const int64_t> blocks_;          // Where the texts of each kBlock keys begin.
  absl::Span<const uint32_t> ends_;    // Where each key ends, from the beginning of its block.
  absl::Span<const uint32_t> starts_;  // Where each bucket begins in `order_`.
  absl::Span<const uint32_t> order_;   // The places of the keys, by bucket.
  absl::Span<const uint8_t> tags_;     // The low byte of the hash of each key of `order_`.
  absl::string_view text_;
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_ITEM_KEYS_H_
