#include <string>
#include <utility>
#include <vector>

#include "custom_ops/kernels/pass_reports.h"
#include "custom_ops/kernels/scorer_arguments.h"
#include "grappler_passes/rewrite_scorer.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tensorflow {
namespace nann_ops {
namespace {

absl::Status SetString(OpKernelContext* ctx, int output, const GraphDef& graph) {
  Tensor* tensor;
  TF_RETURN_IF_ERROR(ctx->allocate_output(output, {}, &tensor));
  if (graph.node_size() > 0) tensor->scalar<tstring>()() = graph.SerializeAsString();
  return absl::OkStatus();
}

class RewriteScorerOp : public OpKernel {
 public:
  explicit RewriteScorerOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("scorer", &scorer_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("user_types", &types_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("user_shapes", &shapes_));
    OP_REQUIRES(
        ctx, types_.size() == shapes_.size(),
        absl::InvalidArgumentError(absl::StrCat("there are ", types_.size(), " user_types and ",
                                                shapes_.size(), " user_shapes")));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("dim", &dim_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("wanted", &options_.passes));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("fold_items", &options_.fold_items));
  }

  void Compute(OpKernelContext* ctx) override {
    OpInputList captured;
    OP_REQUIRES_OK(ctx, ctx->input_list("captured", &captured));
    FunctionLibraryRuntime* const library = ctx->function_library();
    OP_REQUIRES(ctx, library != nullptr, absl::InternalError("no function library is available"));
    std::vector<std::pair<DataType, PartialTensorShape>> user;
    for (size_t i = 0; i < types_.size(); ++i) user.emplace_back(types_[i], shapes_[i]);
    const auto rewritten =
        nann_passes::RewriteScorer(scorer_, *library->GetFunctionLibraryDefinition(),
                                   ScorerArguments(ctx, user, dim_, captured), options_);
    OP_REQUIRES_OK(ctx, rewritten.status());
    OP_REQUIRES_OK(ctx, SetString(ctx, 0, rewritten->fold));
    OP_REQUIRES_OK(ctx, SetString(ctx, 1, rewritten->prepare));
    OP_REQUIRES_OK(ctx, SetString(ctx, 2, rewritten->score));
    OP_REQUIRES_OK(ctx, SetPassReports(ctx, rewritten->reports));
  }

 private:
  NameAttrList scorer_;
  std::vector<DataType> types_;
  std::vector<PartialTensorShape> shapes_;
  int64_t dim_;
  nann_passes::RewriteOptions options_;
};

REGISTER_KERNEL_BUILDER(Name("Nann>RewriteScorer").Device(DEVICE_CPU), RewriteScorerOp);

}  // namespace
}  // namespace nann_ops
}  // namespace tensorflow
