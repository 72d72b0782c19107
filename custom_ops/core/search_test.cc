// Tests what cannot be tested through the TensorFlow ops: memory safety under sanitizers on random
// graphs, errors in the middle of a walk, and files that change after they were checked. tests/ops/
// compares the answers of the searches with a reference, and index_fuzz.cc covers damaged files.
// Prints the first check that fails and aborts.

#include "custom_ops/core/search.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>
#include <memory>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "custom_ops/core/best_first_search.h"
#include "custom_ops/core/deployed_search.h"
#include "custom_ops/core/rounds_search.h"
#include "custom_ops/core/surrogate_search.h"
#include "custom_ops/core/testing.h"
#include "custom_ops/core/world_testing.h"

namespace nann {
namespace {

std::unique_ptr<Search> RandomSearch(Random& random, int num_layers) {
  std::vector<int32_t> ef, rounds;
  for (int i = 0; i <= num_layers; ++i) {
    ef.push_back(Draw(random, 1, 20));
    rounds.push_back(i == 0 ? 1 : Draw(random, 1, 4));
  }
  std::vector<int32_t> level_topn = ef;
  level_topn.push_back(10);
  const int kind = Draw(random, 0, 3), max_steps = Draw(random, 0, 9);
  const SurrogateSearch::Parameters surrogate{Draw(random, 1, ef[1]), Draw(random, 1, 20),
                                              Draw(random, 1, 99) / 100.0f};
  auto search = kind == 0   ? RoundsSearch::Create(ef, rounds, num_layers)
                : kind == 1 ? DeployedSearch::Create(level_topn, num_layers)
                : kind == 2 ? BestFirstSearch::Create(ef[0], ef[1], max_steps)
                            : SurrogateSearch::Create(surrogate, ef[0], ef[1], max_steps);
  CHECK_THAT(search.ok());
  return *std::move(search);
}

// Returns random items in ascending order, some of them twice.
std::vector<int32_t> RandomItems(Random& random, int num_items) {
  std::vector<int32_t> items;
  for (int i = Draw(random, -20, 40); i > 0; --i) items.push_back(Draw(random, 0, num_items - 1));
  std::sort(items.begin(), items.end());
  return items;
}

float RandomScore(Random& random) {
  using Limits = std::numeric_limits<float>;
  const float odd[] = {Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity()};
  const int value = Draw(random, -3, 4);
  return value < 0 ? odd[-1 - value] : value;
}

// What a SurrogateSearch says beside the others, which say nothing.
void CheckSurrogate(const Search& search, const IndexView& view, const SearchStatistics& s) {
  if (dynamic_cast<const SurrogateSearch*>(&search) != nullptr) {
    CHECK_THAT(s.candidates >= s.items_scored && s.candidates <= view.num_items());
  } else {
    CHECK_THAT(s.candidates == 0 && s.prediction_error == 0 && s.estimated_coverage == 0);
    CHECK_THAT(!s.fell_back);
  }
}

// One workspace serves requests on indexes of different sizes, as the op's workers do. The time may be
// up before the first batch or after any other.
void SearchesKeepTheirPromises() {
  Random random(1);
  Workspace workspace;
  for (int example = 0; example < 4000; ++example) {
    const World world = RandomWorld(random);
    const IndexView view = world.View();
    CHECK_THAT(view.Validate().ok());
    ScoreLog log(view.num_items());
    SearchRequest request;
    const int failing_batch = Draw(random, 0, 9), last_batch = Draw(random, -9, 9);
    const auto now = std::chrono::steady_clock::now();
    if (last_batch >= 0) request.deadline = now + std::chrono::hours(last_batch > 0);
    auto score = [&](absl::Span<const int32_t> items, absl::Span<float> scores) {
      CHECK_THAT(failing_batch == 0 || log.batches() < failing_batch);
      CHECK_THAT(last_batch < 0 || log.batches() < last_batch);
      for (float& s : scores) s = RandomScore(random);
      log.Add(items, scores);
      if (log.batches() == last_batch) request.deadline = now;
      if (log.batches() == failing_batch) return absl::UnavailableError("the model is away");
      return absl::OkStatus();
    };
    SearchStatistics statistics;
    std::vector<int32_t> seeds;
    for (int i = Draw(random, -3, 5); i > 0; --i) {
      seeds.push_back(Draw(random, 0, view.num_items() - 1));
    }
    const std::vector<int32_t> excluded = RandomItems(random, view.num_items());
    request.seeds = seeds;
    request.excluded = excluded;
    // A batch that the budget cuts is the last one anyway; the time does not matter to it.
    if (last_batch < 0 && Draw(random, 0, 1) == 0) request.budget = Draw(random, 1, 30);
    const std::unique_ptr<Search> search = RandomSearch(random, view.num_layers());
    const absl::Status status = search->Run(view, request, score, workspace, statistics);
    if (failing_batch > 0 && log.batches() == failing_batch) {
      CHECK_THAT(status == absl::UnavailableError("the model is away"));
      continue;
    }
    CHECK_THAT(status.ok());
    log.CheckAnswer(request, statistics, workspace.results);
    CheckSurrogate(*search, view, statistics);
  }
}

// Returns which items a walk from `seeds` can reach.
std::vector<bool> Reached(const IndexView& index, std::vector<int32_t> seeds) {
  std::vector<bool> reached(index.num_items());
  while (!seeds.empty()) {
    const int32_t item = seeds.back();
    seeds.pop_back();
    if (reached[item]) continue;
    reached[item] = true;
    const auto neighbors = index.Neighbors(0, item);
    seeds.insert(seeds.end(), neighbors.begin(), neighbors.end());
  }
  return reached;
}

// A pool as wide as k holds k items that are not excluded whenever so many can be reached, also through
// items whose scores are NaN. First contact, line 7.
void ExcludedItemsTakeNoRoom() {
  Random random(7);
  Workspace workspace;
  for (int example = 0; example < 4000; ++example) {
    const World world = RandomWorld(random);
    const IndexView view = world.View();
    const std::vector<int32_t> excluded = RandomItems(random, view.num_items());
    const std::vector<int32_t> seeds(Draw(random, 1, 3), Draw(random, 0, view.num_items() - 1));
    const std::vector<bool> reached = Reached(view, seeds);
    size_t others = 0;
    for (int32_t item = 0; item < view.num_items(); ++item) {
      others += reached[item] && !std::binary_search(excluded.begin(), excluded.end(), item);
    }
    SearchRequest request;
    request.seeds = seeds;
    request.excluded = excluded;
    const int nans = Draw(random, 1, 4);
    const auto score = [=](absl::Span<const int32_t> items, absl::Span<float> scores) {
      for (size_t i = 0; i < items.size(); ++i) {
        scores[i] =
            items[i] % nans == 1 ? std::numeric_limits<float>::quiet_NaN() : items[i] * 37 % 11;
      }
      return absl::OkStatus();
    };
    const int k = Draw(random, 1, 9), frontier = Draw(random, 1, 4);
    for (const auto& search :
         {BestFirstSearch::Create(frontier, k, 0),
          SurrogateSearch::Create({k, Draw(random, 1, 9), 0.5f}, frontier, k, 0)}) {
      SearchStatistics statistics;
      CHECK_THAT((*search)->Run(view, request, score, workspace, statistics).ok());
      CHECK_THAT(statistics.stopped == Stopped::kComplete);
      CHECK_THAT(workspace.results.size() == std::min<size_t>(k, others));
    }
  }
}

// Entries may be valid when they are checked and invalid later.
void ABrokenItemIsAnErrorAndABrokenRowIsEmpty(const Search& search) {
  const auto score = [](absl::Span<const int32_t>, absl::Span<float> scores) {
    for (float& s : scores) s = 0;
    return absl::OkStatus();
  };
  Workspace workspace;
  const auto run = [&](World world) {
    world.item_features.resize(3 * kFeatureLanes);
    world.edge_distances.resize(world.layers[0].second.size());
    SearchStatistics statistics;
    return search.Run(world.View(), SearchRequest{}, score, workspace, statistics);
  };
  for (int32_t item : {-1, 3, std::numeric_limits<int32_t>::max()}) {
    CHECK_THAT(absl::IsDataLoss(run({{7, 8, 9}, {0, 0, 0}, {0}, {{{0, 1, 1, 1}, {item}}}})));
    CHECK_THAT(absl::IsDataLoss(run({{7, 8, 9}, {0, 0, 0}, {1, item}, {{{0, 0, 0, 0}, {}}}})));
  }
  const int64_t huge = std::numeric_limits<int64_t>::max();
  for (auto [first, second] :
       {std::pair<int64_t, int64_t>{-1, 1}, {-huge, huge}, {2, 1}, {0, 5}, {huge, huge}}) {
    CHECK_THAT(run({{7, 8, 9}, {0, 0, 0}, {0}, {{{first, second, 1, 1}, {1}}}}).ok());
    CHECK_THAT(workspace.results.size() == 1);
  }
}

// The items form a line, and each step expands one. The last one has no neighbours.
// First contact, line 8.
void AWalkThatStepsCutSaysSo() {
  const World world{{7, 8, 9}, {0, 0, 0}, {0}, {{{0, 1, 2, 2}, {1, 2}}}};
  const auto score = [](absl::Span<const int32_t>, absl::Span<float> scores) {
    for (float& s : scores) s = 0;
    return absl::OkStatus();
  };
  Workspace workspace;
  for (const auto& [max_steps, stopped, reached] :
       {std::tuple<int32_t, Stopped, size_t>{1, Stopped::kSteps, 2},
        {2, Stopped::kSteps, 3},
        {3, Stopped::kComplete, 3},
        {0, Stopped::kComplete, 3}}) {
    SearchStatistics statistics;
    const auto search = BestFirstSearch::Create(1, 3, max_steps);
    CHECK_THAT((*search)->Run(world.View(), SearchRequest{}, score, workspace, statistics).ok());
    CHECK_THAT(statistics.stopped == stopped);
    CHECK_THAT(workspace.results.size() == reached);
  }
  SearchRequest request;
  request.budget = 2;
  SearchStatistics statistics;
  CHECK_THAT((*BestFirstSearch::Create(1, 3, 1))
                 ->Run(world.View(), request, score, workspace, statistics)
                 .ok());
  CHECK_THAT(statistics.stopped == Stopped::kSteps);  // The budget was enough for the items met.
  for (int32_t wrong : {-1, kMaxRounds + 1}) {
    CHECK_THAT(absl::IsInvalidArgument(BestFirstSearch::Create(1, 3, wrong).status()));
  }
}

// Time spent in the model is not counted as merging, and no time is counted twice.
void MergingIsTimedWithoutTheScorer() {
  using Clock = std::chrono::steady_clock;
  Random random(4);
  Workspace workspace;
  for (int example = 0; example < 60; ++example) {
    const World world = RandomWorld(random);
    const IndexView view = world.View();
    const auto search = RandomSearch(random, view.num_layers());
    const std::vector<int32_t> seeds(Draw(random, 0, 1), view.num_items() - 1);
    SearchRequest request;
    request.seeds = seeds;
    std::chrono::nanoseconds scoring{0};
    const auto score = [&](absl::Span<const int32_t> items, absl::Span<float> scores) {
      const auto begin = Clock::now();
      for (size_t i = 0; i < items.size(); ++i) scores[i] = items[i] * 37 % 11;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      scoring += Clock::now() - begin;
      return absl::OkStatus();
    };
    SearchStatistics statistics;
    const auto begin = Clock::now();
    CHECK_THAT(search->Run(view, request, score, workspace, statistics).ok());
    CHECK_THAT(statistics.merging.count() >= 0);
    CHECK_THAT(statistics.merging + scoring <= Clock::now() - begin);
  }
}

// Threads share a search and an index, but each has its own workspace.
void ThreadsDoNotDisturbEachOther() {
  Random random(3);
  for (int example = 0; example < 50; ++example) {
    const World world = RandomWorld(random);
    const IndexView view = world.View();
    const auto search = RandomSearch(random, view.num_layers());
    const auto run = [&](std::vector<Scored>& results) {
      Workspace workspace;
      SearchStatistics statistics;
      const auto score = [](absl::Span<const int32_t> items, absl::Span<float> scores) {
        for (size_t i = 0; i < items.size(); ++i) scores[i] = items[i] * 37 % 11;
        return absl::OkStatus();
      };
      for (int repeat = 0; repeat < 20; ++repeat) {
        statistics = {};
        CHECK_THAT(search->Run(view, SearchRequest{}, score, workspace, statistics).ok());
      }
      results = workspace.results;
    };
    std::vector<std::vector<Scored>> results(4);
    std::vector<std::thread> threads;
    for (auto& own : results) threads.emplace_back(run, std::ref(own));
    for (auto& thread : threads) thread.join();
    for (const auto& own : results) {
      CHECK_THAT(own.size() == results[0].size());
      for (size_t i = 0; i < own.size(); ++i) CHECK_THAT(own[i].item == results[0][i].item);
    }
  }
}

}  // namespace
}  // namespace nann

int main() {
  nann::SearchesKeepTheirPromises();
  nann::ABrokenItemIsAnErrorAndABrokenRowIsEmpty(**nann::RoundsSearch::Create({3, 3}, {1, 3}, 1));
  nann::ABrokenItemIsAnErrorAndABrokenRowIsEmpty(
      **nann::SurrogateSearch::Create({3, 3, 0.9f}, 1, 3, 0));
  nann::ExcludedItemsTakeNoRoom();
  nann::AWalkThatStepsCutSaysSo();
  nann::MergingIsTimedWithoutTheScorer();
  nann::ThreadsDoNotDisturbEachOther();
  std::puts("passed");
}
