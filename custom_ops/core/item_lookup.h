#ifndef CUSTOM_OPS_CORE_ITEM_LOOKUP_H_
#define CUSTOM_OPS_CORE_ITEM_LOOKUP_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "absl/types/span.h"

namespace nann {

// Finds the dense index of an item by its id in the data, by binary search: over the ids themselves
// if they ascend, else over their sorted order, which takes four bytes per item. Thread-safe. The
// ids must outlive this object.
class ItemLookup {
 public:
  explicit ItemLookup(absl::Span<const int64_t> item_ids) : item_ids_(item_ids) {
    if (std::is_sorted(item_ids.begin(), item_ids.end())) return;
    order_.resize(item_ids.size());
    std::iota(order_.begin(), order_.end(), 0);
    std::sort(order_.begin(), order_.end(),
              [item_ids](int32_t a, int32_t b) { return item_ids[a] < item_ids[b]; });
  }

  // Returns the item's dense index, or -1 if no item has the id.
  int32_t Find(int64_t id) const {
    // Ids that are row numbers, as those of items that have keys.
    if (id >= 0 && id < static_cast<int64_t>(item_ids_.size()) && item_ids_[id] == id) {
      return static_cast<int32_t>(id);
    }
    if (order_.empty()) {
      auto found = std::lower_bound(item_ids_.begin(), item_ids_.end(), id);
      if (found == item_ids_.end() || *found != id) return -1;
      return static_cast<int32_t>(found - item_ids_.begin());
    }
    auto found =
        std::lower_bound(order_.begin(), order_.end(), id,
                         [this](int32_t item, int64_t wanted) { return item_ids_[item] < wanted; });
    return found == order_.end() || item_ids_[*found] != id ? -1 : *found;
  }

 private:
  const absl::Span<const int64_t> item_ids_;
  std::vector<int32_t> order_;
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_ITEM_LOOKUP_H_
