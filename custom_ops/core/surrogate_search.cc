#include "custom_ops/core/surrogate_search.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/excluded.h"
#include "custom_ops/core/prediction_check.h"
#include "custom_ops/core/scoped_timer.h"
#include "custom_ops/core/walk.h"

namespace nann {
namespace {

// Errors of predictions below this, in log-odds, are not told apart from none.
constexpr double kLeastError = 1e-3;
// A walk from few seeds does not know the candidates of other places, and must look more closely before
// it may stop: from n seeds, what it may miss is n / kManySeeds of what it may miss from many, and
// kFewest from a few or, entering the ground layer at one place, from none (docs/surrogate.md).
constexpr double kManySeeds = 100, kFewest = 0.05;
// A step that would need fewer items evaluates so many.
constexpr size_t kLeastBatch = 8;
// With a filter, of what may be missed only this share is allowed: fewer candidates have an evaluated
// neighbour, and predictions err more than it seems.
constexpr double kFilteredAllowed = 0.2;
// Where at most so many items pass, all of them are candidates; where the filter leaves fewer items near
// the start than elsewhere, so many.
constexpr int64_t kAllCandidates = 1 << 16, kAllIfFar = 1 << 18;
// Of how many starts the neighbours are looked at to know that.
constexpr size_t kLookedAt = 256;
// Stepping stones to cross in a step and in a walk.
constexpr size_t kCrossedPerStep = 256, kMaxCrossed = 4096;

// Returns how many times as large errors are taken to be: half as large again where few items pass.
double ErrorScale(const IndexView& index, const PassingItems* passing) {
  if (passing == nullptr) return 1;
  return 1.5 - 0.5 * passing->count() / index.num_items();
}

// Returns whether the share of passing items around the items at which the walk starts is below half of
// their share in the index.
bool PassingAreFar(const IndexView& index, const SearchRequest& request) {
  absl::Span<const int32_t> starts = request.seeds.empty() ? index.entry_points() : request.seeds;
  int64_t near = 0, passing = 0;
  for (int32_t start : starts.first(std::min(kLookedAt, starts.size()))) {
    for (int32_t neighbor : index.Neighbors(0, start)) {
      if (!index.Has(neighbor)) continue;  // A walk that comes here says so.
      ++near;
      passing += request.passing->Has(neighbor);
    }
  }
  return 2 * passing * index.num_items() < near * request.passing->count();
}

// The walk of the ground layer.
class SurrogateWalk {
 public:
  SurrogateWalk(const SurrogateSearch::Parameters& parameters, const BestFirstWidths& best_first,
                const IndexView& index, const SearchRequest& request, size_t seeds,
                Workspace& workspace)
      : k_(parameters.k),
        // A step for a large k must not cost as much as one for a small k, or the walk is quadratic.
        batch_(std::max(parameters.batch, parameters.k / 4)),
        scale_(parameters.k * std::clamp(seeds / kManySeeds, kFewest, 1.0) *
               (request.passing == nullptr || request.only_deleted_fail ? 1 : kFilteredAllowed)),
        allowed_((1 - parameters.expected_coverage) * scale_),
        error_scale_(ErrorScale(index, request.passing)),
        // The neighbours of items that just miss the answer are worth a look.
        expanded_(best_first.pool + best_first.pool / 2),
        excluded_(request.excluded),
        w_(workspace) {
    w_.ranking.Start();
    const PassingItems* const passing = request.passing;
    w_.surrogate.Start(index, passing);
    if (passing == nullptr) return;
    all_ = !request.only_deleted_fail &&
           (passing->count() <= kAllCandidates ||
            (passing->count() <= kAllIfFar && PassingAreFar(index, request)));
    if (all_) {
      w_.batch.clear();
      passing->AppendTo(w_.batch);
      w_.surrogate.Add(w_.batch);
    } else {
      w_.surrogate.Add(request.seeds);
    }
  }

  // Learns from the items of `workspace.evaluated` that are new.
  absl::Status Learn() {
    w_.fresh.clear();
    for (size_t i = learnt_; i < w_.evaluated.size(); ++i) {
      if (std::isnan(w_.evaluated[i].score)) {
        w_.surrogate.Ignore(w_.evaluated[i].item);
        has_nan_ = true;
      } else {
        w_.fresh.push_back(w_.evaluated[i]);
      }
    }
    w_.ranking.Add(w_.fresh);
    const size_t size = w_.ranking.size();
    if (size > 0) {
      const Scored worst = w_.ranking.at(w_.ranking.LastPlace(expanded_, excluded_));
      for (size_t i = 0; i < w_.fresh.size(); ++i) {
        const Scored& item = w_.fresh[i];
        w_.surrogate.Prefetch(w_.fresh, i);
        absl::Status status = w_.surrogate.Observe(item.item, !all_ && !Better(worst, item));
        if (!status.ok()) return status;
      }
    }
    CheckPredictions();
    learnt_ = w_.evaluated.size();
    w_.surrogate.Fit(w_.ranking.log_odds());
    return absl::OkStatus();
  }

  // Returns the items to evaluate next; none if the walk is complete.
  absl::StatusOr<absl::Span<const int32_t>> Next() {
    absl::StatusOr<size_t> crossed = 0;
    do {
      crossed = Cross();
      if (!crossed.ok()) return crossed.status();
      Choose();
    } while (chosen_.empty() && *crossed > 0);
    return chosen_;
  }

  // Whether the surrogate can predict nothing here. Beyond items whose score is NaN it has not looked.
  bool failed() const { return check_.failed() || (exhausted_ && has_nan_); }
  // Returns whether the answer would have fewer than k items.
  bool lacks_items() const { return excluded_.CountOthers(w_.evaluated) < static_cast<size_t>(k_); }

  // Returns how many items were evaluated or have an expanded neighbour.
  int64_t CountCandidates() {
    for (size_t i = learnt_; i < w_.evaluated.size(); ++i) {
      w_.surrogate.Ignore(w_.evaluated[i].item);
    }
    return w_.surrogate.num_slots();
  }
  // Returns the share of the best k that the last call of `Next` expected to be found, by the measure
  // of `expected_coverage`.
  double estimated_coverage() const {
    return std::max<double>(SurrogateSearch::kLeastExpectedCoverage, 1 - missed_ / scale_);
  }
  double error() const { return check_.error(); }

  // Sets `workspace.results` to the best k of all evaluated items, best first.
  void Answer() {
    w_.results.clear();
    w_.fresh.clear();
    w_.ranking.AppendTo(w_.results);
    for (size_t i = 0; i < w_.evaluated.size(); ++i) {
      const Scored& item = w_.evaluated[i];
      if (i >= learnt_ || std::isnan(item.score)) w_.fresh.push_back(item);
    }
    if (!w_.fresh.empty()) Join(w_.fresh, w_.results);
    excluded_.Cut(k_, w_.results);
  }

 private:
  // With a filter, crosses stepping stones that are predicted to be among the best k. Returns how many.
  absl::StatusOr<size_t> Cross() {
    if (!w_.surrogate.has_stones()) return 0;
    const size_t size = w_.ranking.size();
    const size_t last = size == 0 ? 0 : w_.ranking.LastPlace(k_, excluded_);
    const float least =
        last + 1 < size ? w_.ranking.log_odds(last) : -std::numeric_limits<float>::infinity();
    auto crossed = w_.surrogate.Cross(std::min(kCrossedPerStep, kMaxCrossed - crossed_), least);
    if (!crossed.ok() || *crossed == 0) return crossed;
    crossed_ += *crossed;
    w_.surrogate.Predict(w_.ranking.log_odds());
    return crossed;
  }

  // Puts the candidates to evaluate into `chosen_`.
  void Choose() {
    chosen_.clear();
    predictions_.clear();
    const size_t size = w_.ranking.size();
    // The k-th best item, once there are so many.
    last_ = size == 0 ? 0 : w_.ranking.LastPlace(k_, excluded_);
    const bool expects = check_.any() && last_ + 1 < size;
    double missed = std::numeric_limits<double>::infinity();
    float least = -std::numeric_limits<float>::infinity();
    if (expects) {
      // A candidate with exactly the k-th best score would not be in the answer.
      const double bound = w_.ranking.log_odds(last_) + 3 * kLeastError;
      const double error = std::max(error_scale_ * check_.error(), kLeastError);
      missed = w_.surrogate.ExpectAbove(bound, error) * check_.found_per_expected();
      least = bound - 3 * error;
    }
    missed_ = missed;
    expected_ = 0;
    if (missed <= allowed_) return;
    for (const Surrogate::Choice& choice : w_.surrogate.Best(batch_, least)) {
      if (expects) {
        const double chance = w_.surrogate.chance(choice.slot);
        if (chance == 0 || (missed <= allowed_ && chosen_.size() >= kLeastBatch)) break;
        expected_ += chance;
        missed -= chance * check_.found_per_expected();
      }
      chosen_.push_back(w_.surrogate.item(choice.slot));
      predictions_.push_back(choice.prediction);
    }
    exhausted_ = chosen_.empty() && !expects;
    if (exhausted_) missed_ = 0;  // Every item that can be reached is evaluated.
  }

  void CheckPredictions() {
    if (predictions_.empty()) return;
    std::vector<float> predictions;
    for (size_t i = 0; i < predictions_.size() && learnt_ + i < w_.evaluated.size(); ++i) {
      if (!std::isnan(w_.evaluated[learnt_ + i].score)) predictions.push_back(predictions_[i]);
    }
    if (predictions.empty()) return;
    const Scored& last = w_.ranking.at(w_.ranking.LastPlace(k_, excluded_));
    const auto found = std::count_if(w_.fresh.begin(), w_.fresh.end(),
                                     [&](const Scored& item) { return !Better(last, item); });
    check_.Add(predictions, absl::MakeConstSpan(w_.ranking.log_odds()).last(predictions.size()),
               expected_, expected_ > 0 ? found : 0);
  }

  const int32_t k_, batch_;
  const double scale_;    // The number of candidates among the best k that counts as all of these.
  const double allowed_;  // How many of the best k may be expected among the candidates.
  const double error_scale_;
  const size_t expanded_;
  const Excluded excluded_;
  Workspace& w_;
  PredictionCheck check_;
  size_t learnt_ = 0, last_ = 0;
  bool all_ = false;  // Whether all passing items are candidates.
  size_t crossed_ = 0;
  double missed_ = std::numeric_limits<double>::infinity(), expected_ = 0;
  bool has_nan_ = false, exhausted_ = false;
  std::vector<int32_t> chosen_;
  std::vector<float> predictions_;
};

// Walks the ground layer best-first from the start, as if nothing had been evaluated there, but with
// known scores: from where a surrogate's walk ends, best-first would find less. Without seeds it enters
// the layer from `entries`.
absl::Status StartAgain(std::vector<Scored>& entries, const SearchRequest& request, int32_t pool,
                        Walk& walk, BestFirstWalk& best_first, Workspace& workspace,
                        SearchStatistics& statistics) {
  const bool seeded = request.known.empty() && !request.seeds.empty();
  if (seeded) {
    walk.EnterLayer(0, {});
    absl::Status status = walk.MeetSeeds();
    if (!status.ok()) return status;
    workspace.results.swap(walk.fresh());
  } else {
    workspace.results.swap(entries);
  }
  {
    const ScopedTimer timer(statistics.merging);
    Excluded(request.excluded).KeepBest(pool, workspace.results);
  }
  if (!seeded) walk.EnterLayer(0, workspace.results);
  return best_first.WalkGround();
}

// Evaluates what the surrogate chooses until nothing is left that is worth it. Returns whether
// `max_steps` steps were not enough for that.
absl::StatusOr<bool> WalkByPredictions(int32_t max_steps, SurrogateWalk& surrogate, Walk& walk) {
  for (int32_t step = 0; !walk.stopped(); ++step) {
    absl::Status status = surrogate.Learn();
    if (!status.ok()) return status;
    if (surrogate.failed()) break;
    const auto items = surrogate.Next();
    if (!items.ok()) return items.status();
    if (items->empty()) break;
    if (step == max_steps) return true;
    status = walk.Score(*items);
    if (!status.ok()) return status;
  }
  return false;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Search>> SurrogateSearch::Create(const Parameters& parameters,
                                                                int32_t frontier, int32_t pool,
                                                                int32_t max_steps) {
  absl::Status status = CheckWidth("k", parameters.k);
  status.Update(CheckWidth("batch", parameters.batch));
  if (!(parameters.expected_coverage >= kLeastExpectedCoverage &&
        parameters.expected_coverage < 1)) {
    status.Update(absl::InvalidArgumentError(
        absl::StrCat("expected_coverage is ", parameters.expected_coverage,
                     ", allowed are numbers below 1 and at least ", kLeastExpectedCoverage)));
  }
  auto best_first = BestFirstWidths::Create(frontier, pool, max_steps);
  status.Update(best_first.status());
  if (!status.ok()) return status;
  return absl::WrapUnique<Search>(new SurrogateSearch(parameters, *best_first));
}

int64_t SurrogateSearch::ExpectedEvaluations() const {
  return 2 * int64_t{parameters_.k} + 4 * parameters_.batch;
}

absl::Status SurrogateSearch::WalkGraph(const IndexView& index, const SearchRequest& request,
                                        ScoreBatch score, Workspace& workspace,
                                        SearchStatistics& statistics) const {
  if (index.feature_width() == 0 && index.num_items() > 0) {
    return absl::InvalidArgumentError(
        "the index has no features, which the surrogate search needs");
  }
  std::vector<Scored>& evaluated = workspace.evaluated;
  evaluated.clear();
  std::vector<Scored> entries;  // From which to enter the ground layer, without seeds.
  const auto record = [&](absl::Span<const int32_t> items, absl::Span<float> scores) {
    absl::Status status = score(items, scores);
    for (size_t i = 0; i < items.size(); ++i) evaluated.push_back({scores[i], items[i]});
    return status;
  };
  Walk walk(index, request, record, workspace, statistics);
  BestFirstWalk best_first(best_first_, index, request, walk, workspace, statistics);
  const bool seeded = request.known.empty() && !request.seeds.empty();
  absl::Status status;
  if (!request.known.empty()) {
    evaluated.assign(request.known.begin(), request.known.end());
    workspace.results = evaluated;
  } else {
    status = seeded ? walk.MeetSeeds() : best_first.Descend();
  }
  if (!status.ok()) return status;
  if (evaluated.empty() && walk.filters()) status = walk.FindMore(parameters_.batch);
  if (!status.ok()) return status;
  if (!seeded) {
    entries.swap(workspace.results);
    walk.EnterLayer(0, evaluated);
  }

  const bool many = seeded || !request.known.empty();
  SurrogateWalk surrogate(parameters_, best_first_, index, request, many ? evaluated.size() : 0,
                          workspace);
  const auto cut = WalkByPredictions(best_first_.max_steps, surrogate, walk);
  if (!cut.ok()) return cut.status();
  statistics.estimated_coverage = static_cast<float>(surrogate.estimated_coverage());
  statistics.prediction_error = static_cast<float>(surrogate.error());
  const bool fills = walk.filters() && surrogate.lacks_items();
  if ((surrogate.failed() || fills) && !walk.stopped()) {
    statistics.fell_back = true;
    statistics.estimated_coverage = 0;
    status =
        StartAgain(entries, request, best_first_.pool, walk, best_first, workspace, statistics);
    if (!status.ok()) return status;
  }
  if (*cut && !walk.stopped()) statistics.stopped = Stopped::kSteps;
  statistics.candidates = surrogate.CountCandidates();
  best_first.Finish();
  const ScopedTimer timer(statistics.merging);
  surrogate.Answer();
  return status;
}

}  // namespace nann
