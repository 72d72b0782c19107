#include "custom_ops/core/best_first_search.h"

#include <algorithm>
#include <cstddef>
#include <limits>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/scoped_timer.h"
#include "custom_ops/core/walk.h"

namespace nann {
namespace {

// candidates = the best `frontier` of results[next...] that are not expanded; they count as
// expanded then. Returns the place before which all are expanded.
size_t TakeFrontier(size_t frontier, size_t next, Workspace& w) {
  w.candidates.clear();
  for (; next < w.results.size() && w.candidates.size() < frontier; ++next) {
    if (w.expanded[next]) continue;
    w.expanded[next] = true;
    w.candidates.push_back(w.results[next]);
  }
  return next;
}

// results = best `pool` of results and fresh, best first; fresh items are not expanded. Returns the
// place of the best fresh item that found room. A walk's later steps bring little that is good
// enough: what lies before the best of it is not touched.
size_t Merge(size_t pool, Workspace& w) {
  if (w.results.size() >= pool) {
    const Scored worst = w.results.back();
    w.fresh.erase(std::remove_if(w.fresh.begin(), w.fresh.end(),
                                 [&](const Scored& item) { return !Better(item, worst); }),
                  w.fresh.end());
  }
  KeepBest(pool, w.fresh);
  size_t old = w.results.size(), fresh = w.fresh.size();
  while (old + fresh > pool) {  // Drop the worst.
    --(Better(w.results[old - 1], w.fresh[fresh - 1]) ? fresh : old);
  }
  size_t place = old + fresh;
  w.results.resize(place);
  w.expanded.resize(place);
  size_t first = place;
  while (fresh > 0) {
    --place;
    if (old > 0 && Better(w.fresh[fresh - 1], w.results[old - 1])) {
      w.results[place] = w.results[--old];
      w.expanded[place] = w.expanded[old];
    } else {
      w.results[place] = w.fresh[--fresh];
      w.expanded[place] = false;
      first = place;
    }
  }
  return first;
}

// Walks the current layer from `results`; sets `cut` where a step more would have expanded something.
absl::Status WalkLayer(int32_t frontier, int32_t pool, int32_t max_steps, Walk& walk,
                       Workspace& workspace, SearchStatistics& statistics, bool& cut) {
  workspace.expanded.assign(workspace.results.size(), false);
  size_t next = 0;
  for (int32_t step = 0; !walk.stopped(); ++step) {
    next = TakeFrontier(frontier, next, workspace);
    if (workspace.candidates.empty()) break;
    if (step == max_steps) {
      cut = true;
      break;
    }
    if (next < workspace.results.size()) walk.Prefetch(workspace.results[next].item);
    absl::Status status = walk.Expand(workspace.candidates);
    if (!status.ok()) return status;
    const ScopedTimer timer(statistics.merging);
    next = std::min(next, Merge(pool, workspace));
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

absl::Status BestFirstSearch::Run(const IndexView& index, const SearchRequest& request,
                                  ScoreBatch score, Workspace& workspace,
                                  SearchStatistics& statistics) const {
  Walk walk(index, request, score, workspace, statistics);
  const bool seeded = !request.seeds.empty();
  bool cut = false;
  absl::Status status = seeded ? walk.MeetSeeds() : walk.Enter();
  workspace.results.swap(walk.fresh());
  for (int layer = seeded ? 0 : index.num_layers() - 1; layer >= 0 && status.ok(); --layer) {
    const int32_t pool = layer == 0 ? pool_ : frontier_;
    {
      const ScopedTimer timer(statistics.merging);
      KeepBest(pool, workspace.results);
    }
    // All seeds are visited already, those that the pool has no room for too.
    if (!seeded) walk.EnterLayer(layer, workspace.results);
    status = WalkLayer(frontier_, pool, max_steps_, walk, workspace, statistics, cut);
  }
  if (cut && !walk.stopped()) statistics.stopped = Stopped::kSteps;
  return status;
}

}  // namespace nann
