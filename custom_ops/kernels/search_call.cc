#include "custom_ops/kernels/search_call.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "custom_ops/core/scoped_timer.h"

namespace tensorflow {
namespace nann_ops {
namespace {

// A call whose answer would have more entries than this is refused before anything is allocated.
constexpr int64_t kMaxAnswerEntries = int64_t{1} << 26;

// The score in an answer for NaN, and for places without an item.
constexpr float kWorst = -std::numeric_limits<float>::infinity();

// Rounds down, so that the parts of a search never add up to more than its total.
int64_t Microseconds(std::chrono::nanoseconds time) {
  return std::chrono::duration_cast<std::chrono::microseconds>(time).count();
}

// Checks that an input of a list has one entry for each user, or one for all.
absl::Status CheckPerUser(absl::string_view name, const Tensor& tensor, int64_t batch) {
  if (tensor.dims() == 1 && (tensor.dim_size(0) == 1 || tensor.dim_size(0) == batch)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      name, " has shape ", tensor.shape().DebugString(),
      ", it must be [1] or, as exclude says that the batch is ", batch, " users, [", batch, "]"));
}

absl::Status CheckRanks(OpKernelContext* ctx, absl::Span<const SearchArg> inputs, int first) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Tensor& tensor = ctx->input(first + i);
    if (tensor.dims() == inputs[i].rank) continue;
    return absl::InvalidArgumentError(absl::StrCat(inputs[i].name, " has shape ",
                                                   tensor.shape().DebugString(),
                                                   ", it must have rank ", inputs[i].rank));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status SearchCall::Prepare(const SearchKind& kind) {
  TF_RETURN_IF_ERROR(CheckRanks(ctx_, kSharedInputs, 0));
  TF_RETURN_IF_ERROR(CheckRanks(ctx_, kind.interface.own_inputs, kFirstOwnInput));
  auto index = IndexOf(ctx_);
  TF_RETURN_IF_ERROR(index.status());
  index_ = *std::move(index);
  catalogue_ = index_->catalogue();
  exclude_ = ctx_->input(kExclude);
  seeds_ = ctx_->input(kSeeds);
  TF_RETURN_IF_ERROR(SetLimits(ctx_->input(kBudget).scalar<int64_t>()(),
                               ctx_->input(kDeadlineMs).scalar<int32_t>()()));
  auto plan = kind.plan(ctx_, index_->view().num_layers());
  TF_RETURN_IF_ERROR(plan.status());
  k_ = plan->k;
  search_ = std::move(plan->search);

  batch_ = exclude_.dim_size(0);
  if (seeds_.dim_size(0) != batch_) {
    return absl::InvalidArgumentError(absl::StrCat("seeds has shape ", seeds_.shape().DebugString(),
                                                   "; exclude says that the batch is ", batch_,
                                                   " users"));
  }
  TF_RETURN_IF_ERROR(SetFilters());
  TF_RETURN_IF_ERROR(SetCaps());
  TF_RETURN_IF_ERROR(PrepareScorers());
  kind_ = &kind;
  TF_RETURN_IF_ERROR(AllocateOutputs(kSearchOutputs));
  TF_RETURN_IF_ERROR(AllocateOutputs(kind.interface.own_outputs));
  if (static_cast<int>(outputs_.size()) == ctx_->num_outputs()) return absl::OkStatus();
  return AllocateOutputs(kExactOutput);
}

absl::Status SearchCall::SetFilters() {
  OpInputList filters;
  TF_RETURN_IF_ERROR(ctx_->input_list("filters", &filters));
  if (filters.size() == 0) {
    auto all = catalogue_->Passing("");
    TF_RETURN_IF_ERROR(all.status());
    allowed_.push_back(*std::move(all));
    return absl::OkStatus();
  }
  const Tensor& texts = filters[0];
  TF_RETURN_IF_ERROR(CheckPerUser("filter", texts, batch_));
  for (int64_t user = 0; user < texts.dim_size(0); ++user) {
    auto allowed = catalogue_->Passing(texts.vec<tstring>()(user));
    TF_RETURN_IF_ERROR(allowed.status());
    allowed_.push_back(*std::move(allowed));
  }
  return absl::OkStatus();
}

absl::Status SearchCall::SetCaps() {
  OpInputList caps;
  TF_RETURN_IF_ERROR(ctx_->input_list("caps", &caps));
  if (caps.size() == 0 || batch_ == 0) return absl::OkStatus();
  const Tensor &columns = caps[0], &most = caps[1];
  TF_RETURN_IF_ERROR(CheckPerUser("cap_by", columns, batch_));
  TF_RETURN_IF_ERROR(CheckPerUser("cap", most, batch_));
  const int64_t size = std::max(columns.dim_size(0), most.dim_size(0));
  for (int64_t user = 0; user < size; ++user) {
    const tstring& column = columns.vec<tstring>()(columns.dim_size(0) == 1 ? 0 : user);
    caps_.emplace_back();
    if (column.empty()) continue;
    auto cap = catalogue_->CapBy(column, most.vec<int32_t>()(most.dim_size(0) == 1 ? 0 : user), k_);
    TF_RETURN_IF_ERROR(cap.status());
    caps_.back() = *cap;
  }
  return absl::OkStatus();
}

absl::Status SearchCall::AllocateOutputs(absl::Span<const SearchArg> outputs) {
  if (batch_ * k_ > kMaxAnswerEntries) {
    return absl::InvalidArgumentError(absl::StrCat("an answer of ", batch_, " users x k = ", k_,
                                                   " is above ", kMaxAnswerEntries, " entries"));
  }
  const int64_t extents[] = {batch_, k_};
  for (const SearchArg& output : outputs) {
    const TensorShape shape(absl::MakeConstSpan(extents, output.rank));
    Tensor* allocated = nullptr;
    TF_RETURN_IF_ERROR(ctx_->allocate_output(outputs_.size(), shape, &allocated));
    outputs_.push_back(allocated);
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

// A value of 0 means no limit.
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

// Returns the items of the index to start at, ascending; adds the ids that no item has to `unknown`. A
// deleted item, or one whose row has changed, still leads to its neighbours.
std::vector<int32_t> SearchCall::Seeds(int64_t user, int64_t& unknown) const {
  const auto row = seeds_.matrix<int64_t>();
  std::vector<int32_t> items;
  for (int64_t i = 0; i < seeds_.dim_size(1); ++i) {
    const int32_t item = catalogue_->FindIndexed(row(user, i));
    if (item >= 0) items.push_back(item);
    const bool known = item >= 0 && catalogue_->IsLive(item);
    unknown += !known && catalogue_->FindFresh(row(user, i)) < 0;
  }
  std::sort(items.begin(), items.end());
  return items;
}

// Returns the items not to answer, ascending; adds the ids that no item has to `unknown`.
std::vector<int32_t> SearchCall::Excluded(int64_t user, int64_t& unknown) const {
  const auto row = exclude_.matrix<int64_t>();
  std::vector<int32_t> items;
  for (int64_t i = 0; i < exclude_.dim_size(1); ++i) {
    int32_t item = catalogue_->FindIndexed(row(user, i));
    if (item < 0 || !catalogue_->IsLive(item)) item = catalogue_->FindFresh(row(user, i));
    if (item >= 0) items.push_back(item);
    unknown += item < 0;
  }
  std::sort(items.begin(), items.end());
  return items;
}

void SearchCall::SearchFor(int64_t user) {
  std::unique_ptr<Worker> worker = index_->workers().Take();
  absl::Status status = Search(user, *worker);
  index_->workers().Return(std::move(worker));
  {
    absl::MutexLock lock(&mu_);
    status_.Update(status);
  }
  // The searches for the other users are in vain. Their errors come too late to replace this one.
  if (!status.ok() && ctx_->cancellation_manager() != nullptr) {
    ctx_->cancellation_manager()->StartCancel();
  }
  bool last;
  {
    absl::MutexLock lock(&mu_);
    last = --left_ == 0;
  }
  if (last) Finish();
}

absl::Status SearchCall::Search(int64_t user, Worker& worker) {
  const auto begin = std::chrono::steady_clock::now();
  const std::unique_ptr<Scorer> scorer = MakeScorer(user, worker);
  int64_t unknown = 0;
  const std::vector<int32_t> seeds = Seeds(user, unknown);
  const std::vector<int32_t> excluded = Excluded(user, unknown);
  nann::SearchRequest request = limits_;
  request.seeds = seeds;
  request.excluded = excluded;
  const nann::Catalogue::Allowed& allowed = *allowed_[allowed_.size() == 1 ? 0 : user];
  request.passing = allowed.indexed.get();
  request.only_deleted_fail = allowed.only_deleted_fail;
  request.unindexed = allowed.fresh;
  if (!caps_.empty()) {
    const std::optional<nann::Cap>& cap = caps_[caps_.size() == 1 ? 0 : user];
    if (cap.has_value()) request.cap = &*cap;
  }
  nann::SearchStatistics statistics;
  TF_RETURN_IF_ERROR(search_->Run(
      index_->view(), request,
      [&scorer](absl::Span<const int32_t> items, absl::Span<float> scores) {
        return scorer->Score(items, scores);
      },
      worker.workspace, statistics));
  outputs_[kItemsScored]->vec<int64_t>()(user) = statistics.items_scored;
  outputs_[kRoundsRun]->vec<int32_t>()(user) = statistics.rounds;
  outputs_[kNanScores]->vec<int64_t>()(user) = statistics.nan_scores;
  outputs_[kUnknownIds]->vec<int64_t>()(user) = unknown;
  outputs_[kStopped]->vec<int32_t>()(user) = static_cast<int32_t>(statistics.stopped);
  outputs_[kIndexSequence]->vec<int64_t>()(user) = catalogue_->sequence();
  if (kind_->write != nullptr) {
    kind_->write(statistics, user, absl::MakeConstSpan(outputs_).subspan(kNumSearchOutputs));
  }
  const size_t exact = kNumSearchOutputs + kind_->interface.own_outputs.size();
  if (exact < outputs_.size()) outputs_[exact]->vec<bool>()(user) = statistics.exact;
  {
    const nann::ScopedTimer timer(statistics.merging);
    WriteAnswer(user, worker.workspace.results);
  }
  outputs_[kScorerUs]->vec<int64_t>()(user) = Microseconds(scorer->scoring());
  outputs_[kGatherUs]->vec<int64_t>()(user) = Microseconds(scorer->gathering());
  outputs_[kMergeUs]->vec<int64_t>()(user) = Microseconds(statistics.merging);
  outputs_[kSearchUs]->vec<int64_t>()(user) =
      Microseconds(std::chrono::steady_clock::now() - begin);
  return absl::OkStatus();
}

void SearchCall::WriteAnswer(int64_t user, const std::vector<nann::Scored>& results) {
  auto item_ids = outputs_[kItemIds]->matrix<int64_t>();
  auto scores = outputs_[kScores]->matrix<float>();
  const int64_t count = std::min<int64_t>(k_, results.size());
  int64_t rank = 0;
  for (; rank < count; ++rank) {
    const nann::Scored& result = results[rank];
    item_ids(user, rank) = catalogue_->IdOf(result.item);
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
