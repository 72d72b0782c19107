// The part of Search::Run that keeps an answer to a cap.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <unordered_set>
#include <vector>

#include "custom_ops/core/cap.h"
#include "custom_ops/core/excluded.h"
#include "custom_ops/core/scoped_timer.h"
#include "custom_ops/core/search.h"

namespace nann {
namespace {

// The values of which no more items are wanted, because the best `cap.most` of each are found.
class FullValues {
 public:
  bool Has(std::optional<int64_t> value) const {
    return value.has_value() && known_.count(*value) > 0;
  }
  void Add(int64_t value) {
    known_.insert(value);
    values_.push_back(value);
  }
  const std::vector<int64_t>& values() const { return values_; }

 private:
  std::unordered_set<int64_t> known_;
  std::vector<int64_t> values_;
};

// Sets `answer` to the best items of `scored`, best first, that are not excluded and keep to the cap.
// The last search looked for the best `asked` items among those whose value is not full yet; their places
// are certain. Adds to `full` the values that became full at such places. Returns whether the answer is
// complete: it is if it has all the items wanted and none of them stands at another place.
bool Answer(const std::vector<Scored>& scored, const Cap& cap, const Excluded& excluded,
            size_t asked, FullValues& full, std::vector<Scored>& answer) {
  answer.clear();
  CapCounts counts(cap);
  std::vector<int64_t> fresh;
  size_t place = 0;
  bool certain = true;
  for (const Scored& one : scored) {
    if (answer.size() == static_cast<size_t>(cap.answers)) break;
    if (excluded.Has(one.item)) continue;
    const std::optional<int64_t> value = cap.Value(one.item);
    const bool open = !full.Has(value);
    place += open;
    if (!counts.Take(value)) continue;
    answer.push_back(one);
    if (!open) continue;
    certain &= place <= asked;
    if (value.has_value() && place <= asked && counts.count(*value) == cap.most) {
      fresh.push_back(*value);
    }
  }
  for (int64_t value : fresh) full.Add(value);
  // Where no further value is full, another search would find the same.
  return fresh.empty() || (certain && answer.size() == static_cast<size_t>(cap.answers));
}

}  // namespace

// Searches again and again: each time for the best items without the values that are full, from the items
// whose scores are known.
absl::Status Search::RunCapped(const IndexView& index, const SearchRequest& request,
                               ScoreBatch score, Workspace& w, SearchStatistics& statistics) const {
  const Cap& cap = *request.cap;
  const Excluded excluded(request.excluded);
  std::vector<Scored>& scored = w.scored;
  scored.clear();
  const auto record = [&](absl::Span<const int32_t> items, absl::Span<float> scores) {
    absl::Status status = score(items, scores);
    for (size_t i = 0; i < items.size(); ++i) scored.push_back({scores[i], items[i]});
    return status;
  };
  SearchRequest part = request;
  part.cap = nullptr;
  FullValues full;
  std::vector<Scored> known, answer;
  std::optional<PassingItems> open;  // Those whose value is not full.
  SearchStatistics first;            // The statistics after the first search.
  while (true) {
    absl::Status status = RunFreely(index, part, record, w, statistics);
    if (!status.ok()) return status;
    if (!open.has_value()) first = statistics;
    statistics.candidates = std::max(statistics.candidates, first.candidates);
    statistics.fell_back |= first.fell_back;
    // An answer is as sure as the least sure of its searches.
    first.estimated_coverage = std::min(first.estimated_coverage, statistics.estimated_coverage);
    const ScopedTimer timer(statistics.merging);
    std::sort(scored.begin(), scored.end(), Better);
    const size_t asked = std::min<size_t>(width(), cap.answers);
    const bool complete = Answer(scored, cap, excluded, asked, full, answer);
    if (complete || first.exact || statistics.stopped != Stopped::kComplete) break;
    open = cap.Without(full.values(), index.num_items());
    if (request.passing != nullptr) open = open->And(*request.passing);
    part.passing = &*open;
    part.only_deleted_fail = false;
    part.unindexed = {};  // All of them are scored.
    known.clear();
    for (const Scored& one : scored) {
      if (index.Has(one.item) && !full.Has(cap.Value(one.item))) known.push_back(one);
    }
    part.known = known;
  }
  statistics.exact = first.exact;
  statistics.estimated_coverage = first.estimated_coverage;
  w.results.swap(answer);
  return absl::OkStatus();
}

}  // namespace nann
