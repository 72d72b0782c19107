#include "custom_ops/core/best_first_search.h"

#include <cstddef>

#include "absl/memory/memory.h"
#include "custom_ops/core/walk.h"

namespace nann {
namespace {

// candidates = the best `frontier` of results that are not expanded; they count as expanded then.
void TakeFrontier(size_t frontier, Workspace& w) {
  w.candidates.clear();
  for (size_t i = 0; i < w.results.size() && w.candidates.size() < frontier; ++i) {
    if (w.expanded[i]) continue;
    w.expanded[i] = true;
    w.candidates.push_back(w.results[i]);
  }
}

// results = best `pool` of results and fresh, best first; fresh items are not expanded.
void Merge(size_t pool, Workspace& w) {
  KeepBest(pool, w.fresh);
  w.merged.clear();
  w.merged_expanded.clear();
  size_t old = 0, fresh = 0;
  while (w.merged.size() < pool && (old < w.results.size() || fresh < w.fresh.size())) {
    const bool take_old = fresh == w.fresh.size() ||
                          (old < w.results.size() && Better(w.results[old], w.fresh[fresh]));
    w.merged_expanded.push_back(take_old && w.expanded[old]);
    w.merged.push_back(take_old ? w.results[old++] : w.fresh[fresh++]);
  }
  w.results.swap(w.merged);
  w.expanded.swap(w.merged_expanded);
}

// Walks the current layer from `results`.
absl::Status WalkLayer(int32_t frontier, int32_t pool, int32_t max_steps, Walk& walk,
                       Workspace& workspace) {
  workspace.expanded.assign(workspace.results.size(), false);
  for (int32_t step = 0; step < max_steps && !walk.stopped(); ++step) {
    TakeFrontier(frontier, workspace);
    if (workspace.candidates.empty()) break;
    absl::Status status = walk.Expand(workspace.candidates);
    if (!status.ok()) return status;
    Merge(pool, workspace);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Search>> BestFirstSearch::Create(int32_t frontier, int32_t pool,
                                                                int32_t max_steps) {
  absl::Status status = CheckWidth("frontier", frontier);
  status.Update(CheckWidth("pool", pool));
  status.Update(CheckWidth("max_steps", max_steps, kMaxRounds));
  if (!status.ok()) return status;
  return absl::WrapUnique<Search>(new BestFirstSearch(frontier, pool, max_steps));
}

absl::Status BestFirstSearch::Run(const IndexView& index, const SearchRequest& request,
                                  ScoreBatch score, Workspace& workspace,
                                  SearchStatistics& statistics) const {
  Walk walk(index, request, score, workspace, statistics);
  const bool seeded = !request.seeds.empty();
  absl::Status status = seeded ? walk.MeetSeeds() : walk.Enter();
  workspace.results.swap(walk.fresh());
  for (int layer = seeded ? 0 : index.num_layers() - 1; layer >= 0 && status.ok(); --layer) {
    const int32_t pool = layer == 0 ? pool_ : frontier_;
    KeepBest(pool, workspace.results);
    // All seeds are visited already, those that the pool has no room for too.
    if (!seeded) walk.EnterLayer(layer, workspace.results);
    status = WalkLayer(frontier_, pool, max_steps_, walk, workspace);
  }
  return status;
}

}  // namespace nann
