#ifndef CUSTOM_OPS_CORE_BRIDGE_H_
#define CUSTOM_OPS_CORE_BRIDGE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "custom_ops/core/index_view.h"
#include "custom_ops/core/passing_items.h"

namespace nann {

// Leads a walk through the items that fail the request's filter to the passing ones behind them, as
// ACORN-1 (arXiv 2403.04871) does, but over any number of hops (docs/searches.md). Reading the bit of
// an item costs a thousandth of what scoring it would, so that a bridge may be long. A failing item is
// crossed at most once in a layer. Used by one thread; the buffers are kept between requests.
class Bridge {
 public:
  // Meets a passing item. Returns whether it counts towards the number that is wanted.
  using Meet = absl::FunctionRef<bool(int32_t item)>;

  // Forgets the request before, and starts the ground layer. Without a filter `passing` is null, and
  // no other method may be called.
  void StartRequest(const IndexView& index, const PassingItems* passing);
  // Starts a layer, in which nothing is crossed yet. Failing items that were met above and not crossed
  // there are kept, since a layer has all items of those above it.
  void StartLayer(int layer);

  bool Passes(int32_t item) const { return passing_->Has(item); }

  // Meets all passing neighbours of `item`, each once, and then those behind its failing neighbours, the
  // fewest hops first, until `wanted` are found or kMaxLists lists of neighbours were read. Failing
  // items that are then left are kept for `Wander`, as far as there is room. Returns DataLoss if a neighbour is outside the index.
  absl::Status Cross(int32_t item, size_t wanted, Meet meet);
  // Goes on from the failing items that were met and not crossed, in this order, until `wanted` passing
  // ones are found or kMaxWandered lists were read.
  absl::Status Wander(size_t wanted, Meet meet);

 private:
  static constexpr size_t kMaxLists = 64, kMaxWandered = 4096, kMaxWaiting = 1 << 16;

  // Crosses the items of `queue` from `begin` on, to which it appends the failing items that it meets,
  // and removes those that are done with.
  absl::Status CrossAll(std::vector<int32_t>& queue, size_t wanted, size_t max_lists, Meet meet);
  // Meets the passing neighbours of `item` that were not met in this crossing, and appends the failing
  // ones that are not crossed to `queue`.
  absl::Status Look(int32_t item, std::vector<int32_t>& queue, size_t& wanted, Meet meet);
  bool Crossed(int32_t item) const { return marks_[item] >= layer_begin_; }

  const IndexView* index_ = nullptr;
  const PassingItems* passing_ = nullptr;
  int layer_ = 0;
  // By item: the last crossing in which it was met, if it passes, or crossed, if it fails.
  std::vector<uint32_t> marks_;
  uint32_t crossing_ = 0, layer_begin_ = 0;
  std::vector<int32_t> near_, waiting_;
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_BRIDGE_H_
