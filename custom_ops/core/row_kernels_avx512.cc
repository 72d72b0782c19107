#include "custom_ops/core/row_kernels.h"

#if defined(__x86_64__)

// GCC's own header initialises the undefined operands of its intrinsics as `__Y = __Y`, which GCC
// then warns about (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>

namespace nann {
namespace {

struct Half {
  uint16_t bits;
};

struct Isa {
  using Vec = __m512;
  static constexpr int64_t kWidth = 16;

  static __mmask16 First(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }

  static Vec Zero() { return _mm512_setzero_ps(); }
  static Vec Set(float value) { return _mm512_set1_ps(value); }
  static Vec Load(const float* from) { return _mm512_loadu_ps(from); }
  static Vec Load(const Half* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static Vec Load(const int8_t* from) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
  }
  static Vec LoadPart(const float* from, int64_t n) {
    return _mm512_maskz_loadu_ps(First(n), from);
  }
  static Vec LoadPart(const Half* from, int64_t n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(First(n), from));
  }
  static Vec LoadPart(const int8_t* from, int64_t n) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(First(n), from)));
  }
  static void Store(float* to, Vec a) { _mm512_storeu_ps(to, a); }
  static void StorePart(float* to, int64_t n, Vec a) { _mm512_mask_storeu_ps(to, First(n), a); }
  static Vec Add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
  static Vec Sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
  static Vec Mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
  static Vec MulAdd(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
  static float Sum(Vec a) { return _mm512_reduce_add_ps(a); }
};

}  // namespace
}  // namespace nann

#include "custom_ops/core/feature_kernels_impl.h"
#include "custom_ops/core/row_kernels_impl.h"

namespace nann {

const RowKernels kAvx512RowKernels = MakeKernels("AVX-512");

}  // namespace nann

#endif  // __x86_64__
