#include "custom_ops/core/search.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "absl/strings/str_cat.h"
#include "custom_ops/core/excluded.h"
#include "custom_ops/core/scoped_timer.h"
#include "custom_ops/core/walk.h"

namespace nann {
namespace {

// Where at most so many times as many items pass as a walk would score, all of them are scored: that
// takes about as long, in large batches and without a graph, and the answer is exact.
constexpr int64_t kScoreAllBelow = 2;
// The batches in which they are scored. A deadline is kept between two of them.
constexpr size_t kBatch = 1024;

absl::Status ScoreAllPassing(const IndexView& index, const SearchRequest& request, size_t width,
                             ScoreBatch score, Workspace& w, SearchStatistics& statistics) {
  const Excluded excluded(request.excluded);
  Walk walk(index, request, score, w, statistics);
  std::vector<int32_t> items;
  request.passing->AppendTo(items);
  items.erase(
      std::remove_if(items.begin(), items.end(), [&](int32_t item) { return excluded.Has(item); }),
      items.end());
  absl::Span<const int32_t> left = items;
  while (!left.empty() && !walk.stopped()) {
    absl::Status status = walk.Score(left.first(std::min(kBatch, left.size())));
    if (!status.ok()) return status;
    left.remove_prefix(std::min(kBatch, left.size()));
    const ScopedTimer timer(statistics.merging);
    w.results.insert(w.results.end(), walk.fresh().begin(), walk.fresh().end());
    if (w.results.size() / 2 >= width) KeepBest(width, w.results);
  }
  {
    const ScopedTimer timer(statistics.merging);
    KeepBest(width, w.results);
  }
  statistics.exact = !walk.stopped();
  statistics.candidates = statistics.items_scored;
  statistics.estimated_coverage = statistics.exact;
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckWidth(absl::string_view name, int64_t value, int64_t limit) {
  if (value >= 1 && value <= limit) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", value, ", allowed are 1 to ", limit));
}

absl::Status Search::Run(const IndexView& index, const SearchRequest& request, ScoreBatch score,
                         Workspace& workspace, SearchStatistics& statistics) const {
  return request.cap == nullptr ? RunFreely(index, request, score, workspace, statistics)
                                : RunCapped(index, request, score, workspace, statistics);
}

absl::Status Search::RunFreely(const IndexView& index, const SearchRequest& request,
                               ScoreBatch score, Workspace& workspace,
                               SearchStatistics& statistics) const {
  const PassingItems* const passing = request.passing;
  if (passing != nullptr && passing->count() <= kScoreAllBelow * ExpectedEvaluations()) {
    return ScoreAllPassing(index, request, width(), score, workspace, statistics);
  }
  absl::Status status = WalkGraph(index, request, score, workspace, statistics);
  const ScopedTimer timer(statistics.merging);
  Excluded(request.excluded).Drop(workspace.results);
  return status;
}

}  // namespace nann
