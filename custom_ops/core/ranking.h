#ifndef CUSTOM_OPS_CORE_RANKING_H_
#define CUSTOM_OPS_CORE_RANKING_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "custom_ops/core/excluded.h"
#include "custom_ops/core/scored.h"

namespace nann {

// The evaluated items of a request, best first, and the log-odds of each one's rank: an item that is
// better than the share p of them has log(p / (1 - p)). Items with the same score share their ranks.
// Log-odds depend on the order of the scores alone, and tell the best items apart although they are
// few. Used by one thread; the buffers are kept between requests.
class Ranking {
 public:
  void Start();
  // Adds items, none of whose scores is NaN.
  void Add(absl::Span<const Scored> items);

  size_t size() const { return order_.size(); }
  // Returns the place, from 0, of the last of the best `count` items, not counting excluded ones; of
  // the worst item if there are fewer. There must be an item.
  size_t LastPlace(size_t count, const Excluded& excluded) const;
  const Scored& at(size_t place) const { return order_[place].scored; }
  // Appends all items to `items`, best first.
  void AppendTo(std::vector<Scored>& items) const {
    for (const Entry& entry : order_) items.push_back(entry.scored);
  }
  double log_odds(size_t place) const { return log_odds_[order_[place].added]; }
  // The log-odds of all items, in the order of `Add`.
  const std::vector<double>& log_odds() const { return log_odds_; }

 private:
  struct Entry {
    Scored scored;
    int32_t added;  // How many were added before.
  };

  std::vector<Entry> order_, fresh_, merged_;
  std::vector<double> log_odds_;
  std::vector<double> logs_;  // The logarithms of 0, 1, 2, ...; that of 0 is not used.
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_RANKING_H_
