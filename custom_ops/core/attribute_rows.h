#ifndef CUSTOM_OPS_CORE_ATTRIBUTE_ROWS_H_
#define CUSTOM_OPS_CORE_ATTRIBUTE_ROWS_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "custom_ops/core/attributes.h"

namespace nann {

// One item among those that have attributes.
struct AttributeRow {
  const Attributes* of;
  int64_t item;
};

// Attributes that were picked from those of several files, in memory of its own. Immutable.
class AttributeRows {
 public:
  // Copies `rows`. All of them must have the columns of `like`, in their order; what `like` has of items
  // is not used.
  AttributeRows(const Attributes& like, absl::Span<const AttributeRow> rows);
  AttributeRows(const AttributeRows&) = delete;
  AttributeRows& operator=(const AttributeRows&) = delete;

  const Attributes& view() const { return *view_; }

 private:
  // The arrays of one column.
  struct Column {
    std::string name, text;
    std::vector<uint64_t> present, bits;
    std::vector<int64_t> row_splits, integers, text_ends;
    std::vector<double> floats;
    std::vector<int32_t> codes;
  };

  static Attribute Fill(size_t place, const Attribute& like, absl::Span<const AttributeRow> rows,
                        Column& column);

  std::deque<Column> columns_;  // They do not move: the view points into them.
  std::unique_ptr<const Attributes> view_;
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_ATTRIBUTE_ROWS_H_
