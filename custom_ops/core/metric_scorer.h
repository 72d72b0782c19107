#ifndef CUSTOM_OPS_CORE_METRIC_SCORER_H_
#define CUSTOM_OPS_CORE_METRIC_SCORER_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "custom_ops/core/index_view.h"
#include "custom_ops/core/row_kernels.h"

namespace nann {

// Scores items by a metric between their embedding and a query, reading the item table directly.
// Used for one request; the index must outlive it.
class MetricScorer {
 public:
  // `query` is [index.dim()].
  MetricScorer(const IndexView& index, Metric metric, absl::Span<const float> query,
               const RowKernels& kernels = *SupportedRowKernels().sets[0]);

  void Score(absl::Span<const int32_t> items, absl::Span<float> scores) const {
    score_(table_, query_.data(), items.data(), static_cast<int64_t>(items.size()), scores.data());
  }

 private:
  const RowTable table_;
  const RowKernels::Score score_;
  std::vector<float> query_;
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_METRIC_SCORER_H_
