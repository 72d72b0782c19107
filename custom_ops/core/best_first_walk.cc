#include "custom_ops/core/best_first_walk.h"

#include <algorithm>
#include <cstddef>
#include <limits>

#include "absl/strings/str_cat.h"
#include "custom_ops/core/scoped_timer.h"

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

}  // namespace

absl::StatusOr<BestFirstWidths> BestFirstWidths::Create(int32_t frontier, int32_t pool,
                                                        int32_t max_steps) {
  absl::Status status = CheckWidth("frontier", frontier);
  status.Update(CheckWidth("pool", pool));
  if (max_steps < 0 || max_steps > kMaxRounds) {
    status.Update(absl::InvalidArgumentError(absl::StrCat(
        "max_steps is ", max_steps, ", allowed are 1 to ", kMaxRounds, ", and 0 for no limit")));
  }
  if (!status.ok()) return status;
  if (max_steps == 0) max_steps = std::numeric_limits<int32_t>::max();
  return BestFirstWidths{frontier, pool, max_steps};
}

absl::Status BestFirstWalk::Descend() {
  absl::Status status = walk_.Enter();
  workspace_.results.swap(walk_.fresh());
  for (int layer = index_.num_layers() - 1; layer > 0 && status.ok(); --layer) {
    {
      const ScopedTimer timer(statistics_.merging);
      excluded_.KeepBest(widths_.frontier, workspace_.results);
    }
    walk_.EnterLayer(layer, workspace_.results);
    status = WalkLayer(widths_.frontier);
  }
  return status;
}

absl::Status BestFirstWalk::WalkGround() {
  absl::Status status = WalkLayer(widths_.pool);
  while (status.ok() && walk_.filters() && !walk_.stopped()) {
    const size_t others = excluded_.CountOthers(workspace_.results);
    if (others >= static_cast<size_t>(widths_.pool)) break;
    status = walk_.FindMore(widths_.pool - others);
    if (!status.ok() || walk_.fresh().empty()) break;
    {
      const ScopedTimer timer(statistics_.merging);
      Join(walk_.fresh(), workspace_.results);
    }
    status = WalkLayer(widths_.pool);
  }
  return status;
}

// Sets `cut_` if one more step would have expanded something.
absl::Status BestFirstWalk::WalkLayer(int32_t room) {
  Pool pool(room, excluded_, workspace_);
  for (int32_t step = 0; !walk_.stopped(); ++step) {
    pool.TakeFrontier(widths_.frontier);
    if (workspace_.candidates.empty()) break;
    if (step == widths_.max_steps) {
      cut_ = true;
      break;
    }
    if (const Scored* next = pool.next()) walk_.Prefetch(next->item);
    absl::Status status = walk_.Expand(workspace_.candidates);
    if (!status.ok()) return status;
    const ScopedTimer timer(statistics_.merging);
    pool.TakeFresh();
  }
  return absl::OkStatus();
}

void BestFirstWalk::Finish() {
  if (cut_ && !walk_.stopped()) statistics_.stopped = Stopped::kSteps;
}

}  // namespace nann
