#ifndef CUSTOM_OPS_CORE_CAP_H_
#define CUSTOM_OPS_CORE_CAP_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "custom_ops/core/attributes.h"
#include "custom_ops/core/passing_items.h"

namespace nann {

// The values of a column that items have after updates: of the items behind those of the index, and of
// items of it.
struct ChangedValues {
  // Reads the values in `changed`, a column of the same type: those of `num_fresh` items behind the
  // `num_items` of the index, then those of the items `touched`, ascending. Equal strings get equal numbers.
  static ChangedValues Of(const Attribute& column, const Attribute& changed, int64_t num_items,
                          int64_t num_fresh, absl::Span<const int32_t> touched);

  int64_t num_items;
  std::vector<std::optional<int64_t>> fresh, touched;
  std::vector<int32_t> touched_items;
};

// A limit to how many items of an answer may have the same value in a column. Items without a value are
// not limited.
struct Cap {
  // `column` must outlive the cap. Returns InvalidArgument if it is a column of floats, times or lists, or
  // if `most` or `answers` is below 1.
  static absl::StatusOr<Cap> Create(const Attribute& column, int32_t most, int32_t answers);

  // Returns the value of an item, as an integer; nothing if it has none.
  std::optional<int64_t> Value(int32_t item) const;

  // Returns the items, of an index of `num_items`, whose value is none of `values`.
  PassingItems Without(absl::Span<const int64_t> values, int64_t num_items) const;

  const Attribute* column;
  int32_t most;     // Items that may have the same value.
  int32_t answers;  // Items to answer.
  std::shared_ptr<const ChangedValues> changed = nullptr;
};

// Counts the items of an answer by their values.
class CapCounts {
 public:
  explicit CapCounts(const Cap& cap) : cap_(cap) {}

  // Counts an item with `value` if that is still allowed. Returns whether it is.
  bool Take(std::optional<int64_t> value) {
    if (!value.has_value()) return true;
    int32_t& count = counts_[*value];
    if (count == cap_.most) return false;
    ++count;
    return true;
  }
  // Returns how many items with `value` were counted.
  int32_t count(int64_t value) const {
    const auto found = counts_.find(value);
    return found == counts_.end() ? 0 : found->second;
  }

 private:
  const Cap& cap_;
  std::unordered_map<int64_t, int32_t> counts_;
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_CAP_H_
