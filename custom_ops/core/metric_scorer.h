#ifndef CUSTOM_OPS_CORE_METRIC_SCORER_H_
#define CUSTOM_OPS_CORE_METRIC_SCORER_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "custom_ops/core/item_rows.h"
#include "custom_ops/core/row_kernels.h"

namespace nann {

// Scores items by a metric between their row and a query, reading the tables directly.
// Used for one request; the rows must outlive it.
class MetricScorer {
 public:
  // `query` is [rows.dim()].
  MetricScorer(const ItemRows& rows, Metric metric, absl::Span<const float> query,
               const RowKernels& kernels = *SupportedRowKernels().sets[0]);

  void Score(absl::Span<const int32_t> items, absl::Span<float> scores) const {
    rows_.ReadFrom(items, [&](const RowTable& table, const int32_t* places, int64_t count) {
      score_(table, query_.data(), places, count, scores.data());
    });
  }

 private:
  const ItemRows rows_;
  const RowKernels::Score score_;
  std::vector<float> query_;
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_METRIC_SCORER_H_
