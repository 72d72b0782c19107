#include "tensorflow/core/common_runtime/input_colocation_exemption_registry.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tensorflow {
namespace {

using shape_inference::InferenceContext;

REGISTER_OP("Nann>RewriteScorer")
    .Input("captured: Tcaptured")
    .Output("fold: string")
    .Output("prepare: string")
    .Output("score: string")
    .Output("passes: string")
    .Output("reasons: string")
    .Output("figures: double")
    .Attr("Tcaptured: list(type) >= 0")
    .Attr("scorer: func")
    .Attr("user_types: list(type) >= 1")
    .Attr("user_shapes: list(shape) >= 1")
    .Attr("dim: int >= 1")
    .Attr("wanted: list(string) = []")
    .Attr("fold_items: bool = false")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      for (int i = 0; i < 3; ++i) c->set_output(i, c->Scalar());
      const auto count = c->UnknownDim();
      c->set_output(3, c->Vector(count));
      c->set_output(4, c->Vector(count));
      c->set_output(5, c->Matrix(count, 5));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Rewrites a scorer (see `Nann>BestFirstSearch`) by the passes of grappler_passes/, and splits it.

captured: the tensors that the scorer captured; the shapes of variables are looked up.
fold: a serialized GraphDef of a function (items, captured...) -> rows [1, N, width], to be computed once
  per item; the rows are then searched in place of the items. Empty if nothing was folded.
prepare: a serialized GraphDef of (user..., captured...) -> prepared..., to be run once per user; empty
  if the pass `user_hoist` is left out.
score: a serialized GraphDef of (user..., prepared..., items or rows, captured...) -> scores. Arguments
  are `_Arg` nodes, results `_Retval` nodes.
passes: string [P], names of the passes that ran, in order.
reasons: string [P], why a pass did nothing, if it gives a reason.
figures: float64 [P, 5]: the number of rewrites; of nodes that depend on the items, before and after; and
  of multiply-adds of matrix products per item, before and after.
scorer: the score function.
user_types: types of the user tensors.
user_shapes: their shapes; the first extent, the batch, is not read.
dim: width of an item.
wanted: names of the passes to run; if empty, all.
fold_items: whether the part that depends on the items alone may be taken out.
)doc");

REGISTER_INPUT_COLOCATION_EXEMPTION("Nann>RewriteScorer");

REGISTER_OP("Nann>DescribeScorer")
    .Input("calls: string")
    .Output("nodes: string")
    .Output("costs: double")
    .Output("passes: string")
    .Output("reasons: string")
    .Output("figures: double")
    .Attr("rewrite: bool = false")
    .Attr("fold_items: bool = false")
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->Scalar());
      c->set_output(1, c->Matrix(c->UnknownDim(), 2));
      const auto count = c->UnknownDim();
      c->set_output(2, c->Vector(count));
      c->set_output(3, c->Vector(count));
      c->set_output(4, c->Matrix(count, 5));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Reports on each node of a scorer that was read from a SavedModel, which is neither loaded nor run.

calls: a serialized GraphDef that calls the functions of the scorer, from its own library, by name. Their
  inputs are Placeholders, and VarHandleOps for variables, with an attribute `_kind`: "user", "item" or
  "model" (captured). The results of the last one are `_Retval` nodes.
nodes: a serialized GraphDef of the nodes of all functions, inputs first, without those that no result needs.
  In place of their own attributes they have `shapes`, a list with one string per output, in which n is the
  number of items; `depends`: "weights", "user", "item" or "both"; and `pass`, the pass that added the node.
costs: float64 [N, 2]: multiply-adds of a matrix product, NaN if its shapes are unknown, and elements of the
  outputs; per item if the node depends on the items, else per run.
passes: as in `Nann>RewriteScorer`; empty unless `rewrite` is set.
reasons: likewise.
figures: likewise.
rewrite: run the passes first, and report on the rewritten scorer: nodes that run once per item, once per
  user and per batch are then called fold/..., prepare/... and score/....
fold_items: as in `Nann>RewriteScorer`.
)doc");

}  // namespace
}  // namespace tensorflow
