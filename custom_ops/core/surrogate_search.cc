#include "custom_ops/core/surrogate_search.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/excluded.h"
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

// Compares predictions with what came of them.
class PredictionCheck {
 public:
  // Adds a batch; `targets` are what `predictions` should have been. `expected` of its items were
  // expected to be among the best k, and `found` are.
  void Add(absl::Span<const float> predictions, absl::Span<const double> targets, double expected,
           double found) {
    const double n = targets.size();
    double prediction = 0, target = 0, errors = 0;  // Means, and a sum of squares.
    for (size_t i = 0; i < targets.size(); ++i) {
      prediction += predictions[i] / n;
      target += targets[i] / n;
      errors += (targets[i] - predictions[i]) * (targets[i] - predictions[i]);
    }
    for (size_t i = 0; i < targets.size(); ++i) {
      const double p = predictions[i] - prediction, t = targets[i] - target;
      covariance_ += p * t;
      prediction_variance_ += p * p;
      target_variance_ += t * t;
    }
    mean_square_ = count_ == 0 ? errors / n : (mean_square_ + errors / n) / 2;
    expected_ = expected_ / 2 + expected;
    found_ = found_ / 2 + found;
    count_ += targets.size();
  }

  bool any() const { return count_ > 0; }
  // Returns the standard error of predictions. A batch counts half as much as the next one.
  double error() const { return std::sqrt(mean_square_); }
  // Returns how many items are found for each that is expected. Half an item that was expected and
  // found keeps it from jumping.
  double found_per_expected() const { return (found_ + 0.5) / (expected_ + 0.5); }
  // Returns whether predictions tell nothing about the order of the scores. Batches consist of the
  // best candidates only, so that a low correlation within them is already a good sign.
  bool failed() const {
    return count_ >= kEnough &&
           covariance_ < kLeastCorrelation * std::sqrt(prediction_variance_ * target_variance_);
  }

 private:
  static constexpr int kEnough = 192;
  static constexpr double kLeastCorrelation = 0.1;

  double covariance_ = 0, prediction_variance_ = 0, target_variance_ = 0, mean_square_ = 0;
  double expected_ = 0, found_ = 0;
  int64_t count_ = 0;
};

// The walk of the ground layer.
class SurrogateWalk {
 public:
  SurrogateWalk(const SurrogateSearch::Parameters& parameters, const BestFirstWidths& best_first,
                const IndexView& index, const SearchRequest& request, size_t seeds,
                Workspace& workspace)
      : k_(parameters.k),
        // A step for a large k must not cost as much as one for a small k, or the walk is quadratic.
        batch_(std::max(parameters.batch, parameters.k / 4)),
        allowed_((1 - parameters.expected_coverage) * parameters.k *
                 std::clamp(seeds / kManySeeds, kFewest, 1.0)),
        // The neighbours of items that just miss the answer are worth a look.
        expanded_(best_first.pool + best_first.pool / 2),
        excluded_(request.excluded),
        w_(workspace) {
    w_.ranking.Start();
    w_.surrogate.Start(index);
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
        absl::Status status = w_.surrogate.Observe(item.item, !Better(worst, item));
        if (!status.ok()) return status;
      }
    }
    CheckPredictions();
    learnt_ = w_.evaluated.size();
    w_.surrogate.Fit(w_.ranking.log_odds());
    return absl::OkStatus();
  }

  // Whether the surrogate can predict nothing here. Beyond items whose score is NaN it has not looked.
  bool failed() const { return check_.failed() || (exhausted_ && has_nan_); }

  // Returns the items to evaluate next; none if the walk is complete.
  const std::vector<int32_t>& Choose() {
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
      const double error = std::max(check_.error(), kLeastError);
      missed = w_.surrogate.ExpectAbove(bound, error) * check_.found_per_expected();
      least = bound - 3 * error;
    }
    missed_ = missed;
    expected_ = 0;
    if (missed <= allowed_) return chosen_;
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
    return chosen_;
  }

  // Returns how many items were evaluated or have an expanded neighbour.
  int64_t CountCandidates() {
    for (size_t i = learnt_; i < w_.evaluated.size(); ++i) {
      w_.surrogate.Ignore(w_.evaluated[i].item);
    }
    return w_.surrogate.num_slots();
  }
  // Returns the share of the best k that the last call of `Choose` expected to be found.
  double estimated_coverage() const { return std::max(0.0, 1 - missed_ / k_); }
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
  const double allowed_;  // How many of the best k may be expected among the candidates.
  const size_t expanded_;
  const Excluded excluded_;
  Workspace& w_;
  PredictionCheck check_;
  size_t learnt_ = 0, last_ = 0;
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
  const bool seeded = !request.seeds.empty();
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

}  // namespace

absl::StatusOr<std::unique_ptr<Search>> SurrogateSearch::Create(const Parameters& parameters,
                                                                int32_t frontier, int32_t pool,
                                                                int32_t max_steps) {
  absl::Status status = CheckWidth("k", parameters.k);
  status.Update(CheckWidth("batch", parameters.batch));
  if (!(parameters.expected_coverage > 0 && parameters.expected_coverage < 1)) {
    status.Update(absl::InvalidArgumentError(
        absl::StrCat("expected_coverage is ", parameters.expected_coverage,
                     ", allowed are numbers between 0 and 1, both excluded")));
  }
  auto best_first = BestFirstWidths::Create(frontier, pool, max_steps);
  status.Update(best_first.status());
  if (!status.ok()) return status;
  return absl::WrapUnique<Search>(new SurrogateSearch(parameters, *best_first));
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
  const bool seeded = !request.seeds.empty();
  absl::Status status = seeded ? walk.MeetSeeds() : best_first.Descend();
  if (!status.ok()) return status;
  if (!seeded) {
    entries.swap(workspace.results);
    walk.EnterLayer(0, evaluated);
  }

  SurrogateWalk surrogate(parameters_, best_first_, index, request, seeded ? evaluated.size() : 0,
                          workspace);
  for (int32_t step = 0; !walk.stopped(); ++step) {
    status = surrogate.Learn();
    if (!status.ok()) return status;
    if (surrogate.failed()) break;
    const std::vector<int32_t>& items = surrogate.Choose();
    if (items.empty()) break;
    if (step == best_first_.max_steps) {
      statistics.stopped = Stopped::kSteps;
      break;
    }
    status = walk.Score(items);
    if (!status.ok()) return status;
  }
  statistics.estimated_coverage = static_cast<float>(surrogate.estimated_coverage());
  statistics.prediction_error = static_cast<float>(surrogate.error());
  if (surrogate.failed() && !walk.stopped()) {
    statistics.fell_back = true;
    statistics.estimated_coverage = 0;
    status =
        StartAgain(entries, request, best_first_.pool, walk, best_first, workspace, statistics);
    if (!status.ok()) return status;
  }
  statistics.candidates = surrogate.CountCandidates();
  best_first.Finish();
  const ScopedTimer timer(statistics.merging);
  surrogate.Answer();
  return status;
}

}  // namespace nann
