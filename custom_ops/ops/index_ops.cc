#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

// An index lives in the resource manager: IndexHandle names it, and IndexOpen maps its files into it.
// A SavedModel's initialisation runs IndexOpen with the paths of its assets, and searches take the
// handle. docs/format.md describes the files.

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
container: the resource container; if empty, the default one.
shared_name: the name under which the index is shared; if empty, the node's name.
)doc");

REGISTER_OP("Nann>IndexOpen")
    .Input("index: resource")
    .Input("files: string")
    .Attr("dim: int >= 1")
    .Attr("validate: bool = true")
    .Attr("dtype: {float, half, int8} = DT_FLOAT")
    .Attr("features: bool = false")
    .Attr("attributes: bool = false")
    .Attr("keys: bool = false")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle unused;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 0, &unused));
      return c->WithRank(c->input(1), 1, &unused);
    })
    .Doc(R"doc(
Maps the files of an index, without copying them, into the resource `index`. Files of a remote file
system (s3://, gs://), which cannot be mapped, are read into memory.

Opening again replaces the index, while searches that are running keep the old one. Fails with
InvalidArgument if sizes disagree or, with `validate`, an offset, neighbour or entry point is out of
bounds; the message names the file and the position.

If the environment variable NANN_DELTAS names a folder, searches find the items as the index's segments in
it leave them (docs/format.md), also those that come later. What is wrong with a segment is logged. The other
ops on indexes see this one as it was built.

index: a handle from `Nann>IndexHandle`.
files: string [f], paths in this order: item_ids, item_embeddings, entry_points, then
  row_splits and neighbors of every layer, ground layer first; for int8 one more, item_scales; with
  `features` two more, item_features and edge_distances; with `attributes` one more, attributes;
  with `keys` one more, item_keys.
dim: the width of an item embedding.
validate: whether to read all edges once and check them.
dtype: the type of item_embeddings; a coordinate in int8 is the value times the item's scale.
features: whether the index has what the surrogate search reads.
attributes: whether the index has attributes of its items, by which searches can filter.
keys: whether the index has texts that stand for the ids of its items.
)doc");

REGISTER_OP("Nann>IndexItems")
    .Input("index: resource")
    .Output("item_ids: int64")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->Vector(c->UnknownDim()));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Returns the item ids of an open index, as a view of the mapped file: nothing is copied.

index: an open index.
item_ids: int64 [n], the data's own ids.
)doc");

REGISTER_OP("Nann>IndexRows")
    .Input("index: resource")
    .Input("item_ids: int64")
    .Output("rows: float")
    .Output("known: bool")
    .Attr("dim: int >= 1")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle ids;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 1, &ids));
      int64_t dim;
      TF_RETURN_IF_ERROR(c->GetAttr("dim", &dim));
      c->set_output(0, c->Matrix(c->Dim(ids, 0), dim));
      c->set_output(1, ids);
      return absl::OkStatus();
    })
    .Doc(R"doc(
Returns the rows of items of an open index, by the data's own ids, as a search that begins now reads them.

index: an open index.
item_ids: int64 [m].
rows: float32 [m, dim]; zeros for ids that no item has.
known: bool [m], whether an item has the id.
dim: the width of a row; fails with InvalidArgument if the index has another.
)doc");

REGISTER_OP("Nann>IndexColumn")
    .Input("index: resource")
    .Input("column: string")
    .Output("values: int64")
    .Output("present: bool")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle unused;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 0, &unused));
      c->set_output(0, c->Vector(c->UnknownDim()));
      c->set_output(1, c->output(0));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Returns a column of the attributes of an open index, as integers that are equal where the values are.

index: an open index; fails with InvalidArgument if it has no attributes.
column: string [], a column of integers, strings or booleans, as a cap takes; fails with InvalidArgument if
  there is none of this name.
values: int64 [n], a number for the value of each item.
present: bool [n], whether the item has a value.
)doc");

REGISTER_OP("Nann>IndexFilter")
    .Input("index: resource")
    .Input("filter: string")
    .Output("items: int32")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle unused;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 0, &unused));
      c->set_output(0, c->Vector(c->UnknownDim()));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Returns the items of an open index that pass a filter.

index: an open index; fails with InvalidArgument if it has no attributes, unless the filter is empty.
filter: string [], in the language of docs/filters.md; fails with InvalidArgument if it is not. All items
  pass an empty one.
items: int32 [m], dense indices in ascending order.
)doc");

REGISTER_OP("Nann>IndexKeys")
    .Input("index: resource")
    .Input("item_ids: int64")
    .Output("keys: string")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->input(1));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Returns the texts that stand for ids.

index: an open index; fails with InvalidArgument if it has no keys.
item_ids: int64 of any shape, as a search returns them.
keys: UTF-8 of the same shape; empty where no text stands for the id, such as -1.
)doc");

REGISTER_OP("Nann>IndexNumbers")
    .Input("index: resource")
    .Input("keys: string")
    .Output("item_ids: int64")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->input(1));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Returns the ids that texts stand for, as searches and the model take them.

index: an open index; fails with InvalidArgument if it has no keys.
keys: string of any shape.
item_ids: int64 of the same shape; -1 where the text is not a key of the index, which an empty one never is.
)doc");

REGISTER_OP("Nann>IndexGather")
    .Input("index: resource")
    .Input("items: int32")
    .Output("item_embeddings: float")
    .Attr("dim: int >= 1")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle items;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 1, &items));
      int64_t dim;
      TF_RETURN_IF_ERROR(c->GetAttr("dim", &dim));
      c->set_output(0, c->Matrix(c->Dim(items, 0), dim));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Returns embeddings of items of an open index, as float32 whatever the type of the table.

index: an open index.
items: int32 [m], dense indices; fails with InvalidArgument if one is out of bounds.
item_embeddings: float32 [m, dim].
dim: the width of an item embedding; fails with InvalidArgument if the index has another.
)doc");

}  // namespace
}  // namespace tensorflow
