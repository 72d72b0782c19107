#ifndef CUSTOM_OPS_CORE_EXCLUDED_H_
#define CUSTOM_OPS_CORE_EXCLUDED_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "custom_ops/core/scored.h"

namespace nann {

// The items that a request excludes from its answer. A walk still passes through them to reach the
// items behind them, but they take no room: where the best `k` items are kept, excluded items are
// kept in addition if they are better than the k-th. An answer is therefore full whenever enough
// other items are reached, no matter how many are excluded.
class Excluded {
 public:
  // `items` must be in ascending order and outlive this object.
  explicit Excluded(absl::Span<const int32_t> items) : items_(items) {}

  bool Has(int32_t item) const {
    return !items_.empty() && std::binary_search(items_.begin(), items_.end(), item);
  }

  // Returns how many of `scored` are not excluded.
  size_t CountOthers(const std::vector<Scored>& scored) const {
    if (items_.empty()) return scored.size();
    return std::count_if(scored.begin(), scored.end(),
                         [this](const Scored& one) { return !Has(one.item); });
  }

  // Keeps the best `k` of `scored` that are not excluded, and the excluded ones that are better than
  // the k-th; best first. k must be at least 1.
  void KeepBest(size_t k, std::vector<Scored>& scored) const {
    const size_t own = scored.size() - CountOthers(scored);
    nann::KeepBest(k + own, scored);
    if (own > 0) Cut(k, scored);
  }

  // Does the same as `KeepBest` for items that are already sorted, best first.
  void Cut(size_t k, std::vector<Scored>& scored) const {
    size_t kept = 0;
    for (size_t others = 0; kept < scored.size() && others < k; ++kept) {
      others += !Has(scored[kept].item);
    }
    scored.resize(kept);
  }

  // Removes the excluded items.
  void Drop(std::vector<Scored>& scored) const {
    if (items_.empty()) return;
    scored.erase(std::remove_if(scored.begin(), scored.end(),
                                [this](const Scored& one) { return Has(one.item); }),
                 scored.end());
  }

 private:
  const absl::Span<const int32_t> items_;
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_EXCLUDED_H_
