#ifndef CUSTOM_OPS_KERNELS_FUNCTION_SCORER_H_
#define CUSTOM_OPS_KERNELS_FUNCTION_SCORER_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "custom_ops/core/index_view.h"
#include "custom_ops/kernels/search_call.h"
#include "custom_ops/kernels/worker_pool.h"
#include "tensorflow/core/framework/cancellation.h"
#include "tensorflow/core/framework/function.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"

namespace tensorflow {
namespace nann_ops {

// The scorer in one function library, as instantiated. Thread-safe.
struct ScorerFunctions {
  FunctionLibraryRuntime* library;
  // The functions that the passes made of the scorer at its first call; the handles below lean on
  // it. Null where they are the model's own.
  std::unique_ptr<FunctionLibraryDefinition> rewritten;
  FunctionLibraryRuntime::Handle prepare = kInvalidHandle;  // Once per user; absent in many models.
  FunctionLibraryRuntime::Handle plain = kInvalidHandle;
  FunctionLibraryRuntime::Handle compiled = kInvalidHandle;  // By XLA; the same function.
  // Whether `compiled` is to be called. Cleared for good where that fails: in a server that runs
  // without XLA, and for models that XLA cannot compile.
  std::atomic<bool> compiles{false};
};

// Scores items for one user by calling a TensorFlow function in batches padded to a grid of sizes.
// Lives for one request; used from one thread.
class FunctionScorer : public Scorer {
 public:
  // The function is called as f(user..., prepared..., items, captured...), where `user` are tensors
  // [1, ...] and `prepared` what the preparing function, if there is one, makes of (user...,
  // captured...).
  FunctionScorer(OpKernelContext* ctx, ScorerFunctions& functions, const nann::IndexView& index,
                 absl::Span<const int64_t> batch_sizes, std::vector<Tensor> user,
                 std::vector<Tensor> captured, BatchTensors& batches);

  absl::Status Score(absl::Span<const int32_t> items, absl::Span<float> scores) override;
  std::chrono::nanoseconds gathering() const override { return gathering_; }
  std::chrono::nanoseconds scoring() const override { return scoring_; }

 private:
  absl::Status Prepare();
  absl::Status ScoreBatch(int64_t batch_size, absl::Span<const int32_t> items,
                          absl::Span<float> scores);
  absl::Status Call(std::vector<Tensor>* results);
  absl::Status RunPlain(std::vector<Tensor>* results);
  absl::Status RunCompiled(std::vector<Tensor>* results);
  // In a rendezvous of its own.
  absl::Status Run(FunctionLibraryRuntime::Handle function,
                   CancellationManager* cancellation_manager, absl::Span<const Tensor> args,
                   std::vector<Tensor>* results);

  OpKernelContext* const ctx_;
  ScorerFunctions& functions_;
  const nann::IndexView& index_;
  const absl::Span<const int64_t> batch_sizes_;
  std::vector<Tensor> user_, captured_;
  bool prepared_ = false;
  std::vector<Tensor> args_;  // Of the scorer; the items' place holds the current batch.
  size_t items_arg_ = 0;
  BatchTensors& batches_;
  std::chrono::nanoseconds gathering_{0}, scoring_{0};
};

}  // namespace nann_ops
}  // namespace tensorflow

#endif  // CUSTOM_OPS_KERNELS_FUNCTION_SCORER_H_
