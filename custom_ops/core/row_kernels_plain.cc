#include "custom_ops/core/row_kernels.h"

namespace nann {
namespace {

struct Half {
  uint16_t bits;
};

inline float Widen(float value) { return value; }
inline float Widen(int8_t value) { return value; }
// Converts IEEE 754 binary16 to binary32 without arithmetic on subnormal floats, which TensorFlow's
// threads treat as zero.
inline float Widen(Half value) {
  const uint32_t magnitude = value.bits & 0x7fffu;
  float wide;
  if (magnitude < 0x400u) {
    wide = static_cast<float>(magnitude) * 0x1p-24f;
  } else {
    // The second is the bias of infinity and NaN.
    const uint32_t bias = magnitude < 0x7c00u ? 112u << 23 : 224u << 23;
    const uint32_t bits = (magnitude << 13) + bias;
    __builtin_memcpy(&wide, &bits, sizeof(wide));
  }
  return value.bits & 0x8000u ? -wide : wide;
}

// Eight independent lanes, which compilers turn into the vectors that the target has.
struct Isa {
  static constexpr int64_t kWidth = 8;
  struct Vec {
    float v[kWidth];
  };

  static Vec Zero() { return Set(0); }
  static Vec Set(float value) {
    Vec out;
    for (float& x : out.v) x = value;
    return out;
  }
  template <typename T>
  static Vec Load(const T* from) {
    Vec out;
    for (int i = 0; i < kWidth; ++i) out.v[i] = Widen(from[i]);
    return out;
  }
  template <typename T>
  static Vec LoadPart(const T* from, int64_t n) {
    Vec out = Zero();
    for (int i = 0; i < n; ++i) out.v[i] = Widen(from[i]);
    return out;
  }
  static void Store(float* to, Vec a) { StorePart(to, kWidth, a); }
  static void StorePart(float* to, int64_t n, Vec a) {
    for (int i = 0; i < n; ++i) to[i] = a.v[i];
  }
  static Vec Add(Vec a, Vec b) {
    for (int i = 0; i < kWidth; ++i) a.v[i] += b.v[i];
    return a;
  }
  static Vec Sub(Vec a, Vec b) {
    for (int i = 0; i < kWidth; ++i) a.v[i] -= b.v[i];
    return a;
  }
  static Vec Mul(Vec a, Vec b) {
    for (int i = 0; i < kWidth; ++i) a.v[i] *= b.v[i];
    return a;
  }
  static Vec MulAdd(Vec a, Vec b, Vec c) { return Add(Mul(a, b), c); }
  static float Sum(Vec a) {
    float sum = 0;
    for (float x : a.v) sum += x;
    return sum;
  }
};

}  // namespace
}  // namespace nann

#include "custom_ops/core/feature_kernels_impl.h"
#include "custom_ops/core/row_kernels_impl.h"

namespace nann {

const RowKernels kPlainRowKernels = MakeKernels("plain");

const RowKernelsList& SupportedRowKernels() {
  static const RowKernelsList list = [] {
    RowKernelsList supported{};
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl")) {
      supported.sets[supported.count++] = &kAvx512RowKernels;
    }
    // Every processor with AVX2 also has F16C, for which older compilers have no test.
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
      supported.sets[supported.count++] = &kAvx2RowKernels;
    }
#endif
    supported.sets[supported.count++] = &kPlainRowKernels;
    return supported;
  }();
  return list;
}

}  // namespace nann
