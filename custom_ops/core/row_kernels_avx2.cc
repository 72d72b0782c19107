#include "custom_ops/core/row_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

namespace nann {
namespace {

struct Half {
  uint16_t bits;
};

struct Isa {
  using Vec = __m256;
  static constexpr int64_t kWidth = 8;

  static Vec Zero() { return _mm256_setzero_ps(); }
  static Vec Set(float value) { return _mm256_set1_ps(value); }
  static Vec Load(const float* from) { return _mm256_loadu_ps(from); }
  static Vec Load(const Half* from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static Vec Load(const int8_t* from) {
    return _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
  }
  // Uses a mask rather than an array: a load from memory that was just written in pieces would have
  // to wait for all these stores.
  static Vec LoadPart(const float* from, int64_t n) {
    const __m256i places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i first = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), places);
    return _mm256_maskload_ps(from, first);
  }
  template <typename T>
  static Vec LoadPart(const T* from, int64_t n) {
    T part[kWidth] = {};
    for (int64_t i = 0; i < n; ++i) part[i] = from[i];
    return Load(part);
  }
  static void Store(float* to, Vec a) { _mm256_storeu_ps(to, a); }
  static void StorePart(float* to, int64_t n, Vec a) {
    float part[kWidth];
    Store(part, a);
    for (int64_t i = 0; i < n; ++i) to[i] = part[i];
  }
  static Vec Add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
  static Vec Sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
  static Vec Mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
  static Vec MulAdd(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
  static float Sum(Vec a) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
  }
};

}  // namespace
}  // namespace nann

#include "custom_ops/core/feature_kernels_impl.h"
#include "custom_ops/core/row_kernels_impl.h"

namespace nann {

const RowKernels kAvx2RowKernels = MakeKernels("AVX2");

}  // namespace nann

#endif  // __x86_64__
