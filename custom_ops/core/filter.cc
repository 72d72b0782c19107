#include "custom_ops/core/filter.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

namespace nann {
namespace {

constexpr int kBits = PassingItems::kBits;
// Items are filtered in blocks, so that the bits of all parts of a filter stay in the cache.
constexpr int64_t kBlockWords = 16;
using Block = std::array<uint64_t, kBlockWords>;

bool IsAllowed(const Ranges& ranges, int64_t value) {
  const auto above = std::upper_bound(
      ranges.begin(), ranges.end(), value,
      [](int64_t v, const std::pair<int64_t, int64_t>& range) { return v < range.first; });
  return above != ranges.begin() && value <= std::prev(above)->second;
}

int64_t Order(int32_t value) { return value; }
int64_t Order(int64_t value) { return value; }
int64_t Order(double value) { return FloatOrder(value); }

// Evaluates a filter for the items of `words` words of bits, of which the first has the place `first`.
class BlockEvaluation {
 public:
  BlockEvaluation(int64_t num_items, int64_t first, int64_t words)
      : first_(first),
        words_(words),
        begin_(first * kBits),
        end_(std::min(num_items, (first + words) * kBits)) {}

  // Sets the bits of the items for which `filter` is true or, with `negated`, for which it is false.
  // Bits behind the last item may be anything.
  void Set(const Filter& filter, bool negated, uint64_t* bits) const {
    switch (filter.kind) {
      case Filter::Kind::kNot:
        return Set(filter.parts[0], !negated, bits);
      case Filter::Kind::kAnd:
      case Filter::Kind::kOr:
        return Join(filter, negated, bits);
      case Filter::Kind::kIsNull:
        for (int64_t i = 0; i < words_; ++i) {
          bits[i] = Present(*filter.column, i) ^ ~FullIf(negated);
        }
        return;
      case Filter::Kind::kAllows:
        SetAllowed(*filter.column, filter.allowed, bits);
        for (int64_t i = 0; i < words_; ++i) {
          bits[i] = (bits[i] ^ FullIf(negated)) & Present(*filter.column, i);
        }
        return;
    }
  }

 private:
  static uint64_t FullIf(bool full) { return full ? ~uint64_t{0} : 0; }

  uint64_t Present(const Attribute& column, int64_t word) const {
    return column.present.empty() ? ~uint64_t{0} : column.present[first_ + word];
  }

  void Join(const Filter& filter, bool negated, uint64_t* bits) const {
    const bool all = (filter.kind == Filter::Kind::kAnd) != negated;
    Set(filter.parts[0], negated, bits);
    Block more;
    for (size_t part = 1; part < filter.parts.size(); ++part) {
      Set(filter.parts[part], negated, more.data());
      for (int64_t i = 0; i < words_; ++i) bits[i] = all ? bits[i] & more[i] : bits[i] | more[i];
    }
  }

  void SetAllowed(const Attribute& column, const Ranges& allowed, uint64_t* bits) const {
    switch (column.type) {
      case AttributeType::kBool: {
        const uint64_t no = FullIf(IsAllowed(allowed, 0));
        const uint64_t yes = FullIf(IsAllowed(allowed, 1));
        for (int64_t i = 0; i < words_; ++i) {
          const uint64_t values = column.bits[first_ + i];
          bits[i] = (values & yes) | (~values & no);
        }
        return;
      }
      case AttributeType::kInt:
      case AttributeType::kTimestamp:
        return SetValues(column.integers, allowed, bits);
      case AttributeType::kFloat:
        return SetValues(column.floats, allowed, bits);
      case AttributeType::kString:
        return SetValues(column.codes, allowed, bits);
      case AttributeType::kInts:
        return SetLists(column.row_splits, column.integers, allowed, bits);
      case AttributeType::kStrings:
        return SetLists(column.row_splits, column.codes, allowed, bits);
    }
  }

  template <typename Value>
  void SetValues(absl::Span<const Value> values, const Ranges& ranges, uint64_t* bits) const {
    if (ranges.size() != 1) {
      return SetItems([&](int64_t item) { return IsAllowed(ranges, Order(values[item])); }, bits);
    }
    const int64_t low = ranges[0].first, high = ranges[0].second;
    SetItems(
        [=](int64_t item) {
          const int64_t order = Order(values[item]);
          return (order >= low) & (order <= high);
        },
        bits);
  }

  template <typename Value>
  void SetLists(absl::Span<const int64_t> row_splits, absl::Span<const Value> values,
                const Ranges& ranges, uint64_t* bits) const {
    SetItems(
        [&](int64_t item) {
          // Checked again where they are used, because the file is mapped.
          const int64_t begin = row_splits[item], end = row_splits[item + 1];
          if (begin < 0 || begin > end || end > static_cast<int64_t>(values.size())) return false;
          return std::any_of(values.begin() + begin, values.begin() + end,
                             [&](Value value) { return IsAllowed(ranges, value); });
        },
        bits);
  }

  template <typename Passes>
  void SetItems(Passes passes, uint64_t* bits) const {
    for (int64_t word = 0; word < words_; ++word) {
      const int64_t item = begin_ + word * kBits;
      const int64_t count = std::min<int64_t>(kBits, end_ - item);
      uint64_t set = 0;
      for (int64_t i = 0; i < count; ++i) set |= static_cast<uint64_t>(passes(item + i)) << i;
      bits[word] = set;
    }
  }

  const int64_t first_, words_, begin_, end_;
};

}  // namespace

PassingItems Filter::Evaluate(int64_t num_items) const {
  std::vector<uint64_t> words(PassingItems::NumWords(num_items));
  const int64_t count = words.size();
  for (int64_t first = 0; first < count; first += kBlockWords) {
    const int64_t block = std::min(kBlockWords, count - first);
    BlockEvaluation(num_items, first, block).Set(*this, /*negated=*/false, &words[first]);
  }
  const int last = num_items % kBits;
  if (last != 0) words.back() &= (uint64_t{1} << last) - 1;
  return PassingItems(std::move(words));
}

}  // namespace nann
