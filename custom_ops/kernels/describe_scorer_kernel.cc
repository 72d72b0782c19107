#include <string>
#include <vector>

#include "custom_ops/kernels/pass_reports.h"
#include "grappler_passes/scorer_report.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tensorflow {
namespace nann_ops {
namespace {

class DescribeScorerOp : public OpKernel {
 public:
  explicit DescribeScorerOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("rewrite", &rewrite_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("fold_items", &options_.fold_items));
  }

  void Compute(OpKernelContext* ctx) override {
    const Tensor& input = ctx->input(0);
    GraphDef calls;
    OP_REQUIRES(ctx,
                input.dims() == 0 && calls.ParseFromString(std::string(input.scalar<tstring>()())),
                absl::InvalidArgumentError("calls is not one serialized GraphDef"));
    std::vector<nann_passes::PassReport> passes;
    const auto report = rewrite_ ? nann_passes::DescribeRewritten(calls, options_, &passes)
                                 : nann_passes::DescribeScorer(calls);
    OP_REQUIRES_OK(ctx, report.status());
    const int64_t count = report->multiply_adds.size();
    Tensor *nodes, *costs;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, {}, &nodes));
    OP_REQUIRES_OK(ctx, ctx->allocate_output(1, {count, 2}, &costs));
    nodes->scalar<tstring>()() = report->nodes.SerializeAsString();
    for (int64_t i = 0; i < count; ++i) {
      costs->matrix<double>()(i, 0) = report->multiply_adds[i];
      costs->matrix<double>()(i, 1) = report->elements[i];
    }
    OP_REQUIRES_OK(ctx, SetPassReports(ctx, passes));
  }

 private:
  bool rewrite_;
  nann_passes::RewriteOptions options_;
};

REGISTER_KERNEL_BUILDER(Name("Nann>DescribeScorer").Device(DEVICE_CPU), DescribeScorerOp);

}  // namespace
}  // namespace nann_ops
}  // namespace tensorflow
