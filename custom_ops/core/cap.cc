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

}  // namespace

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
  return Cap{&column, most, answers};
}

std::optional<int64_t> Cap::Value(int32_t item) const {
  if (!column->present.empty() && !Bit(column->present, item)) return std::nullopt;
  switch (column->type) {
    case AttributeType::kBool:
      return Bit(column->bits, item);
    case AttributeType::kString:
      return column->codes[item];
    default:
      return column->integers[item];
  }
}

PassingItems Cap::Without(absl::Span<const int64_t> values, int64_t num_items) const {
  Ranges ranges;
  for (int64_t value : values) ranges.emplace_back(value, value);
  std::sort(ranges.begin(), ranges.end());
  // A comparison with null is neither true nor false.
  const Filter null{Filter::Kind::kIsNull, {}, column};
  const Filter among{Filter::Kind::kAllows, {}, column, std::move(ranges)};
  const Filter other{Filter::Kind::kNot, {among}};
  return Filter{Filter::Kind::kOr, {null, other}}.Evaluate(num_items);
}

}  // namespace nann
