// Tests what no TensorFlow op can reach: memory safety under sanitizers on random graphs, errors in
// the middle of a walk, and the wrap-around of the visited set's epochs. What the searches answer
// is compared with a reference in tests/ops/. Prints the first check that fails and exits with 1.

#include "custom_ops/core/search.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "custom_ops/core/best_first_search.h"
#include "custom_ops/core/deployed_search.h"
#include "custom_ops/core/index_view.h"
#include "custom_ops/core/item_lookup.h"
#include "custom_ops/core/rounds_search.h"
#include "custom_ops/core/visited_set.h"

#define CHECK_THAT(condition)                                              \
  do {                                                                     \
    if (!(condition)) {                                                    \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                        \
    }                                                                      \
  } while (false)

namespace nann {
namespace {

using Random = std::mt19937;

int Draw(Random& random, int low, int high) {
  return std::uniform_int_distribution<int>(low, high)(random);
}

// Arrays of an index and the view over them. Vectors end where their data end, so that a read
// beyond them is seen by the address sanitizer.
struct World {
  std::vector<int64_t> item_ids;
  std::vector<float> embeddings;
  std::vector<int32_t> entry_points;
  std::vector<std::pair<std::vector<int64_t>, std::vector<int32_t>>> layers;

  template <typename T>
  static IndexFile File(const std::vector<T>& values) {
    return {"file", {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)}};
  }

  IndexFiles Files() const {
    IndexFiles files{File(item_ids), File(embeddings), File(entry_points), {}};
    for (const auto& [row_splits, neighbors] : layers) {
      files.layers.push_back({File(row_splits), File(neighbors)});
    }
    return files;
  }

  IndexView View() const {
    auto view = IndexView::Create(Files(), 1);
    CHECK_THAT(view.ok());
    return *view;
  }
};

World RandomWorld(Random& random) {
  World world;
  const int n = Draw(random, 1, 60);
  for (int i = 0; i < n; ++i) world.item_ids.push_back(1000 + i);
  world.embeddings.resize(n);
  for (int i = Draw(random, 1, 5); i > 0; --i) world.entry_points.push_back(Draw(random, 0, n - 1));
  for (int layer = Draw(random, 1, 3); layer > 0; --layer) {
    world.layers.push_back({{0}, {}});
    auto& [row_splits, neighbors] = world.layers.back();
    for (int i = 0; i < n; ++i) {
      for (int degree = Draw(random, 0, 5); degree > 0; --degree) {
        neighbors.push_back(Draw(random, 0, n - 1));
      }
      row_splits.push_back(neighbors.size());
    }
  }
  return world;
}

std::unique_ptr<Search> RandomSearch(Random& random, int num_layers) {
  std::vector<int32_t> ef, rounds;
  for (int i = 0; i <= num_layers; ++i) {
    ef.push_back(Draw(random, 1, 20));
    rounds.push_back(i == 0 ? 1 : Draw(random, 1, 4));
  }
  const int kind = Draw(random, 0, 2);
  auto search = kind == 0   ? RoundsSearch::Create(ef, rounds, num_layers)
                : kind == 1 ? DeployedSearch::Create(ef, num_layers)
                            : BestFirstSearch::Create(ef[0], ef[1], Draw(random, 1, 9));
  CHECK_THAT(search.ok());
  return *std::move(search);
}

// One workspace serves requests on indices of different sizes, as the op's workers do.
void SearchesKeepTheirPromises() {
  Random random(1);
  Workspace workspace;
  for (int example = 0; example < 3000; ++example) {
    const World world = RandomWorld(random);
    const IndexView view = world.View();
    CHECK_THAT(view.Validate().ok());
    std::set<int32_t> scored;
    const int failing_batch = Draw(random, 0, 9);
    int batches = 0;
    auto score = [&](absl::Span<const int32_t> items, absl::Span<float> scores) {
      CHECK_THAT(!items.empty() && items.size() == scores.size());
      if (++batches == failing_batch) return absl::UnavailableError("the model is away");
      for (size_t i = 0; i < items.size(); ++i) {
        CHECK_THAT(scored.insert(items[i]).second);  // Each item once.
        const int value = Draw(random, -2, 3);
        scores[i] = value == 3 ? std::numeric_limits<float>::quiet_NaN() : value;
      }
      return absl::OkStatus();
    };
    SearchStatistics statistics;
    std::vector<int32_t> seeds;
    for (int i = Draw(random, -3, 5); i > 0; --i) {
      seeds.push_back(Draw(random, 0, view.num_items() - 1));
    }
    SearchRequest request;
    request.seeds = seeds;
    if (Draw(random, 0, 2) == 0) request.budget = Draw(random, 1, 30);
    const absl::Status status =
        RandomSearch(random, view.num_layers())->Run(view, request, score, workspace, statistics);
    if (failing_batch > 0 && batches >= failing_batch) {
      CHECK_THAT(status == absl::UnavailableError("the model is away"));
      CHECK_THAT(batches == failing_batch);
      continue;
    }
    CHECK_THAT(status.ok());
    CHECK_THAT(statistics.items_scored == static_cast<int64_t>(scored.size()));
    CHECK_THAT(statistics.items_scored <= request.budget);
    CHECK_THAT((statistics.stopped == Stopped::kBudget) <=
               (statistics.items_scored == request.budget));
    CHECK_THAT(statistics.rounds >= batches);
    std::set<int32_t> answered;
    for (size_t i = 0; i < workspace.results.size(); ++i) {
      CHECK_THAT(scored.count(workspace.results[i].item) == 1);
      CHECK_THAT(answered.insert(workspace.results[i].item).second);
      CHECK_THAT(i == 0 || Better(workspace.results[i - 1], workspace.results[i]));
    }
  }
}

// Entries that were valid when they were checked and are not any more.
void ABrokenEdgeIsAnErrorAndABrokenRowIsEmpty() {
  const auto score = [](absl::Span<const int32_t>, absl::Span<float> scores) {
    for (float& s : scores) s = 0;
    return absl::OkStatus();
  };
  const auto run = [&](const World& world, Workspace& workspace) {
    SearchStatistics statistics;
    return (*RoundsSearch::Create({3, 3}, {1, 3}, 1))
        ->Run(world.View(), SearchRequest{}, score, workspace, statistics);
  };
  Workspace workspace;
  for (int32_t neighbor : {-1, 3, std::numeric_limits<int32_t>::max()}) {
    const World world{{7, 8, 9}, {0, 0, 0}, {0}, {{{0, 1, 1, 1}, {neighbor}}}};
    CHECK_THAT(absl::IsDataLoss(run(world, workspace)));
  }
  const int64_t huge = std::numeric_limits<int64_t>::max();
  for (auto [first, second] :
       {std::pair<int64_t, int64_t>{-1, 1}, {-huge, huge}, {2, 1}, {0, 5}, {huge, huge}}) {
    const World world{{7, 8, 9}, {0, 0, 0}, {0}, {{{first, second, 1, 1}, {1}}}};
    CHECK_THAT(run(world, workspace).ok());
    CHECK_THAT(workspace.results.size() == 1);
  }
}

// Whatever the bytes of an index are, it is refused, or searched without leaving its memory.
void DamagedBytesAreRefusedOrHarmless() {
  Random random(2);
  Workspace workspace;
  const auto score = [](absl::Span<const int32_t> items, absl::Span<float> scores) {
    for (size_t i = 0; i < items.size(); ++i) scores[i] = items[i] % 7;
    return absl::OkStatus();
  };
  int opened = 0, valid = 0;
  for (int example = 0; example < 20000; ++example) {
    World world = RandomWorld(random);
    const auto damage = [&random](auto& values) {
      if (values.empty() || Draw(random, 0, 3) != 0) return;
      auto* bytes = reinterpret_cast<unsigned char*>(values.data());
      const size_t size = values.size() * sizeof(values[0]);
      // Low bytes keep a value near what it was, which gets past more checks.
      for (int i = Draw(random, 1, 3); i > 0; --i) {
        bytes[Draw(random, 0, static_cast<int>(size) - 1)] = Draw(random, 0, 255);
      }
      if (Draw(random, 0, 9) == 0) values.pop_back();
    };
    damage(world.entry_points);
    damage(world.embeddings);
    for (auto& [row_splits, neighbors] : world.layers) {
      damage(row_splits);
      damage(neighbors);
    }
    auto view = IndexView::Create(world.Files(), 1);
    if (!view.ok()) continue;
    ++opened;
    if (!view->Validate().ok()) continue;
    ++valid;
    SearchStatistics statistics;
    CHECK_THAT(RandomSearch(random, view->num_layers())
                   ->Run(*view, SearchRequest{}, score, workspace, statistics)
                   .ok());
  }
  CHECK_THAT(valid > 1000 && opened > valid);
}

// A search and an index are shared; every thread has its own workspace.
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

void LookupsFindEveryIdAndNoOther() {
  Random random(4);
  for (int example = 0; example < 500; ++example) {
    std::set<int64_t> ids;
    for (int i = Draw(random, 0, 40); i > 0; --i) ids.insert(Draw(random, -60, 60));
    std::vector<int64_t> order(ids.begin(), ids.end());
    if (Draw(random, 0, 1) == 1) std::shuffle(order.begin(), order.end(), random);
    const ItemLookup lookup(order);
    for (int64_t id = -61; id <= 61; ++id) {
      const auto place = std::find(order.begin(), order.end(), id);
      CHECK_THAT(lookup.Find(id) == (place == order.end() ? -1 : place - order.begin()));
    }
  }
}

// After 2^32 layers the epochs start again; items of the first epochs must not count as known then.
void EpochsMayWrapAround() {
  VisitedSet visited;
  float score = 0;
  visited.StartRequest(2);
  visited.Visit(0, &score);
  visited.SetScore(0, 5);
  for (int64_t request = 0; request < (int64_t{1} << 32) + 2; ++request) {
    visited.StartRequest(2);
    // Far from the wrap nothing can happen that does not happen at the first request.
    if (request > 10 && request < (int64_t{1} << 32) - 1000) continue;
    CHECK_THAT(visited.Visit(1, &score) == VisitedSet::State::kNew);
    visited.SetScore(1, 3);
    CHECK_THAT(visited.Visit(1, &score) == VisitedSet::State::kVisited);
    visited.StartLayer();
    CHECK_THAT(visited.Visit(1, &score) == VisitedSet::State::kScored && score == 3);
    CHECK_THAT(visited.Visit(1, &score) == VisitedSet::State::kVisited);
  }
  CHECK_THAT(visited.Visit(0, &score) == VisitedSet::State::kNew);
}

}  // namespace
}  // namespace nann

int main() {
  nann::SearchesKeepTheirPromises();
  nann::ABrokenEdgeIsAnErrorAndABrokenRowIsEmpty();
  nann::DamagedBytesAreRefusedOrHarmless();
  nann::ThreadsDoNotDisturbEachOther();
  nann::LookupsFindEveryIdAndNoOther();
  nann::EpochsMayWrapAround();
  std::puts("passed");
}
