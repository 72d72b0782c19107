#ifndef CUSTOM_OPS_CORE_ITEM_ROWS_H_
#define CUSTOM_OPS_CORE_ITEM_ROWS_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "custom_ops/core/index_view.h"
#include "custom_ops/core/row_kernels.h"

namespace nann {

// The rows of the items of an index, 0..num_indexed-1, and of the fresh items after them.
struct ItemRows {
  // Those of an index without fresh items.
  ItemRows(const IndexView& index)  // NOLINT(google-explicit-constructor)
      : type(index.table_type()), indexed(index.table()), num_indexed(index.num_items()) {}

  int64_t dim() const { return indexed.dim; }

  // Calls `read(table, items, count)` with the table that has the rows of `items`, and their places in it.
  // Either all of `items`, or none, are of the index.
  template <typename Read>
  void ReadFrom(absl::Span<const int32_t> items, Read read) const {
    const int64_t count = static_cast<int64_t>(items.size());
    if (count == 0 || items[0] < num_indexed) return read(indexed, items.data(), count);
    std::vector<int32_t> places(items.begin(), items.end());
    for (int32_t& place : places) place -= static_cast<int32_t>(num_indexed);
    read(fresh, places.data(), count);
  }

  // Writes the rows of `items` as float32 [items, dim] to `values`.
  void Gather(absl::Span<const int32_t> items, float* values) const {
    const auto gather = SupportedRowKernels().sets[0]->gather[static_cast<int>(type)];
    ReadFrom(items, [&](const RowTable& table, const int32_t* places, int64_t count) {
      gather(table, places, count, values);
    });
  }

  TableType type;
  RowTable indexed;
  int64_t num_indexed;
  RowTable fresh{};
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_ITEM_ROWS_H_
