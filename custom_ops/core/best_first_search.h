#ifndef CUSTOM_OPS_CORE_BEST_FIRST_SEARCH_H_
#define CUSTOM_OPS_CORE_BEST_FIRST_SEARCH_H_

#include <memory>

#include "absl/status/statusor.h"
#include "custom_ops/core/best_first_walk.h"
#include "custom_ops/core/search.h"

namespace nann {

// The walk of HNSW under a model's score, in batches. A pool keeps the best `pool` scored items, not
// counting excluded ones. Each step takes the best `frontier` of them that are not yet expanded and
// scores all their unvisited neighbours in one batch. The walk ends when every item of the pool is
// expanded, or after `max_steps` steps in a layer; in the second case `stopped` is kSteps if there
// was more to expand.
//
// With seeds, the walk starts from them in the ground layer and reads no other layer: the user's own
// items are closer to the answer than the hierarchy can lead. Without seeds, every upper layer is
// walked in the same way, with a pool of `frontier`, from the entry points down.
//
// With a filter, the pool holds items that pass, and as many are met from each as it has neighbours,
// across failing ones (bridge.h).
class BestFirstSearch : public Search {
 public:
  // A `max_steps` of 0 means no limit: the walk still ends, because every step expands an item.
  // Returns InvalidArgument, naming the parameter, if one is out of its range.
  static absl::StatusOr<std::unique_ptr<Search>> Create(int32_t frontier, int32_t pool,
                                                        int32_t max_steps);

 private:
  explicit BestFirstSearch(const BestFirstWidths& widths) : widths_(widths) {}

  int32_t width() const override { return widths_.pool; }
  int64_t ExpectedEvaluations() const override { return widths_.ExpectedEvaluations(); }
  absl::Status WalkGraph(const IndexView& index, const SearchRequest& request, ScoreBatch score,
                         Workspace& workspace, SearchStatistics& statistics) const override;

  const BestFirstWidths widths_;
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_BEST_FIRST_SEARCH_H_
