#ifndef CUSTOM_OPS_CORE_WALK_H_
#define CUSTOM_OPS_CORE_WALK_H_

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "custom_ops/core/search.h"

namespace nann {

// The steps that all searches share: entering the graph, entering a layer, and scoring the unvisited
// neighbours in one batch (Algorithm 2, lines "N = neighbours minus visited"). Used for one request;
// the results of a step are in `fresh()` until the next step. Items that fail the request's filter are
// never scored: passing ones are met through them (bridge.h).
class Walk {
 public:
  Walk(const IndexView& index, const SearchRequest& request, ScoreBatch score, Workspace& workspace,
       SearchStatistics& statistics);

  // Scores the entry points; with a filter, those that pass, and for each of the others one item that is
  // met through it. Returns DataLoss if one is outside the index, as does `Expand`: an index
  // may be opened unchecked, and a mapped file can change after the check.
  absl::Status Enter();
  // Meets the request's seeds in the current layer, the ground layer in a new walk. With a filter, one
  // item is met for each seed that fails, as for entry points.
  absl::Status MeetSeeds();
  // Starts `layer`, with only `entries` visited.
  void EnterLayer(int layer, absl::Span<const Scored> entries);
  // Visits and scores the neighbours of `candidates` in the layer that are not visited yet.
  // With a filter, as many items as a candidate has neighbours are met, if they lie near.
  // Returns DataLoss if one is outside the index.
  absl::Status Expand(absl::Span<const Scored> candidates);
  // Visits `items` and scores those without a known score in one batch. Repeated items have no effect.
  absl::Status Score(absl::Span<const int32_t> items);
  // Scores up to `count` passing items that the walk has not visited in this layer: first those behind
  // the failing items that it met, then any. `fresh()` is empty if all are visited. The request must have
  // a filter.
  absl::Status FindMore(size_t count);
  // With a filter, adds items of `FindMore` to the best ones in `workspace.results` until `width` of them
  // are not excluded.
  absl::Status Fill(size_t width);
  // Hints that `item` is likely to be expanded in the step after the next.
  void Prefetch(int32_t item) const { index_.PrefetchRow(layer_, item); }

  // Returns the items met in the last step, in no particular order. The caller may reorder them.
  std::vector<Scored>& fresh() { return workspace_.fresh; }
  // Returns whether the request's budget or time is spent. If so, the last step may have left items
  // unscored, and no further step may be taken.
  bool stopped() const { return statistics_.stopped != Stopped::kComplete; }
  bool filters() const { return request_.passing != nullptr; }

 private:
  void StartStep();
  bool AllPass(absl::Span<const int32_t> items) const;
  // Visits `item`, which passes. Returns whether it was not visited in this layer.
  bool Meet(int32_t item);
  absl::Status MeetNear(absl::Span<const int32_t> items);
  void MeetAnywhere(size_t count);
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
