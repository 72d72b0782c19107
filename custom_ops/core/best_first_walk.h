#ifndef CUSTOM_OPS_CORE_BEST_FIRST_WALK_H_
#define CUSTOM_OPS_CORE_BEST_FIRST_WALK_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "custom_ops/core/excluded.h"
#include "custom_ops/core/search.h"
#include "custom_ops/core/walk.h"

namespace nann {

// The parameters of BestFirstSearch, within their ranges; without a limit, max_steps is the largest
// number.
struct BestFirstWidths {
  // A `max_steps` of 0 means no limit. Returns InvalidArgument, naming the parameter, if one is out of
  // its range.
  static absl::StatusOr<BestFirstWidths> Create(int32_t frontier, int32_t pool, int32_t max_steps);

  // Returns about how many items such a walk scores: an item of the pool brings some ten others.
  int64_t ExpectedEvaluations() const { return int64_t{10} * pool; }

  int32_t frontier, pool, max_steps;
};

// The best-first walk of one layer after the other, for a search that consists of it and for one that
// begins or ends with it. Used for one request.
class BestFirstWalk {
 public:
  BestFirstWalk(const BestFirstWidths& widths, const IndexView& index, const SearchRequest& request,
                Walk& walk, Workspace& workspace, SearchStatistics& statistics)
      : widths_(widths),
        index_(index),
        excluded_(request.excluded),
        walk_(walk),
        workspace_(workspace),
        statistics_(statistics) {}

  // Walks all layers above the ground from the entry points down, each with a pool of `frontier`.
  // Leaves the items to enter the ground layer from in `workspace.results`.
  absl::Status Descend();
  // Walks the ground layer, where the items of `workspace.results` are visited, with a pool of `pool`.
  // With a filter it starts again from other items that pass, as long as there are any and the pool is
  // not full.
  absl::Status WalkGround();
  // Sets `stopped` to kSteps if a layer had more to expand after `max_steps` steps.
  void Finish();

 private:
  absl::Status WalkLayer(int32_t room);

  const BestFirstWidths widths_;
  const IndexView& index_;
  const Excluded excluded_;
  Walk& walk_;
  Workspace& workspace_;
  SearchStatistics& statistics_;
  bool cut_ = false;
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_BEST_FIRST_WALK_H_
