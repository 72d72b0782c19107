#ifndef CUSTOM_OPS_CORE_ROUNDS_SEARCH_H_
#define CUSTOM_OPS_CORE_ROUNDS_SEARCH_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "custom_ops/core/search.h"

namespace nann {

// The paper's search (arXiv 2202.10226, Algorithms 1 and 2). All items of the start layer are scored.
// In every layer l below it, for rounds[l] rounds,
//   N = neighbours of C minus visited, scored in one batch;
//   W = best ef[l] of W and N;  C = those of N that are in W,
// where W and C both start as the W of the layer above. The answer is W of the ground layer. Seeds
// join W and C when the ground layer is entered. Excluded items do not count towards a beam.
class RoundsSearch : public Search {
 public:
  // `ef` and `rounds` hold one entry per layer, start layer first; the start layer has one round.
  // Returns InvalidArgument if a length or a value does not fit an index of `num_layers` layers.
  static absl::StatusOr<std::unique_ptr<Search>> Create(absl::Span<const int32_t> ef,
                                                        absl::Span<const int32_t> rounds,
                                                        int num_layers);

 private:
  RoundsSearch(absl::Span<const int32_t> ef, absl::Span<const int32_t> rounds)
      : ef_(ef.begin(), ef.end()), rounds_(rounds.begin(), rounds.end()) {}

  int32_t width() const override { return ef_.back(); }
  int64_t ExpectedEvaluations() const override;
  absl::Status WalkGraph(const IndexView& index, const SearchRequest& request, ScoreBatch score,
                         Workspace& workspace, SearchStatistics& statistics) const override;

  const std::vector<int32_t> ef_, rounds_;
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_ROUNDS_SEARCH_H_
