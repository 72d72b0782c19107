#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "custom_ops/ops/search_interface.h"
#include "tensorflow/core/common_runtime/input_colocation_exemption_registry.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_def_builder.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tensorflow {
namespace nann_ops {
namespace {

using shape_inference::DimensionHandle;
using shape_inference::InferenceContext;
using shape_inference::ShapeHandle;

// Returns the number of items in an answer, if it is a constant in the graph.
DimensionHandle AnswerSize(InferenceContext* c) {
  const Tensor* given = c->input_tensor(kFirstOwnInput);
  if (given == nullptr || given->NumElements() == 0) return c->UnknownDim();
  const int32_t k = given->flat<int32_t>()(given->NumElements() - 1);
  return k < 0 ? c->UnknownDim() : c->MakeDim(k);
}

absl::Status CheckShapes(InferenceContext* c, absl::Span<const SearchArg> inputs, int first,
                         DimensionHandle* batch) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    ShapeHandle shape;
    TF_RETURN_IF_ERROR(c->WithRank(c->input(first + i), inputs[i].rank, &shape));
    if (inputs[i].rank == 2) TF_RETURN_IF_ERROR(c->Merge(*batch, c->Dim(shape, 0), batch));
  }
  return absl::OkStatus();
}

absl::Status SearchShape(InferenceContext* c, const SearchInterface& search) {
  DimensionHandle batch = c->UnknownDim();
  TF_RETURN_IF_ERROR(CheckShapes(c, kSharedInputs, 0, &batch));
  TF_RETURN_IF_ERROR(CheckShapes(c, search.own_inputs, kFirstOwnInput, &batch));
  std::vector<ShapeHandle> user;
  TF_RETURN_IF_ERROR(c->input("user", &user));
  for (ShapeHandle& shape : user) {
    TF_RETURN_IF_ERROR(c->WithRankAtLeast(shape, 1, &shape));
    TF_RETURN_IF_ERROR(c->Merge(batch, c->Dim(shape, 0), &batch));
  }
  const DimensionHandle k = AnswerSize(c);
  int output = 0;
  for (absl::Span<const SearchArg> outputs :
       {absl::MakeConstSpan(kSearchOutputs), search.own_outputs}) {
    for (const SearchArg& arg : outputs) {
      c->set_output(output++, arg.rank == 2 ? c->Matrix(batch, k) : c->Vector(batch));
    }
  }
  while (output < c->num_outputs()) c->set_output(output++, c->Vector(batch));
  return absl::OkStatus();
}

constexpr char kDescription[] = R"doc(
The searches for different users are independent and run in parallel, and an item is scored at most
once per user. Answers are ordered by score, ties by lower item index. NaN comes after every number
and is returned as minus infinity. A row with fewer than k reachable items is padded with id -1 and
score -inf.

Items are scored by `metric`, or else by `scorer`, which is called as scorer(user..., prepared...,
items, captured...) with the tensors of one user, each [1, ...], and `items` float32 [1, N, dim],
where N is one of `batch_sizes`; it returns float32 [1, N]. Rows beyond the items of a batch are
padding and may hold anything, so the scorer must treat rows independently.

)doc";

constexpr char kSharedArguments[] = R"doc(index: an open index.
exclude: int64 [B, x], ids that the walk may pass through but that are never returned, and that take
  no room in any beam or pool. Unknown ids have no effect.
seeds: int64 [B, s], ids from which the search starts as well, such as the user's history. Unknown
  ids have no effect.
budget: int64 [], evaluations after which the best so far is the answer; 0 for no limit.
deadline_ms: int32 [], milliseconds after which no further batch is begun; 0 for no limit.
user: the user tensors, each [B, ...]; for a metric one float32 [B, dim], the queries.
captured: the tensors that the scorer captured, most of them variables.
filters: none, or one string [B] or [1]: for each user, or for all, a filter in the language of
  docs/filters.md. Only items that pass it are scored and returned; all items pass an empty one.
caps: none, or a string and an int32, each [B] or [1]: for each user, or for all, a column of the index's
  attributes and how many items of an answer may have the same value in it. An empty string is no limit.
item_ids: int64 [B, k], the data's own ids.
scores: float32 [B, k], higher is better.
items_scored: int64 [B], evaluations of the model.
rounds_run: int32 [B], batches of fresh items, including that of the entry points.
nan_scores: int64 [B], evaluations that gave NaN.
unknown_ids: int64 [B], entries of `seeds` and `exclude` that the index does not know.
stopped: int32 [B], why the walk ended: 0 it was complete, 1 the budget, 2 the deadline, 3 best-first
  had more to expand after `max_steps` steps in a layer.
search_us: int64 [B], microseconds that the user's search took.
scorer_us: int64 [B], the part of `search_us` in the scorer; 0 for a metric, which counts as walk.
gather_us: int64 [B], the part of `search_us` for copying the items' rows into the scorer's batches;
  0 for a metric, which reads the rows in their table.
merge_us: int64 [B], the part of `search_us` for putting scored items in order and writing the answer.
  The rest of `search_us` is the walk: neighbours, visited items, and everything between.
index_sequence: int64 [B], the sequence number of the last update that the searched index holds; 0 for
  an index without updates.
exact: none, or one bool [B], as `Texact` says: whether every item that passes the user's filter was
  scored, so that the answer is that of scoring all items.
scorer: the score function; none if a metric scores.
metric: a built-in score of the query and an item's embedding: the dot product, the negative of the
  squared L2 distance, or the cosine.
compiled_scorer: zero or one function, the same as `scorer` and with the same captures, that XLA
  compiles. It is called in place of `scorer`. If that fails, in a runtime without XLA or for a model
  that XLA cannot compile, `scorer` is called from then on.
prepare: zero or one function (user..., captured...) -> prepared..., run once per user.
rewrite: if there is no `prepare`, let the passes of grappler_passes/ rewrite the scorer at the first
  call.
batch_sizes: the sizes to which scorer batches are padded, increasing; none for a metric.
placement: where the search runs; this version only knows the CPU. The scorer runs where its variables are.
)doc";

bool RegisterSearch(const SearchInterface& search, const char* summary, const char* arguments) {
  // A search runs on the CPU wherever the scorer's variables are: it calls the scorer where they are.
  InputColocationExemptionRegistry::Global()->Register(search.op);
  OpRegistry::Global()->Register([&search, summary, arguments](OpRegistrationData* data) {
    OpDefBuilder op(search.op);
    const auto spec = [](const SearchArg& arg) { return absl::StrCat(arg.name, ": ", arg.type); };
    for (const SearchArg& input : kSharedInputs) op.Input(spec(input));
    for (const SearchArg& input : search.own_inputs) op.Input(spec(input));
    for (const char* input : kListInputs) op.Input(input);
    for (const SearchArg& output : kSearchOutputs) op.Output(spec(output));
    for (const SearchArg& output : search.own_outputs) op.Output(spec(output));
    for (const char* output : kListOutputs) op.Output(output);
    op.Attr("Tuser: list(type) >= 1")
        .Attr("Tcaptured: list(type) >= 0")
        .Attr("Tfilters: list(type) >= 0 = []")
        .Attr("Tcaps: list(type) >= 0 = []")
        .Attr("Texact: list({bool}) >= 0 = []")
        .Attr("scorer: list(func) = []")
        .Attr("metric: {'none', 'dot', 'l2', 'cosine'} = 'none'")
        .Attr("compiled_scorer: list(func) = []")
        .Attr("prepare: list(func) = []")
        .Attr("rewrite: bool = true")
        .Attr("batch_sizes: list(int) = []")
        .Attr("placement: {'cpu'} = 'cpu'")
        .SetIsStateful()
        .SetShapeFn([&search](InferenceContext* c) { return SearchShape(c, search); })
        .Doc(absl::StrCat(summary, kDescription, arguments, kSharedArguments));
    return op.Finalize(data);
  });
  return true;
}

[[maybe_unused]] const bool kBestFirstRegistered =
    RegisterSearch(kBestFirstSearch, R"doc(
Finds the top k items of an index under a model's scores by best-first search over its graph: the walk
of HNSW in batches. A pool keeps the best scored items; each step scores the neighbours of the best of
them that are not expanded yet. The search starts at the seeds or, without any, at the entry points.
)doc",
                   R"doc(k: int32 [], items to answer per user.
frontier: int32 [], items expanded per step.
pool: int32 [], scored items that are kept, at least `k`. The walk ends when all are expanded.
max_steps: int32 [], steps in a layer after which the walk ends in any case; 0 for no limit.
)doc");

[[maybe_unused]] const bool kRoundsRegistered =
    RegisterSearch(kRoundsSearch, R"doc(
Finds the top k items of an index under a model's scores by the paper's search over its graph (arXiv
2202.10226, Algorithms 1 and 2). Seeds join when the ground layer is entered.
)doc",
                   R"doc(k: int32 [], items to answer per user.
ef: int32 [layers + 1], the beam widths, start layer first.
rounds: int32 [layers + 1], the rounds per layer, start layer first, which has one.
)doc");

[[maybe_unused]] const bool kDeployedRegistered = RegisterSearch(
    kDeployedSearch, R"doc(
Finds the top k items of an index under a model's scores by the search of alibaba/nann's deployed
graph. Seeds join when the ground layer is entered.
)doc",
    R"doc(level_topn: int32 [layers + rounds + 1]: the beam of every layer above the ground, start layer first,
  the picks of every round at the ground, and k.
)doc");

[[maybe_unused]] const bool kSurrogateRegistered =
    RegisterSearch(kSurrogateSearch, R"doc(
Finds the top k items of an index under a model's scores while evaluating few of them: predicts the
scores of neighbours from the scores already known, and evaluates those that may be among the best k
(docs/surrogate.md). Starts as best-first does, and goes on as best-first where predictions fail. The
index must be open with `features`.
)doc",
                   R"doc(k: int32 [], items to answer per user.
frontier: int32 [], items expanded per step above the ground layer, and where predictions fail.
pool: int32 [], at least `k`; neighbours of the best one and a half times as many items are candidates.
  Where predictions fail, the pool of best-first.
max_steps: int32 [], steps in a layer after which the walk ends in any case; 0 for no limit.
batch: int32 [], items evaluated per step; a quarter of `k` if that is more.
expected_coverage: float32 [], below 1 and at least -100. The walk ends when this share of the best k is
  expected to be found. The expectation is so cautious that much is found where it is negative.
candidates: int64 [B], items whose score was predicted or known.
prediction_error: float32 [B], the standard error of the last predictions, in log-odds of an item's rank
  among the evaluated ones.
estimated_coverage: float32 [B], the share of the best k that is expected to be found, by the measure of
  `expected_coverage`: -100 where nothing is known yet, 0 where predictions failed.
fell_back: bool [B], whether predictions failed and best-first finished the walk.
)doc");

}  // namespace
}  // namespace nann_ops
}  // namespace tensorflow
