#include "custom_ops/core/search.h"

#include "absl/strings/str_cat.h"
#include "custom_ops/core/excluded.h"
#include "custom_ops/core/scoped_timer.h"

namespace nann {

absl::Status CheckWidth(absl::string_view name, int64_t value, int64_t limit) {
  if (value >= 1 && value <= limit) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", value, ", allowed are 1 to ", limit));
}

absl::Status Search::Run(const IndexView& index, const SearchRequest& request, ScoreBatch score,
                         Workspace& workspace, SearchStatistics& statistics) const {
  absl::Status status = WalkGraph(index, request, score, workspace, statistics);
  const ScopedTimer timer(statistics.merging);
  Excluded(request.excluded).Drop(workspace.results);
  return status;
}

}  // namespace nann
