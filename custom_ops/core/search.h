#ifndef CUSTOM_OPS_CORE_SEARCH_H_
#define CUSTOM_OPS_CORE_SEARCH_H_

#include <chrono>
#include <cstdint>
#include <limits>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "custom_ops/core/bridge.h"
#include "custom_ops/core/cap.h"
#include "custom_ops/core/index_view.h"
#include "custom_ops/core/passing_items.h"
#include "custom_ops/core/ranking.h"
#include "custom_ops/core/scored.h"
#include "custom_ops/core/surrogate.h"
#include "custom_ops/core/visited_set.h"

namespace nann {

// The largest beam, k or entry of level_topn, which bounds the memory that a request can use.
inline constexpr int32_t kMaxWidth = 1000000;
inline constexpr int32_t kMaxRounds = 10000;

// Writes the model's score of items[i] to scores[i]. Called once per round, from the walk's thread, with
// items of the index alone or with unindexed ones alone.
using ScoreBatch =
    absl::FunctionRef<absl::Status(absl::Span<const int32_t> items, absl::Span<float> scores)>;

// The parts of a request that do not describe its user.
struct SearchRequest {
  // Items to start from as well, such as the user's own history. Repeated items have no effect.
  absl::Span<const int32_t> seeds;
  // Items that the walk may pass through but must not answer, ascending. They take no room in any
  // beam or pool (excluded.h).
  absl::Span<const int32_t> excluded;
  // The items of the index that may be answered, as they pass the request's filter and are not deleted;
  // null if all may.
  const PassingItems* passing = nullptr;
  // Whether only deleted items are missing in `passing`, which lie anywhere, so that no filter keeps
  // whole regions of the graph from the walk.
  bool only_deleted_fail = false;
  // Items behind those of the index, in no graph, that may be answered; ascending. All of them are scored.
  absl::Span<const int32_t> unindexed;
  // How many items with the same value may be answered; null if there is no such limit.
  const Cap* cap = nullptr;
  // Items whose scores are known, all of which pass, best first. BestFirstSearch and SurrogateSearch start from
  // them; other searches start as always. None is scored again.
  absl::Span<const Scored> known;
  // The walk stops after this many evaluations, or at this time, and answers the best so far.
  int64_t budget = std::numeric_limits<int64_t>::max();
  static constexpr auto kNoDeadline = std::chrono::steady_clock::time_point::max();
  std::chrono::steady_clock::time_point deadline = kNoDeadline;
};

// Why a walk ended. It is complete if nothing was left with which the search would have continued.
// The number of rounds of a RoundsSearch or DeployedSearch is a part of its definition, so a walk
// that ends after it is complete too.
enum class Stopped : int32_t { kComplete = 0, kBudget = 1, kDeadline = 2, kSteps = 3 };

struct SearchStatistics {
  int64_t items_scored = 0;  // Items that the model evaluated, each at most once per request.
  int32_t rounds = 0;        // Batches of fresh items, including that of the entry points.
  int64_t nan_scores = 0;    // Scores that are NaN, which count as worse than every number.
  Stopped stopped = Stopped::kComplete;
  // Whether every item that passes the request's filter and is not excluded was scored, without a walk,
  // so that the answer is exact.
  bool exact = false;
  // Set by a SurrogateSearch, and with `exact`: the number of items whose scores it predicted or knew;
  // the standard error of its predictions, in log-odds of the rank (ranking.h); the share of the best k
  // that it expects to have found, by the cautious measure of its parameter `expected_coverage`, 0
  // where it gave up predicting; and whether it did.
  int64_t candidates = 0;
  float prediction_error = 0;
  float estimated_coverage = 0;
  bool fell_back = false;
  // Time spent on merging scored items into the beam or pool in order.
  std::chrono::nanoseconds merging{0};
};

// The buffers of a walk, one per worker. They are kept between requests, so that a round allocates
// nothing.
struct Workspace {
  VisitedSet visited;
  Bridge bridge;
  std::vector<int32_t> batch;
  std::vector<float> batch_scores;
  std::vector<Scored> fresh, candidates, results, merged, unindexed;
  std::vector<char> expanded;  // One entry for each of `results`.
  // All scored items of a request with a cap.
  std::vector<Scored> scored;
  // Used by a SurrogateSearch only: all evaluated items in order of evaluation, in order of score, and
  // what is learnt from them.
  std::vector<Scored> evaluated;
  Ranking ranking;
  Surrogate surrogate;
};

// One way to walk the graph under a model's scores. Implementations are immutable and thread-safe.
class Search {
 public:
  virtual ~Search() = default;

  // Scores the unindexed items, walks `index` and leaves the items to answer in `workspace.results`, best
  // first and without excluded ones: as many as the width of the search, if so many were reached. With a filter, so many
  // are always reached if they pass and nothing stops the walk before; where few items pass, all of
  // them are scored instead. Unindexed items take at most half of the budget before the walk, and what is
  // left of it afterwards. With a cap, they are at most `cap->answers` and keep to it: the best of all
  // scored items that do. Errors of `score` are returned. `workspace` must not be used by another
  // search at the same time.
  absl::Status Run(const IndexView& index, const SearchRequest& request, ScoreBatch score,
                   Workspace& workspace, SearchStatistics& statistics) const;

 private:
  // Does the work of `Run` where the request has no cap, and where it has one.
  absl::Status RunFreely(const IndexView& index, const SearchRequest& request, ScoreBatch score,
                         Workspace& workspace, SearchStatistics& statistics) const;
  absl::Status RunCapped(const IndexView& index, const SearchRequest& request, ScoreBatch score,
                         Workspace& workspace, SearchStatistics& statistics) const;
  // Returns how many items the search answers at most.
  virtual int32_t width() const = 0;
  // Returns about how many items a walk scores that no filter hinders.
  virtual int64_t ExpectedEvaluations() const = 0;
  // Does the work of `RunFreely` in the graph, once the unindexed items are scored.
  absl::Status WalkOrScoreAll(const IndexView& index, const SearchRequest& request,
                              ScoreBatch score, Workspace& workspace,
                              SearchStatistics& statistics) const;
  // Does it by walking, but may leave excluded items among the results.
  virtual absl::Status WalkGraph(const IndexView& index, const SearchRequest& request,
                                 ScoreBatch score, Workspace& workspace,
                                 SearchStatistics& statistics) const = 0;
};

// Checks that `value` of the parameter `name` is in 1..limit.
absl::Status CheckWidth(absl::string_view name, int64_t value, int64_t limit = kMaxWidth);

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_SEARCH_H_
