#ifndef CUSTOM_OPS_CORE_SCORED_H_
#define CUSTOM_OPS_CORE_SCORED_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace nann {

// An item, by its dense index in the corpus, with its score under the model. Never holds NaN.
struct Scored {
  float score;
  int32_t item;
};

// The order of every answer: higher score first, ties by lower item index, so that results are
// reproducible whatever the order of evaluation.
inline bool Better(const Scored& a, const Scored& b) {
  return a.score > b.score || (a.score == b.score && a.item < b.item);
}

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
