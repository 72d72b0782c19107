#ifndef CUSTOM_OPS_CORE_FILTER_VALUES_H_
#define CUSTOM_OPS_CORE_FILTER_VALUES_H_

#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "custom_ops/core/attributes.h"
#include "custom_ops/core/filter_text.h"

namespace nann {

// The values that a comparison allows, as ranges from the first to the last of each. Values are integers:
// those of a column of strings are its codes, of bools 0 and 1, of floats their `FloatOrder`.
using Ranges = std::vector<std::pair<int64_t, int64_t>>;

// Returns integers in the order of the floats. Floats themselves could not be compared: TensorFlow runs
// its ops in a mode of the processor in which the next float after 0 equals 0. The order of -0 is below
// that of 0, so a file of attributes has no -0.
inline int64_t FloatOrder(double value) {
  int64_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits ^ ((bits >> 63) & std::numeric_limits<int64_t>::max());
}

enum class Comparison { kEqual, kLess, kAtMost, kGreater, kAtLeast };

// Adds what compares so with `literal` to `allowed`. Returns false if a column of this type cannot be
// compared so with the literal.
bool Allow(const Attribute& column, Comparison comparison, const FilterToken& literal,
           Ranges& allowed);

// Returns what a literal for a column of this type looks like.
absl::string_view LiteralFor(AttributeType type);

// Returns the seconds since 1970 of a date such as 2024-05-31, or of a time such as
// 2024-05-31T18:00:00Z or 2024-05-31 18:00:00+02:00. A time without a zone is UTC.
std::optional<int64_t> ParseTime(absl::string_view text);

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_FILTER_VALUES_H_
