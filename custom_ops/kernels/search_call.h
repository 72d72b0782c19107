#ifndef CUSTOM_OPS_KERNELS_SEARCH_CALL_H_
#define CUSTOM_OPS_KERNELS_SEARCH_CALL_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "custom_ops/core/search.h"
#include "custom_ops/kernels/index_resource.h"
#include "custom_ops/kernels/worker_pool.h"
#include "custom_ops/ops/search_interface.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace tensorflow {
namespace nann_ops {

// Scores items for one user of a call. Used from one thread.
class Scorer {
 public:
  virtual ~Scorer() = default;
  virtual absl::Status Score(absl::Span<const int32_t> items, absl::Span<float> scores) = 0;
  // Time spent on copying the items' rows into batches, and on scoring these. Zero for a scorer that
  // reads the items in their table.
  virtual std::chrono::nanoseconds gathering() const { return {}; }
  virtual std::chrono::nanoseconds scoring() const { return {}; }
};

// The search that a call asks for, and the number of items to answer per user.
struct SearchPlan {
  int32_t k;
  std::unique_ptr<nann::Search> search;
};

// Describes one search op: the inputs and outputs that it alone has, a function that makes its search
// from the inputs, for an index of `num_layers` layers, and one that writes the outputs for a user.
struct SearchKind {
  const SearchInterface& interface;
  absl::StatusOr<SearchPlan> (*plan)(OpKernelContext* ctx, int num_layers);
  void (*write)(const nann::SearchStatistics& statistics, int64_t user,
                absl::Span<Tensor* const> outputs) = nullptr;
};

// One call of a search op, with everything that the searches for its users share. Subclasses differ
// in the scorer.
class SearchCall {
 public:
  explicit SearchCall(OpKernelContext* ctx) : ctx_(ctx) {}
  virtual ~SearchCall() = default;

  // Reads and checks all inputs and allocates the outputs.
  absl::Status Prepare(const SearchKind& kind);

  // Searches for every user, for the first one on this thread, and calls `done` after the last search
  // ends. `call` must have been prepared.
  static void Start(std::unique_ptr<SearchCall> call, AsyncOpKernel::DoneCallback done);

 protected:
  // Reads and checks the inputs that the scorers take. Called when item_rows() and batch() are known.
  virtual absl::Status PrepareScorers() = 0;
  virtual std::unique_ptr<Scorer> MakeScorer(int64_t user, Worker& worker) = 0;

  OpKernelContext* ctx() const { return ctx_; }
  const nann::ItemRows& item_rows() const { return catalogue_->rows(); }
  int64_t batch() const { return batch_; }

 private:
  absl::Status SetFilters();
  absl::Status SetCaps();
  absl::Status SetLimits(int64_t budget, int32_t deadline_ms);
  absl::Status AllocateOutputs(absl::Span<const SearchArg> outputs);
  std::vector<int32_t> Seeds(int64_t user, int64_t& unknown) const;
  std::vector<int32_t> Excluded(int64_t user, int64_t& unknown) const;
  void SearchFor(int64_t user);
  absl::Status Search(int64_t user, Worker& worker);
  void WriteAnswer(int64_t user, const std::vector<nann::Scored>& results);
  void Finish();

  OpKernelContext* const ctx_;
  AsyncOpKernel::DoneCallback done_;

  std::shared_ptr<const OpenIndex> index_;
  std::shared_ptr<const nann::Catalogue> catalogue_;  // The items as the call finds them.
  std::unique_ptr<nann::Search> search_;
  Tensor exclude_, seeds_;
  // The items that pass the filter of each user, or that of all users, and are not deleted.
  std::vector<std::shared_ptr<const nann::Catalogue::Allowed>> allowed_;
  std::vector<std::optional<nann::Cap>> caps_;  // Of each user, or of all users; none without caps.
  nann::SearchRequest limits_;  // The budget and deadline; ids differ from user to user.
  int32_t k_ = 0;
  int64_t batch_ = 0;
  const SearchKind* kind_ = nullptr;
  std::vector<Tensor*> outputs_;

  absl::Mutex mu_;
  absl::Status status_ ABSL_GUARDED_BY(mu_);
  int64_t left_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace nann_ops
}  // namespace tensorflow

#endif  // CUSTOM_OPS_KERNELS_SEARCH_CALL_H_
