#include "custom_ops/core/deployed_search.h"

#include <cstddef>
#include <numeric>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/excluded.h"
#include "custom_ops/core/scoped_timer.h"
#include "custom_ops/core/walk.h"

namespace nann {

absl::StatusOr<std::unique_ptr<Search>> DeployedSearch::Create(absl::Span<const int32_t> level_topn,
                                                               int num_layers) {
  if (level_topn.size() < static_cast<size_t>(num_layers) + 2) {
    return absl::InvalidArgumentError(absl::StrCat(
        "level_topn has ", level_topn.size(), " entries; this index needs at least ",
        num_layers + 2, ": one per layer above the ground, one per ground round, and k"));
  }
  for (size_t i = 0; i < level_topn.size(); ++i) {
    absl::Status status = CheckWidth(absl::StrCat("level_topn[", i, "]"), level_topn[i]);
    if (!status.ok()) return status;
  }
  return absl::WrapUnique<Search>(
      new DeployedSearch(level_topn.first(level_topn.size() - 1), level_topn.back()));
}

int64_t DeployedSearch::ExpectedEvaluations() const {
  return 7 * std::accumulate(widths_.begin(), widths_.end(), int64_t{0});
}

absl::Status DeployedSearch::WalkGraph(const IndexView& index, const SearchRequest& request,
                                       ScoreBatch score, Workspace& workspace,
                                       SearchStatistics& statistics) const {
  std::vector<Scored>& results = workspace.results;
  const Excluded excluded(request.excluded);
  Walk walk(index, request, score, workspace, statistics);
  absl::Status status = walk.Enter();
  if (!status.ok()) return status;
  results.swap(walk.fresh());
  auto width = widths_.begin();
  {
    const ScopedTimer timer(statistics.merging);
    excluded.KeepBest(*width++, results);
  }
  for (int layer = index.num_layers() - 1; layer > 0 && !walk.stopped(); --layer) {
    walk.EnterLayer(layer, results);
    status = walk.Expand(results);
    if (!status.ok()) return status;
    const ScopedTimer timer(statistics.merging);
    results.insert(results.end(), walk.fresh().begin(), walk.fresh().end());
    excluded.KeepBest(*width++, results);
  }
  if (walk.stopped()) return absl::OkStatus();
  walk.EnterLayer(0, results);
  if (!request.seeds.empty()) {
    status = walk.MeetSeeds();
    if (!status.ok()) return status;
    const ScopedTimer timer(statistics.merging);
    Join(walk.fresh(), results);
  }
  workspace.candidates = results;
  for (; width != widths_.end() && !workspace.candidates.empty() && !walk.stopped(); ++width) {
    status = walk.Expand(workspace.candidates);
    if (!status.ok()) return status;
    const ScopedTimer timer(statistics.merging);
    workspace.candidates.swap(walk.fresh());
    excluded.KeepBest(*width, workspace.candidates);
    results.insert(results.end(), workspace.candidates.begin(), workspace.candidates.end());
  }
  {
    const ScopedTimer timer(statistics.merging);
    KeepBest(results.size(), results);
  }
  return walk.Fill(k_);
}

}  // namespace nann
