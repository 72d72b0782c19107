#ifndef CUSTOM_OPS_CORE_FEATURE_KERNELS_H_
#define CUSTOM_OPS_CORE_FEATURE_KERNELS_H_

#include <cstdint>

// The arithmetic of the surrogate (surrogate.h) on rows of item features, which are int8. As in
// row_kernels.h there is one set per instruction set, and nothing may be included that has inline
// functions. All sets give the same bits, so that a walk does not depend on the processor: they add in
// one order and never fuse a product with a sum.

namespace nann {

// The width of a row of features is a multiple of this, and at most kMaxFeatures.
inline constexpr int64_t kFeatureLanes = 16;
inline constexpr int64_t kMaxFeatures = 128;
// How many rows `products` can take at once, so that its sums of whole numbers are exact in float.
inline constexpr int64_t kExactRows = 1024;

struct FeatureKernels {
  // Adds the products of each two coordinates of a row, over up to kExactRows rows [count, width], to
  // the entries of `sums`, [width, width], on and above the diagonal. Others may change too.
  void (*products)(const int8_t* rows, int64_t count, int64_t width, float* sums);
  // Adds factors[i] times the i-th row to `sums`, [width].
  void (*weighted_sum)(const int8_t* rows, const double* factors, int64_t count, int64_t width,
                       double* sums);
  // Writes the dot product of each row and `weights`, [width], to `dots`, [count].
  void (*dots)(const int8_t* rows, const float* weights, int64_t count, int64_t width, float* dots);
  // Puts kFeatureLanes rows, [kFeatureLanes, width], into the order of a block.
  void (*make_block)(const int8_t* rows, int64_t width, int8_t* block);
  // Does the same as `dots` for rows in blocks of kFeatureLanes: a block, [width, kFeatureLanes], has
  // the first coordinates of its rows, then their second ones, and so on. Writes to `dots`, [blocks,
  // kFeatureLanes].
  void (*block_dots)(const int8_t* rows, const float* weights, int64_t blocks, int64_t width,
                     float* dots);
  // Adds constant + corrections[i] / (weights[i] + prior) to each of `predictions`, [count].
  void (*correct)(const float* corrections, const float* weights, float constant, float prior,
                  int64_t count, float* predictions);
  // Writes the chance that each of `values`, [count], known up to a normal error, is above `bound`:
  // the normal distribution of (value - bound) * inverse_error, by a polynomial that is 0 below -3 and
  // within 0.017 everywhere. Returns their sum.
  float (*chances)(const float* values, float bound, float inverse_error, int64_t count,
                   float* chances);
  // Returns how many of `values`, [count], are above `bound`.
  int64_t (*count_above)(const float* values, int64_t count, float bound);
  // Returns the last place where `values`, [count], is above `bound`; -1 if there is none.
  int64_t (*last_above)(const float* values, int64_t count, float bound);
  // Solves A x = b for a symmetric, positive definite A, [n, n], of which the entries on and above the
  // diagonal are read. Overwrites A, and b with x.
  void (*solve)(double* a, double* b, int64_t n);
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_FEATURE_KERNELS_H_
