#ifndef CUSTOM_OPS_KERNELS_SCORER_ARGUMENTS_H_
#define CUSTOM_OPS_KERNELS_SCORER_ARGUMENTS_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "grappler_passes/scorer_graph.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tensorflow {
namespace nann_ops {

// Describes the arguments of a scorer, f(user..., items, captured...), for the passes. `user` holds
// the types and shapes of the user tensors; their first extent, the batch, is not read. `dim` is the
// width of an item. The shapes of captured variables are looked up.
std::vector<nann_passes::Argument> ScorerArguments(
    OpKernelContext* ctx, absl::Span<const std::pair<DataType, PartialTensorShape>> user,
    int64_t dim, const OpInputList& captured);

}  // namespace nann_ops
}  // namespace tensorflow

#endif  // CUSTOM_OPS_KERNELS_SCORER_ARGUMENTS_H_
