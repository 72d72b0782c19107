#ifndef CUSTOM_OPS_KERNELS_SCORER_FUNCTIONS_H_
#define CUSTOM_OPS_KERNELS_SCORER_FUNCTIONS_H_

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "custom_ops/kernels/function_scorer.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tensorflow {
namespace nann_ops {

// The attributes of a search op that define its scorer.
struct ScorerDefinition {
  NameAttrList scorer;
  // Zero or one function: attributes have no optional functions.
  std::vector<NameAttrList> compiled_scorer, prepare;
  bool rewrite;
};

absl::Status ReadScorerDefinition(OpKernelConstruction* ctx, ScorerDefinition* definition);

// Instantiates the scorer in the function library of a call, rewritten by the passes if the
// definition asks for it. A scorer that the passes cannot read runs unchanged, and the log says why.
absl::StatusOr<std::unique_ptr<ScorerFunctions>> InstantiateScorer(
    OpKernelContext* ctx, const ScorerDefinition& definition);

}  // namespace nann_ops
}  // namespace tensorflow

#endif  // CUSTOM_OPS_KERNELS_SCORER_FUNCTIONS_H_
