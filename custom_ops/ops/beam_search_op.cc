#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tensorflow {
namespace {

using shape_inference::DimensionHandle;
using shape_inference::InferenceContext;
using shape_inference::ShapeHandle;

absl::Status BeamSearchShape(InferenceContext* c) {
  ShapeHandle unused, exclude, seeds;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 0, &unused));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 0, &unused));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 1, &unused));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(3), 1, &unused));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(4), 2, &exclude));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(5), 2, &seeds));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(6), 0, &unused));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(7), 0, &unused));
  DimensionHandle batch;
  TF_RETURN_IF_ERROR(c->Merge(c->Dim(exclude, 0), c->Dim(seeds, 0), &batch));
  std::vector<DataType> user_types;
  TF_RETURN_IF_ERROR(c->GetAttr("Tuser", &user_types));
  for (size_t i = 0; i < user_types.size(); ++i) {
    ShapeHandle user;
    TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(8 + i), 1, &user));
    TF_RETURN_IF_ERROR(c->Merge(batch, c->Dim(user, 0), &batch));
  }
  DimensionHandle k;
  TF_RETURN_IF_ERROR(c->MakeDimForScalarInput(1, &k));
  c->set_output(0, c->Matrix(batch, k));
  c->set_output(1, c->Matrix(batch, k));
  for (int statistic = 2; statistic <= 6; ++statistic) c->set_output(statistic, c->Vector(batch));
  return absl::OkStatus();
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
    .Attr("Tuser: list(type) >= 1")
    .Attr("Tcaptured: list(type) >= 0")
    .Attr("scorer: func")
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

Answers are ordered by score, ties by lower item index. NaN scores count as minus infinity. A row
with fewer than k reachable items is padded with id -1 and score -inf.

index: an open index.
k: int32 [], items wanted per user.
ef: int32, the beam widths, start layer first. `rounds`: one per layer. `deployed`: one per layer
  above the ground, then the picks of each ground round (level_topn without its last entry).
  `best_first`: [frontier, pool]; a pool below k counts as k.
rounds: int32, for `rounds` the number of rounds per layer, start layer (always 1) first; for
  `best_first` [max_steps]; not read for `deployed`.
exclude: int64 [B, x], ids that are walked through but never returned; unknown ids do nothing.
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
stopped: int32 [B], why the walk ended: 0 it was complete, 1 the budget, 2 the deadline.
scorer: the model's score function.
algorithm: `rounds` is the paper's Algorithm 2; `deployed` the search of the original's deployed graph;
  `best_first` expands the best of a pool, seeded with the user's history.
batch_sizes: the sizes that scorer batches are padded to, increasing.
)doc");

}  // namespace
}  // namespace tensorflow
