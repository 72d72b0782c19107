#ifndef CUSTOM_OPS_CORE_BEST_FIRST_SEARCH_H_
#define CUSTOM_OPS_CORE_BEST_FIRST_SEARCH_H_

#include <memory>

#include "absl/status/statusor.h"
#include "custom_ops/core/search.h"

namespace nann {

// The walk of HNSW under a model's score, in batches: a pool keeps the best `pool` scored items, not
// counting excluded ones; each step takes the best `frontier` of them that were not expanded yet
// and scores all their neighbours that were not visited in one batch. It ends when every item of
// the pool is expanded, or after `max_steps` steps in a layer; `stopped` tells where these were too
// few.
//
// With seeds it starts from these at the ground layer and reads no other layer: what the user chose
// before lies nearer to the answer than the hierarchy leads. Without, every upper layer is walked
// in the same way with a pool of `frontier`, from the entry points down.
class BestFirstSearch : public Search {
 public:
  // `max_steps` 0 is no limit: every step expands an item, so that the walk ends by itself.
  // InvalidArgument names the parameter that is out of its range.
  static absl::StatusOr<std::unique_ptr<Search>> Create(int32_t frontier, int32_t pool,
                                                        int32_t max_steps);

 private:
  BestFirstSearch(int32_t frontier, int32_t pool, int32_t max_steps)
      : frontier_(frontier), pool_(pool), max_steps_(max_steps) {}

  absl::Status WalkGraph(const IndexView& index, const SearchRequest& request, ScoreBatch score,
                         Workspace& workspace, SearchStatistics& statistics) const override;

  const int32_t frontier_, pool_, max_steps_;
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_BEST_FIRST_SEARCH_H_
