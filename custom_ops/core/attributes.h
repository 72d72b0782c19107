#ifndef CUSTOM_OPS_CORE_ATTRIBUTES_H_
#define CUSTOM_OPS_CORE_ATTRIBUTES_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "custom_ops/core/index_view.h"

namespace nann {

// The numbers are those in the file.
enum class AttributeType : int64_t {
  kBool = 0,
  kInt = 1,
  kFloat = 2,
  kString = 3,
  kTimestamp = 4,
  kInts = 5,
  kStrings = 6
};

// Returns the type in words, such as "a list of strings".
absl::string_view TypeName(AttributeType type);

// One column: a value, a list of values, or null for each item. Only the arrays of its type are there.
struct Attribute {
  absl::string_view name;
  AttributeType type = AttributeType::kInt;
  absl::Span<const uint64_t> present;  // A bit for each item that is not null; none if no item is.
  absl::Span<const int64_t> row_splits;  // For lists: where each item's values begin.
  absl::Span<const uint64_t> bits;       // Bools, a bit for each item.
  absl::Span<const int64_t> integers;    // Also timestamps, in seconds since 1970.
  absl::Span<const double> floats;
  absl::Span<const int32_t> codes;      // Strings, as their places in the dictionary.
  absl::Span<const int64_t> text_ends;  // Where each string of the dictionary ends in `text`.
  absl::string_view text;  // The dictionary's strings, in ascending order of their bytes.

  bool IsList() const { return type == AttributeType::kInts || type == AttributeType::kStrings; }
  absl::string_view Text(size_t code) const {
    const int64_t begin = code == 0 ? 0 : text_ends[code - 1];
    return text.substr(begin, text_ends[code] - begin);
  }
};

// The attributes of the items of an index: a read-only view of the file attributes.bin, which must
// outlive it (docs/format.md). Thread-safe.
class Attributes {
 public:
  // Reads the whole file once and checks it. Returns InvalidArgument, with the file, the column and the
  // position, if it is not a file of attributes of `num_items` items or an entry is out of bounds.
  static absl::StatusOr<Attributes> Create(const IndexFile& file, int64_t num_items);

  // Returns a view of columns that are kept elsewhere, each of `num_items` items and as a file would have
  // it.
  static Attributes Of(int64_t num_items, std::vector<Attribute> columns);

  int64_t num_items() const { return num_items_; }
  absl::Span<const Attribute> columns() const { return columns_; }
  // Returns null if there is no such column.
  const Attribute* Find(absl::string_view name) const;
  // Returns the columns' names for an error: the first ones, and how many more there are.
  std::string Names() const;

 private:
  Attributes() = default;

  int64_t num_items_ = 0;
  std::vector<Attribute> columns_;
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_ATTRIBUTES_H_
