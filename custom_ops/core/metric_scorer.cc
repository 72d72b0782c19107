#include "custom_ops/core/metric_scorer.h"

#include <cmath>

namespace nann {

MetricScorer::MetricScorer(const ItemRows& rows, Metric metric, absl::Span<const float> query,
                           const RowKernels& kernels)
    : rows_(rows),
      score_(kernels.score[static_cast<int>(metric)][static_cast<int>(rows.type)]),
      query_(query.begin(), query.end()) {
  if (metric != Metric::kCosine) return;
  // In double, because the square of a float may exceed the range of float.
  double square = 0;
  for (double x : query_) square += x * x;
  if (square > 0) {
    const double length = std::sqrt(square);
    for (float& x : query_) x = static_cast<float>(x / length);
  }
}

}  // namespace nann
