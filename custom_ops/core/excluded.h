#ifndef CUSTOM_OPS_CORE_EXCLUDED_H_
#define CUSTOM_OPS_CORE_EXCLUDED_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "custom_ops/core/scored.h"

namespace nann {

// The items that a request wants no answer of. A walk goes through them as through others, for what
// lies behind them; but they take no room: where the best `k` items are kept, these are kept beside
// them as far as they are better than the k-th. So an answer is full wherever enough others are
// reached, whatever is excluded.
class Excluded {
 public:
  // `items` ascend and outlive it.
  explicit Excluded(absl::Span<const int32_t> items) : items_(items) {}

  bool Has(int32_t item) const {
    return !items_.empty() && std::binary_search(items_.begin(), items_.end(), item);
  }

  // How many of `scored` take room.
  size_t CountOthers(const std::vector<Scored>& scored) const {
    if (items_.empty()) return scored.size();
    return std::count_if(scored.begin(), scored.end(),
                         [this](const Scored& one) { return !Has(one.item); });
  }

  // Keeps of `scored` the best `k` others and the excluded that are better than the k-th, best
  // first; k is at least 1.
  void KeepBest(size_t k, std::vector<Scored>& scored) const {
    const size_t own = scored.size() - CountOthers(scored);
    nann::KeepBest(k + own, scored);
    if (own == 0) return;
    size_t kept = 0;
    for (size_t others = 0; kept < scored.size() && others < k; ++kept) {
      others += !Has(scored[kept].item);
    }
    scored.resize(kept);
  }

  // Leaves the others.
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
