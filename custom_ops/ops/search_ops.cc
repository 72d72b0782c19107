#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tensorflow {
namespace {

using shape_inference::DimensionHandle;
using shape_inference::InferenceContext;
using shape_inference::ShapeHandle;

// The inputs before it, from `index` to `deadline_ms`, are common to all searches.
constexpr int kFirstOwnInput = 8;

// Shapes of the common inputs and of the outputs; `own` has the batch's inputs of the op itself.
absl::Status SearchShape(InferenceContext* c, absl::Span<const ShapeHandle> own) {
  constexpr int kRanks[kFirstOwnInput] = {0, 0, 1, 1, 2, 2, 0, 0};
  ShapeHandle checked;
  for (int i = 0; i < kFirstOwnInput; ++i) {
    TF_RETURN_IF_ERROR(c->WithRank(c->input(i), kRanks[i], &checked));
  }
  DimensionHandle batch;
  TF_RETURN_IF_ERROR(c->Merge(c->Dim(c->input(4), 0), c->Dim(c->input(5), 0), &batch));
  for (const ShapeHandle& user : own) TF_RETURN_IF_ERROR(c->Merge(batch, c->Dim(user, 0), &batch));
  DimensionHandle k;
  TF_RETURN_IF_ERROR(c->MakeDimForScalarInput(1, &k));
  c->set_output(0, c->Matrix(batch, k));
  c->set_output(1, c->Matrix(batch, k));
  for (int i = 2; i < c->num_outputs(); ++i) c->set_output(i, c->Vector(batch));
  return absl::OkStatus();
}

absl::Status BeamSearchShape(InferenceContext* c) {
  std::vector<DataType> user_types;
  TF_RETURN_IF_ERROR(c->GetAttr("Tuser", &user_types));
  std::vector<ShapeHandle> user(user_types.size());
  for (size_t i = 0; i < user.size(); ++i) {
    TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(kFirstOwnInput + i), 1, &user[i]));
  }
  return SearchShape(c, user);
}

absl::Status MetricSearchShape(InferenceContext* c) {
  ShapeHandle queries;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(kFirstOwnInput), 2, &queries));
  return SearchShape(c, {queries});
}

REGISTER_OP("Nann>BeamSearch")
    .Input("index: resource")
    .Input("k: int32")
    .Input("ef: int32")
    .Input("rounds: int32")
    .Input("exclude: int64")
    .Input("seeds: int64")
    .Input("budget: int64")
    .Input("deadline_ms: int32")
    .Input("user: Tuser")
    .Input("captured: Tcaptured")
    .Output("item_ids: int64")
    .Output("scores: float")
    .Output("items_scored: int64")
    .Output("rounds_run: int32")
    .Output("nan_scores: int64")
    .Output("unknown_ids: int64")
    .Output("stopped: int32")
    .Output("search_us: int64")
    .Output("scorer_us: int64")
    .Output("parts_us: num_parts * int64")
    .Attr("Tuser: list(type) >= 1")
    .Attr("Tcaptured: list(type) >= 0")
    .Attr("scorer: func")
    .Attr("compiled_scorer: list(func) = []")
    .Attr("prepare: list(func) = []")
    .Attr("optimize: bool = true")
    .Attr("num_parts: int >= 0 = 0")
    .Attr("algorithm: {'rounds', 'deployed', 'best_first'} = 'rounds'")
    .Attr("batch_sizes: list(int) >= 1")
    .SetIsStateful()
    .SetShapeFn(BeamSearchShape)
    .Doc(R"doc(
Top-k items of an index under a model's scores, by beam search over its graph (arXiv 2202.10226).

`scorer` is called as scorer(user..., items, captured...) with the tensors of one user, each
[1, ...], and `items` float32 [1, N, dim], where N is one of `batch_sizes`; it returns float32
[1, N]. Rows beyond the round's items are padding and may hold anything: it must treat rows
independently. Users are searched independently of each other, in parallel.

Answers are ordered by score, ties by lower item index. NaN comes after every number and
is returned as minus infinity. A row with fewer than k reachable items is padded with id -1 and score -inf.

index: an open index.
k: int32 [], items wanted per user.
ef: int32, the beam widths, start layer first. `rounds`: one per layer. `deployed`: one per layer
  above the ground, then the picks of each ground round (level_topn without its last entry).
  `best_first`: [frontier, pool]; a pool below k counts as k.
rounds: int32, for `rounds` the number of rounds per layer, start layer (always 1) first; for
  `best_first` [max_steps], 0 for no limit; not read for `deployed`.
exclude: int64 [B, x], ids that are walked through but never returned; they take no room in `ef`. Unknown ids do
  nothing.
seeds: int64 [B, s], ids to start from as well, such as the user's history; unknown ids do nothing.
budget: int64 [], evaluations after which the best so far is the answer; 0 for no limit.
deadline_ms: int32 [], milliseconds after which no further round is begun; 0 for no limit.
user: the user tensors, each [B, ...].
captured: what the scorer captured, variables for the most part.
item_ids: int64 [B, k], the data's own ids.
scores: float32 [B, k].
items_scored: int64 [B], evaluations of the model, each item at most once.
rounds_run: int32 [B], rounds that met a fresh item, the entry points' included.
nan_scores: int64 [B], evaluations that gave NaN.
unknown_ids: int64 [B], entries of `seeds` and `exclude` that the index does not know.
stopped: int32 [B], why the walk ended: 0 it was complete, 1 the budget, 2 the deadline, 3 `best_first` had more to
  expand after `max_steps` steps in a layer. The rounds of the others are what they are, and cut nothing.
search_us: int64 [B], microseconds that the user's search took.
scorer_us: int64 [B], microseconds of these in the scorer.
parts_us: int64 [B] each, microseconds of these: first in collecting the candidates' rows into the scorer's
  batches, second in putting scored items in order and writing the answer. What is left of `search_us` is
  the walk: neighbours, visited items, and what lies between.
scorer: the model's score function.
compiled_scorer: at most one function, the same as `scorer` and with the same captures, that XLA compiles. It is
  called instead; where that fails, for a runtime without XLA or a model that XLA cannot compile,
  `scorer` is from then on.
prepare: at most one function (user..., captured...) -> prepared..., run once per user. The scorer is then called
  as scorer(user..., prepared..., items, captured...).
optimize: without `prepare`, let the passes of grappler_passes/ make one of the scorer at the first call.
num_parts: 0 to 2, how many `parts_us` are wanted. A graph's nodes have as many outputs as when it was saved,
  so an output that an op did not always have must be asked for.
algorithm: `rounds` is the paper's Algorithm 2; `deployed` the search of the original's deployed graph;
  `best_first` expands the best of a pool, seeded with the user's history.
batch_sizes: the sizes that scorer batches are padded to, increasing.
)doc");

REGISTER_OP("Nann>MetricSearch")
    .Input("index: resource")
    .Input("k: int32")
    .Input("ef: int32")
    .Input("rounds: int32")
    .Input("exclude: int64")
    .Input("seeds: int64")
    .Input("budget: int64")
    .Input("deadline_ms: int32")
    .Input("queries: float")
    .Output("item_ids: int64")
    .Output("scores: float")
    .Output("items_scored: int64")
    .Output("rounds_run: int32")
    .Output("nan_scores: int64")
    .Output("unknown_ids: int64")
    .Output("stopped: int32")
    .Output("search_us: int64")
    .Output("scorer_us: int64")
    .Output("parts_us: num_parts * int64")
    .Attr("metric: {'dot', 'l2', 'cosine'}")
    .Attr("num_parts: int >= 0 = 0")
    .Attr("algorithm: {'rounds', 'deployed', 'best_first'} = 'best_first'")
    .SetIsStateful()
    .SetShapeFn(MetricSearchShape)
    .Doc(R"doc(
Top-k items by a metric of a query and the item embeddings; otherwise as `Nann>BeamSearch`.

index: an open index of items as wide as the queries.
k: int32 [].
ef: int32, see `Nann>BeamSearch`.
rounds: int32, see `Nann>BeamSearch`.
exclude: int64 [B, x].
seeds: int64 [B, s].
budget: int64 [].
deadline_ms: int32 [].
queries: float32 [B, dim].
item_ids: int64 [B, k], the data's own ids.
scores: float32 [B, k]; higher is better: the dot product, minus the squared L2 distance, or the cosine.
items_scored: int64 [B], evaluations of the metric.
rounds_run: int32 [B].
nan_scores: int64 [B].
unknown_ids: int64 [B].
stopped: int32 [B], see `Nann>BeamSearch`.
search_us: int64 [B], microseconds that the query's search took.
scorer_us: int64 [B], 0: the metric is not measured apart from the walk.
parts_us: int64 [B] each, see `Nann>BeamSearch`; the first is 0: items are scored in their table.
metric: what scores.
num_parts: see `Nann>BeamSearch`.
algorithm: see `Nann>BeamSearch`.
)doc");

}  // namespace
}  // namespace tensorflow
