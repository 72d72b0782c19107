#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "custom_ops/core/best_first_search.h"
#include "custom_ops/core/deployed_search.h"
#include "custom_ops/core/metric_scorer.h"
#include "custom_ops/core/rounds_search.h"
#include "custom_ops/core/surrogate_search.h"
#include "custom_ops/kernels/function_scorer.h"
#include "custom_ops/kernels/scorer_functions.h"
#include "custom_ops/kernels/search_call.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor_util.h"

namespace tensorflow {
namespace nann_ops {
namespace {

int32_t Number(OpKernelContext* ctx, int input) { return ctx->input(input).scalar<int32_t>()(); }

absl::Span<const int32_t> Numbers(OpKernelContext* ctx, int input) {
  const Tensor& tensor = ctx->input(input);
  return {tensor.flat<int32_t>().data(), static_cast<size_t>(tensor.NumElements())};
}

absl::StatusOr<SearchPlan> Plan(int32_t k, absl::StatusOr<std::unique_ptr<nann::Search>> search) {
  TF_RETURN_IF_ERROR(nann::CheckWidth("k", k));
  TF_RETURN_IF_ERROR(search.status());
  return SearchPlan{k, *std::move(search)};
}

absl::StatusOr<SearchPlan> PlanBestFirst(OpKernelContext* ctx, int num_layers) {
  const int32_t k = Number(ctx, kBestFirstK), pool = Number(ctx, kPool);
  TF_RETURN_IF_ERROR(nann::CheckWidth("pool", pool));
  return Plan(k, nann::BestFirstSearch::Create(Number(ctx, kFrontier), std::max(pool, k),
                                               Number(ctx, kMaxSteps)));
}

absl::StatusOr<SearchPlan> PlanRounds(OpKernelContext* ctx, int num_layers) {
  return Plan(Number(ctx, kRoundsK),
              nann::RoundsSearch::Create(Numbers(ctx, kEf), Numbers(ctx, kRounds), num_layers));
}

absl::StatusOr<SearchPlan> PlanDeployed(OpKernelContext* ctx, int num_layers) {
  const absl::Span<const int32_t> level_topn = Numbers(ctx, kLevelTopn);
  auto search = nann::DeployedSearch::Create(level_topn, num_layers);
  TF_RETURN_IF_ERROR(search.status());
  return SearchPlan{level_topn.back(), *std::move(search)};
}

absl::StatusOr<SearchPlan> PlanSurrogate(OpKernelContext* ctx, int num_layers) {
  const int32_t k = Number(ctx, kBestFirstK), pool = Number(ctx, kPool);
  TF_RETURN_IF_ERROR(nann::CheckWidth("pool", pool));
  const float expected_coverage = ctx->input(kExpectedCoverage).scalar<float>()();
  return Plan(k, nann::SurrogateSearch::Create({k, Number(ctx, kSurrogateBatch), expected_coverage},
                                               Number(ctx, kFrontier), std::max(pool, k),
                                               Number(ctx, kMaxSteps)));
}

void WriteSurrogate(const nann::SearchStatistics& statistics, int64_t user,
                    absl::Span<Tensor* const> outputs) {
  outputs[kCandidates]->vec<int64_t>()(user) = statistics.candidates;
  outputs[kPredictionError]->vec<float>()(user) = statistics.prediction_error;
  outputs[kEstimatedCoverage]->vec<float>()(user) = statistics.estimated_coverage;
  outputs[kFellBack]->vec<bool>()(user) = statistics.fell_back;
}

// Returns one user's row of a tensor [B, ...], as [1, ...]. A row in the middle of a buffer may not be
// aligned as kernels expect; it is then copied, as user tensors are small.
Tensor UserRow(const Tensor& tensor, int64_t user) {
  Tensor row = tensor.Slice(user, user + 1);
  return row.IsAligned() ? row : tensor::DeepCopy(row);
}

// A call whose scorer is a TensorFlow function.
class FunctionCall : public SearchCall {
 public:
  FunctionCall(OpKernelContext* ctx, ScorerFunctions& scorer, absl::Span<const int64_t> batch_sizes)
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
    return std::make_unique<FunctionScorer>(ctx(), scorer_, item_rows(), batch_sizes_,
                                            std::move(rows), captured_, worker.batches);
  }

 private:
  ScorerFunctions& scorer_;
  const absl::Span<const int64_t> batch_sizes_;
  std::vector<Tensor> user_, captured_;
};

// Scores items for one user by a metric between the user's query and their embeddings.
class QueryScorer : public Scorer {
 public:
  QueryScorer(const nann::ItemRows& rows, nann::Metric metric, absl::Span<const float> query)
      : scorer_(rows, metric, query) {}

  absl::Status Score(absl::Span<const int32_t> items, absl::Span<float> scores) override {
    scorer_.Score(items, scores);
    return absl::OkStatus();
  }

 private:
  const nann::MetricScorer scorer_;
};

// A call whose scorer is a metric.
class MetricCall : public SearchCall {
 public:
  MetricCall(OpKernelContext* ctx, nann::Metric metric) : SearchCall(ctx), metric_(metric) {}

 protected:
  absl::Status PrepareScorers() override {
    OpInputList user;
    TF_RETURN_IF_ERROR(ctx()->input_list("user", &user));
    queries_ = user[0];
    if (queries_.shape() == TensorShape({batch(), item_rows().dim()})) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("the queries in user have shape ", queries_.shape().DebugString(),
                     ", they must be [", batch(), ",", item_rows().dim(), "]"));
  }

  std::unique_ptr<Scorer> MakeScorer(int64_t user, Worker& worker) override {
    const size_t dim = queries_.dim_size(1);
    const float* query = queries_.flat<float>().data() + user * dim;
    return std::make_unique<QueryScorer>(item_rows(), metric_, absl::MakeConstSpan(query, dim));
  }

 private:
  const nann::Metric metric_;
  Tensor queries_;
};

// Returns the metric, or nothing if a function is the scorer.
absl::StatusOr<std::optional<nann::Metric>> ReadMetric(OpKernelConstruction* ctx) {
  std::string metric;
  TF_RETURN_IF_ERROR(ctx->GetAttr("metric", &metric));
  if (metric == "none") return std::nullopt;
  std::vector<NameAttrList> scorer;
  std::vector<DataType> user;
  TF_RETURN_IF_ERROR(ctx->GetAttr("scorer", &scorer));
  TF_RETURN_IF_ERROR(ctx->GetAttr("Tuser", &user));
  if (!scorer.empty() || user.size() != 1 || user[0] != DT_FLOAT) {
    return absl::InvalidArgumentError(absl::StrCat(
        "there are ", scorer.size(), " functions in scorer and user has the types [",
        DataTypeSliceString(user), "]; the metric ", metric, " needs none and one float32 tensor"));
  }
  return metric == "dot"  ? nann::Metric::kDot
         : metric == "l2" ? nann::Metric::kL2
                          : nann::Metric::kCosine;
}

absl::Status CheckBatchSizes(absl::Span<const int64_t> sizes) {
  bool increasing = !sizes.empty() && sizes.front() >= 1 && sizes.back() <= nann::kMaxWidth;
  for (size_t i = 1; i < sizes.size(); ++i) increasing &= sizes[i] > sizes[i - 1];
  if (increasing) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("batch_sizes is [", absl::StrJoin(sizes, ", "),
                                                 "], it must increase from 1 to at most ",
                                                 nann::kMaxWidth));
}

absl::Status CheckLists(OpKernelConstruction* ctx) {
  std::vector<DataType> filters, caps, exact;
  TF_RETURN_IF_ERROR(ctx->GetAttr("Tfilters", &filters));
  TF_RETURN_IF_ERROR(ctx->GetAttr("Tcaps", &caps));
  TF_RETURN_IF_ERROR(ctx->GetAttr("Texact", &exact));
  if (exact.size() > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("exact holds ", exact.size(), " tensors, allowed are none and one"));
  }
  if (!caps.empty() && caps != std::vector<DataType>{DT_STRING, DT_INT32}) {
    return absl::UnimplementedError(
        absl::StrCat("caps holds tensors of the types [", DataTypeSliceString(caps),
                     "], but this version of nann knows a string and an int32: the model needs the "
                     "version that wrote it, or a later one"));
  }
  if (filters.empty() || filters == std::vector<DataType>{DT_STRING}) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat("filters holds tensors of the types [", DataTypeSliceString(filters),
                   "], but this version of nann knows one of strings alone: the model needs the "
                   "version that wrote it, or a later one"));
}

// The kernel of a search op, whose scorer is a function or a metric.
class SearchOp : public AsyncOpKernel {
 public:
  SearchOp(OpKernelConstruction* ctx, const SearchKind& kind) : AsyncOpKernel(ctx), kind_(kind) {
    OP_REQUIRES_OK(ctx, CheckLists(ctx));
    auto metric = ReadMetric(ctx);
    OP_REQUIRES_OK(ctx, metric.status());
    metric_ = *metric;
    if (metric_.has_value()) return;
    OP_REQUIRES_OK(ctx, ReadScorerDefinition(ctx, &definition_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("batch_sizes", &batch_sizes_));
    OP_REQUIRES_OK(ctx, CheckBatchSizes(batch_sizes_));
  }

  void ComputeAsync(OpKernelContext* ctx, DoneCallback done) override {
    std::unique_ptr<SearchCall> call;
    if (metric_.has_value()) {
      call = std::make_unique<MetricCall>(ctx, *metric_);
    } else {
      auto scorer = Scorer(ctx);
      OP_REQUIRES_OK_ASYNC(ctx, scorer.status(), done);
      call = std::make_unique<FunctionCall>(ctx, **scorer, batch_sizes_);
    }
    OP_REQUIRES_OK_ASYNC(ctx, call->Prepare(kind_), done);
    SearchCall::Start(std::move(call), std::move(done));
  }

 private:
  // Returns the scorer's functions, instantiated at the first call in each function library.
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

  const SearchKind& kind_;
  std::optional<nann::Metric> metric_;
  ScorerDefinition definition_;
  std::vector<int64_t> batch_sizes_;
  absl::Mutex mu_;
  std::vector<std::unique_ptr<ScorerFunctions>> instantiated_ ABSL_GUARDED_BY(mu_);
};

template <const SearchKind& kKind>
class SearchOpOf : public SearchOp {
 public:
  explicit SearchOpOf(OpKernelConstruction* ctx) : SearchOp(ctx, kKind) {}
};

constexpr SearchKind kBestFirstKind{kBestFirstSearch, PlanBestFirst};
constexpr SearchKind kRoundsKind{kRoundsSearch, PlanRounds};
constexpr SearchKind kDeployedKind{kDeployedSearch, PlanDeployed};
constexpr SearchKind kSurrogateKind{kSurrogateSearch, PlanSurrogate, WriteSurrogate};

REGISTER_KERNEL_BUILDER(Name(kBestFirstSearch.op).Device(DEVICE_CPU), SearchOpOf<kBestFirstKind>);
REGISTER_KERNEL_BUILDER(Name(kRoundsSearch.op).Device(DEVICE_CPU), SearchOpOf<kRoundsKind>);
REGISTER_KERNEL_BUILDER(Name(kDeployedSearch.op).Device(DEVICE_CPU), SearchOpOf<kDeployedKind>);
REGISTER_KERNEL_BUILDER(Name(kSurrogateSearch.op).Device(DEVICE_CPU), SearchOpOf<kSurrogateKind>);

}  // namespace
}  // namespace nann_ops
}  // namespace tensorflow
