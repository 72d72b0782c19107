// Tests the surrogate against its definition: ridge regression and corrections in dense arithmetic in
// double, on random graphs. Prints the first check that fails and aborts.

#include "custom_ops/core/surrogate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "custom_ops/core/testing.h"
#include "custom_ops/core/world_testing.h"

namespace nann {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

// Solves A x = b by Gauss's elimination, choosing the largest pivot.
std::vector<double> SolveDense(std::vector<std::vector<double>> a, std::vector<double> b) {
  const size_t n = b.size();
  for (size_t k = 0; k < n; ++k) {
    size_t largest = k;
    for (size_t i = k + 1; i < n; ++i) {
      if (std::abs(a[i][k]) > std::abs(a[largest][k])) largest = i;
    }
    std::swap(a[k], a[largest]);
    std::swap(b[k], b[largest]);
    for (size_t i = 0; i < n; ++i) {
      if (i == k || a[i][k] == 0) continue;
      const double factor = a[i][k] / a[k][k];
      for (size_t j = k; j < n; ++j) a[i][j] -= factor * a[k][j];
      b[i] -= factor * b[k];
    }
  }
  for (size_t k = 0; k < n; ++k) b[k] /= a[k][k];
  return b;
}

// The definition.
class DenseSurrogate {
 public:
  explicit DenseSurrogate(const IndexView& index) : index_(index) {}

  void Observe(int32_t item, bool expand) {
    Evaluate(item);
    observed_.push_back(item);
    for (int32_t neighbor : index_.Neighbors(0, item)) {
      if (expand && evaluated_.count(neighbor) == 0) candidates_.insert(neighbor);
      if (expand) known_.insert(neighbor);
    }
    // An edge counts if it leads to a candidate when it is met.
    const auto neighbors = index_.Neighbors(0, item);
    const auto distances = index_.EdgeDistances(neighbors);
    for (size_t i = 0; i < neighbors.size(); ++i) {
      const double weight = std::exp(-distances[i] / (64 * 0.3));
      if (candidates_.count(neighbors[i]) == 0 || weight < 0.01) continue;
      edges_[neighbors[i]].emplace_back(observed_.size() - 1, weight);
    }
  }

  void Ignore(int32_t item) { Evaluate(item); }

  void Fit(const std::vector<double>& targets) {
    const size_t n = index_.feature_width() + 1;
    std::vector<std::vector<double>> a(n, std::vector<double>(n));
    std::vector<double> b(n);
    for (size_t i = 0; i < n; ++i) a[i][i] = 0.3 * 16 * 16;
    for (size_t o = 0; o < observed_.size(); ++o) {
      const auto row = Row(observed_[o]);
      for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j < n; ++j) a[i][j] += row[i] * row[j];
        b[i] += row[i] * targets[o];
      }
    }
    linear_ = SolveDense(a, b);
    errors_.clear();
    for (size_t o = 0; o < observed_.size(); ++o) {
      errors_.push_back(targets[o] - Linear(observed_[o]));
    }
  }

  double Predict(int32_t item) const {
    double sum = 0, weights = 0.1;
    const auto found = edges_.find(item);
    if (found != edges_.end()) {
      for (const auto& [observed, weight] : found->second) {
        sum += weight * errors_[observed];
        weights += weight;
      }
    }
    return Linear(item) + sum / weights;
  }

  const std::set<int32_t>& candidates() const { return candidates_; }
  const std::vector<int32_t>& observed() const { return observed_; }
  size_t num_known() const { return known_.size(); }
  bool Evaluated(int32_t item) const { return evaluated_.count(item) > 0; }

 private:
  void Evaluate(int32_t item) {
    evaluated_.insert(item);
    known_.insert(item);
    candidates_.erase(item);
  }

  std::vector<double> Row(int32_t item) const {
    std::vector<double> row(index_.features(item), index_.features(item) + index_.feature_width());
    row.push_back(16);
    return row;
  }

  double Linear(int32_t item) const {
    const auto row = Row(item);
    double sum = 0;
    for (size_t i = 0; i < row.size(); ++i) sum += row[i] * linear_[i];
    return sum;
  }

  const IndexView& index_;
  std::set<int32_t> evaluated_, candidates_, known_;
  std::vector<int32_t> observed_;
  std::map<int32_t, std::vector<std::pair<size_t, double>>> edges_;
  std::vector<double> linear_, errors_;
};

using Choices = std::vector<Surrogate::Choice>;

Choices BestOf(Surrogate& surrogate, size_t count, float least) {
  const auto best = surrogate.Best(count, least);
  return {best.begin(), best.end()};
}

// Checks that Best() gives the first `count` of `all`, which are all candidates in order.
void CheckBest(Surrogate& surrogate, const Choices& all, Random& random) {
  for (int repeat = 0; repeat < 4; ++repeat) {
    const size_t count = Draw(random, 1, static_cast<int>(all.size()) + 3);
    // Often a prediction itself, above which it is not.
    const float least = all.empty() || Draw(random, 0, 1) == 0
                            ? Draw(random, -40, 20) / 10.0f
                            : all[Draw(random, 0, static_cast<int>(all.size()) - 1)].prediction;
    for (float bound : {least, kLowest}) {
      Choices wanted = all;
      wanted.erase(std::remove_if(wanted.begin(), wanted.end(),
                                  [&](const auto& choice) { return !(choice.prediction > bound); }),
                   wanted.end());
      if (wanted.size() > count) wanted.resize(count);
      const Choices got = BestOf(surrogate, count, bound);
      CHECK_THAT(got.size() == wanted.size());
      for (size_t i = 0; i < got.size(); ++i) CHECK_THAT(got[i].slot == wanted[i].slot);
    }
  }
}

void CheckExpectations(Surrogate& surrogate, const Choices& all, Random& random) {
  const float bound = Draw(random, -30, 30) / 10.0f, error = Draw(random, 1, 30) / 10.0f;
  const double expected = surrogate.ExpectAbove(bound, error);
  double sum = 0;
  for (const Surrogate::Choice& choice : all) {
    const double chance = 0.5 * std::erfc((bound - choice.prediction) / error / std::sqrt(2.0));
    CHECK_THAT(std::abs(surrogate.chance(choice.slot) - chance) < 0.017);
    sum += surrogate.chance(choice.slot);
  }
  CHECK_THAT(std::abs(expected - sum) < 1e-4 * (1 + sum));  // Evaluated items are not expected.
}

// Fits both, and compares all that can be seen.
void FitAndCheck(Surrogate& surrogate, DenseSurrogate& dense, Random& random) {
  std::vector<double> targets(dense.observed().size());
  for (double& target : targets) target = Draw(random, -7000, 7000) / 1000.0;
  surrogate.Fit(targets);
  dense.Fit(targets);
  CHECK_THAT(surrogate.num_slots() == static_cast<int64_t>(dense.num_known()));
  const Choices all = BestOf(surrogate, surrogate.num_slots() + 1, kLowest);
  std::set<int32_t> candidates;
  for (size_t i = 0; i < all.size(); ++i) {
    const int32_t item = surrogate.item(all[i].slot);
    CHECK_THAT(candidates.insert(item).second);
    CHECK_THAT(std::abs(all[i].prediction - dense.Predict(item)) < 1e-4);
    if (i == 0) continue;
    CHECK_THAT(all[i - 1].prediction > all[i].prediction ||
               (all[i - 1].prediction == all[i].prediction && all[i - 1].slot < all[i].slot));
  }
  CHECK_THAT(candidates == dense.candidates());
  CheckBest(surrogate, all, random);
  CheckExpectations(surrogate, all, random);
}

// Returns the next item to evaluate: mostly a candidate.
int32_t NextItem(const DenseSurrogate& dense, Random& random, int n) {
  const auto& candidates = dense.candidates();
  if (candidates.empty() || Draw(random, 0, 3) == 0) return Draw(random, 0, n - 1);
  return *std::next(candidates.begin(), Draw(random, 0, static_cast<int>(candidates.size()) - 1));
}

// Features that are all 0 and edges that are too long leave predictions that are the same.
void MakeAlike(World& world) {
  std::fill(world.item_features.begin(), world.item_features.end(), 0);
  std::fill(world.edge_distances.begin(), world.edge_distances.end(), 200);
}

void CheckRequest(Surrogate& surrogate, const World& world, Random& random, int steps,
                  int max_batch) {
  const IndexView view = world.View();
  const int n = static_cast<int>(view.num_items());
  surrogate.Start(view);
  DenseSurrogate dense(view);
  for (int step = 0; step < steps; ++step) {
    for (int i = Draw(random, 0, max_batch); i > 0; --i) {
      const int32_t item = NextItem(dense, random, n);
      if (dense.Evaluated(item)) continue;
      const bool expand = Draw(random, 0, 3) > 0;
      if (Draw(random, 0, 7) == 0) {
        surrogate.Ignore(item);
        dense.Ignore(item);
      } else {
        CHECK_THAT(surrogate.Observe(item, expand).ok());
        dense.Observe(item, expand);
      }
    }
    FitAndCheck(surrogate, dense, random);
  }
}

// One surrogate serves requests on indexes of different sizes and widths, as a worker's does.
void PredictionsFollowTheDefinition() {
  Random random(1);
  Surrogate surrogate;
  for (int example = 0; example < 400; ++example) {
    World world = RandomWorld(random);
    if (example % 8 == 0) MakeAlike(world);
    CheckRequest(surrogate, world, random, Draw(random, 1, 5), 12);
  }
}

// A request that ended with an error leaves nothing behind for the next one.
void ABrokenNeighborIsAnError() {
  Random random(2);
  Surrogate surrogate;
  for (int example = 0; example < 40; ++example) {
    const World whole = RandomWorld(random, 30, 32, 5, 1);
    World broken = RandomWorld(random, 30, 16, 5, 1);
    auto& neighbors = broken.layers[0].second;
    if (neighbors.empty()) continue;
    const size_t place = Draw(random, 0, static_cast<int>(neighbors.size()) - 1);
    neighbors[place] = example % 2 == 0 ? -1 : 30;
    const auto& splits = broken.layers[0].first;
    const size_t row = std::upper_bound(splits.begin(), splits.end(), place) - splits.begin() - 1;
    const IndexView view = broken.View();
    surrogate.Start(view);
    for (int32_t item = 0; item < 30; ++item) {
      const absl::Status status = surrogate.Observe(item, item % 2 == 0);
      CHECK_THAT(status.ok() == (item != static_cast<int32_t>(row)));
      CHECK_THAT(status.ok() || absl::IsDataLoss(status));
    }
    CheckRequest(surrogate, whole, random, 2, 9);
  }
}

// More items than the exact sums take at once, whose products are largest.
void ManyItemsAreFittedAtOnce() {
  Random random(3);
  Surrogate surrogate;
  World world = RandomWorld(random, 3000, 16, 3, 1);
  for (int8_t& x : world.item_features) x = x < 0 ? -127 : 127;
  CheckRequest(surrogate, world, random, 3, 3000);
}

}  // namespace
}  // namespace nann

int main() {
  nann::PredictionsFollowTheDefinition();
  nann::ABrokenNeighborIsAnError();
  nann::ManyItemsAreFittedAtOnce();
  std::puts("passed");
}
