#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

// An index lives in the resource manager: IndexHandle names it, IndexOpen maps its files into it.
// A SavedModel's initialisation runs IndexOpen with the paths of its assets; searches take the
// handle. See docs/format.md for the files.

namespace tensorflow {
namespace {

using shape_inference::InferenceContext;
using shape_inference::ShapeHandle;

REGISTER_OP("Nann>IndexHandle")
    .Output("index: resource")
    .Attr("container: string = ''")
    .Attr("shared_name: string = ''")
    .SetIsStateful()
    .SetShapeFn(shape_inference::ScalarShape)
    .Doc(R"doc(
Returns a handle to an index; `Nann>IndexOpen` fills it.

index: the handle.
container: the resource container; the default one where empty.
shared_name: the name under which the index is shared; the node's name where empty.
)doc");

REGISTER_OP("Nann>IndexOpen")
    .Input("index: resource")
    .Input("files: string")
    .Attr("dim: int >= 1")
    .Attr("validate: bool = true")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle unused;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 0, &unused));
      return c->WithRank(c->input(1), 1, &unused);
    })
    .Doc(R"doc(
Maps the files of an index, without copying them, into the resource `index`.

Opening again replaces the index; searches that run keep the old one. InvalidArgument where sizes
disagree or, with `validate`, an offset, neighbour or entry point is out of its bounds; the message
names the file and the position.

index: a handle from `Nann>IndexHandle`.
files: string [3 + 2 * layers], paths in this order: item_ids, item_embeddings, entry_points, then
  row_splits and neighbors of every layer, ground layer first.
dim: the width of an item embedding.
validate: whether to read all edges once and check them.
)doc");

REGISTER_OP("Nann>IndexItems")
    .Input("index: resource")
    .Output("item_ids: int64")
    .Output("item_embeddings: float")
    .Attr("dim: int >= 1")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      int64_t dim;
      TF_RETURN_IF_ERROR(c->GetAttr("dim", &dim));
      const auto n = c->UnknownDim();
      c->set_output(0, c->Vector(n));
      c->set_output(1, c->Matrix(n, dim));
      return absl::OkStatus();
    })
    .Doc(R"doc(
The item table of an open index. The tensors are views of the mapped files: nothing is copied.

index: an open index.
item_ids: int64 [n], the data's own ids.
item_embeddings: float32 [n, dim].
dim: the width of an item embedding; InvalidArgument where the index has another.
)doc");

}  // namespace
}  // namespace tensorflow
