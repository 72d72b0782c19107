#ifndef CUSTOM_OPS_CORE_FILTER_H_
#define CUSTOM_OPS_CORE_FILTER_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "custom_ops/core/attributes.h"
#include "custom_ops/core/filter_values.h"
#include "custom_ops/core/passing_items.h"

namespace nann {

// A filter, or a part of one. It refers to the attributes that it was parsed for.
struct Filter {
  // Brackets and NOTs inside each other, and comparisons, that a filter may have.
  static constexpr int kMaxDepth = 64;
  static constexpr int kMaxComparisons = 256;

  // Parses the language of docs/filters.md. Returns InvalidArgument otherwise, with the place in the
  // text, what stands there, and what may.
  static absl::StatusOr<Filter> Parse(absl::string_view text, const Attributes& attributes);

  // Returns the items for which the filter is true. As in SQL, a comparison with null is neither true
  // nor false, and no NOT makes it true.
  PassingItems Evaluate(int64_t num_items) const;

  enum class Kind { kAnd, kOr, kNot, kIsNull, kAllows };
  Kind kind;
  std::vector<Filter> parts = {};     // kAnd and kOr have two or more, kNot has one.
  const Attribute* column = nullptr;  // Set for kIsNull and kAllows.
  Ranges allowed = {};  // The column has one of these, in ascending order; a list, at least one.
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_FILTER_H_
