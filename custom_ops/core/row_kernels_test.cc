// Tests every set of row kernels that this processor can run against plain arithmetic in double:
// Gather bit by bit, the metrics as closely as float32 allows, for all widths around those of the
// vector registers. Every array ends right before a protected page, so that reading or writing one
// byte beyond it ends the test. This needs no sanitizer, and also finds masked loads.

#include "custom_ops/core/row_kernels.h"

#include <iterator>
#include <string>

#include "custom_ops/core/testing.h"
#include "custom_ops/core/wall_testing.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace nann {
namespace {

constexpr double kUnit = 0x1p-24;  // Half the distance from 1 to the next float32.
constexpr int kRows = 9;           // So few that items are repeated.
constexpr int kMaxCount = 20;

// Converts IEEE 754 binary16 by its definition.
double FromHalf(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  double value =
      exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  if (exponent == 31) {
    value = fraction == 0 ? std::numeric_limits<double>::infinity()
                          : std::numeric_limits<double>::quiet_NaN();
  }
  return bits & 0x8000 ? -value : value;
}

// A random table of any type. Row 0 consists of zeros.
class Table {
 public:
  Table(TableType type, int64_t dim, Random& random)
      : values_(kRows * dim * sizeof(float)), scales_(kRows * sizeof(float)) {
    const int64_t n = kRows * dim;
    exact_.resize(n);
    rows_ = {nullptr, nullptr, dim};
    switch (type) {
      case TableType::kFloat32:
        Fill<float>(n, [&] {
          return std::ldexp(static_cast<float>(Draw(random, -1000000, 1000000)),
                            Draw(random, -30, 0));
        });
        break;
      case TableType::kFloat16: {
        uint16_t* halves = Fill<uint16_t>(
            n, [&] { return Draw(random, 0, 1) << 15 | Draw(random, 0, 0x7bff); });  // Finite.
        for (int64_t i = 0; i < n; ++i) exact_[i] = FromHalf(halves[i]);
        break;
      }
      case TableType::kInt8: {
        Fill<int8_t>(n, [&] { return Draw(random, -128, 127); });
        float* scales = scales_.Last<float>(kRows);
        for (int i = 0; i < kRows; ++i) scales[i] = std::ldexp(Draw(random, 1, 9999), -17);
        for (int64_t i = 0; i < n; ++i) exact_[i] *= scales[i / dim];
        rows_.scales = scales;
        break;
      }
    }
  }

  const RowTable& rows() const { return rows_; }
  // Returns a coordinate, which a double holds exactly.
  double At(int32_t item, int64_t d) const { return exact_[item * rows_.dim + d]; }

 private:
  template <typename T, typename Next>
  T* Fill(int64_t n, Next next) {
    T* values = values_.Last<T>(n);
    for (int64_t i = 0; i < n; ++i) values[i] = i < rows_.dim ? T(0) : static_cast<T>(next());
    for (int64_t i = 0; i < n; ++i) exact_[i] = values[i];
    rows_.values = values;
    return values;
  }

  MemoryBeforeAWall values_, scales_;
  RowTable rows_;
  std::vector<double> exact_;
};

// Computes a metric in double and checks that `got` is within the rounding errors of float32.
void CheckScore(Metric metric, const Table& table, const float* query, int32_t item, float got) {
  const int64_t dim = table.rows().dim;
  double dot = 0, distance = 0, square = 0, dot_size = 0, distance_size = 0;
  for (int64_t d = 0; d < dim; ++d) {
    const double q = query[d], x = table.At(item, d);
    dot += q * x;
    dot_size += std::abs(q * x);
    square += x * x;
    distance += (q - x) * (q - x);
    distance_size += (std::abs(q) + std::abs(x)) * (std::abs(q) + std::abs(x));
  }
  // The longest chain of roundings: an eighth of the terms one after the other in a lane, then the sum
  // of the lanes, then what the metric does with the sum.
  const double roundings = 16 + dim / 8;
  switch (metric) {
    case Metric::kDot:
      CHECK_THAT(std::abs(got - dot) <= roundings * kUnit * dot_size);
      break;
    case Metric::kL2:
      CHECK_THAT(std::abs(got + distance) <= roundings * kUnit * distance_size);
      break;
    case Metric::kCosine:
      if (square == 0) CHECK_THAT(got == 0);
      if (square > 0) {
        CHECK_THAT(std::abs(got - dot / std::sqrt(square)) <=
                   2 * roundings * kUnit * dot_size / std::sqrt(square));
      }
      break;
  }
}

// Checks one set of kernels on a table of `type` and `dim`, for item lists of every length.
void CheckKernels(const RowKernels& kernels, TableType type, int64_t dim, Random& random) {
  static MemoryBeforeAWall item_memory(kMaxCount * sizeof(int32_t));
  static MemoryBeforeAWall query_memory(1024 * sizeof(float));
  static MemoryBeforeAWall row_memory(kMaxCount * 1024 * sizeof(float));
  static MemoryBeforeAWall score_memory(kMaxCount * sizeof(float));
  const Table table(type, dim, random);
  float* query = query_memory.Last<float>(dim);
  for (int64_t d = 0; d < dim; ++d) query[d] = std::ldexp(Draw(random, -9999, 9999), -13);
  for (int count = 0; count <= kMaxCount; count += dim <= 70 ? 1 : 5) {
    int32_t* items = item_memory.Last<int32_t>(count);
    for (int i = 0; i < count; ++i) items[i] = Draw(random, 0, kRows - 1);
    // The last row ends at the protected page.
    if (count > 0) items[Draw(random, 0, count - 1)] = kRows - 1;

    float* rows = row_memory.Last<float>(count * dim);
    kernels.gather[static_cast<int>(type)](table.rows(), items, count, rows);
    for (int64_t i = 0; i < count * dim; ++i) {
      CHECK_THAT(SameFloat(rows[i], static_cast<float>(table.At(items[i / dim], i % dim))));
    }
    for (int metric = 0; metric < kMetrics; ++metric) {
      float* scores = score_memory.Last<float>(count);
      kernels.score[metric][static_cast<int>(type)](table.rows(), query, items, count, scores);
      for (int i = 0; i < count; ++i) {
        CheckScore(static_cast<Metric>(metric), table, query, items[i], scores[i]);
      }
    }
  }
}

void AllWidthsAgreeWithPlainArithmetic(const RowKernels& kernels) {
  Random random(1);
  std::vector<int64_t> dims{96, 127, 128, 129, 256, 1000};
  for (int64_t dim = 1; dim <= 70; ++dim) dims.push_back(dim);
  for (int64_t dim : dims) {
    for (int type = 0; type < kTableTypes; ++type) {
      CheckKernels(kernels, static_cast<TableType>(type), dim, random);
    }
  }
}

// The halves include subnormal numbers, infinities, NaN and -0. A width of 64 covers whole vectors, a
// width of 1 the remainder.
void EveryHalfIsGatheredExactly(const RowKernels& kernels) {
  std::vector<uint16_t> halves(1 << 16);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
  for (int64_t dim : {64, 1}) {
    std::vector<int32_t> items(halves.size() / dim);
    for (size_t i = 0; i < items.size(); ++i) items[i] = static_cast<int32_t>(i);
    std::vector<float> rows(halves.size());
    kernels.gather[static_cast<int>(TableType::kFloat16)](
        {halves.data(), nullptr, dim}, items.data(), static_cast<int64_t>(items.size()),
        rows.data());
    for (size_t i = 0; i < rows.size(); ++i) {
      CHECK_THAT(SameFloat(rows[i], static_cast<float>(FromHalf(halves[i]))));
    }
  }
}

// The same under the settings of TensorFlow's threads, which treat subnormal float32 as 0.
void EveryHalfIsGatheredExactlyWithoutSubnormalNumbers(const RowKernels& kernels) {
#if defined(__x86_64__)
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040);  // Flush to zero, denormals are zero.
  EveryHalfIsGatheredExactly(kernels);
  _mm_setcsr(before);
#endif
}

void SpecialFloatsAreGatheredAsTheyAre(const RowKernels& kernels) {
  using Limits = std::numeric_limits<float>;
  const float special[] = {0.0f,          -0.0f,          Limits::infinity(),  -Limits::infinity(),
                           Limits::max(), Limits::min(),  Limits::lowest(),    Limits::quiet_NaN(),
                           1.0f,          -Limits::min(), Limits::denorm_min()};
  for (int64_t dim = 1; dim <= 40; ++dim) {
    std::vector<float> table(dim), rows(dim);
    for (int64_t d = 0; d < dim; ++d) table[d] = special[d % std::size(special)];
    const int32_t item = 0;
    kernels.gather[0]({table.data(), nullptr, dim}, &item, 1, rows.data());
    for (int64_t d = 0; d < dim; ++d) CHECK_THAT(SameFloat(rows[d], table[d]));
  }
}

// A damaged embedding must not look like one that is only far away.
void ANanInARowMakesItsScoreNan(const RowKernels& kernels) {
  constexpr int64_t kDim = 40;
  const std::vector<float> query(kDim, 0.5f);
  const int32_t items[] = {0, 1};
  for (int64_t place = 0; place < kDim; ++place) {
    std::vector<float> table(2 * kDim, 1.0f);
    table[place] = std::numeric_limits<float>::quiet_NaN();
    for (int metric = 0; metric < kMetrics; ++metric) {
      float scores[2];
      kernels.score[metric][0]({table.data(), nullptr, kDim}, query.data(), items, 2, scores);
      CHECK_THAT(std::isnan(scores[0]) && !std::isnan(scores[1]));
    }
  }
}

}  // namespace
}  // namespace nann

int main() {
  const nann::RowKernelsList& supported = nann::SupportedRowKernels();
  std::string names;
  for (int i = 0; i < supported.count; ++i) {
    const nann::RowKernels& kernels = *supported.sets[i];
    nann::AllWidthsAgreeWithPlainArithmetic(kernels);
    nann::EveryHalfIsGatheredExactly(kernels);
    nann::EveryHalfIsGatheredExactlyWithoutSubnormalNumbers(kernels);
    nann::SpecialFloatsAreGatheredAsTheyAre(kernels);
    nann::ANanInARowMakesItsScoreNan(kernels);
    names += std::string(" ") + kernels.name;
  }
  std::printf("passed:%s\n", names.c_str());
}
