#include <algorithm>
#include <chrono>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "custom_ops/core/best_first_search.h"
#include "custom_ops/core/deployed_search.h"
#include "custom_ops/core/rounds_search.h"
#include "custom_ops/core/search.h"
#include "custom_ops/kernels/function_scorer.h"
#include "custom_ops/kernels/index_resource.h"
#include "custom_ops/kernels/worker_pool.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor_util.h"

namespace tensorflow {
namespace nann_ops {
namespace {

// An answer of more entries than this is refused before anything is allocated.
constexpr int64_t kMaxAnswerEntries = int64_t{1} << 26;

// One user's part of a tensor [B, ...], as [1, ...]. A slice in the middle of a buffer need not be
// aligned as kernels expect, so it is copied; user tensors are small.
Tensor UserRow(const Tensor& tensor, int64_t user) {
  Tensor row = tensor.Slice(user, user + 1);
  return row.IsAligned() ? row : tensor::DeepCopy(row);
}

absl::Status CheckRank(absl::string_view name, const Tensor& tensor, int rank) {
  if (tensor.dims() == rank) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, " has shape ", tensor.shape().DebugString(),
                                                 ", it must have rank ", rank));
}

// The search that `algorithm` and its parameters describe, for answers of k items.
absl::StatusOr<std::unique_ptr<nann::Search>> MakeSearch(const std::string& algorithm, int32_t k,
                                                         absl::Span<const int32_t> ef,
                                                         absl::Span<const int32_t> rounds,
                                                         int num_layers) {
  if (algorithm == "deployed") return nann::DeployedSearch::Create(ef, num_layers);
  if (algorithm == "rounds") return nann::RoundsSearch::Create(ef, rounds, num_layers);
  if (ef.size() != 2 || rounds.size() != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("ef has ", ef.size(), " entries and rounds has ", rounds.size(),
                     "; best_first needs ef = [frontier, pool] and rounds = [max_steps]"));
  }
  TF_RETURN_IF_ERROR(nann::CheckWidth("pool", ef[1]));
  return nann::BestFirstSearch::Create(ef[0], std::max(ef[1], k), rounds[0]);
}

absl::Span<const int32_t> AsSpan(const Tensor& tensor) {
  return {tensor.flat<int32_t>().data(), static_cast<size_t>(tensor.NumElements())};
}

// One call of the op: what its users' searches share. Deletes itself after the last of them.
class Request {
 public:
  Request(OpKernelContext* ctx, AsyncOpKernel::DoneCallback done,
          FunctionLibraryRuntime::Handle scorer, absl::Span<const int64_t> batch_sizes,
          WorkerPool& workers)
      : ctx_(ctx),
        done_(std::move(done)),
        scorer_(scorer),
        batch_sizes_(batch_sizes),
        workers_(workers) {}

  // Reads and checks all inputs and allocates the outputs.
  absl::Status Prepare(const std::string& algorithm) {
    core::RefCountPtr<IndexResource> resource;
    TF_RETURN_IF_ERROR(LookupResource(ctx_, HandleFromInput(ctx_, 0), &resource));
    auto index = resource->Get();
    TF_RETURN_IF_ERROR(index.status());
    index_ = *std::move(index);
    const Tensor& k = ctx_->input(1);
    const Tensor& ef = ctx_->input(2);
    const Tensor& rounds = ctx_->input(3);
    exclude_ = ctx_->input(4);
    seeds_ = ctx_->input(5);
    const Tensor& budget = ctx_->input(6);
    const Tensor& deadline_ms = ctx_->input(7);
    TF_RETURN_IF_ERROR(CheckRank("k", k, 0));
    TF_RETURN_IF_ERROR(CheckRank("ef", ef, 1));
    TF_RETURN_IF_ERROR(CheckRank("rounds", rounds, 1));
    TF_RETURN_IF_ERROR(CheckRank("exclude", exclude_, 2));
    TF_RETURN_IF_ERROR(CheckRank("seeds", seeds_, 2));
    TF_RETURN_IF_ERROR(CheckRank("budget", budget, 0));
    TF_RETURN_IF_ERROR(CheckRank("deadline_ms", deadline_ms, 0));
    TF_RETURN_IF_ERROR(SetLimits(budget.scalar<int64_t>()(), deadline_ms.scalar<int32_t>()()));
    k_ = k.scalar<int32_t>()();
    TF_RETURN_IF_ERROR(nann::CheckWidth("k", k_));
    const int layers = index_->view().num_layers();
    auto search = MakeSearch(algorithm, k_, AsSpan(ef), AsSpan(rounds), layers);
    TF_RETURN_IF_ERROR(search.status());
    search_ = *std::move(search);

    OpInputList user, captured;
    TF_RETURN_IF_ERROR(ctx_->input_list("user", &user));
    TF_RETURN_IF_ERROR(ctx_->input_list("captured", &captured));
    batch_ = exclude_.dim_size(0);
    if (seeds_.dim_size(0) != batch_) {
      return absl::InvalidArgumentError(
          absl::StrCat("seeds has shape ", seeds_.shape().DebugString(),
                       "; exclude says that the batch is ", batch_, " users"));
    }
    for (const Tensor& tensor : user) {
      if (tensor.dims() < 1 || tensor.dim_size(0) != batch_) {
        return absl::InvalidArgumentError(
            absl::StrCat("a user tensor has shape ", tensor.shape().DebugString(),
                         "; exclude says that the batch is ", batch_, " users"));
      }
      user_.push_back(tensor);
    }
    captured_.assign(captured.begin(), captured.end());
    if (batch_ * k_ > kMaxAnswerEntries) {
      return absl::InvalidArgumentError(absl::StrCat("an answer of ", batch_, " users x k = ", k_,
                                                     " is above ", kMaxAnswerEntries, " entries"));
    }
    TF_RETURN_IF_ERROR(ctx_->allocate_output(0, TensorShape({batch_, k_}), &item_ids_));
    TF_RETURN_IF_ERROR(ctx_->allocate_output(1, TensorShape({batch_, k_}), &scores_));
    TF_RETURN_IF_ERROR(ctx_->allocate_output(2, TensorShape({batch_}), &items_scored_));
    TF_RETURN_IF_ERROR(ctx_->allocate_output(3, TensorShape({batch_}), &rounds_run_));
    TF_RETURN_IF_ERROR(ctx_->allocate_output(4, TensorShape({batch_}), &nan_scores_));
    TF_RETURN_IF_ERROR(ctx_->allocate_output(5, TensorShape({batch_}), &unknown_ids_));
    return ctx_->allocate_output(6, TensorShape({batch_}), &stopped_);
  }

  // Searches for every user, the first on this thread. `request` must be prepared.
  static void Start(std::unique_ptr<Request> request) {
    Request* self = request.release();
    const int64_t batch = self->batch_;
    if (batch == 0) return self->Finish();
    self->left_ = batch;
    for (int64_t user = 1; user < batch; ++user) {
      (*self->ctx_->runner())([self, user] { self->SearchFor(user); });
    }
    self->SearchFor(0);
  }

 private:
  // 0 stands for no limit.
  absl::Status SetLimits(int64_t budget, int32_t deadline_ms) {
    if (budget < 0 || deadline_ms < 0) {
      return absl::InvalidArgumentError(absl::StrCat("budget is ", budget, " and deadline_ms is ",
                                                     deadline_ms,
                                                     ", allowed are 0 (no limit) and above"));
    }
    if (budget > 0) limits_.budget = budget;
    if (deadline_ms > 0) {
      limits_.deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(deadline_ms);
    }
    return absl::OkStatus();
  }

  // A user's row of ids as dense indices, ascending; counts the ids that no item has.
  std::vector<int32_t> Items(const Tensor& ids, int64_t user, int64_t& unknown) const {
    const auto row = ids.matrix<int64_t>();
    std::vector<int32_t> items;
    for (int64_t i = 0; i < ids.dim_size(1); ++i) {
      const int32_t item = index_->lookup().Find(row(user, i));
      if (item >= 0) items.push_back(item);
    }
    unknown += ids.dim_size(1) - static_cast<int64_t>(items.size());
    std::sort(items.begin(), items.end());
    return items;
  }

  void SearchFor(int64_t user) {
    std::unique_ptr<Worker> worker = workers_.Take();
    absl::Status status = Search(user, *worker);
    workers_.Return(std::move(worker));
    bool last;
    {
      absl::MutexLock lock(&mu_);
      // A failing scorer cancels the other users' calls: its error is the reason, not theirs.
      if (status_.ok() || (absl::IsCancelled(status_) && !status.ok())) status_ = status;
      last = --left_ == 0;
    }
    if (last) Finish();
  }

  absl::Status Search(int64_t user, Worker& worker) {
    std::vector<Tensor> rows;
    for (const Tensor& tensor : user_) rows.push_back(UserRow(tensor, user));
    const nann::IndexView& view = index_->view();
    FunctionScorer scorer(ctx_, scorer_, view, batch_sizes_, std::move(rows), captured_,
                          worker.batches);
    int64_t unknown = 0;
    const std::vector<int32_t> seeds = Items(seeds_, user, unknown);
    const std::vector<int32_t> excluded = Items(exclude_, user, unknown);
    nann::SearchRequest request = limits_;
    request.seeds = seeds;
    nann::SearchStatistics statistics;
    TF_RETURN_IF_ERROR(search_->Run(
        view, request,
        [&scorer](absl::Span<const int32_t> items, absl::Span<float> scores) {
          return scorer.Score(items, scores);
        },
        worker.workspace, statistics));
    items_scored_->vec<int64_t>()(user) = statistics.items_scored;
    rounds_run_->vec<int32_t>()(user) = statistics.rounds;
    nan_scores_->vec<int64_t>()(user) = statistics.nan_scores;
    unknown_ids_->vec<int64_t>()(user) = unknown;
    stopped_->vec<int32_t>()(user) = static_cast<int32_t>(statistics.stopped);
    WriteAnswer(user, excluded, worker.workspace.results);
    return absl::OkStatus();
  }

  void WriteAnswer(int64_t user, const std::vector<int32_t>& excluded,
                   const std::vector<nann::Scored>& results) {
    auto item_ids = item_ids_->matrix<int64_t>();
    auto scores = scores_->matrix<float>();
    int64_t rank = 0;
    for (size_t i = 0; i < results.size() && rank < k_; ++i) {
      const int32_t item = results[i].item;
      if (std::binary_search(excluded.begin(), excluded.end(), item)) continue;
      item_ids(user, rank) = index_->view().item_ids()[item];
      scores(user, rank++) = results[i].score;
    }
    for (; rank < k_; ++rank) {
      item_ids(user, rank) = -1;
      scores(user, rank) = -std::numeric_limits<float>::infinity();
    }
  }

  void Finish() {
    ctx_->SetStatus(status_);
    AsyncOpKernel::DoneCallback done = std::move(done_);
    delete this;
    done();
  }

  OpKernelContext* const ctx_;
  AsyncOpKernel::DoneCallback done_;
  const FunctionLibraryRuntime::Handle scorer_;
  const absl::Span<const int64_t> batch_sizes_;
  WorkerPool& workers_;

  std::shared_ptr<const OpenIndex> index_;
  std::unique_ptr<nann::Search> search_;
  std::vector<Tensor> user_, captured_;
  Tensor exclude_, seeds_;
  nann::SearchRequest limits_;  // Without seeds, which are each user's own.
  int32_t k_ = 0;
  int64_t batch_ = 0;
  Tensor *item_ids_ = nullptr, *scores_ = nullptr, *items_scored_ = nullptr, *rounds_run_ = nullptr;
  Tensor *nan_scores_ = nullptr, *unknown_ids_ = nullptr, *stopped_ = nullptr;

  absl::Mutex mu_;
  absl::Status status_ ABSL_GUARDED_BY(mu_);
  int64_t left_ ABSL_GUARDED_BY(mu_) = 0;
};

class BeamSearchOp : public AsyncOpKernel {
 public:
  explicit BeamSearchOp(OpKernelConstruction* ctx) : AsyncOpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("scorer", &scorer_));
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
    auto scorer = Scorer(ctx->function_library());
    OP_REQUIRES_OK_ASYNC(ctx, scorer.status(), done);
    auto request = std::make_unique<Request>(ctx, done, *scorer, batch_sizes_, workers_);
    OP_REQUIRES_OK_ASYNC(ctx, request->Prepare(algorithm_), done);
    Request::Start(std::move(request));
  }

 private:
  // The scorer's handle, instantiated at the first call in each function library.
  absl::StatusOr<FunctionLibraryRuntime::Handle> Scorer(FunctionLibraryRuntime* library) {
    if (library == nullptr) return absl::InternalError("no function library is available");
    absl::MutexLock lock(&mu_);
    for (const auto& [known, handle] : handles_) {
      if (known == library) return handle;
    }
    FunctionLibraryRuntime::Handle handle;
    TF_RETURN_IF_ERROR(library->Instantiate(scorer_.name(), AttrSlice(&scorer_.attr()), &handle));
    handles_.emplace_back(library, handle);
    return handle;
  }

  NameAttrList scorer_;
  std::string algorithm_;
  std::vector<int64_t> batch_sizes_;
  WorkerPool workers_;
  absl::Mutex mu_;
  std::vector<std::pair<FunctionLibraryRuntime*, FunctionLibraryRuntime::Handle>> handles_
      ABSL_GUARDED_BY(mu_);
};

REGISTER_KERNEL_BUILDER(Name("Nann>BeamSearch").Device(DEVICE_CPU), BeamSearchOp);

}  // namespace
}  // namespace nann_ops
}  // namespace tensorflow
