#ifndef CUSTOM_OPS_CORE_DEPLOYED_SEARCH_H_
#define CUSTOM_OPS_CORE_DEPLOYED_SEARCH_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "custom_ops/core/search.h"

namespace nann {

// The search of alibaba/nann's deployed graph. Upper layers are walked as in RoundsSearch with one
// round. In the ground layer, every round keeps the best `width` of the items it scored as the next
// candidates, even if they are worse than earlier ones. The layer's entries and the picks of all
// rounds are pooled, and the answer is the best of the pool. Seeds join the pool when the ground
// layer is entered. Excluded items do not count towards a width.
class DeployedSearch : public Search {
 public:
  // `level_topn` is as in alibaba/nann: the beam of every layer above the ground, start layer first,
  // then the picks of each ground round (at least one), then the number of items to answer.
  // Returns InvalidArgument if there are too few entries or one is out of its range.
  static absl::StatusOr<std::unique_ptr<Search>> Create(absl::Span<const int32_t> level_topn,
                                                        int num_layers);

 private:
  DeployedSearch(absl::Span<const int32_t> widths, int32_t k)
      : widths_(widths.begin(), widths.end()), k_(k) {}

  int32_t width() const override { return k_; }
  int64_t ExpectedEvaluations() const override;
  absl::Status WalkGraph(const IndexView& index, const SearchRequest& request, ScoreBatch score,
                         Workspace& workspace, SearchStatistics& statistics) const override;

  const std::vector<int32_t> widths_;
  const int32_t k_;
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_DEPLOYED_SEARCH_H_
