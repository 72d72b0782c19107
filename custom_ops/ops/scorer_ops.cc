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
Rewrites a scorer, see `Nann>BestFirstSearch`, by the passes of grappler_passes/ and splits it.

captured: what the scorer captured; shapes of variables are looked up.
fold: a serialized GraphDef of a function (items, captured...) -> rows [1, N, width], to be computed once
  per item and to be searched in place of the items; empty where nothing was folded.
prepare: a serialized GraphDef of (user..., captured...) -> prepared..., for once per user; empty
  where `user_hoist` is left out.
score: a serialized GraphDef of (user..., prepared..., items or rows, captured...) -> scores. Arguments
  are `_Arg` nodes, results `_Retval` nodes.
passes: string [P], names of the passes that ran, in order.
reasons: string [P], why a pass did nothing, where it says.
figures: float64 [P, 5]: rewrites; nodes that depend on the items, before and after; multiply-adds of
  matrix products per item, before and after.
scorer: the score function.
user_types: types of the user tensors.
user_shapes: their shapes; the first extent, the batch, is not read.
dim: width of an item.
wanted: names of the passes to run; all where it is empty.
fold_items: whether what depends on the items alone may be taken out.
)doc");

}  // namespace
}  // namespace tensorflow
