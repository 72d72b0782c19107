#include "custom_ops/kernels/function_scorer.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <optional>
#include <utility>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "custom_ops/core/scoped_timer.h"
#include "tensorflow/core/common_runtime/rendezvous_mgr.h"
#include "tensorflow/core/platform/refcount.h"

namespace tensorflow {
namespace nann_ops {
FunctionScorer::FunctionScorer(OpKernelContext* ctx, ScorerFunctions& functions,
                               const nann::ItemRows& rows, absl::Span<const int64_t> batch_sizes,
                               std::vector<Tensor> user, std::vector<Tensor> captured,
                               BatchTensors& batches)
    : ctx_(ctx),
      functions_(functions),
      rows_(rows),
      batch_sizes_(batch_sizes),
      user_(std::move(user)),
      captured_(std::move(captured)),
      batches_(batches) {}

// Called once per user, at the first batch rather than earlier: a search can end before it scores
// anything.
absl::Status FunctionScorer::Prepare() {
  args_ = user_;
  if (functions_.prepare != kInvalidHandle) {
    std::vector<Tensor> args = user_, prepared;
    args.insert(args.end(), captured_.begin(), captured_.end());
    TF_RETURN_IF_ERROR(Run(functions_.prepare, args, &prepared));
    args_.insert(args_.end(), prepared.begin(), prepared.end());
  }
  items_arg_ = args_.size();
  args_.emplace_back();
  args_.insert(args_.end(), captured_.begin(), captured_.end());
  prepared_ = true;
  return absl::OkStatus();
}

absl::Status FunctionScorer::Score(absl::Span<const int32_t> items, absl::Span<float> scores) {
  while (!items.empty()) {
    auto size = std::lower_bound(batch_sizes_.begin(), batch_sizes_.end(),
                                 static_cast<int64_t>(items.size()));
    if (size == batch_sizes_.end()) --size;
    const size_t count = std::min<size_t>(items.size(), *size);
    absl::Status status = ScoreBatch(*size, items.first(count), scores.first(count));
    if (!status.ok()) return status;
    items.remove_prefix(count);
    scores.remove_prefix(count);
  }
  return absl::OkStatus();
}

absl::Status FunctionScorer::ScoreBatch(int64_t batch_size, absl::Span<const int32_t> items,
                                        absl::Span<float> scores) {
  if (ctx_->cancellation_manager() != nullptr && ctx_->cancellation_manager()->IsCancelled()) {
    return absl::CancelledError("the request was cancelled during the search");
  }
  Tensor& batch = batches_[batch_size];
  {
    const nann::ScopedTimer timer(gathering_);
    const TensorShape shape({1, batch_size, rows_.dim()});
    if (batch.dtype() != DT_FLOAT || batch.shape() != shape) {
      TF_RETURN_IF_ERROR(ctx_->allocate_temp(DT_FLOAT, shape, &batch));
      std::memset(batch.data(), 0, batch.TotalBytes());
    }
    rows_.Gather(items, batch.flat<float>().data());
  }
  std::vector<Tensor> results;
  {
    const nann::ScopedTimer timer(scoring_);
    if (!prepared_) TF_RETURN_IF_ERROR(Prepare());
    args_[items_arg_] = batch;
    TF_RETURN_IF_ERROR(Call(&results));
  }
  if (results.size() != 1 || results[0].dtype() != DT_FLOAT ||
      results[0].shape() != TensorShape({1, batch_size})) {
    return absl::InvalidArgumentError(
        absl::StrCat("the scorer returned ", results.size(), " tensors, the first ",
                     results.empty() ? "missing" : DataTypeString(results[0].dtype()), " ",
                     results.empty() ? "" : results[0].shape().DebugString(),
                     "; it must return one float32 [1, ", batch_size, "]"));
  }
  std::memcpy(scores.data(), results[0].flat<float>().data(), scores.size() * sizeof(float));
  return absl::OkStatus();
}

absl::Status FunctionScorer::Call(std::vector<Tensor>* results) {
  if (!functions_.compiles.load(std::memory_order_relaxed)) {
    return Run(functions_.plain, args_, results);
  }
  const absl::Status compiled = Run(functions_.compiled, args_, results);
  if (compiled.ok() || absl::IsCancelled(compiled)) return compiled;
  results->clear();
  const absl::Status plain = Run(functions_.plain, args_, results);
  // If the plain function fails too, compiling is not the reason.
  if (plain.ok() && functions_.compiles.exchange(false)) {
    LOG(WARNING) << "The scorer runs without XLA from now on: " << compiled.message();
  }
  return plain;
}

absl::Status FunctionScorer::Run(FunctionLibraryRuntime::Handle function,
                                 absl::Span<const Tensor> args, std::vector<Tensor>* results) {
  // The scorer's kernels run on this very thread (but still share the intra-op pool). Nothing waits
  // for a free inter-op thread, so that the search cannot deadlock with a single thread, and no time
  // is lost in passing work to other threads.
  std::function<void(std::function<void()>)> inline_runner = [](std::function<void()> run) {
    run();
  };
  FunctionLibraryRuntime::Options options(ctx_->step_id());
  // Tensors that a function sends from one device to another are exchanged in a rendezvous, by names
  // that are the same in every call. With the step's rendezvous, the calls for different users would
  // get each other's tensors, and a call that fails would abort it for all.
  const core::RefCountPtr<Rendezvous> rendezvous(
      new RefCountedIntraProcessRendezvous(functions_.library->device_mgr()));
  options.rendezvous = rendezvous.get();
  // A function that fails cancels whatever it is given, which must not be the request: a scorer that
  // XLA cannot run is run without it. A cancellation of the request calls back into the rendezvous
  // of every call that waits for a tensor, even if the tensor arrives and the call ends meanwhile.
  // The destructor of this manager waits for that; the rendezvous, declared before it, outlives it.
  std::optional<CancellationManager> cancellation;
  if (ctx_->cancellation_manager() != nullptr) cancellation.emplace(ctx_->cancellation_manager());
  options.cancellation_manager = cancellation.has_value() ? &*cancellation : nullptr;
  options.collective_executor = ctx_->collective_executor();
  options.stats_collector = ctx_->stats_collector();
  options.step_container = ctx_->step_container();
  options.run_all_kernels_inline = true;
  options.runner = &inline_runner;
  absl::Notification done;
  absl::Status status;
  functions_.library->Run(options, function, args, results,
                          [&done, &status](const absl::Status& result) {
                            status = result;
                            done.Notify();
                          });
  done.WaitForNotification();
  return status;
}

}  // namespace nann_ops
}  // namespace tensorflow
