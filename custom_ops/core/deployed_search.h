#ifndef CUSTOM_OPS_CORE_DEPLOYED_SEARCH_H_
#define CUSTOM_OPS_CORE_DEPLOYED_SEARCH_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "custom_ops/core/search.h"

namespace nann {

// The search of the original's deployed graph. Upper layers are as in RoundsSearch with one round.
// At the ground layer every round keeps its own best `width` of the freshly scored items, good or
// bad, as the next candidates; the layer's entries and all rounds' picks are pooled, and the answer
// is the best of the pool. Seeds join the pool when the ground layer is entered. No width counts
// excluded items.
class DeployedSearch : public Search {
 public:
  // `level_topn` is the original's: the beam of every layer above the ground, start layer first, then
  // the picks of each ground round (at least one), then how many items are wanted of the answer.
  static absl::StatusOr<std::unique_ptr<Search>> Create(absl::Span<const int32_t> level_topn,
                                                        int num_layers);

 private:
  explicit DeployedSearch(absl::Span<const int32_t> widths)
      : widths_(widths.begin(), widths.end()) {}

  absl::Status WalkGraph(const IndexView& index, const SearchRequest& request, ScoreBatch score,
                         Workspace& workspace, SearchStatistics& statistics) const override;

  const std::vector<int32_t> widths_;
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_DEPLOYED_SEARCH_H_
