// flatten_rows: a user is scored alone, so whatever depends on the items is a matrix with a row an
// item (or several).
//
//   BatchMatMulV2(x [1, n, k], w [1, k, m])   ->  Reshape(MatMul(x [n, k], w [k, m])) [1, n, m]
//   Einsum that is such a product             ->  the same
//   op(Reshape(x [n, c]) [1, n, c], ...)      ->  Reshape(op(x, ...))
//   ExpandDims, Squeeze, Reshape(Reshape(x)), a Transpose that keeps the order of elements
//                                             ->  Reshape, to a constant shape
//
//   Reshape(op(x [1, n, c], ...) [n, c])      ->  op(Reshape(x [n, c]), ...)
//   Reshape(Concat(a [1, n, f, c], ...))      ->  Concat(Reshape(a [n, f * c]), ...)
//
// where op works on one element at a time, or along the last axis, and what else it takes is such a
// reshape as well or the same for all rows. It saves next to nothing by itself: what follows has
// one form to look for instead of many.
#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "grappler_passes/broadcasts.h"
#include "grappler_passes/pass.h"

namespace tensorflow {
namespace nann_passes {
namespace {

// A few are enough for every model that we have; what is left then is for the next run.
constexpr int kMaxSweeps = 100;

bool OnLastAxis(const ScorerGraph& scorer, const NodeDef& node) {
  if (node.op() == "Softmax" || node.op() == "LogSoftmax") return true;
  if (node.op() != "ConcatV2") return false;
  const auto axis = scorer.Integer(node.input(NumInputs(node) - 1));
  const Shape& shape = scorer.ShapeOf(node.name());
  return shape.known() && (axis == -1 || axis == shape.rank() - 1);
}

// `tensor` is the same in all rows of what it is broadcast to.
bool SameInAllRows(const Shape& shape) { return shape.rows() == 1; }

bool IsReshapedMatrix(const ScorerGraph& scorer, const std::string& tensor, const Shape& shape) {
  const NodeDef& node = scorer.NodeOf(tensor);
  if (node.op() != "Reshape" || !scorer.Free(node)) return false;
  const Shape& before = scorer.ShapeOf(node.input(0));
  return before.rank() == 2 && SameLast(before, shape);
}

// A batched product of which only the left operand has more than one matrix' worth of rows.
bool FlattenProduct(ScorerGraph& scorer, const NodeDef& node) {
  // MatMul takes fewer types, and conjugates nothing.
  const DataType dtype = scorer.DtypeOf(node.name());
  if (!DataTypeIsFloating(dtype) && dtype != DT_INT32 && dtype != DT_INT64) return false;
  const Shape& left = scorer.ShapeOf(node.input(0));
  const Shape& right = scorer.ShapeOf(node.input(1));
  const Shape& out = scorer.ShapeOf(node.name());
  if (!out.known() || BoolOf(node, "adj_x") || right.rank() < 2 || left.rank() < 2) return false;
  const Shape matrix{right[-2], right[-1]};
  if (right.elements() != matrix.elements()) return false;
  if (!scorer.OfItems(node.input(0)) || scorer.OfItems(node.input(1))) return false;
  if (left.rows() != out.rows()) return false;
  const std::string a = AsMatrix(scorer, node.input(0), node);
  const std::string b = scorer.Reshape(node.input(1), matrix, node);
  const std::string product = scorer.MatMul(a, b, false, BoolOf(node, "adj_y"), node);
  scorer.Replace(node.name(), scorer.Reshape(product, out, node));
  return true;
}

// Axes by their labels, but for those of extent 1; "" where there are others than letters.
std::string Labels(absl::string_view labels, const Shape& shape) {
  std::string kept;
  if (static_cast<int>(labels.size()) != shape.rank()) return "";
  for (size_t i = 0; i < labels.size(); ++i) {
    if (!absl::ascii_isalpha(labels[i])) return "";
    if (shape[i] != 1) kept.push_back(labels[i]);
  }
  return kept;
}

// An Einsum of an item's tensor and another over the last axis of the first, such as
// "bnd,bld->bnl": all rows of one matrix by another.
bool FlattenEinsum(ScorerGraph& scorer, const NodeDef& node) {
  const std::vector<std::string> sides = absl::StrSplit(StringOf(node, "equation"), "->");
  if (NumInputs(node) != 2 || sides.size() != 2) return false;
  const std::vector<std::string> operands = absl::StrSplit(sides[0], ',');
  const Shape& left = scorer.ShapeOf(node.input(0));
  const Shape& right = scorer.ShapeOf(node.input(1));
  const Shape& out = scorer.ShapeOf(node.name());
  if (operands.size() != 2 || !left.known() || !right.known() || !out.known()) return false;
  if (!scorer.OfItems(node.input(0)) || scorer.OfItems(node.input(1))) return false;
  if (scorer.DtypeOf(node.name()) != DT_FLOAT) return false;
  const std::string a = Labels(operands[0], left), b = Labels(operands[1], right);
  if (a.empty() || b.size() != 2) return false;
  const char summed = a.back();
  const bool transposed = b[1] == summed;
  const char made = b[transposed ? 0 : 1];
  if (b[transposed ? 1 : 0] != summed || made == summed || left.last() == 1) return false;
  const std::string rows = a.substr(0, a.size() - 1);
  if (absl::StrContains(rows, summed) || absl::StrContains(rows, made)) return false;
  if (Labels(sides[1], out) != absl::StrCat(rows, std::string(1, made))) return false;
  Extents matrix;
  for (const int64_t extent : right.extents()) {
    if (extent != 1) matrix.push_back(extent);
  }
  const std::string product =
      scorer.MatMul(AsMatrix(scorer, node.input(0), node),
                    scorer.Reshape(node.input(1), Shape(matrix), node), false, transposed, node);
  scorer.Replace(node.name(), scorer.Reshape(product, out, node));
  return true;
}

// Any reshape whose result's shape is known becomes one to a constant shape.
bool Simplify(ScorerGraph& scorer, const NodeDef& node) {
  const Shape& before = scorer.ShapeOf(node.input(0));
  const Shape& after = scorer.ShapeOf(node.name());
  if (!before.known() || !after.known()) return false;
  const NodeDef& source = scorer.NodeOf(node.input(0));
  const bool twice = source.op() == "Reshape" && scorer.Free(source);
  const bool constant = node.op() == "Reshape" && scorer.NodeOf(node.input(1)).op() == "Const";
  if (constant && !twice && before != after) return false;
  scorer.Replace(node.name(), scorer.Reshape(node.input(0), after, node));
  return true;
}

// Whether a transpose keeps the elements' order: only axes of extent 1 change places.
bool KeepsOrder(const ScorerGraph& scorer, const NodeDef& node) {
  std::vector<int64_t> order, moved;
  const Shape& shape = scorer.ShapeOf(node.input(0));
  if (!shape.known() || !scorer.Integers(node.input(1), &order)) return false;
  for (const int64_t axis : order) {
    if (axis < 0 || axis >= shape.rank()) return false;
    if (shape[axis] != 1) moved.push_back(axis);
  }
  return std::is_sorted(moved.begin(), moved.end());
}

// What follows takes `tensor`, [1, n, c], as a matrix. (Of more axes, operands may be repeated along
// some: as matrices, they would no longer be seen to be.)
bool IsWantedAsMatrix(const ScorerGraph& scorer, const std::string& tensor, const Shape& shape) {
  if (shape.rank() != 3 || shape[0] != 1) return false;
  const Shape matrix{shape.rows(), shape.last()};
  for (const NodeDef* consumer : scorer.Consumers(tensor)) {
    if (consumer->op() != "Reshape" || consumer->input(0) != tensor) continue;
    if (scorer.ShapeOf(consumer->name()) == matrix) return true;
  }
  return false;
}

// A concatenation along an axis that a reshape merges with those behind it.
bool FlattenConcat(ScorerGraph& scorer, const NodeDef& reshape) {
  const NodeDef& concat = scorer.NodeOf(reshape.input(0));
  if (concat.op() != "ConcatV2" || !scorer.Free(concat)) return false;
  const Shape& whole = scorer.ShapeOf(reshape.input(0));
  const Shape& out = scorer.ShapeOf(reshape.name());
  const int parts = NumInputs(concat) - 1;
  const auto axis = scorer.Integer(concat.input(parts));
  if (TypeOf(concat, "Tidx") != DT_INT32 || !axis.has_value() || !whole.known()) return false;
  const int64_t along = *axis < 0 ? *axis + whole.rank() : *axis;
  if (out.rank() != 2 || along < 0 || along + 1 >= whole.rank()) return false;
  const int64_t rows = whole.Product(along);
  if (rows <= 0 || out[0] != rows) return false;
  std::vector<std::string> inputs;
  for (int i = 0; i < parts; ++i) {
    const Shape& part = scorer.ShapeOf(concat.input(i));
    if (!part.known()) return false;
    inputs.push_back(scorer.Reshape(concat.input(i), {rows, part.elements() / rows}, reshape));
  }
  inputs.push_back(scorer.AddInteger(1, reshape));
  scorer.Replace(reshape.name(), scorer.Clone(concat, inputs, out));
  return true;
}

// Moves the reshapes of a node's operands behind it, and those behind it before it.
bool Sink(ScorerGraph& scorer, const NodeDef& node) {
  const bool last = OnLastAxis(scorer, node);
  if (!last && !IsUnary(node) && !IsBinary(node) && node.op() != "BiasAdd") return false;
  if (node.op() == "BiasAdd" && StringOf(node, "data_format") == "NCHW") return false;
  const Shape& out = scorer.ShapeOf(node.name());
  if (out.rank() < 3) return false;
  const bool concat = node.op() == "ConcatV2";
  if (concat && TypeOf(node, "Tidx") != DT_INT32) return false;
  const int operands = NumInputs(node) - (concat ? 1 : 0);
  int reshaped = 0;
  for (int i = 0; i < operands; ++i) {
    const Shape& shape = scorer.ShapeOf(node.input(i));
    if (!shape.known()) return false;
    const bool full = shape.rows() == out.rows() && shape.rank() == out.rank();
    if (!full && (concat || !SameInAllRows(shape))) return false;
    // [n, 1] beside [n, c] would have been the same as [1, n, 1].
    reshaped += full && IsReshapedMatrix(scorer, node.input(i), shape);
  }
  if (reshaped == 0 && !IsWantedAsMatrix(scorer, node.name(), out)) return false;
  std::vector<std::string> inputs;
  for (int i = 0; i < operands; ++i) {
    const bool vector = node.op() == "BiasAdd" && i == 1;
    inputs.push_back(vector || scorer.ShapeOf(node.input(i)).rank() == 0
                         ? node.input(i)
                         : AsMatrix(scorer, node.input(i), node));
  }
  if (concat) inputs.push_back(scorer.AddInteger(1, node));
  const std::string made = scorer.Clone(node, inputs, {out.rows(), out.last()});
  scorer.Replace(node.name(), scorer.Reshape(made, out, node));
  return true;
}

bool Flatten(ScorerGraph& scorer, NodeDef& node) {
  if (!scorer.OfItems(node.name())) return false;
  const std::string& op = node.op();
  if (op == "BatchMatMulV2") return FlattenProduct(scorer, node);
  if (op == "Einsum") return FlattenEinsum(scorer, node);
  if (op == "Reshape" || op == "ExpandDims" || op == "Squeeze" ||
      (op == "Transpose" && KeepsOrder(scorer, node))) {
    return FlattenConcat(scorer, node) || Simplify(scorer, node);
  }
  return Sink(scorer, node);
}

}  // namespace

Pass FlattenRows() { return {"flatten_rows", {{{}, Flatten, kMaxSweeps}}}; }

}  // namespace nann_passes
}  // namespace tensorflow
