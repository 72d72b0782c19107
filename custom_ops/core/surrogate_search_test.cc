// Tests what a SurrogateSearch promises beside what every search does (search_test.cc). tests/ops/
// compares its answers with a reference. Prints the first check that fails and aborts.

#include "custom_ops/core/surrogate_search.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "custom_ops/core/best_first_search.h"
#include "custom_ops/core/testing.h"
#include "custom_ops/core/world_testing.h"

namespace nann {
namespace {

constexpr int kItems = 800, kWidth = 16, kDegree = 12, kK = 60;

World LargeWorld(Random& random) { return NearWorld(random, kItems, kWidth, kDegree, kWidth); }

std::unique_ptr<Search> MakeSearch() {
  auto search = SurrogateSearch::Create({kK, 32, 0.9f}, 20, kK, 0);
  CHECK_THAT(search.ok());
  return *std::move(search);
}

std::vector<float> RandomScores(Random& random) {
  std::vector<float> scores(kItems);
  for (float& score : scores) score = Draw(random, -1000000, 1000000);
  return scores;
}

struct Outcome {
  std::vector<int32_t> order;  // All items in the order of their evaluation.
  std::vector<Scored> results;
  SearchStatistics statistics;
};

Outcome RunOn(const Search& search, const World& world, const std::vector<float>& scores,
              const SearchRequest& request = {}) {
  const IndexView view = world.View();
  Outcome outcome;
  Workspace workspace;
  ScoreLog log(view.num_items());
  const auto score = [&](absl::Span<const int32_t> items, absl::Span<float> out) {
    for (size_t i = 0; i < items.size(); ++i) out[i] = scores[items[i]];
    outcome.order.insert(outcome.order.end(), items.begin(), items.end());
    log.Add(items, out);
    return absl::OkStatus();
  };
  CHECK_THAT(search.Run(view, request, score, workspace, outcome.statistics).ok());
  log.CheckAnswer(request, outcome.statistics, workspace.results);
  outcome.results = workspace.results;
  return outcome;
}

// Returns which share of the best k of all items is among the results.
double Coverage(const std::vector<Scored>& results, const std::vector<float>& scores) {
  std::vector<float> order = scores;
  std::sort(order.rbegin(), order.rend());
  const auto good = [&](const Scored& result) { return result.score >= order[kK - 1]; };
  return std::count_if(results.begin(), results.end(), good) / static_cast<double>(kK);
}

// Where scores are a function of the features, most of the best items are found with fewer evaluations
// than best-first needs, and the search knows that.
void PredictableScoresTakeFewerEvaluations() {
  Random random(11);
  int64_t evaluated = 0, evaluated_best_first = 0;
  for (int example = 0; example < 8; ++example) {
    const World world = LargeWorld(random);
    const std::vector<float> scores = LinearScores(world, kWidth, random);
    const Outcome outcome = RunOn(*MakeSearch(), world, scores);
    CHECK_THAT(!outcome.statistics.fell_back);
    CHECK_THAT(outcome.statistics.stopped == Stopped::kComplete);
    CHECK_THAT(outcome.results.size() == kK);
    CHECK_THAT(outcome.statistics.estimated_coverage >= 0.9f);
    CHECK_THAT(Coverage(outcome.results, scores) >= 0.85);
    evaluated += outcome.statistics.items_scored;
    evaluated_best_first +=
        RunOn(**BestFirstSearch::Create(20, kK, 0), world, scores).statistics.items_scored;
  }
  CHECK_THAT(5 * evaluated < 4 * evaluated_best_first);
}

// An increasing function of the scores changes no step.
void OnlyTheOrderOfTheScoresCounts() {
  Random random(12);
  for (int example = 0; example < 5; ++example) {
    const World world = LargeWorld(random);
    std::vector<float> scores = LinearScores(world, kWidth, random), cubes;
    for (float& score : scores) score = std::floor(score);  // With ties.
    for (float score : scores) cubes.push_back(score * score * score - 7);
    *std::max_element(cubes.begin(), cubes.end()) = std::numeric_limits<float>::infinity();
    *std::max_element(scores.begin(), scores.end()) = std::numeric_limits<float>::infinity();
    CHECK_THAT(RunOn(*MakeSearch(), world, scores).order ==
               RunOn(*MakeSearch(), world, cubes).order);
  }
}

// Where scores have nothing to do with the features, the walk falls back to best-first, and answers
// nothing worse than it at any place.
void UnpredictableScoresAreWalkedBestFirst() {
  Random random(13);
  int fell_back = 0;
  for (int example = 0; example < 12; ++example) {
    World world = LargeWorld(random);
    for (int i = 3 * (example % 3); i > 0; --i) {
      world.entry_points.push_back(Draw(random, 0, kItems - 1));
    }
    world.layers.resize(1 + example % 2);
    const std::vector<float> scores = RandomScores(random);
    const std::vector<int32_t> seeds(example % 4 == 1 ? 3 : 0, Draw(random, 0, kItems - 1));
    SearchRequest request;
    request.seeds = seeds;
    const auto search = SurrogateSearch::Create({kK, 32, 0.9f}, 4, kK, 0);
    const Outcome outcome = RunOn(**search, world, scores, request);
    const SearchStatistics& s = outcome.statistics;
    CHECK_THAT(s.stopped == Stopped::kComplete && outcome.results.size() == kK);
    CHECK_THAT(s.candidates >= s.items_scored && s.candidates <= kItems);
    if (!s.fell_back) continue;
    ++fell_back;
    const Outcome best_first = RunOn(**BestFirstSearch::Create(4, kK, 0), world, scores, request);
    for (size_t i = 0; i < kK; ++i) {
      CHECK_THAT(outcome.results[i].score >= best_first.results[i].score);
    }
  }
  CHECK_THAT(fell_back >= 6);
}

// Time spent in the model is not counted as merging where the walk falls back, nor any time twice.
void MergingIsTimedWithoutTheScorer() {
  using Clock = std::chrono::steady_clock;
  Random random(17);
  const World world = LargeWorld(random);
  const IndexView view = world.View();
  const std::vector<float> all = RandomScores(random);
  std::chrono::nanoseconds scoring{0};
  const auto score = [&](absl::Span<const int32_t> items, absl::Span<float> scores) {
    const auto begin = Clock::now();
    for (size_t i = 0; i < items.size(); ++i) scores[i] = all[items[i]];
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    scoring += Clock::now() - begin;
    return absl::OkStatus();
  };
  Workspace workspace;
  SearchStatistics statistics;
  const auto begin = Clock::now();
  CHECK_THAT(MakeSearch()->Run(view, {}, score, workspace, statistics).ok());
  CHECK_THAT(statistics.fell_back && statistics.merging.count() >= 0);
  CHECK_THAT(statistics.merging + scoring <= Clock::now() - begin);
}

// A budget and a limit of steps hold before the walk falls back and after it did.
void LimitsHoldInEveryPartOfTheWalk() {
  Random random(14);
  const World world = LargeWorld(random);
  const std::vector<float> scores = RandomScores(random);
  const int64_t all = RunOn(*MakeSearch(), world, scores).statistics.items_scored;
  CHECK_THAT(all > 300);
  for (int64_t budget = 1; budget < all; budget += 7) {
    SearchRequest request;
    request.budget = budget;
    const SearchStatistics s = RunOn(*MakeSearch(), world, scores, request).statistics;
    CHECK_THAT(s.stopped == Stopped::kBudget && s.candidates >= s.items_scored);
  }
  for (int max_steps = 1; max_steps < 4; ++max_steps) {
    const auto search = SurrogateSearch::Create({kK, 32, 0.9f}, 20, kK, max_steps);
    const Outcome outcome = RunOn(**search, world, scores);
    CHECK_THAT(outcome.statistics.stopped == Stopped::kSteps);
    CHECK_THAT(outcome.statistics.items_scored < all);
  }
}

void AnIndexWithoutFeaturesIsRefused() {
  Random random(15);
  World world = RandomWorld(random);
  world.item_features.clear();
  const auto score = [](absl::Span<const int32_t>, absl::Span<float>) {
    CHECK_THAT(false);
    return absl::OkStatus();
  };
  Workspace workspace;
  SearchStatistics statistics;
  const IndexView view = world.View();
  const absl::Status status = MakeSearch()->Run(view, {}, score, workspace, statistics);
  CHECK_THAT(absl::IsInvalidArgument(status));
  CHECK_THAT(status.message().find("features") != absl::string_view::npos);
}

// An index without items has an empty answer in every search.
void AnIndexWithoutItemsHasAnEmptyAnswer() {
  const World world{{}, {}, {}, {{{0}, {}}, {{0}, {}}}};
  const Outcome outcome = RunOn(*MakeSearch(), world, {});
  CHECK_THAT(outcome.results.empty() && outcome.statistics.stopped == Stopped::kComplete);
}

// All scores of an index may be NaN: the walk ends, and answers as any other does.
void AModelThatKnowsNothingEndsTheWalk() {
  Random random(16);
  const World world = LargeWorld(random);
  const std::vector<float> scores(kItems, std::numeric_limits<float>::quiet_NaN());
  const Outcome outcome = RunOn(*MakeSearch(), world, scores);
  CHECK_THAT(outcome.results.size() == kK);
  CHECK_THAT(outcome.statistics.nan_scores == outcome.statistics.items_scored);
}

void ParametersOutOfRangeAreRefusedByName() {
  const auto check = [](const char* name, SurrogateSearch::Parameters parameters,
                        int32_t frontier = 1, int32_t pool = 1, int32_t max_steps = 0) {
    const auto made = SurrogateSearch::Create(parameters, frontier, pool, max_steps);
    CHECK_THAT(absl::IsInvalidArgument(made.status()));
    CHECK_THAT(made.status().message().find(std::string(name) + " is ") == 0);
  };
  for (int32_t wrong : {-1, 0, kMaxWidth + 1}) {
    check("k", {wrong, 1, 0.5f});
    check("batch", {1, wrong, 0.5f});
    check("frontier", {1, 1, 0.5f}, wrong);
    check("pool", {1, 1, 0.5f}, 1, wrong);
  }
  for (int32_t wrong : {-1, kMaxRounds + 1}) check("max_steps", {1, 1, 0.5f}, 1, 1, wrong);
  using Limits = std::numeric_limits<float>;
  for (float wrong : {-100.1f, 1.0f, 2.0f, Limits::infinity(), Limits::quiet_NaN()}) {
    check("expected_coverage", {1, 1, wrong});
  }
  for (float right : {-100.0f, 0.0f, 0.5f, std::nextafter(1.0f, 0.0f)}) {
    CHECK_THAT(SurrogateSearch::Create({kMaxWidth, kMaxWidth, right}, 1, 1, kMaxRounds).ok());
  }
}

}  // namespace
}  // namespace nann

int main() {
  nann::PredictableScoresTakeFewerEvaluations();
  nann::OnlyTheOrderOfTheScoresCounts();
  nann::UnpredictableScoresAreWalkedBestFirst();
  nann::MergingIsTimedWithoutTheScorer();
  nann::LimitsHoldInEveryPartOfTheWalk();
  nann::AnIndexWithoutFeaturesIsRefused();
  nann::AnIndexWithoutItemsHasAnEmptyAnswer();
  nann::AModelThatKnowsNothingEndsTheWalk();
  nann::ParametersOutOfRangeAreRefusedByName();
  std::puts("passed");
}
