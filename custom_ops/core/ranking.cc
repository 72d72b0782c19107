#include "custom_ops/core/ranking.h"

#include <algorithm>
#include <cmath>
#include <iterator>

namespace nann {

void Ranking::Start() {
  order_.clear();
  log_odds_.clear();
}

void Ranking::Add(absl::Span<const Scored> items) {
  const auto better = [](const Entry& a, const Entry& b) { return Better(a.scored, b.scored); };
  fresh_.clear();
  for (const Scored& item : items) {
    fresh_.push_back({item, static_cast<int32_t>(order_.size() + fresh_.size())});
  }
  std::sort(fresh_.begin(), fresh_.end(), better);
  merged_.clear();
  std::merge(order_.begin(), order_.end(), fresh_.begin(), fresh_.end(),
             std::back_inserter(merged_), better);
  order_.swap(merged_);

  const size_t size = order_.size();
  for (size_t i = logs_.size(); i <= 2 * size; ++i) logs_.push_back(std::log(i));
  log_odds_.resize(size);
  for (size_t begin = 0, end; begin < size; begin = end) {
    end = begin + 1;
    while (end < size && order_[end].scored.score == order_[begin].scored.score) ++end;
    // On average, (begin + end) / 2 of the `size` items are better, counting half of the item itself.
    const double log_odds = logs_[2 * size - begin - end] - logs_[begin + end];
    for (size_t i = begin; i < end; ++i) log_odds_[order_[i].added] = log_odds;
  }
}

size_t Ranking::LastPlace(size_t count, const Excluded& excluded) const {
  for (size_t place = 0; place < order_.size(); ++place) {
    count -= !excluded.Has(order_[place].scored.item);
    if (count == 0) return place;
  }
  return order_.size() - 1;
}

}  // namespace nann
