#ifndef CUSTOM_OPS_CORE_SURROGATE_SEARCH_H_
#define CUSTOM_OPS_CORE_SURROGATE_SEARCH_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "custom_ops/core/best_first_walk.h"
#include "custom_ops/core/search.h"

namespace nann {

// A walk that evaluates only those neighbours whose score, as a surrogate predicts it, may be among
// the best k (docs/surrogate.md). It starts as BestFirstSearch does. Then each step fits the surrogate
// to all evaluated items and evaluates, in one batch, the candidates with the highest predictions. The
// walk ends when the candidates that are left are expected to hold no more than a small share of the
// best k.
//
// What is predicted is an item's place among the evaluated ones rather than its score, so that the
// walk is the same for any increasing function of the scores.
//
// With a filter, only items that pass are candidates. The scores of failing items that it meets are
// predicted too: those that would be among the best k are stepping stones, whose neighbours it looks up.
// Where few items pass, all of these are candidates, and no stones are needed.
//
// Where predictions do not agree with the scores, as with scores that have nothing to do with the
// embeddings, the walk goes on as BestFirstSearch from the items that it has evaluated; also where,
// with a filter, it has found fewer than k items.
class SurrogateSearch : public Search {
 public:
  static constexpr float kLeastExpectedCoverage = -100;

  struct Parameters {
    int32_t k;      // Items to answer.
    int32_t batch;  // Items to evaluate in a step; a quarter of k if that is more.
    // The walk ends when this share of the best k is expected to be found; at least
    // kLeastExpectedCoverage and below 1. The expectation is cautious: errors are assumed to be as
    // large for all candidates as they were for the best ones, so that more than k items may be
    // expected to be missing, and the share is negative, where few of them are.
    float expected_coverage;
  };

  // Returns InvalidArgument, naming the parameter, if one is out of its range. The walk itself returns
  // it for an index without features.
  static absl::StatusOr<std::unique_ptr<Search>> Create(const Parameters& parameters,
                                                        int32_t frontier, int32_t pool,
                                                        int32_t max_steps);

 private:
  SurrogateSearch(const Parameters& parameters, const BestFirstWidths& best_first)
      : parameters_(parameters), best_first_(best_first) {}

  int32_t width() const override { return parameters_.k; }
  int64_t ExpectedEvaluations() const override;
  absl::Status WalkGraph(const IndexView& index, const SearchRequest& request, ScoreBatch score,
                         Workspace& workspace, SearchStatistics& statistics) const override;

  const Parameters parameters_;
  const BestFirstWidths best_first_;
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_SURROGATE_SEARCH_H_
