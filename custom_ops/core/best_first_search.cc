#include "custom_ops/core/best_first_search.h"

#include <algorithm>
#include <cstddef>
#include <limits>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/excluded.h"
#include "custom_ops/core/scoped_timer.h"
#include "custom_ops/core/walk.h"

namespace nann {
namespace {

// The best items of a walk through one layer, kept in `workspace.results`, and which of them are
// expanded. It has room for `room` items, not counting excluded ones.
class Pool {
 public:
  // Starts from `workspace.results`, which must fit, with none of them expanded.
  Pool(size_t room, const Excluded& excluded, Workspace& workspace)
      : room_(room),
        excluded_(excluded),
        w_(workspace),
        others_(excluded.CountOthers(workspace.results)) {
    w_.expanded.assign(w_.results.size(), false);
  }

  // Moves the best `frontier` items that are not expanded to `candidates` and marks them expanded.
  void TakeFrontier(size_t frontier) {
    w_.candidates.clear();
    for (; next_ < w_.results.size() && w_.candidates.size() < frontier; ++next_) {
      if (w_.expanded[next_]) continue;
      w_.expanded[next_] = true;
      w_.candidates.push_back(w_.results[next_]);
    }
  }

  // Returns the item that is likely to be expanded next, or null.
  const Scored* next() const { return next_ < w_.results.size() ? &w_.results[next_] : nullptr; }

  // Takes the fresh items that fit. In later steps of a walk few are good enough, and the results
  // that are better than the best of them are not touched.
  void TakeFresh() {
    std::vector<Scored>&results = w_.results, &found = w_.fresh;
    if (others_ >= room_) {
      const Scored worst = results.back();
      found.erase(std::remove_if(found.begin(), found.end(),
                                 [&](const Scored& item) { return !Better(item, worst); }),
                  found.end());
    }
    excluded_.KeepBest(room_, found);
    others_ += excluded_.CountOthers(found);
    size_t old = results.size(), fresh = found.size();
    while (old + fresh > 0) {  // Drop the worst item until the rest fits.
      const bool is_fresh = old == 0 || (fresh > 0 && Better(results[old - 1], found[fresh - 1]));
      const bool takes_room = !excluded_.Has((is_fresh ? found[fresh - 1] : results[old - 1]).item);
      if (others_ < room_ || (others_ == room_ && takes_room)) break;
      others_ -= takes_room;
      --(is_fresh ? fresh : old);
    }
    Merge(old, fresh);
  }

 private:
  // Merges the first `old` of results and the first `fresh` of fresh into results, best first.
  void Merge(size_t old, size_t fresh) {
    size_t place = old + fresh;
    w_.results.resize(place);
    w_.expanded.resize(place);
    size_t first = place;
    while (fresh > 0) {
      --place;
      if (old > 0 && Better(w_.fresh[fresh - 1], w_.results[old - 1])) {
        w_.results[place] = w_.results[--old];
        w_.expanded[place] = w_.expanded[old];
      } else {
        w_.results[place] = w_.fresh[--fresh];
        w_.expanded[place] = false;
        first = place;
      }
    }
    next_ = std::min(next_, first);
  }

  const size_t room_;
  const Excluded& excluded_;
  Workspace& w_;
  size_t others_;    // How many of `results` are not excluded, and so take room.
  size_t next_ = 0;  // All results before this place are expanded.
};

// Walks the current layer from `results`; sets `cut` if one more step would have expanded something.
absl::Status WalkLayer(int32_t frontier, int32_t max_steps, Pool pool, Walk& walk,
                       Workspace& workspace, SearchStatistics& statistics, bool& cut) {
  for (int32_t step = 0; !walk.stopped(); ++step) {
    pool.TakeFrontier(frontier);
    if (workspace.candidates.empty()) break;
    if (step == max_steps) {
      cut = true;
      break;
    }
    if (const Scored* next = pool.next()) walk.Prefetch(next->item);
    absl::Status status = walk.Expand(workspace.candidates);
    if (!status.ok()) return status;
    const ScopedTimer timer(statistics.merging);
    pool.TakeFresh();
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Search>> BestFirstSearch::Create(int32_t frontier, int32_t pool,
                                                                int32_t max_steps) {
  absl::Status status = CheckWidth("frontier", frontier);
  status.Update(CheckWidth("pool", pool));
  if (max_steps < 0 || max_steps > kMaxRounds) {
    status.Update(absl::InvalidArgumentError(absl::StrCat(
        "max_steps is ", max_steps, ", allowed are 1 to ", kMaxRounds, ", and 0 for no limit")));
  }
  if (!status.ok()) return status;
  if (max_steps == 0) max_steps = std::numeric_limits<int32_t>::max();
  return absl::WrapUnique<Search>(new BestFirstSearch(frontier, pool, max_steps));
}

absl::Status BestFirstSearch::WalkGraph(const IndexView& index, const SearchRequest& request,
                                        ScoreBatch score, Workspace& workspace,
                                        SearchStatistics& statistics) const {
  const Excluded excluded(request.excluded);
  Walk walk(index, request, score, workspace, statistics);
  const bool seeded = !request.seeds.empty();
  bool cut = false;
  absl::Status status = seeded ? walk.MeetSeeds() : walk.Enter();
  workspace.results.swap(walk.fresh());
  for (int layer = seeded ? 0 : index.num_layers() - 1; layer >= 0 && status.ok(); --layer) {
    const int32_t room = layer == 0 ? pool_ : frontier_;
    {
      const ScopedTimer timer(statistics.merging);
      excluded.KeepBest(room, workspace.results);
    }
    // With seeds there is no layer to enter: all of them are visited, also those that do not fit.
    if (!seeded) walk.EnterLayer(layer, workspace.results);
    status = WalkLayer(frontier_, max_steps_, Pool(room, excluded, workspace), walk, workspace,
                       statistics, cut);
  }
  if (cut && !walk.stopped()) statistics.stopped = Stopped::kSteps;
  return status;
}

}  // namespace nann
