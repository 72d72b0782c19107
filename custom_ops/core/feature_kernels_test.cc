// Tests every set of feature kernels that this processor can run: against plain arithmetic in double,
// and against the plain set, whose bits all of them must give. Every array that a kernel reads or writes
// ends right before a protected page.

#include "custom_ops/core/feature_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "custom_ops/core/row_kernels.h"
#include "custom_ops/core/testing.h"
#include "custom_ops/core/wall_testing.h"

namespace nann {
namespace {

constexpr double kUnit = 0x1p-24;  // Half the distance from 1 to the next float32.
constexpr float kInfinity = std::numeric_limits<float>::infinity();
// The hash of the results of all kernels for one input, which must be the same on every processor.
constexpr uint64_t kHash = 0x4f6adc1131ae8d39;

// An array before a wall.
template <typename T>
class Array {
 public:
  explicit Array(int64_t n)
      : memory_(std::max<int64_t>(n, 1) * sizeof(T)), n_(n), at_(memory_.Last<T>(n)) {}
  explicit Array(const std::vector<T>& values) : Array(static_cast<int64_t>(values.size())) {
    std::copy(values.begin(), values.end(), at_);
  }
  T* data() { return at_; }
  std::vector<T> values() const { return {at_, at_ + n_}; }

 private:
  MemoryBeforeAWall memory_;
  const int64_t n_;
  T* const at_;
};

std::vector<int8_t> RandomRows(Random& random, int64_t n) {
  // In some tables all coordinates have the largest size, as sums are then largest.
  const bool extreme = Draw(random, 0, 4) == 0;
  std::vector<int8_t> rows(n);
  for (int8_t& x : rows) x = extreme ? 127 * (2 * Draw(random, 0, 1) - 1) : Draw(random, -127, 127);
  return rows;
}

template <typename T>
std::vector<T> RandomValues(Random& random, int64_t n) {
  std::vector<T> values(n);
  for (T& value : values) value = std::ldexp(static_cast<T>(Draw(random, -999999, 999999)), -18);
  return values;
}

// Values as predictions are: few different ones, and infinities.
std::vector<float> RandomPredictions(Random& random, int64_t n) {
  std::vector<float> values(n);
  for (float& value : values) {
    const int drawn = Draw(random, -12, 12);
    value = std::abs(drawn) < 11 ? drawn / 2.0f : drawn > 11 ? kInfinity : -kInfinity;
  }
  return values;
}

int64_t RandomCount(Random& random) {
  const int counts[] = {0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 100};
  return counts[Draw(random, 0, std::size(counts) - 1)];
}

// `kernels` must give what double gives, and the bits of the plain set.
struct Sets {
  const FeatureKernels& kernels;
  const FeatureKernels& plain;
};

// Runs `write` for both sets on arrays that begin as `before`, checks that they agree, and returns the
// array.
template <typename T>
std::vector<T> Both(const Sets& sets, const std::vector<T>& before,
                    const std::function<void(const FeatureKernels&, T*)>& write) {
  Array<T> array(before), plain(before);
  write(sets.kernels, array.data());
  write(sets.plain, plain.data());
  const std::vector<T> values = array.values();
  CHECK_THAT(values.empty() ||
             std::memcmp(array.data(), plain.data(), values.size() * sizeof(T)) == 0);
  return values;
}

// Sums of whole numbers below 2^24 are exact. Below the diagonal, anything may stand.
void ProductsAreExact(const Sets& sets, Random& random, int64_t width) {
  const int64_t count = Draw(random, 0, 5) == 0 ? kExactRows : RandomCount(random);
  Array<int8_t> rows(RandomRows(random, count * width));
  const auto got = Both<float>(
      sets, std::vector<float>(width * width),
      [&](auto& kernels, float* sums) { kernels.products(rows.data(), count, width, sums); });
  for (int64_t i = 0; i < width; ++i) {
    for (int64_t j = i; j < width; ++j) {
      int64_t sum = 0;
      for (int64_t r = 0; r < count; ++r)
        sum += rows.data()[r * width + i] * rows.data()[r * width + j];
      CHECK_THAT(got[i * width + j] == static_cast<double>(sum));
    }
  }
}

void ProductsAddToWhatIsThere(const Sets& sets, Random& random, int64_t width) {
  Array<int8_t> rows(RandomRows(random, 3 * width));
  const auto got =
      Both<float>(sets, std::vector<float>(width * width, 5), [&](auto& kernels, float* sums) {
        kernels.products(rows.data(), 1, width, sums);
        kernels.products(rows.data() + width, 2, width, sums);
      });
  double sum = 5;
  for (int64_t r = 0; r < 3; ++r) sum += rows.data()[r * width] * rows.data()[(r + 1) * width - 1];
  CHECK_THAT(got[width - 1] == sum);
}

void WeightedSumIsASumOfRows(const Sets& sets, Random& random, int64_t width) {
  const int64_t count = RandomCount(random);
  Array<int8_t> rows(RandomRows(random, count * width));
  Array<double> factors(RandomValues<double>(random, count));
  const auto before = RandomValues<double>(random, width);
  const auto got = Both<double>(sets, before, [&](auto& kernels, double* sums) {
    kernels.weighted_sum(rows.data(), factors.data(), count, width, sums);
  });
  for (int64_t j = 0; j < width; ++j) {
    double sum = before[j];
    for (int64_t i = 0; i < count; ++i) sum += factors.data()[i] * rows.data()[i * width + j];
    CHECK_THAT(std::abs(got[j] - sum) < 1e-9);
  }
}

// Checks a dot product against double, within the errors of as many roundings as it may have.
void CheckDot(const int8_t* row, const float* weights, int64_t width, float got) {
  double dot = 0, size = 0;
  for (int64_t j = 0; j < width; ++j) {
    const double product = row[j] * static_cast<double>(weights[j]);
    dot += product;
    size += std::abs(product);
  }
  CHECK_THAT(std::abs(got - dot) <= (width + 1) * kUnit * size);
}

void DotsAreDotProducts(const Sets& sets, Random& random, int64_t width) {
  const int64_t count = RandomCount(random);
  Array<int8_t> rows(RandomRows(random, count * width));
  Array<float> weights(RandomValues<float>(random, width));
  const auto got = Both<float>(sets, std::vector<float>(count), [&](auto& kernels, float* dots) {
    kernels.dots(rows.data(), weights.data(), count, width, dots);
  });
  for (int64_t i = 0; i < count; ++i) {
    CheckDot(rows.data() + i * width, weights.data(), width, got[i]);
  }
}

void BlockDotsAreDotProductsOfBlocks(const Sets& sets, Random& random, int64_t width) {
  const int64_t blocks = Draw(random, 0, 3), size = kFeatureLanes * width;
  Array<int8_t> rows(RandomRows(random, blocks * size));
  Array<float> weights(RandomValues<float>(random, width));
  std::vector<int8_t> made;
  for (int64_t b = 0; b < blocks; ++b) {
    Array<int8_t> one({rows.data() + b * size, rows.data() + (b + 1) * size});
    const auto block =
        Both<int8_t>(sets, std::vector<int8_t>(size),
                     [&](auto& kernels, int8_t* to) { kernels.make_block(one.data(), width, to); });
    for (int64_t i = 0; i < size; ++i) {
      CHECK_THAT(block[i] == one.data()[i % kFeatureLanes * width + i / kFeatureLanes]);
    }
    made.insert(made.end(), block.begin(), block.end());
  }
  Array<int8_t> in_blocks(made);
  const auto got = Both<float>(
      sets, std::vector<float>(blocks * kFeatureLanes), [&](auto& kernels, float* dots) {
        kernels.block_dots(in_blocks.data(), weights.data(), blocks, width, dots);
      });
  for (int64_t i = 0; i < blocks * kFeatureLanes; ++i) {
    CheckDot(rows.data() + i * width, weights.data(), width, got[i]);
  }
}

void CorrectAddsAMean(const Sets& sets, Random& random) {
  const int64_t count = RandomCount(random);
  std::vector<float> all = RandomValues<float>(random, count),
                     some = RandomValues<float>(random, count);
  for (float& weight : some) weight = std::abs(weight);
  for (float& correction : all) correction = Draw(random, 0, 5) == 0 ? -kInfinity : correction;
  Array<float> corrections(all), weights(some);
  const auto before = RandomValues<float>(random, count);
  const float constant = 1.25f, prior = 0.1f;
  const auto got = Both<float>(sets, before, [&](auto& kernels, float* predictions) {
    kernels.correct(corrections.data(), weights.data(), constant, prior, count, predictions);
  });
  for (int64_t i = 0; i < count; ++i) {
    const double mean = all[i] / (some[i] + static_cast<double>(prior));
    const double wanted = before[i] + (constant + mean);
    CHECK_THAT(std::isinf(all[i]) ? got[i] == -kInfinity
                                  : std::abs(got[i] - wanted) <=
                                        4 * kUnit * (std::abs(before[i]) + 2 + std::abs(mean)));
  }
}

void ChancesAreThoseOfANormalError(const Sets& sets, Random& random) {
  const int64_t count = RandomCount(random);
  const auto all = RandomPredictions(random, count);
  Array<float> values(all);
  const float bound = Draw(random, -4, 4), inverse_error = Draw(random, 1, 8) / 4.0f;
  float sums[2];
  float* sum = sums;
  const auto got = Both<float>(sets, std::vector<float>(count), [&](auto& kernels, float* chances) {
    *sum++ = kernels.chances(values.data(), bound, inverse_error, count, chances);
  });
  CHECK_THAT(SameFloat(sums[0], sums[1]));
  double total = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double deviation = (static_cast<double>(all[i]) - bound) * inverse_error;
    const double chance = 0.5 * std::erfc(-deviation / std::sqrt(2.0));
    CHECK_THAT(got[i] >= 0 && got[i] <= 1 + 1e-5);
    CHECK_THAT(std::abs(got[i] - chance) < 0.017);
    CHECK_THAT(deviation > -3 || got[i] == 0);
    CHECK_THAT(deviation < 3 || got[i] == 1);
    total += got[i];
  }
  CHECK_THAT(std::abs(sums[0] - total) <= (count + 1) * kUnit * total);
}

// A higher value never has a lower chance, so that the best candidates come first.
void ChancesIncrease(const FeatureKernels& kernels) {
  std::vector<float> values, chances(80001);
  for (int i = -40000; i <= 40000; ++i) values.push_back(i / 10000.0f);
  kernels.chances(values.data(), 0, 1, values.size(), chances.data());
  for (size_t i = 1; i < values.size(); ++i) CHECK_THAT(chances[i] >= chances[i - 1] - 1e-5);
}

void AboveIsAbove(const Sets& sets, Random& random) {
  const int64_t count = RandomCount(random);
  const auto all = RandomPredictions(random, count);
  Array<float> values(all);
  for (float bound : {-kInfinity, -5.5f, Draw(random, -10, 10) / 2.0f, 0.3f, 5.0f, kInfinity}) {
    const auto above = [=](float value) { return value > bound; };
    const int64_t wanted = std::count_if(all.begin(), all.end(), above);
    const int64_t last = all.rend() - std::find_if(all.rbegin(), all.rend(), above) - 1;
    CHECK_THAT(sets.kernels.count_above(values.data(), count, bound) == wanted);
    CHECK_THAT(sets.kernels.last_above(values.data(), count, bound) == last);
  }
}

// Solves equations whose solution is known. Only the entries on and above the diagonal are given.
void SolveSolves(const Sets& sets, Random& random) {
  const int64_t n = Draw(random, 0, 4) == 0 ? Draw(random, 100, 129) : Draw(random, 1, 20);
  const auto root = RandomValues<double>(random, n * n), solution = RandomValues<double>(random, n);
  std::vector<double> a(n * n, std::numeric_limits<double>::quiet_NaN()), b(n);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i; j < n; ++j) {
      double sum = i == j ? 1 : 0;
      for (int64_t r = 0; r < n; ++r) sum += root[r * n + i] * root[r * n + j];
      a[i * n + j] = sum;
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) b[i] += a[std::min(i, j) * n + std::max(i, j)] * solution[j];
  }
  const auto got = Both<double>(sets, b, [&](auto& kernels, double* x) {
    Array<double> matrix(a);
    kernels.solve(matrix.data(), x, n);
  });
  for (int64_t i = 0; i < n; ++i) CHECK_THAT(std::abs(got[i] - solution[i]) < 1e-7);
}

void CheckSets(const Sets& sets) {
  Random random(1);
  for (int repeat = 0; repeat < 20; ++repeat) {
    for (int64_t width = kFeatureLanes; width <= kMaxFeatures; width += kFeatureLanes) {
      ProductsAreExact(sets, random, width);
      ProductsAddToWhatIsThere(sets, random, width);
      WeightedSumIsASumOfRows(sets, random, width);
      DotsAreDotProducts(sets, random, width);
      BlockDotsAreDotProductsOfBlocks(sets, random, width);
      CorrectAddsAMean(sets, random);
      ChancesAreThoseOfANormalError(sets, random);
      AboveIsAbove(sets, random);
      SolveSolves(sets, random);
    }
  }
  ChancesIncrease(sets.kernels);
}

// The bits do not depend on the compiler either. The input is made without the distributions of the
// standard library, which are not the same everywhere.
void BitsAreTheSameForEveryCompiler(const FeatureKernels& kernels) {
  constexpr int64_t kWidth = 48, kCount = 200;
  Random random(2);
  const auto draw = [&] { return static_cast<int>(random() % 255) - 127; };
  std::vector<int8_t> rows(kCount * kWidth);
  std::vector<float> weights(kWidth), edges(kCount), dots(kCount), products(kWidth * kWidth);
  std::vector<double> factors(kCount), sums(kWidth);
  for (int8_t& x : rows) x = draw();
  for (float& weight : weights) weight = draw() / 300.0f;
  for (float& edge : edges) edge = std::abs(draw()) / 70.0f;
  for (double& factor : factors) factor = draw() / 90.0;

  kernels.products(rows.data(), kCount, kWidth, products.data());
  kernels.weighted_sum(rows.data(), factors.data(), kCount, kWidth, sums.data());
  kernels.dots(rows.data(), weights.data(), kCount, kWidth, dots.data());
  std::vector<float> predictions = dots, chances(kCount);
  kernels.correct(dots.data(), edges.data(), 0.3f, 0.1f, kCount, predictions.data());
  chances.push_back(kernels.chances(predictions.data(), -9, 0.001f, kCount, chances.data()));
  std::vector<double> matrix(products.begin(), products.end());
  for (int64_t i = 0; i < kWidth; ++i) matrix[i * kWidth + i] += 25;
  kernels.solve(matrix.data(), sums.data(), kWidth);

  uint64_t hash = 14695981039346656037u;  // FNV-1a.
  const auto add = [&](const auto& values) {
    const auto* const bytes = reinterpret_cast<const unsigned char*>(values.data());
    for (size_t i = 0; i < values.size() * sizeof(values[0]); ++i) {
      hash = (hash ^ bytes[i]) * 1099511628211u;
    }
  };
  add(dots);
  add(predictions);
  add(chances);
  add(sums);
  if (hash != kHash)
    std::fprintf(stderr, "the hash is %llx\n", static_cast<unsigned long long>(hash));
  CHECK_THAT(hash == kHash);
}

}  // namespace
}  // namespace nann

int main() {
  const nann::RowKernelsList& supported = nann::SupportedRowKernels();
  std::string names;
  for (int i = 0; i < supported.count; ++i) {
    const nann::RowKernels& kernels = *supported.sets[i];
    nann::CheckSets({kernels.features, nann::kPlainRowKernels.features});
    nann::BitsAreTheSameForEveryCompiler(kernels.features);
    names += std::string(" ") + kernels.name;
  }
  std::printf("passed:%s\n", names.c_str());
}
