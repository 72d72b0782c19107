#ifndef CUSTOM_OPS_CORE_SCORED_H_
#define CUSTOM_OPS_CORE_SCORED_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace nann {

// An item, by its dense index in the corpus, with its score under the model.
struct Scored {
  float score;
  int32_t item;
};

// The order of every answer: higher score first, NaN after every number, ties by lower item index,
// so that results are reproducible whatever the order of evaluation. An object, not a function:
// algorithms that are given it compile it into their loops.
inline constexpr auto Better = [](const Scored& a, const Scored& b) {
  if (a.score > b.score) return true;
  if (a.score < b.score) return false;
  const bool a_is_nan = std::isnan(a.score), b_is_nan = std::isnan(b.score);
  return a_is_nan == b_is_nan ? a.item < b.item : b_is_nan;
};

// Keeps the best `k` of `items`, best first. O(n + k log k).
inline void KeepBest(size_t k, std::vector<Scored>& items) {
  if (k < items.size()) {
    std::nth_element(items.begin(), items.begin() + k, items.end(), Better);
    items.resize(k);
  }
  std::sort(items.begin(), items.end(), Better);
}

// Adds `more`, none of which is in `items`; best first afterwards.
inline void Join(const std::vector<Scored>& more, std::vector<Scored>& items) {
  items.insert(items.end(), more.begin(), more.end());
  std::sort(items.begin(), items.end(), Better);
}

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_SCORED_H_
