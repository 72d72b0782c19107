#ifndef CUSTOM_OPS_CORE_ROW_KERNELS_H_
#define CUSTOM_OPS_CORE_ROW_KERNELS_H_

#include <cstdint>

#include "custom_ops/core/feature_kernels.h"

// The inner loops over rows of an item table: one set of kernels per instruction set, chosen at run
// time.
//
// Each set is in a file that is compiled for its instruction set. Neither these files nor this header
// may include anything with inline functions that other files use: the linker keeps only one copy of
// such a function, and it might be one that an older processor cannot run.

namespace nann {

// The type in which a table holds the coordinates of embeddings.
enum class TableType : int { kFloat32 = 0, kFloat16 = 1, kInt8 = 2 };
inline constexpr int kTableTypes = 3;

// The scores that need no model. Higher is better.
enum class Metric : int { kDot = 0, kL2 = 1, kCosine = 2 };
inline constexpr int kMetrics = 3;

// The rows of a table: `values` is row-major [n, dim] of its type. For kInt8, `scales` is [n] and a
// coordinate is value * scale of its row; for the other types `scales` is null.
struct RowTable {
  const void* values;
  const float* scales;
  int64_t dim;
};

struct RowKernels {
  // Writes the rows of items[0..count) as float32 [count, dim] to `rows`.
  using Gather = void (*)(const RowTable& table, const int32_t* items, int64_t count, float* rows);
  // Writes the metric between `query`, [dim], and each row to `scores`, [count]: the dot product, the
  // negative of the squared L2 distance, or the cosine (0 for a row of zeros), for which `query` must
  // have length 1.
  using Score = void (*)(const RowTable& table, const float* query, const int32_t* items,
                         int64_t count, float* scores);

  const char* name;
  Gather gather[kTableTypes];
  Score score[kMetrics][kTableTypes];
  FeatureKernels features;
};

extern const RowKernels kPlainRowKernels;
#if defined(__x86_64__)
extern const RowKernels kAvx2RowKernels;    // AVX2, FMA, F16C.
extern const RowKernels kAvx512RowKernels;  // AVX-512 F, BW, VL.
#endif

// The sets that this processor can run, fastest first; the last one is plain C++.
struct RowKernelsList {
  const RowKernels* sets[3];
  int count;
};
const RowKernelsList& SupportedRowKernels();

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_ROW_KERNELS_H_
