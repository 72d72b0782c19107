// Tests what searches promise under a cap: no value is answered more often than allowed, the answer is the
// greedy one over all scored items, and it is about the one over all items of the index. Prints the first
// check that fails and aborts.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "custom_ops/core/best_first_search.h"
#include "custom_ops/core/cap.h"
#include "custom_ops/core/deployed_search.h"
#include "custom_ops/core/rounds_search.h"
#include "custom_ops/core/search.h"
#include "custom_ops/core/surrogate_search.h"
#include "custom_ops/core/testing.h"
#include "custom_ops/core/world_testing.h"

namespace nann {
namespace {

constexpr int64_t kNull = -1;

// A column of integers and its arrays. An item of the value kNull has none.
struct Column {
  explicit Column(std::vector<int64_t> values) : values(std::move(values)) {
    present.resize(PassingItems::NumWords(this->values.size()));
    for (size_t i = 0; i < this->values.size(); ++i) {
      present[i / 64] |= uint64_t{this->values[i] != kNull} << i % 64;
    }
    attribute.name = "brand";
    attribute.present = present;
    attribute.integers = this->values;
  }

  std::vector<int64_t> values;
  std::vector<uint64_t> present;
  Attribute attribute;
};

// Returns the best items, best first, of which at most `most` have the same value.
std::vector<Scored> Greedy(std::vector<Scored> items, const Column& column, int most, size_t k) {
  std::sort(items.begin(), items.end(), Better);
  std::map<int64_t, int> counts;
  std::vector<Scored> answer;
  for (const Scored& one : items) {
    const int64_t value = column.values[one.item];
    if (value != kNull && ++counts[value] > most) continue;
    if (answer.size() < k) answer.push_back(one);
  }
  return answer;
}

bool Same(const std::vector<Scored>& a, const std::vector<Scored>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const Scored& x, const Scored& y) { return x.item == y.item; });
}

std::unique_ptr<Search> AnySearch(Random& random, int width, int num_layers) {
  std::vector<int32_t> ef(num_layers + 1, width), rounds(num_layers + 1, 1);
  std::vector<int32_t> level_topn = ef;
  level_topn.push_back(width);
  switch (Draw(random, 0, 3)) {
    case 0:
      return *RoundsSearch::Create(ef, rounds, num_layers);
    case 1:
      return *DeployedSearch::Create(level_topn, num_layers);
    case 2:
      return *BestFirstSearch::Create(Draw(random, 1, 4), width, 0);
    default:
      return *SurrogateSearch::Create({width, Draw(random, 1, 4), 0.9f}, 2, width, 0);
  }
}

// Filters, exclusions, seeds, budgets, ties, values that all items have and that none has.
void AnswersAreGreedyOverWhatWasScored() {
  Random random(31);
  Workspace workspace;
  int full = 0, cut = 0;
  for (int example = 0; example < 3000; ++example) {
    const World world =
        RandomWorld(random, Draw(random, 1, 300), 16, Draw(random, 0, 6), Draw(random, 1, 3));
    const IndexView view = world.View();
    const int32_t size = view.num_items();
    const int failing = Draw(random, 0, 9), num_values = Draw(random, 1, 20),
              most = Draw(random, 1, 4), k = Draw(random, 1, 8);
    std::vector<int64_t> values;
    std::vector<float> scores;
    std::vector<uint64_t> words(PassingItems::NumWords(size));
    for (int32_t item = 0; item < size; ++item) {
      values.push_back(Draw(random, kNull, num_values));
      scores.push_back(Draw(random, 0, 60));
      words[item / 64] |= uint64_t{Draw(random, 0, 9) >= failing} << item % 64;
    }
    const Column column(values);
    const PassingItems passing(words);
    const Cap cap = *Cap::Create(column.attribute, most, k);
    std::vector<int32_t> seeds(std::max(0, Draw(random, -3, 5))), excluded(Draw(random, 0, 5));
    for (int32_t& seed : seeds) seed = Draw(random, 0, size - 1);
    for (int32_t& item : excluded) item = Draw(random, 0, size - 1);
    std::sort(excluded.begin(), excluded.end());
    SearchRequest request;
    request.seeds = seeds;
    request.excluded = excluded;
    request.cap = &cap;
    if (Draw(random, 0, 1) == 0) request.passing = &passing;
    if (Draw(random, 0, 3) == 0) request.budget = Draw(random, 1, 40);

    std::vector<Scored> scored;
    std::vector<bool> known(size);
    const auto score = [&](absl::Span<const int32_t> batch, absl::Span<float> out) {
      for (size_t i = 0; i < batch.size(); ++i) {
        CHECK_THAT(!known[batch[i]]);  // No item is scored twice, in however many searches.
        known[batch[i]] = true;
        CHECK_THAT(request.passing == nullptr || passing.Has(batch[i]));
        out[i] = scores[batch[i]];
        if (!std::binary_search(excluded.begin(), excluded.end(), batch[i])) {
          scored.push_back({out[i], batch[i]});
        }
      }
      return absl::OkStatus();
    };
    const auto search = AnySearch(random, k, view.num_layers());
    SearchStatistics statistics;
    CHECK_THAT(search->Run(view, request, score, workspace, statistics).ok());
    CHECK_THAT(statistics.items_scored <= request.budget);
    CHECK_THAT(statistics.items_scored == std::count(known.begin(), known.end(), true));
    CHECK_THAT(Same(workspace.results, Greedy(scored, column, most, k)));
    if (!statistics.exact) continue;
    std::vector<Scored> all;
    for (int32_t item = 0; item < size; ++item) {
      if (passing.Has(item) && !std::binary_search(excluded.begin(), excluded.end(), item)) {
        all.push_back({scores[item], item});
      }
    }
    CHECK_THAT(Same(workspace.results, Greedy(all, column, most, k)));
    ++(workspace.results.size() == static_cast<size_t>(k) ? full : cut);
  }
  CHECK_THAT(full > 200 && cut > 50);
}

// The best items have few values: a search that looked for the best k alone would find few of the answer.
void TheBestOfEachValueAreFound() {
  constexpr int kItems = 1500, kWidth = 16, kK = 20;
  Random random(32);
  const World world = NearWorld(random, kItems, kWidth, 12, 5);
  const IndexView view = world.View();
  Workspace workspace;
  for (const auto& search : {*BestFirstSearch::Create(4, 3 * kK, 0),
                             *SurrogateSearch::Create({kK, 8, 0.9f}, 4, 3 * kK, 0)}) {
    for (int num_values : {15, 60}) {
      size_t found = 0, wanted = 0, evaluations = 0;
      for (int example = 0; example < 20; ++example) {
        const std::vector<float> scores = LinearScores(world, kWidth, random);
        std::vector<Scored> order;
        for (int32_t item = 0; item < kItems; ++item) order.push_back({scores[item], item});
        std::sort(order.begin(), order.end(), Better);
        std::vector<int64_t> values(kItems);
        for (int place = 0; place < kItems; ++place) {
          values[order[place].item] = place * num_values / kItems + Draw(random, 0, 2);
        }
        const Column column(values);
        const Cap cap = *Cap::Create(column.attribute, 2, kK);
        SearchRequest request;
        request.cap = &cap;
        std::vector<int32_t> seeds(20);
        for (int32_t& seed : seeds) seed = Draw(random, 0, kItems - 1);
        request.seeds = seeds;
        const auto score = [&](absl::Span<const int32_t> batch, absl::Span<float> out) {
          for (size_t i = 0; i < batch.size(); ++i) out[i] = scores[batch[i]];
          return absl::OkStatus();
        };
        SearchStatistics statistics;
        CHECK_THAT(search->Run(view, request, score, workspace, statistics).ok());
        const std::vector<Scored> best = Greedy(order, column, 2, kK);
        CHECK_THAT(workspace.results.size() == best.size());
        for (const Scored& one : best) {
          found += std::any_of(workspace.results.begin(), workspace.results.end(),
                               [&](const Scored& other) { return other.item == one.item; });
        }
        wanted += best.size();
        evaluations += statistics.items_scored;
      }
      std::printf("%d values: %zu of %zu found, %zu evaluations a request\n", num_values, found,
                  wanted, evaluations / 20);
      CHECK_THAT(100 * found >= 95 * wanted);
    }
  }
}

void ColumnsAndCapsAreChecked() {
  const Column column({1, 2, kNull});
  CHECK_THAT(Cap::Create(column.attribute, 1, 1).ok());
  CHECK_THAT(!Cap::Create(column.attribute, 0, 1).ok());
  CHECK_THAT(Cap::Create(column.attribute, 1, 1)->Value(1) == 2);
  CHECK_THAT(!Cap::Create(column.attribute, 1, 1)->Value(2).has_value());
  for (AttributeType type : {AttributeType::kFloat, AttributeType::kTimestamp, AttributeType::kInts,
                             AttributeType::kStrings}) {
    Attribute other = column.attribute;
    other.type = type;
    const auto refused = Cap::Create(other, 1, 1);
    CHECK_THAT(refused.status().message().find("brand") != std::string::npos);
  }
}

}  // namespace
}  // namespace nann

int main() {
  nann::ColumnsAndCapsAreChecked();
  nann::AnswersAreGreedyOverWhatWasScored();
  nann::TheBestOfEachValueAreFound();
  std::puts("passed");
}
