#include "custom_ops/core/search.h"

#include <algorithm>
#include <chrono>
#include <cmath>
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

// Scores the request's unindexed items, all of them unless a limit ends it.
class UnindexedItems {
 public:
  UnindexedItems(const SearchRequest& request, ScoreBatch score, Workspace& workspace,
                 SearchStatistics& statistics)
      : request_(request), score_(score), w_(workspace), statistics_(statistics) {
    const Excluded excluded(request.excluded);
    w_.unindexed.clear();
    for (int32_t item : request.unindexed) {
      if (!excluded.Has(item)) items_.push_back(item);
    }
    left_ = items_;
  }

  // Scores items until all are scored or the request has spent `budget` evaluations.
  absl::Status Score(int64_t budget) {
    while (!left_.empty() && statistics_.stopped == Stopped::kComplete) {
      const int64_t room = budget - statistics_.items_scored;
      if (room <= 0) break;
      if (request_.deadline != SearchRequest::kNoDeadline &&
          std::chrono::steady_clock::now() >= request_.deadline) {
        statistics_.stopped = Stopped::kDeadline;
        break;
      }
      const absl::Span<const int32_t> batch =
          left_.first(std::min({kBatch, left_.size(), static_cast<size_t>(room)}));
      w_.batch_scores.resize(batch.size());
      absl::Status status = score_(batch, absl::MakeSpan(w_.batch_scores));
      if (!status.ok()) return status;
      for (size_t i = 0; i < batch.size(); ++i) {
        w_.unindexed.push_back({w_.batch_scores[i], batch[i]});
        statistics_.nan_scores += std::isnan(w_.batch_scores[i]);
      }
      statistics_.items_scored += static_cast<int64_t>(batch.size());
      ++statistics_.rounds;
      left_.remove_prefix(batch.size());
    }
    return absl::OkStatus();
  }

  // Scores what is left and adds all to the best `width` items in `workspace.results`.
  absl::Status Finish(size_t width) {
    absl::Status status = Score(request_.budget);
    if (!left_.empty()) {
      if (statistics_.stopped == Stopped::kComplete) statistics_.stopped = Stopped::kBudget;
      statistics_.exact = false;
    }
    if (w_.unindexed.empty()) return status;
    const ScopedTimer timer(statistics_.merging);
    KeepBest(width, w_.unindexed);
    Join(w_.unindexed, w_.results);
    if (w_.results.size() > width) w_.results.resize(width);
    return status;
  }

 private:
  const SearchRequest& request_;
  const ScoreBatch score_;
  Workspace& w_;
  SearchStatistics& statistics_;
  std::vector<int32_t> items_;
  absl::Span<const int32_t> left_;
};

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
  UnindexedItems unindexed(request, score, workspace, statistics);
  absl::Status status = unindexed.Score(request.budget / 2);
  workspace.results.clear();
  if (status.ok() && statistics.stopped == Stopped::kComplete) {
    status = WalkOrScoreAll(index, request, score, workspace, statistics);
  }
  return status.ok() ? unindexed.Finish(width()) : status;
}

absl::Status Search::WalkOrScoreAll(const IndexView& index, const SearchRequest& request,
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
