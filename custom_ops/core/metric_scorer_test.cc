// Tests MetricScorer against plain arithmetic in double: every metric, table type and set of kernels,
// and for the cosine, queries of any length. row_kernels_test.cc tests the kernels' edge cases.

#include "custom_ops/core/metric_scorer.h"

#include "custom_ops/core/testing.h"

namespace nann {
namespace {

constexpr int64_t kDim = 19;
constexpr int kItems = 30;

// An index of items without edges, whose coordinates are -4 to 3 in every table type. All coordinates
// of item 0 are 0.
struct World {
  std::vector<int64_t> item_ids = std::vector<int64_t>(kItems);
  std::vector<double> coordinates = std::vector<double>(kItems * kDim);
  std::vector<float> floats, scales;
  std::vector<uint16_t> halves;
  std::vector<int8_t> bytes;
  std::vector<int32_t> entry_points{0}, neighbors;
  std::vector<int64_t> row_splits = std::vector<int64_t>(kItems + 1);

  explicit World(Random& random) {
    // The numbers 0 to 4 in binary16.
    const uint16_t half[] = {0, 0x3c00, 0x4000, 0x4200, 0x4400};
    scales.assign(kItems, 0.25f);
    for (int i = 0; i < kItems * kDim; ++i) {
      const int value = i < kDim ? 0 : Draw(random, -4, 3);
      coordinates[i] = value;
      floats.push_back(value);
      halves.push_back(half[std::abs(value)] | (value < 0 ? 0x8000 : 0));
      bytes.push_back(4 * value);
    }
  }

  IndexView View(TableType type) const {
    const IndexFile tables[] = {FileOf(floats), FileOf(halves), FileOf(bytes)};
    auto view = IndexView::Create({FileOf(item_ids),
                                   tables[static_cast<int>(type)],
                                   FileOf(entry_points),
                                   {{FileOf(row_splits), FileOf(neighbors)}},
                                   type,
                                   FileOf(scales)},
                                  kDim);
    CHECK_THAT(view.ok() && view->Validate().ok());
    return *view;
  }
};

double Exact(Metric metric, const double* x, const std::vector<float>& query) {
  double dot = 0, distance = 0, row = 0, square = 0;
  for (int d = 0; d < kDim; ++d) {
    const double q = query[d];
    dot += q * x[d];
    distance += (q - x[d]) * (q - x[d]);
    row += x[d] * x[d];
    square += q * q;
  }
  if (metric == Metric::kDot) return dot;
  if (metric == Metric::kL2) return -distance;
  return row == 0 || square == 0 ? 0 : dot / std::sqrt(row) / std::sqrt(square);
}

void ScoresAreTheMetric() {
  Random random(1);
  const World world(random);
  std::vector<int32_t> items;
  for (int i = 0; i < 50; ++i) items.push_back(Draw(random, 0, kItems - 1));
  for (int example = 0; example < 200; ++example) {
    const TableType type = static_cast<TableType>(example % kTableTypes);
    const IndexView view = world.View(type);
    const RowKernelsList& kernels = SupportedRowKernels();
    for (int metric = 0; metric < kMetrics; ++metric) {
      const bool cosine = static_cast<Metric>(metric) == Metric::kCosine;
      // A cosine does not depend on the query's length, whose square may exceed the range of float.
      const float length = cosine ? std::ldexp(1.0f, Draw(random, -120, 115)) : 1.0f;
      std::vector<float> query(kDim);
      for (float& q : query) q = example == 0 ? 0 : length * Draw(random, -999, 999) / 999;
      const MetricScorer scorer(view, static_cast<Metric>(metric), query,
                                *kernels.sets[example % kernels.count]);
      std::vector<float> scores(items.size());
      scorer.Score(items, absl::MakeSpan(scores));
      for (size_t i = 0; i < items.size(); ++i) {
        const double exact =
            Exact(static_cast<Metric>(metric), &world.coordinates[items[i] * kDim], query);
        // The largest possible sum of kDim terms, with a dozen roundings.
        const double size = cosine ? 1 : kDim * 25;
        CHECK_THAT(std::abs(scores[i] - exact) <= 12 * 0x1p-24 * size);
      }
    }
  }
}

void AQueryWithNanScoresNan() {
  Random random(2);
  const World world(random);
  const IndexView view = world.View(TableType::kFloat32);
  std::vector<float> query(kDim, 1.0f);
  query[3] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<int32_t> items{1, 2};
  for (int metric = 0; metric < kMetrics; ++metric) {
    std::vector<float> scores(2);
    MetricScorer(view, static_cast<Metric>(metric), query).Score(items, absl::MakeSpan(scores));
    CHECK_THAT(std::isnan(scores[0]) && std::isnan(scores[1]));
  }
}

}  // namespace
}  // namespace nann

int main() {
  nann::ScoresAreTheMetric();
  nann::AQueryWithNanScoresNan();
  std::puts("passed");
}
