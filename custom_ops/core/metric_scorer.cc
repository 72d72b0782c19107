#include "custom_ops/core/metric_scorer.h"

#include <cmath>

namespace nann {

MetricScorer::MetricScorer(const IndexView& index, Metric metric, absl::Span<const float> query,
                           const RowKernels& kernels)
    : table_(index.table()),
      score_(kernels.score[static_cast<int>(metric)][static_cast<int>(index.table_type())]),
      query_(query.begin(), query.end()) {
  if (metric != Metric::kCosine) return;
  float square = 0;
  for (float x : query_) square += x * x;
  if (square > 0) {
    for (float& x : query_) x /= std::sqrt(square);
  }
}

}  // namespace nann
