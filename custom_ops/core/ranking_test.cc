// Tests the ranking of evaluated items against its definition, in quadratic time.

#include "custom_ops/core/ranking.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "custom_ops/core/testing.h"

namespace nann {
namespace {

// Returns items with different numbers and scores that are often the same, or infinite.
std::vector<Scored> RandomScored(Random& random, int count) {
  std::vector<Scored> items(count);
  const int spread = Draw(random, 0, 30);
  for (int i = 0; i < count; ++i) {
    const int value = Draw(random, -spread, spread);
    const float infinity = std::numeric_limits<float>::infinity();
    const float score = std::abs(value) < 29 ? value / 4.0f : value > 0 ? infinity : -infinity;
    items[i] = {score, 3 * i};
  }
  std::shuffle(items.begin(), items.end(), random);
  return items;
}

// The log-odds of the share of `items` that an item with `score` is better than; one with the same
// score counts half, the item itself too.
double LogOdds(const std::vector<Scored>& items, float score) {
  double worse = 0;
  for (const Scored& item : items) worse += item.score < score ? 1 : item.score == score ? 0.5 : 0;
  const double share = worse / items.size();
  return std::log(share / (1 - share));
}

size_t LastPlace(const std::vector<Scored>& order, size_t count, const Excluded& excluded) {
  size_t others = 0;
  for (size_t place = 0; place < order.size(); ++place) {
    others += !excluded.Has(order[place].item);
    if (others == count) return place;
  }
  return order.size() - 1;
}

void CheckRanking(const Ranking& ranking, const std::vector<Scored>& items, Random& random) {
  CHECK_THAT(ranking.size() == items.size() && ranking.log_odds().size() == items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    CHECK_THAT(std::abs(ranking.log_odds()[i] - LogOdds(items, items[i].score)) < 1e-9);
  }
  std::vector<Scored> order = items;
  std::sort(order.begin(), order.end(), Better);
  for (size_t place = 0; place < order.size(); ++place) {
    CHECK_THAT(ranking.at(place).item == order[place].item);
    CHECK_THAT(ranking.at(place).score == order[place].score);
    CHECK_THAT(std::abs(ranking.log_odds(place) - LogOdds(items, order[place].score)) < 1e-9);
  }
  if (items.empty()) return;
  std::vector<int32_t> excluded;
  for (const Scored& item : items) {
    if (Draw(random, 0, 2) == 0) excluded.push_back(item.item);
  }
  std::sort(excluded.begin(), excluded.end());
  for (const auto& some : {std::vector<int32_t>{}, excluded}) {
    for (size_t count = 1; count < items.size() + 3; ++count) {
      CHECK_THAT(ranking.LastPlace(count, Excluded(some)) ==
                 LastPlace(order, count, Excluded(some)));
    }
  }
}

// However the items are split into batches, some of them empty, the ranking follows its definition;
// also in one that was used for more items before.
void EverySplitFollowsTheDefinition() {
  Random random(1);
  Ranking ranking;
  for (int example = 0; example < 400; ++example) {
    const std::vector<Scored> items = RandomScored(random, Draw(random, 0, 40));
    ranking.Start();
    CHECK_THAT(ranking.size() == 0 && ranking.log_odds().empty());
    for (size_t begin = 0; begin < items.size();) {
      const size_t count = std::min<size_t>(Draw(random, 0, 15), items.size() - begin);
      ranking.Add(absl::MakeConstSpan(items).subspan(begin, count));
      begin += count;
      if (Draw(random, 0, 3) == 0) {
        CheckRanking(ranking, {items.begin(), items.begin() + begin}, random);
      }
    }
    CheckRanking(ranking, items, random);
  }
}

// Splits give not only nearly the same log-odds, but the same bits.
void SplitsDoNotChangeABit() {
  Random random(2);
  for (int example = 0; example < 50; ++example) {
    const std::vector<Scored> items = RandomScored(random, 200);
    Ranking at_once, one_by_one;
    at_once.Add(items);
    for (const Scored& item : items) one_by_one.Add({&item, 1});
    CHECK_THAT(at_once.log_odds() == one_by_one.log_odds());
  }
}

}  // namespace
}  // namespace nann

int main() {
  nann::EverySplitFollowsTheDefinition();
  nann::SplitsDoNotChangeABit();
  std::puts("passed");
}
