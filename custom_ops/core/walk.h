#ifndef CUSTOM_OPS_CORE_WALK_H_
#define CUSTOM_OPS_CORE_WALK_H_

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "custom_ops/core/search.h"

namespace nann {

// The steps that all searches share: entering the graph, entering a layer, and scoring in one batch
// the neighbours that were not met before (Algorithm 2, lines "N = neighbours minus visited").
// Lives for one request; the results of a step are in `fresh()` until the next.
class Walk {
 public:
  Walk(const IndexView& index, const SearchRequest& request, ScoreBatch score, Workspace& workspace,
       SearchStatistics& statistics);

  // Scores the entry points. DataLoss where one is outside the index, as in `Expand`: an index may
  // be opened unchecked, and a mapped file can change after the check.
  absl::Status Enter();
  // Visits the request's seeds in the current layer (a new walk is in the ground layer) and scores
  // those that are not known.
  absl::Status MeetSeeds();
  // Starts `layer`, in which only `entries` are visited.
  void EnterLayer(int layer, absl::Span<const Scored> entries);
  // Scores the neighbours of `candidates` in the layer that are not visited, and visits them.
  // DataLoss where one is outside the index.
  absl::Status Expand(absl::Span<const Scored> candidates);
  // Says that `item` is likely to be expanded in the step after the next.
  void Prefetch(int32_t item) const { index_.PrefetchRow(layer_, item); }

  // The items met in the last step, in no particular order; the caller may reorder them.
  std::vector<Scored>& fresh() { return workspace_.fresh; }
  // Whether the request's budget or time is spent: the last step may have left items unscored, and
  // there must be no other.
  bool stopped() const { return statistics_.stopped != Stopped::kComplete; }

 private:
  bool InIndex(int32_t item) const { return item >= 0 && item < index_.num_items(); }
  void Meet(int32_t item);
  absl::Status ScoreMet();

  const IndexView& index_;
  const SearchRequest& request_;
  const ScoreBatch score_;
  Workspace& workspace_;
  SearchStatistics& statistics_;
  int layer_ = 0;
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_WALK_H_
