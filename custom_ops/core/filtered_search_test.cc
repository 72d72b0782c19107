// Tests what searches promise under a filter: no item that fails is scored or answered, k items are
// answered if k pass, and the best ones are found. Prints the first check that fails and aborts.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "custom_ops/core/best_first_search.h"
#include "custom_ops/core/bridge.h"
#include "custom_ops/core/deployed_search.h"
#include "custom_ops/core/passing_items.h"
#include "custom_ops/core/rounds_search.h"
#include "custom_ops/core/search.h"
#include "custom_ops/core/surrogate_search.h"
#include "custom_ops/core/testing.h"
#include "custom_ops/core/world_testing.h"

namespace nann {
namespace {

PassingItems PassingOf(int64_t num_items, const std::vector<int32_t>& items) {
  std::vector<uint64_t> words(PassingItems::NumWords(num_items));
  for (int32_t item : items) words[item / 64] |= uint64_t{1} << item % 64;
  return PassingItems(std::move(words));
}

// Returns about `share` of the items, ascending. With a `taste` of 1 only the items of the highest
// scores, with -1 only those of the lowest, and with 0 any.
std::vector<int32_t> DrawPassing(Random& random, const std::vector<float>& scores, double share,
                                 int taste) {
  std::vector<std::pair<double, int32_t>> keys;
  for (size_t i = 0; i < scores.size(); ++i) {
    const double luck = Draw(random, 0, 1000);
    keys.emplace_back(
        taste == 0 ? luck : -taste * (std::isnan(scores[i]) ? 0 : scores[i]) + luck / 1e4, i);
  }
  std::sort(keys.begin(), keys.end());
  keys.resize(static_cast<size_t>(share * keys.size()));
  std::vector<int32_t> items;
  for (const auto& key : keys) items.push_back(key.second);
  std::sort(items.begin(), items.end());
  return items;
}

// A search with narrow widths, so that it walks although few items pass, and how many it answers.
std::pair<std::unique_ptr<Search>, size_t> NarrowSearch(Random& random, int num_layers) {
  const int width = Draw(random, 1, 6), batch = Draw(random, 1, 4);
  std::vector<int32_t> ef(num_layers + 1, Draw(random, 1, 3)), rounds(num_layers + 1, 1);
  ef.back() = width;
  std::vector<int32_t> level_topn = ef;
  level_topn.push_back(width);
  const int max_steps = Draw(random, 0, 3) == 0 ? 2 : 0;
  switch (Draw(random, 0, 3)) {
    case 0:
      return {*RoundsSearch::Create(ef, rounds, num_layers), width};
    case 1:
      return {*DeployedSearch::Create(level_topn, num_layers), width};
    case 2:
      return {*BestFirstSearch::Create(batch, width, max_steps), width};
    default:
      return {*SurrogateSearch::Create({width, batch, 0.9f}, batch, width, max_steps), width};
  }
}

// Islands, failing starts, exclusions, NaN, limits: in graphs of few links whatever can happen does.
void NoFailingItemAndKAnswers() {
  Random random(21);
  Workspace workspace;
  int walked = 0, exact = 0;
  for (int example = 0; example < 6000; ++example) {
    const World world =
        RandomWorld(random, Draw(random, 1, 400), 16, Draw(random, 0, 6), Draw(random, 1, 3));
    const IndexView view = world.View();
    const int32_t last = view.num_items() - 1;
    std::vector<float> scores;
    for (int32_t item = 0; item <= last; ++item) {
      scores.push_back(Draw(random, 0, 9) == 0 ? std::numeric_limits<float>::quiet_NaN()
                                               : Draw(random, 0, 50));
    }
    const double share = std::vector<double>{0.9, 0.5, 0.1, 0.01, 0}[Draw(random, 0, 4)];
    const std::vector<int32_t> items = DrawPassing(random, scores, share, Draw(random, -1, 1));
    const PassingItems passing = PassingOf(view.num_items(), items);
    std::vector<int32_t> seeds(std::max(0, Draw(random, -3, 5))), excluded(Draw(random, 0, 9));
    for (int32_t& seed : seeds) seed = Draw(random, 0, last);
    for (int32_t& item : excluded) item = Draw(random, 0, last);
    std::sort(excluded.begin(), excluded.end());
    SearchRequest request;
    request.seeds = seeds;
    request.excluded = excluded;
    request.passing = &passing;
    if (Draw(random, 0, 3) == 0) request.budget = Draw(random, 1, 40);
    if (Draw(random, 0, 9) == 0) request.deadline = std::chrono::steady_clock::now();

    ScoreLog log(view.num_items());
    const auto score = [&](absl::Span<const int32_t> batch, absl::Span<float> out) {
      for (size_t i = 0; i < batch.size(); ++i) {
        CHECK_THAT(passing.Has(batch[i]));
        out[i] = scores[batch[i]];
      }
      log.Add(batch, out);
      return absl::OkStatus();
    };
    const auto [search, width] = NarrowSearch(random, view.num_layers());
    SearchStatistics statistics;
    CHECK_THAT(search->Run(view, request, score, workspace, statistics).ok());
    log.CheckAnswer(request, statistics, workspace.results);

    std::vector<Scored> wanted;
    for (int32_t item : items) {
      if (!std::binary_search(excluded.begin(), excluded.end(), item)) {
        wanted.push_back({scores[item], item});
      }
    }
    KeepBest(width, wanted);
    const bool limited =
        statistics.stopped == Stopped::kBudget || statistics.stopped == Stopped::kDeadline;
    if (!limited) CHECK_THAT(std::min(workspace.results.size(), width) == wanted.size());
    if (statistics.exact) {
      for (size_t i = 0; i < wanted.size(); ++i) {
        CHECK_THAT(workspace.results[i].item == wanted[i].item);
      }
    }
    exact += statistics.exact;
    walked += !statistics.exact && !limited;
  }
  CHECK_THAT(walked > 800 && exact > 800);
}

// Where the graph and the features tell of the scores, nearly all of the best passing items are found,
// with fewer evaluations than there are passing items.
void TheBestPassingItemsAreFound() {
  constexpr int kItems = 1500, kWidth = 16, kK = 10;
  Random random(22);
  const World world = NearWorld(random, kItems, kWidth, 12, 5);
  const IndexView view = world.View();
  Workspace workspace;
  for (const auto& search : {*BestFirstSearch::Create(4, 3 * kK, 0),
                             *SurrogateSearch::Create({kK, 8, 0.9f}, 4, 3 * kK, 0)}) {
    const bool predicts = dynamic_cast<const SurrogateSearch*>(search.get()) != nullptr;
    for (double share : {0.5, 0.1, 0.01, 0.001, 0.0}) {
      for (int taste : {-1, 0, 1}) {
        size_t found = 0, wanted = 0, scored = 0, passed = 0;
        for (int example = 0; example < 8; ++example) {
          const std::vector<float> scores = LinearScores(world, kWidth, random);
          const std::vector<int32_t> items = DrawPassing(random, scores, share, taste);
          const PassingItems passing = PassingOf(kItems, items);
          std::vector<Scored> best;
          for (int32_t item : items) best.push_back({scores[item], item});
          KeepBest(kK, best);
          std::vector<int32_t> seeds(20);
          for (int32_t& seed : seeds) seed = Draw(random, 0, kItems - 1);
          SearchRequest request;
          request.seeds = seeds;
          request.passing = &passing;
          const auto score = [&](absl::Span<const int32_t> batch, absl::Span<float> out) {
            for (size_t i = 0; i < batch.size(); ++i) out[i] = scores[batch[i]];
            return absl::OkStatus();
          };
          SearchStatistics statistics;
          CHECK_THAT(search->Run(view, request, score, workspace, statistics).ok());
          CHECK_THAT(workspace.results.size() >= best.size());
          CHECK_THAT(statistics.exact || !items.empty());
          for (size_t i = 0; i < best.size(); ++i) {
            found += workspace.results[i].score >= best.back().score;
          }
          wanted += best.size();
          scored += statistics.items_scored;
          passed += items.size();
        }
        // Where the better half fails, the best passing items lie scattered around it, and hardly one is
        // a neighbour of another: only predictions find them.
        const bool scattered = taste < 0 && !predicts;
        CHECK_THAT(100 * found >= (scattered ? 60 : 90) * wanted);
        CHECK_THAT(scored <= passed);
      }
    }
  }
}

// 0 - 1 - 2 - 3 - 4 - 5, of which 0, 3 and 5 pass.
void ABridgeLeadsThroughFailingItems() {
  const World world{{0, 1, 2, 3, 4, 5},
                    std::vector<float>(6),
                    {0},
                    {{{0, 1, 3, 5, 7, 9, 10}, {1, 0, 2, 1, 3, 2, 4, 3, 5, 4}}}};
  const IndexView view = world.View();
  const PassingItems passing = PassingOf(6, {0, 3, 5});
  Bridge bridge;
  std::vector<int32_t> met;
  const auto meet = [&](int32_t item) {
    met.push_back(item);
    return item != 0;
  };
  bridge.StartRequest(view, &passing);
  CHECK_THAT(bridge.Cross(0, 1, meet).ok() && met == std::vector<int32_t>({0, 3}));
  met.clear();
  CHECK_THAT(bridge.Cross(0, 1, meet).ok() && met.empty());  // All on the way are crossed.
  CHECK_THAT(bridge.Cross(3, 9, meet).ok() && met == std::vector<int32_t>({3, 5}));
  met.clear();
  bridge.StartLayer(0);  // Now they may be crossed again.
  CHECK_THAT(bridge.Cross(4, 1, meet).ok() && met == std::vector<int32_t>({3}));
  CHECK_THAT(bridge.Wander(9, meet).ok());
  CHECK_THAT(met == std::vector<int32_t>({3, 3, 5, 0}));
}

void NextPassingItemsAreFound() {
  Random random(23);
  for (int example = 0; example < 200; ++example) {
    const int n = Draw(random, 1, 300);
    const std::vector<int32_t> items =
        DrawPassing(random, std::vector<float>(n), Draw(random, 0, 10) / 10.0, 0);
    const PassingItems passing = PassingOf(n, items);
    for (int from = 0; from <= n; ++from) {
      const auto next = std::lower_bound(items.begin(), items.end(), from);
      const int64_t found = passing.Next(from);
      CHECK_THAT(next == items.end() ? found >= n : found == *next);
    }
  }
}

}  // namespace
}  // namespace nann

int main() {
  nann::NextPassingItemsAreFound();
  nann::ABridgeLeadsThroughFailingItems();
  nann::NoFailingItemAndKAnswers();
  nann::TheBestPassingItemsAreFound();
  std::puts("passed");
}
