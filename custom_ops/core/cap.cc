#include "custom_ops/core/cap.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/filter.h"

namespace nann {
namespace {

constexpr int kBits = 64;

bool Bit(absl::Span<const uint64_t> words, int32_t item) {
  return words[item / kBits] >> (item % kBits) & 1;
}

std::optional<int64_t> ValueOf(const Attribute& column, int32_t item) {
  if (!column.present.empty() && !Bit(column.present, item)) return std::nullopt;
  switch (column.type) {
    case AttributeType::kBool:
      return Bit(column.bits, item);
    case AttributeType::kString:
      return column.codes[item];
    default:
      return column.integers[item];
  }
}

// Returns the number that `column` has for a string; a negative one, by its code, if it has none.
int64_t CodeIn(const Attribute& column, const Attribute& changed, int64_t code) {
  const absl::string_view text = changed.Text(code);
  size_t low = 0, high = column.text_ends.size();
  while (low < high) {
    const size_t middle = (low + high) / 2;
    (column.Text(middle) < text ? low : high) = column.Text(middle) < text ? middle + 1 : middle;
  }
  const bool known = low < column.text_ends.size() && column.Text(low) == text;
  return known ? static_cast<int64_t>(low) : -1 - code;
}

}  // namespace

ChangedValues ChangedValues::Of(const Attribute& column, const Attribute& changed,
                                int64_t num_items, int64_t num_fresh,
                                absl::Span<const int32_t> touched) {
  ChangedValues values{num_items, {}, {}, {touched.begin(), touched.end()}};
  const int64_t count = num_fresh + static_cast<int64_t>(touched.size());
  for (int64_t i = 0; i < count; ++i) {
    std::optional<int64_t> value = ValueOf(changed, static_cast<int32_t>(i));
    if (value.has_value() && column.type == AttributeType::kString) {
      value = CodeIn(column, changed, *value);
    }
    (i < num_fresh ? values.fresh : values.touched).push_back(value);
  }
  return values;
}

absl::StatusOr<Cap> Cap::Create(const Attribute& column, int32_t most, int32_t answers) {
  switch (column.type) {
    case AttributeType::kBool:
    case AttributeType::kInt:
    case AttributeType::kString:
      break;
    default:
      return absl::InvalidArgumentError(absl::StrCat("cap_by is '", column.name, "', ",
                                                     TypeName(column.type),
                                                     "; allowed are columns of integers, strings "
                                                     "and booleans"));
  }
  if (most < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("cap is ", most, ", allowed are 1 and above: items with the same value of '",
                     column.name, "' in an answer"));
  }
  if (answers < 1) return absl::InvalidArgumentError(absl::StrCat("answers is ", answers));
  return Cap{&column, most, answers, nullptr};
}

std::optional<int64_t> Cap::Value(int32_t item) const {
  if (changed != nullptr) {
    if (item >= changed->num_items) return changed->fresh[item - changed->num_items];
    const std::vector<int32_t>& items = changed->touched_items;
    const auto found = std::lower_bound(items.begin(), items.end(), item);
    if (found != items.end() && *found == item) return changed->touched[found - items.begin()];
  }
  return ValueOf(*column, item);
}

PassingItems Cap::Without(absl::Span<const int64_t> values, int64_t num_items) const {
  Ranges ranges;
  for (int64_t value : values) ranges.emplace_back(value, value);
  std::sort(ranges.begin(), ranges.end());
  // A comparison with null is neither true nor false.
  const Filter null{Filter::Kind::kIsNull, {}, column};
  const Filter among{Filter::Kind::kAllows, {}, column, std::move(ranges)};
  const Filter other{Filter::Kind::kNot, {among}};
  PassingItems items = Filter{Filter::Kind::kOr, {null, other}}.Evaluate(num_items);
  if (changed == nullptr || changed->touched_items.empty()) return items;
  std::vector<uint64_t> words = items.words();
  for (size_t i = 0; i < changed->touched_items.size(); ++i) {
    const std::optional<int64_t> value = changed->touched[i];
    const bool passes =
        !value.has_value() || std::find(values.begin(), values.end(), *value) == values.end();
    const int32_t item = changed->touched_items[i];
    const uint64_t bit = uint64_t{1} << (item % kBits);
    words[item / kBits] = passes ? words[item / kBits] | bit : words[item / kBits] & ~bit;
  }
  return PassingItems(std::move(words));
}

}  // namespace nann
