#ifndef CUSTOM_OPS_KERNELS_PASS_REPORTS_H_
#define CUSTOM_OPS_KERNELS_PASS_REPORTS_H_

#include <vector>

#include "grappler_passes/run_passes.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tensorflow {
namespace nann_ops {

// Sets the last three outputs of an op, `passes`, `reasons` and `figures`, to what each pass did, in
// order.
inline absl::Status SetPassReports(OpKernelContext* ctx,
                                   const std::vector<nann_passes::PassReport>& reports) {
  const int first = ctx->num_outputs() - 3;
  const int64_t count = reports.size();
  Tensor *passes, *reasons, *figures;
  TF_RETURN_IF_ERROR(ctx->allocate_output(first, {count}, &passes));
  TF_RETURN_IF_ERROR(ctx->allocate_output(first + 1, {count}, &reasons));
  TF_RETURN_IF_ERROR(ctx->allocate_output(first + 2, {count, 5}, &figures));
  for (int64_t i = 0; i < count; ++i) {
    passes->vec<tstring>()(i) = reports[i].pass;
    reasons->vec<tstring>()(i) = reports[i].reason;
    auto row = figures->matrix<double>();
    row(i, 0) = reports[i].rewrites;
    row(i, 1) = reports[i].before.nodes;
    row(i, 2) = reports[i].after.nodes;
    row(i, 3) = reports[i].before.multiply_adds;
    row(i, 4) = reports[i].after.multiply_adds;
  }
  return absl::OkStatus();
}

}  // namespace nann_ops
}  // namespace tensorflow

#endif  // CUSTOM_OPS_KERNELS_PASS_REPORTS_H_
