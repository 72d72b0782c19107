#include "custom_ops/kernels/search_call.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "custom_ops/core/best_first_search.h"
#include "custom_ops/core/deployed_search.h"
#include "custom_ops/core/rounds_search.h"
#include "custom_ops/core/scoped_timer.h"

namespace tensorflow {
namespace nann_ops {
namespace {

// An answer of more entries than this is refused before anything is allocated.
constexpr int64_t kMaxAnswerEntries = int64_t{1} << 26;

// What an answer holds for NaN, and where there is no item.
constexpr float kWorst = -std::numeric_limits<float>::infinity();

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

// Rounded down, so that a search's parts never add up to more than it.
int64_t Microseconds(std::chrono::nanoseconds time) {
  return std::chrono::duration_cast<std::chrono::microseconds>(time).count();
}

}  // namespace

absl::Status CheckRank(absl::string_view name, const Tensor& tensor, int rank) {
  if (tensor.dims() == rank) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, " has shape ", tensor.shape().DebugString(),
                                                 ", it must have rank ", rank));
}

absl::Status SearchCall::Prepare(const std::string& algorithm) {
  parts_us_.resize(ctx_->num_outputs() - kFirstPart);
  if (parts_us_.size() > kMaxParts) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_parts is ", parts_us_.size(), ", allowed are 0 to ", kMaxParts));
  }
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

  batch_ = exclude_.dim_size(0);
  if (seeds_.dim_size(0) != batch_) {
    return absl::InvalidArgumentError(absl::StrCat("seeds has shape ", seeds_.shape().DebugString(),
                                                   "; exclude says that the batch is ", batch_,
                                                   " users"));
  }
  TF_RETURN_IF_ERROR(PrepareScorers());
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
  TF_RETURN_IF_ERROR(ctx_->allocate_output(6, TensorShape({batch_}), &stopped_));
  TF_RETURN_IF_ERROR(ctx_->allocate_output(7, TensorShape({batch_}), &search_us_));
  TF_RETURN_IF_ERROR(ctx_->allocate_output(8, TensorShape({batch_}), &scorer_us_));
  for (size_t part = 0; part < parts_us_.size(); ++part) {
    TF_RETURN_IF_ERROR(
        ctx_->allocate_output(kFirstPart + part, TensorShape({batch_}), &parts_us_[part]));
  }
  return absl::OkStatus();
}

void SearchCall::Start(std::unique_ptr<SearchCall> call, AsyncOpKernel::DoneCallback done) {
  SearchCall* self = call.release();
  self->done_ = std::move(done);
  const int64_t batch = self->batch_;
  if (batch == 0) return self->Finish();
  {
    absl::MutexLock lock(&self->mu_);
    self->left_ = batch;
  }
  for (int64_t user = 1; user < batch; ++user) {
    (*self->ctx_->runner())([self, user] { self->SearchFor(user); });
  }
  self->SearchFor(0);
}

// 0 stands for no limit.
absl::Status SearchCall::SetLimits(int64_t budget, int32_t deadline_ms) {
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
std::vector<int32_t> SearchCall::Items(const Tensor& ids, int64_t user, int64_t& unknown) const {
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

void SearchCall::SearchFor(int64_t user) {
  std::unique_ptr<Worker> worker = index_->workers().Take();
  absl::Status status = Search(user, *worker);
  index_->workers().Return(std::move(worker));
  bool last;
  {
    absl::MutexLock lock(&mu_);
    // A failing scorer cancels the other users' calls: its error is the reason, not theirs.
    if (status_.ok() || (absl::IsCancelled(status_) && !status.ok())) status_ = status;
    last = --left_ == 0;
  }
  if (last) Finish();
}

absl::Status SearchCall::Search(int64_t user, Worker& worker) {
  const auto begin = std::chrono::steady_clock::now();
  const std::unique_ptr<Scorer> scorer = MakeScorer(user, worker);
  int64_t unknown = 0;
  const std::vector<int32_t> seeds = Items(seeds_, user, unknown);
  const std::vector<int32_t> excluded = Items(exclude_, user, unknown);
  nann::SearchRequest request = limits_;
  request.seeds = seeds;
  request.excluded = excluded;
  nann::SearchStatistics statistics;
  TF_RETURN_IF_ERROR(search_->Run(
      index_->view(), request,
      [&scorer](absl::Span<const int32_t> items, absl::Span<float> scores) {
        return scorer->Score(items, scores);
      },
      worker.workspace, statistics));
  items_scored_->vec<int64_t>()(user) = statistics.items_scored;
  rounds_run_->vec<int32_t>()(user) = statistics.rounds;
  nan_scores_->vec<int64_t>()(user) = statistics.nan_scores;
  unknown_ids_->vec<int64_t>()(user) = unknown;
  stopped_->vec<int32_t>()(user) = static_cast<int32_t>(statistics.stopped);
  {
    const nann::ScopedTimer timer(statistics.merging);
    WriteAnswer(user, worker.workspace.results);
  }
  scorer_us_->vec<int64_t>()(user) = Microseconds(scorer->scoring());
  const std::chrono::nanoseconds parts[kMaxParts] = {scorer->gathering(), statistics.merging};
  for (size_t part = 0; part < parts_us_.size(); ++part) {
    parts_us_[part]->vec<int64_t>()(user) = Microseconds(parts[part]);
  }
  search_us_->vec<int64_t>()(user) = Microseconds(std::chrono::steady_clock::now() - begin);
  return absl::OkStatus();
}

void SearchCall::WriteAnswer(int64_t user, const std::vector<nann::Scored>& results) {
  auto item_ids = item_ids_->matrix<int64_t>();
  auto scores = scores_->matrix<float>();
  const int64_t count = std::min<int64_t>(k_, results.size());
  int64_t rank = 0;
  for (; rank < count; ++rank) {
    const nann::Scored& result = results[rank];
    item_ids(user, rank) = index_->view().item_ids()[result.item];
    scores(user, rank) = std::isnan(result.score) ? kWorst : result.score;
  }
  for (; rank < k_; ++rank) {
    item_ids(user, rank) = -1;
    scores(user, rank) = kWorst;
  }
}

void SearchCall::Finish() {
  ctx_->SetStatus(status_);
  AsyncOpKernel::DoneCallback done = std::move(done_);
  delete this;
  done();
}

}  // namespace nann_ops
}  // namespace tensorflow
