#ifndef CUSTOM_OPS_CORE_SEARCH_H_
#define CUSTOM_OPS_CORE_SEARCH_H_

#include <chrono>
#include <cstdint>
#include <limits>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "custom_ops/core/index_view.h"
#include "custom_ops/core/scored.h"
#include "custom_ops/core/visited_set.h"

namespace nann {

// No beam, k or level_topn entry may be above this: it bounds what a request can make us allocate.
inline constexpr int32_t kMaxWidth = 1000000;
inline constexpr int32_t kMaxRounds = 10000;

// Writes the model's score of items[i] to scores[i]. Called once per round, from the walk's thread.
using ScoreBatch =
    absl::FunctionRef<absl::Status(absl::Span<const int32_t> items, absl::Span<float> scores)>;

// What a request brings besides its user.
struct SearchRequest {
  // Items to start from as well, such as the user's own history; each at most once matters.
  absl::Span<const int32_t> seeds;
  // Items that are walked through but no answer, ascending; they take no room in any beam or pool
  // (excluded.h).
  absl::Span<const int32_t> excluded;
  // After this many evaluations, or at this time, the best so far is the answer.
  int64_t budget = std::numeric_limits<int64_t>::max();
  static constexpr auto kNoDeadline = std::chrono::steady_clock::time_point::max();
  std::chrono::steady_clock::time_point deadline = kNoDeadline;
};

// Why a walk ended. It is complete where nothing was left that the search would have gone on with; a
// number of rounds that is part of what a search is (RoundsSearch, DeployedSearch) cuts nothing.
enum class Stopped : int32_t { kComplete = 0, kBudget = 1, kDeadline = 2, kSteps = 3 };

struct SearchStatistics {
  int64_t items_scored = 0;  // Evaluations of the model; each item at most once per request.
  int32_t rounds = 0;        // Batches of fresh items, the entry points' included.
  int64_t nan_scores = 0;    // Scores that came back NaN; they are worse than every number.
  Stopped stopped = Stopped::kComplete;
  // Time spent in putting scored items in order: into the beam or pool, and the best of them kept.
  std::chrono::nanoseconds merging{0};
};

// The buffers of a walk. Kept between requests so that a round allocates nothing; one per worker.
struct Workspace {
  VisitedSet visited;
  std::vector<int32_t> batch;
  std::vector<float> batch_scores;
  std::vector<Scored> fresh, candidates, results, merged;
  std::vector<char> expanded;  // Beside `results`.
};

// One way to walk the graph under a model's scores. Implementations are immutable and thread-safe.
class Search {
 public:
  virtual ~Search() = default;

  // Walks `index` and leaves the items it would answer with in `workspace.results`, best first and
  // none that is excluded: as many as the search is wide where so many others were reached. Errors
  // of `score` are passed on.
  absl::Status Run(const IndexView& index, const SearchRequest& request, ScoreBatch score,
                   Workspace& workspace, SearchStatistics& statistics) const;

 private:
  // `Run` without its end: excluded items may be left among the results.
  virtual absl::Status WalkGraph(const IndexView& index, const SearchRequest& request,
                                 ScoreBatch score, Workspace& workspace,
                                 SearchStatistics& statistics) const = 0;
};

// Checks that `value`, the parameter called `name`, is in 1..limit.
absl::Status CheckWidth(absl::string_view name, int64_t value, int64_t limit = kMaxWidth);

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_SEARCH_H_
