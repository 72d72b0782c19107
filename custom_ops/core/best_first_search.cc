#include "custom_ops/core/best_first_search.h"

#include "absl/memory/memory.h"
#include "custom_ops/core/scoped_timer.h"
#include "custom_ops/core/walk.h"

namespace nann {

absl::StatusOr<std::unique_ptr<Search>> BestFirstSearch::Create(int32_t frontier, int32_t pool,
                                                                int32_t max_steps) {
  auto widths = BestFirstWidths::Create(frontier, pool, max_steps);
  if (!widths.ok()) return widths.status();
  return absl::WrapUnique<Search>(new BestFirstSearch(*widths));
}

absl::Status BestFirstSearch::WalkGraph(const IndexView& index, const SearchRequest& request,
                                        ScoreBatch score, Workspace& workspace,
                                        SearchStatistics& statistics) const {
  Walk walk(index, request, score, workspace, statistics);
  BestFirstWalk best_first(widths_, index, request, walk, workspace, statistics);
  const bool seeded = request.known.empty() && !request.seeds.empty();
  absl::Status status;
  if (!request.known.empty()) {
    workspace.results.assign(request.known.begin(), request.known.end());
  } else if (seeded) {
    status = walk.MeetSeeds();
    workspace.results.swap(walk.fresh());
  } else {
    status = best_first.Descend();
  }
  if (!status.ok()) return status;
  {
    const ScopedTimer timer(statistics.merging);
    Excluded(request.excluded).KeepBest(widths_.pool, workspace.results);
  }
  // With seeds there is no layer to enter: all of them are visited, also those that do not fit.
  if (!seeded) walk.EnterLayer(0, workspace.results);
  status = best_first.WalkGround();
  best_first.Finish();
  return status;
}

}  // namespace nann
