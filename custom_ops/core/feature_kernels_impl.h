// The loops of feature_kernels.h, over the instruction set `Isa` of row_kernels_impl.h where they read
// int8, which compilers do not turn into vectors by themselves. Included once by each of
// row_kernels_{plain,avx2,avx512}.cc and nowhere else.

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace nann {
namespace {

// Adds in halves, in place, so that the order does not depend on the width of vectors.
inline float SumOfLanes(float* sums) {
  for (int64_t half = kFeatureLanes / 2; half > 0; half /= 2) {
    for (int64_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  }
  return sums[0];
}

inline void Widen(const int8_t* row, int64_t width, float* to) {
  for (int64_t j = 0; j < width; j += Isa::kWidth) Isa::Store(to + j, Isa::Load(row + j));
}

void FeatureProducts(const int8_t* rows, int64_t count, int64_t width, float* sums) {
  float row[kMaxFeatures];
  for (; count > 0; --count, rows += width) {
    Widen(rows, width, row);
    for (int64_t i = 0; i < width; ++i) {
      const float factor = row[i];
      float* const to = sums + i * width;
      for (int64_t j = i / kFeatureLanes * kFeatureLanes; j < width; ++j) to[j] += factor * row[j];
    }
  }
}

void FeatureWeightedSum(const int8_t* rows, const double* factors, int64_t count, int64_t width,
                        double* sums) {
  // Coordinate by coordinate for two rows at a time, so that half as often sums wait to be written.
  float row[2 * kMaxFeatures];
  int64_t i = 0;
  for (; i + 2 <= count; i += 2, rows += 2 * width) {
    Widen(rows, 2 * width, row);
    for (int64_t j = 0; j < width; ++j) {
      sums[j] = (sums[j] + factors[i] * row[j]) + factors[i + 1] * row[width + j];
    }
  }
  if (i < count) {
    Widen(rows, width, row);
    for (int64_t j = 0; j < width; ++j) sums[j] += factors[i] * row[j];
  }
}

void FeatureDots(const int8_t* rows, const float* weights, int64_t count, int64_t width,
                 float* dots) {
  constexpr int64_t kParts = kFeatureLanes / Isa::kWidth;
  for (int64_t i = 0; i < count; ++i, rows += width) {
    Isa::Vec parts[kParts];
    for (Isa::Vec& part : parts) part = Isa::Zero();
    for (int64_t j = 0; j < width; j += kFeatureLanes) {
      for (int64_t p = 0; p < kParts; ++p) {
        const int64_t at = j + p * Isa::kWidth;
        parts[p] = Isa::Add(parts[p], Isa::Mul(Isa::Load(weights + at), Isa::Load(rows + at)));
      }
    }
    float sums[kFeatureLanes];
    for (int64_t p = 0; p < kParts; ++p) Isa::Store(sums + p * Isa::kWidth, parts[p]);
    dots[i] = SumOfLanes(sums);
  }
}

#if defined(__SSE2__)
// Transposes squares of 16 x 16 bytes: in each of four rounds, the first eight rows are interleaved
// with the last eight.
void FeatureMakeBlock(const int8_t* rows, int64_t width, int8_t* block) {
  static_assert(kFeatureLanes == 16);
  for (int64_t j = 0; j < width; j += 16, block += 256) {
    __m128i a[16], b[16];
    for (int i = 0; i < 16; ++i) {
      a[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows + i * width + j));
    }
    for (int round = 0; round < 4; ++round) {
      for (int i = 0; i < 8; ++i) {
        b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
        b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
      }
      for (int i = 0; i < 16; ++i) a[i] = b[i];
    }
    for (int i = 0; i < 16; ++i) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(block + 16 * i), a[i]);
    }
  }
}
#else
void FeatureMakeBlock(const int8_t* rows, int64_t width, int8_t* block) {
  for (int64_t i = 0; i < kFeatureLanes; ++i) {
    for (int64_t j = 0; j < width; ++j) block[j * kFeatureLanes + i] = rows[i * width + j];
  }
}
#endif

void FeatureBlockDots(const int8_t* rows, const float* weights, int64_t blocks, int64_t width,
                      float* dots) {
  constexpr int64_t kParts = kFeatureLanes / Isa::kWidth;
  for (; blocks > 0; --blocks, dots += kFeatureLanes) {
    Isa::Vec parts[kParts];
    for (Isa::Vec& part : parts) part = Isa::Zero();
    for (int64_t j = 0; j < width; ++j) {
      const Isa::Vec weight = Isa::Set(weights[j]);
      for (int64_t p = 0; p < kParts; ++p, rows += Isa::kWidth) {
        parts[p] = Isa::Add(parts[p], Isa::Mul(weight, Isa::Load(rows)));
      }
    }
    for (int64_t p = 0; p < kParts; ++p) Isa::Store(dots + p * Isa::kWidth, parts[p]);
  }
}

void FeatureCorrect(const float* corrections, const float* weights, float constant, float prior,
                    int64_t count, float* predictions) {
  for (int64_t i = 0; i < count; ++i) {
    predictions[i] += constant + corrections[i] / (weights[i] + prior);
  }
}

// The smooth step 35 t^4 - 84 t^5 + 70 t^6 - 20 t^7 for t from 0 to 1.
inline float Chance(float deviation) {
  float t = deviation * (1.0f / 6) + 0.5f;
  t = t > 0 ? t : 0;
  t = t < 1 ? t : 1;
  const float square = t * t;
  return square * square * (35 + t * (-84 + t * (70 - 20 * t)));
}

float FeatureChances(const float* values, float bound, float inverse_error, int64_t count,
                     float* chances) {
  float sums[kFeatureLanes] = {};
  int64_t i = 0;
  for (; i + kFeatureLanes <= count; i += kFeatureLanes) {
    for (int64_t lane = 0; lane < kFeatureLanes; ++lane) {
      const float chance = Chance((values[i + lane] - bound) * inverse_error);
      chances[i + lane] = chance;
      sums[lane] += chance;
    }
  }
  for (; i < count; ++i) {
    chances[i] = Chance((values[i] - bound) * inverse_error);
    sums[0] += chances[i];
  }
  return SumOfLanes(sums);
}

int64_t FeatureCountAbove(const float* values, int64_t count, float bound) {
  int32_t above[kFeatureLanes] = {};
  int64_t i = 0;
  for (; i + kFeatureLanes <= count; i += kFeatureLanes) {
    for (int64_t lane = 0; lane < kFeatureLanes; ++lane) above[lane] += values[i + lane] > bound;
  }
  int64_t sum = 0;
  for (int32_t lane : above) sum += lane;
  for (; i < count; ++i) sum += values[i] > bound;
  return sum;
}

int64_t FeatureLastAbove(const float* values, int64_t count, float bound) {
  for (; count >= kFeatureLanes; count -= kFeatureLanes) {
    const float* const last = values + count - kFeatureLanes;
    int32_t above = 0;
    for (int64_t lane = 0; lane < kFeatureLanes; ++lane) above |= last[lane] > bound;
    if (above != 0) break;
  }
  while (count > 0 && !(values[count - 1] > bound)) --count;
  return count - 1;
}

// Cholesky's decomposition A = U^T U, row by row, so that every inner loop runs along a row.
void Solve(double* a, double* b, int64_t n) {
  for (int64_t k = 0; k < n; ++k) {
    double* const pivot = a + k * n;
    const double inverse = 1 / __builtin_sqrt(pivot[k]);
    for (int64_t j = k; j < n; ++j) pivot[j] *= inverse;
    b[k] *= inverse;
    for (int64_t i = k + 1; i < n; ++i) {
      const double factor = pivot[i];
      double* const row = a + i * n;
      for (int64_t j = i; j < n; ++j) row[j] -= factor * pivot[j];
      b[i] -= factor * b[k];
    }
  }
  for (int64_t k = n - 1; k >= 0; --k) {
    for (int64_t j = k + 1; j < n; ++j) b[k] -= a[k * n + j] * b[j];
    b[k] /= a[k * n + k];
  }
}

}  // namespace
}  // namespace nann
