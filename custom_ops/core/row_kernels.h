#ifndef CUSTOM_OPS_CORE_ROW_KERNELS_H_
#define CUSTOM_OPS_CORE_ROW_KERNELS_H_

#include <cstdint>

// The inner loops over rows of an item table, one set per instruction set, chosen at run time.
//
// The files that hold them are compiled for their instruction set, so neither they nor this header
// may include anything with inline functions that other files use: the linker would keep one copy
// of such a function, and it might be the one that an older processor cannot run.

namespace nann {

// How a table holds an embedding's coordinates.
enum class TableType : int { kFloat32 = 0, kFloat16 = 1, kInt8 = 2 };
inline constexpr int kTableTypes = 3;

// Scores that need no model; higher is better.
enum class Metric : int { kDot = 0, kL2 = 1, kCosine = 2 };
inline constexpr int kMetrics = 3;

// Rows of a table: row-major [n, dim] of its type; coordinate = value * scale for kInt8, where
// `scales` is [n], and null for the other types.
struct RowTable {
  const void* values;
  const float* scales;
  int64_t dim;
};

struct RowKernels {
  // Writes rows items[0..count) as float32 [count, dim] to `rows`.
  using Gather = void (*)(const RowTable& table, const int32_t* items, int64_t count, float* rows);
  // Writes the metric of `query`, [dim], and each row to `scores`: the dot product, minus the
  // squared L2 distance, or the cosine (0 for a row of zeros), where `query` is of length 1.
  using Score = void (*)(const RowTable& table, const float* query, const int32_t* items,
                         int64_t count, float* scores);

  const char* name;
  Gather gather[kTableTypes];
  Score score[kMetrics][kTableTypes];
};

extern const RowKernels kPlainRowKernels;
#if defined(__x86_64__)
extern const RowKernels kAvx2RowKernels;    // AVX2, FMA, F16C.
extern const RowKernels kAvx512RowKernels;  // AVX-512 F, BW, VL.
#endif

// The sets that this processor can run, the fastest first; the last is plain C++.
struct RowKernelsList {
  const RowKernels* sets[3];
  int count;
};
const RowKernelsList& SupportedRowKernels();

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_ROW_KERNELS_H_
