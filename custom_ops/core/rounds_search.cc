#include "custom_ops/core/rounds_search.h"

#include <cstddef>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/excluded.h"
#include "custom_ops/core/scoped_timer.h"
#include "custom_ops/core/walk.h"

namespace nann {
namespace {

// Keeps the best `ef` of results and fresh in `results`, and puts those of fresh among them into
// `candidates`. Both are best first afterwards.
void Merge(size_t ef, const Excluded& excluded, Workspace& w) {
  excluded.KeepBest(ef, w.fresh);
  w.merged.clear();
  w.candidates.clear();
  auto old = w.results.begin();
  auto fresh = w.fresh.begin();
  for (size_t room = ef; room > 0 && (old != w.results.end() || fresh != w.fresh.end());
       room -= !excluded.Has(w.merged.back().item)) {
    if (fresh == w.fresh.end() || (old != w.results.end() && Better(*old, *fresh))) {
      w.merged.push_back(*old++);
    } else {
      w.candidates.push_back(*fresh);
      w.merged.push_back(*fresh++);
    }
  }
  w.results.swap(w.merged);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Search>> RoundsSearch::Create(absl::Span<const int32_t> ef,
                                                             absl::Span<const int32_t> rounds,
                                                             int num_layers) {
  const size_t wanted = num_layers + 1;
  if (ef.size() != wanted || rounds.size() != wanted) {
    return absl::InvalidArgumentError(absl::StrCat("ef has ", ef.size(), " entries and rounds has ",
                                                   rounds.size(), "; this index needs ", wanted,
                                                   " of each, one per layer, start layer first"));
  }
  for (size_t i = 0; i < wanted; ++i) {
    absl::Status status = CheckWidth(absl::StrCat("ef[", i, "]"), ef[i]);
    if (!status.ok()) return status;
    // All items of the start layer are entry points, so that one round visits all of them.
    status = CheckWidth(absl::StrCat("rounds[", i, "]"), rounds[i], i == 0 ? 1 : kMaxRounds);
    if (!status.ok()) return status;
  }
  return absl::WrapUnique<Search>(new RoundsSearch(ef, rounds));
}

int64_t RoundsSearch::ExpectedEvaluations() const {
  int64_t expanded = 0;
  for (size_t i = 1; i < ef_.size(); ++i) expanded += int64_t{rounds_[i]} * ef_[i];
  return 7 * expanded;  // An item that is expanded brings some seven others.
}

absl::Status RoundsSearch::WalkGraph(const IndexView& index, const SearchRequest& request,
                                     ScoreBatch score, Workspace& workspace,
                                     SearchStatistics& statistics) const {
  const Excluded excluded(request.excluded);
  Walk walk(index, request, score, workspace, statistics);
  absl::Status status = walk.Enter();
  if (!status.ok()) return status;
  workspace.results.swap(walk.fresh());
  {
    const ScopedTimer timer(statistics.merging);
    excluded.KeepBest(ef_[0], workspace.results);
  }
  for (int layer = index.num_layers() - 1; layer >= 0 && !walk.stopped(); --layer) {
    const size_t i = index.num_layers() - layer;
    walk.EnterLayer(layer, workspace.results);
    if (layer == 0 && !request.seeds.empty()) {
      status = walk.MeetSeeds();
      if (!status.ok()) return status;
      const ScopedTimer timer(statistics.merging);
      Join(walk.fresh(), workspace.results);
    }
    workspace.candidates = workspace.results;
    for (int32_t round = 0; round < rounds_[i] && !workspace.candidates.empty() && !walk.stopped();
         ++round) {
      status = walk.Expand(workspace.candidates);
      if (!status.ok()) return status;
      const ScopedTimer timer(statistics.merging);
      Merge(ef_[i], excluded, workspace);
    }
  }
  return walk.Fill(ef_.back());
}

}  // namespace nann
