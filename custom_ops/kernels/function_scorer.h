#ifndef CUSTOM_OPS_KERNELS_FUNCTION_SCORER_H_
#define CUSTOM_OPS_KERNELS_FUNCTION_SCORER_H_

#include <cstdint>
#include <map>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "custom_ops/core/index_view.h"
#include "tensorflow/core/framework/function.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor.h"

namespace tensorflow {
namespace nann_ops {

// The padded inputs of the scorer, one tensor a batch size, kept between rounds and requests.
using BatchTensors = std::map<int64_t, Tensor>;

// Scores items for one user by calling a TensorFlow function in batches padded to a grid of sizes.
// Lives for one request; used from one thread.
class FunctionScorer {
 public:
  // The function is called as f(user..., items, captured...), where `user` are tensors [1, ...].
  FunctionScorer(OpKernelContext* ctx, FunctionLibraryRuntime::Handle function,
                 const nann::IndexView& index, absl::Span<const int64_t> batch_sizes,
                 std::vector<Tensor> user, std::vector<Tensor> captured, BatchTensors& batches);

  absl::Status Score(absl::Span<const int32_t> items, absl::Span<float> scores);

 private:
  absl::Status ScoreBatch(int64_t batch_size, absl::Span<const int32_t> items,
                          absl::Span<float> scores);
  absl::Status Call(absl::Span<const Tensor> args, std::vector<Tensor>* results);

  OpKernelContext* const ctx_;
  const FunctionLibraryRuntime::Handle function_;
  const nann::IndexView& index_;
  const absl::Span<const int64_t> batch_sizes_;
  std::vector<Tensor> args_;  // The items' place holds the current batch.
  const size_t items_arg_;
  BatchTensors& batches_;
};

}  // namespace nann_ops
}  // namespace tensorflow

#endif  // CUSTOM_OPS_KERNELS_FUNCTION_SCORER_H_
