#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "custom_ops/kernels/function_scorer.h"
#include "custom_ops/kernels/scorer_functions.h"
#include "custom_ops/kernels/search_call.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor_util.h"

namespace tensorflow {
namespace nann_ops {
namespace {

// One user's part of a tensor [B, ...], as [1, ...]. A slice in the middle of a buffer need not be
// aligned as kernels expect, so it is copied; user tensors are small.
Tensor UserRow(const Tensor& tensor, int64_t user) {
  Tensor row = tensor.Slice(user, user + 1);
  return row.IsAligned() ? row : tensor::DeepCopy(row);
}

// A call whose scorer is a TensorFlow function.
class BeamSearchCall : public SearchCall {
 public:
  BeamSearchCall(OpKernelContext* ctx, ScorerFunctions& scorer,
                 absl::Span<const int64_t> batch_sizes)
      : SearchCall(ctx), scorer_(scorer), batch_sizes_(batch_sizes) {}

 protected:
  absl::Status PrepareScorers() override {
    OpInputList user, captured;
    TF_RETURN_IF_ERROR(ctx()->input_list("user", &user));
    TF_RETURN_IF_ERROR(ctx()->input_list("captured", &captured));
    for (const Tensor& tensor : user) {
      if (tensor.dims() < 1 || tensor.dim_size(0) != batch()) {
        return absl::InvalidArgumentError(
            absl::StrCat("a user tensor has shape ", tensor.shape().DebugString(),
                         "; exclude says that the batch is ", batch(), " users"));
      }
      user_.push_back(tensor);
    }
    captured_.assign(captured.begin(), captured.end());
    return absl::OkStatus();
  }

  std::unique_ptr<Scorer> MakeScorer(int64_t user, Worker& worker) override {
    std::vector<Tensor> rows;
    for (const Tensor& tensor : user_) rows.push_back(UserRow(tensor, user));
    return std::make_unique<FunctionScorer>(ctx(), scorer_, index(), batch_sizes_, std::move(rows),
                                            captured_, worker.batches);
  }

 private:
  ScorerFunctions& scorer_;
  const absl::Span<const int64_t> batch_sizes_;
  std::vector<Tensor> user_, captured_;
};

class BeamSearchOp : public AsyncOpKernel {
 public:
  explicit BeamSearchOp(OpKernelConstruction* ctx) : AsyncOpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ReadScorerDefinition(ctx, &definition_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("algorithm", &algorithm_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("batch_sizes", &batch_sizes_));
    for (size_t i = 0; i < batch_sizes_.size(); ++i) {
      const int64_t above = i == 0 ? 0 : batch_sizes_[i - 1];
      OP_REQUIRES(ctx, batch_sizes_[i] > above && batch_sizes_[i] <= nann::kMaxWidth,
                  absl::InvalidArgumentError(
                      absl::StrCat("batch_sizes is [", absl::StrJoin(batch_sizes_, ", "),
                                   "], it must increase from 1 to at most ", nann::kMaxWidth)));
    }
  }

  void ComputeAsync(OpKernelContext* ctx, DoneCallback done) override {
    auto scorer = Scorer(ctx);
    OP_REQUIRES_OK_ASYNC(ctx, scorer.status(), done);
    auto call = std::make_unique<BeamSearchCall>(ctx, **scorer, batch_sizes_);
    OP_REQUIRES_OK_ASYNC(ctx, call->Prepare(algorithm_), done);
    SearchCall::Start(std::move(call), std::move(done));
  }

 private:
  // The scorer's handles, instantiated at the first call in each function library.
  absl::StatusOr<ScorerFunctions*> Scorer(OpKernelContext* ctx) {
    FunctionLibraryRuntime* const library = ctx->function_library();
    if (library == nullptr) return absl::InternalError("no function library is available");
    absl::MutexLock lock(&mu_);
    for (const auto& known : instantiated_) {
      if (known->library == library) return known.get();
    }
    auto functions = InstantiateScorer(ctx, definition_);
    TF_RETURN_IF_ERROR(functions.status());
    instantiated_.push_back(*std::move(functions));
    return instantiated_.back().get();
  }

  ScorerDefinition definition_;
  std::string algorithm_;
  std::vector<int64_t> batch_sizes_;
  absl::Mutex mu_;
  std::vector<std::unique_ptr<ScorerFunctions>> instantiated_ ABSL_GUARDED_BY(mu_);
};

REGISTER_KERNEL_BUILDER(Name("Nann>BeamSearch").Device(DEVICE_CPU), BeamSearchOp);

}  // namespace
}  // namespace nann_ops
}  // namespace tensorflow
