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

// The order of every answer: higher scores first, NaN after every number, ties by lower item index,
// so that results do not depend on the order of evaluation. This is an object rather than a function
// because algorithms then compile it into their loops.
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

// Adds `more`, none of which may be in `items`, and sorts `items` best first.
inline void Join(const std::vector<Scored>& more, std::vector<Scored>& items) {
  items.insert(items.end(), more.begin(), more.end());
  std::sort(items.begin(), items.end(), Better);
}

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_SCORED_H_
