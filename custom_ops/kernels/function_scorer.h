#ifndef CUSTOM_OPS_KERNELS_FUNCTION_SCORER_H_
#define CUSTOM_OPS_KERNELS_FUNCTION_SCORER_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "custom_ops/core/item_rows.h"
#include "custom_ops/kernels/search_call.h"
#include "custom_ops/kernels/worker_pool.h"
#include "tensorflow/core/framework/cancellation.h"
#include "tensorflow/core/framework/function.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"

namespace tensorflow {
namespace nann_ops {

// The scorer's functions, instantiated in one function library. Thread-safe.
struct ScorerFunctions {
  FunctionLibraryRuntime* library;
  // Holds the functions that the passes made from the scorer at its first call, which the handles
  // below need. Null if the handles are of the model's own functions.
  std::unique_ptr<FunctionLibraryDefinition> rewritten;
  FunctionLibraryRuntime::Handle prepare = kInvalidHandle;  // Run once per user; often absent.
  FunctionLibraryRuntime::Handle plain = kInvalidHandle;
  FunctionLibraryRuntime::Handle compiled = kInvalidHandle;  // `plain`, compiled by XLA.
  // Whether to call `compiled`. The first call that fails sets it to false for good: the server has
  // no XLA, or XLA cannot compile the model.
  std::atomic<bool> compiles{false};
};

// Scores items for one user by calling a TensorFlow function on batches, padded to a grid of sizes.
// Used for one request, from one thread.
class FunctionScorer : public Scorer {
 public:
  // Calls the function as f(user..., prepared..., items, captured...), where `user` holds tensors
  // [1, ...] and `prepared` are the results of the preparing function, if there is one, for (user...,
  // captured...). `batches` holds the buffers for padded batches, by size; no other scorer may use
  // them at the same time.
  FunctionScorer(OpKernelContext* ctx, ScorerFunctions& functions, const nann::ItemRows& rows,
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
  // Runs a function with a rendezvous of its own. It ends with the request if that is cancelled, but
  // does not cancel the request if it fails.
  absl::Status Run(FunctionLibraryRuntime::Handle function, absl::Span<const Tensor> args,
                   std::vector<Tensor>* results);

  OpKernelContext* const ctx_;
  ScorerFunctions& functions_;
  const nann::ItemRows& rows_;
  const absl::Span<const int64_t> batch_sizes_;
  std::vector<Tensor> user_, captured_;
  bool prepared_ = false;
  std::vector<Tensor> args_;  // The scorer's arguments, with the current batch at `items_arg_`.
  size_t items_arg_ = 0;
  BatchTensors& batches_;
  std::chrono::nanoseconds gathering_{0}, scoring_{0};
};

}  // namespace nann_ops
}  // namespace tensorflow

#endif  // CUSTOM_OPS_KERNELS_FUNCTION_SCORER_H_
