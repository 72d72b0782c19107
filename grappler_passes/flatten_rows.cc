// flatten_rows: makes matrices, with one or several rows per item, of all that depends on the
// items. A user is scored alone, so that a batch axis has extent 1.
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
// where op works on one element at a time, or along the last axis, and its other operands are such
// reshapes as well or the same for all rows. The pass saves next to nothing by itself: the passes
// after it have one form to look for instead of many.
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

// A few are enough for every model that we have; the next run of the passes finds the rest.
constexpr int kMaxSweeps = 100;

bool OnLastAxis(const ScorerGraph& scorer, const NodeDef& node) {
  if (node.op() == "Softmax" || node.op() == "LogSoftmax") return true;
  if (node.op() != "ConcatV2") return false;
  const auto axis = scorer.Integer(node.input(NumInputs(node) - 1));
  const Shape& shape = scorer.ShapeOf(node.name());
  return shape.known() && (axis == -1 || axis == shape.rank() - 1);
}

bool IsReshapedMatrix(const ScorerGraph& scorer, const std::string& tensor, const Shape& shape) {
  const NodeDef& node = scorer.NodeOf(tensor);
  if (node.op() != "Reshape" || !scorer.Free(node)) return false;
  const Shape& before = scorer.ShapeOf(node.input(0));
  return before.rank() == 2 && SameLast(before, shape);
}

// Plans a product of the rows of the first operand by the second, which has the elements of
// `matrix`.
Plan PlanProduct(const NodeDef& node, const Shape& matrix, bool transposed, const Shape& out) {
  return [&node, matrix, transposed, out](ScorerGraph& graph) {
    const std::string rows = AsMatrix(graph, node.input(0), node);
    const std::string right = graph.Reshape(node.input(1), matrix, node);
    return graph.Reshape(graph.MatMul(rows, right, false, transposed, node), out, node);
  };
}

// A batched product of which only the left operand has more than one matrix.
std::optional<Plan> MatchProduct(const ScorerGraph& scorer, const NodeDef& node) {
  // MatMul takes fewer types, and conjugates nothing.
  const DataType dtype = scorer.DtypeOf(node.name());
  if (!DataTypeIsFloating(dtype) && dtype != DT_INT32 && dtype != DT_INT64) return std::nullopt;
  const Shape& left = scorer.ShapeOf(node.input(0));
  const Shape& right = scorer.ShapeOf(node.input(1));
  const Shape& out = scorer.ShapeOf(node.name());
  if (!out.known() || right.rank() < 2 || left.rank() < 2) return std::nullopt;
  const Shape matrix{right[-2], right[-1]};
  if (BoolOf(node, "adj_x") || right.elements() != matrix.elements()) return std::nullopt;
  if (!scorer.OfItems(node.input(0)) || scorer.OfItems(node.input(1))) return std::nullopt;
  if (left.rows() != out.rows()) return std::nullopt;
  return PlanProduct(node, matrix, BoolOf(node, "adj_y"), out);
}

// Returns the labels of axes, but for those of extent 1, if all labels are letters.
std::optional<std::string> Labels(absl::string_view labels, const Shape& shape) {
  std::string kept;
  if (static_cast<int>(labels.size()) != shape.rank()) return std::nullopt;
  for (size_t i = 0; i < labels.size(); ++i) {
    if (!absl::ascii_isalpha(labels[i])) return std::nullopt;
    if (shape[i] != 1) kept.push_back(labels[i]);
  }
  return kept;
}

// An Einsum of an item's tensor and another over the last axis of the first, such as
// "bnd,bld->bnl": all rows of one matrix by another.
std::optional<Plan> MatchEinsum(const ScorerGraph& scorer, const NodeDef& node) {
  const std::vector<std::string> sides = absl::StrSplit(StringOf(node, "equation"), "->");
  if (NumInputs(node) != 2 || sides.size() != 2) return std::nullopt;
  const std::vector<std::string> operands = absl::StrSplit(sides[0], ',');
  if (operands.size() != 2 || scorer.DtypeOf(node.name()) != DT_FLOAT) return std::nullopt;
  const Shape& left = scorer.ShapeOf(node.input(0));
  const Shape& right = scorer.ShapeOf(node.input(1));
  const Shape& out = scorer.ShapeOf(node.name());
  if (!scorer.OfItems(node.input(0)) || scorer.OfItems(node.input(1))) return std::nullopt;
  const auto a = Labels(operands[0], left), b = Labels(operands[1], right);
  if (!a.has_value() || a->empty() || !b.has_value() || b->size() != 2) return std::nullopt;
  const char summed = a->back();
  const bool transposed = b->back() == summed;
  const char made = (*b)[transposed ? 0 : 1];
  if ((*b)[transposed ? 1 : 0] != summed || made == summed || left.last() == 1) return std::nullopt;
  const std::string rows = a->substr(0, a->size() - 1);
  if (absl::StrContains(rows, summed) || absl::StrContains(rows, made)) return std::nullopt;
  if (Labels(sides[1], out) != absl::StrCat(rows, std::string(1, made))) return std::nullopt;
  Extents matrix;
  for (const int64_t extent : right.extents()) {
    if (extent != 1) matrix.push_back(extent);
  }
  return PlanProduct(node, Shape(std::move(matrix)), transposed, out);
}

// Any reshape whose result's shape is known becomes one to a constant shape.
std::optional<Plan> MatchReshape(const ScorerGraph& scorer, const NodeDef& node) {
  const Shape& before = scorer.ShapeOf(node.input(0));
  const Shape& after = scorer.ShapeOf(node.name());
  if (!before.known() || !after.known()) return std::nullopt;
  const NodeDef& source = scorer.NodeOf(node.input(0));
  const bool twice = source.op() == "Reshape" && scorer.Free(source);
  const bool constant = node.op() == "Reshape" && scorer.NodeOf(node.input(1)).op() == "Const";
  if (constant && !twice && before != after) return std::nullopt;
  return [&node, after](ScorerGraph& graph) { return graph.Reshape(node.input(0), after, node); };
}

// Whether a transpose keeps the elements' order: only axes of extent 1 change places.
bool KeepsOrder(const ScorerGraph& scorer, const NodeDef& node) {
  const Shape& shape = scorer.ShapeOf(node.input(0));
  const auto order = scorer.Integers(node.input(1));
  if (!shape.known() || !order.has_value()) return false;
  std::vector<int64_t> moved;
  for (const int64_t axis : *order) {
    if (axis < 0 || axis >= shape.rank()) return false;
    if (shape[axis] != 1) moved.push_back(axis);
  }
  return std::is_sorted(moved.begin(), moved.end());
}

// Whether a consumer takes `tensor`, [1, n, c], as a matrix. (With more axes, operands may be
// repeated along some: as matrices, they would no longer be recognized as repeated.)
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
std::optional<Plan> MatchConcat(const ScorerGraph& scorer, const NodeDef& reshape) {
  const NodeDef& concat = scorer.NodeOf(reshape.input(0));
  if (concat.op() != "ConcatV2" || !scorer.Free(concat)) return std::nullopt;
  const Shape& whole = scorer.ShapeOf(reshape.input(0));
  const Shape& out = scorer.ShapeOf(reshape.name());
  const int parts = NumInputs(concat) - 1;
  const auto axis = scorer.Integer(concat.input(parts));
  if (TypeOf(concat, "Tidx") != DT_INT32 || !axis.has_value()) return std::nullopt;
  const int64_t along = *axis < 0 ? *axis + whole.rank() : *axis;
  if (out.rank() != 2 || along < 0 || along + 1 >= whole.rank()) return std::nullopt;
  const int64_t rows = whole.Product(along);
  if (rows <= 0 || out[0] != rows) return std::nullopt;
  std::vector<Shape> shapes;
  for (int i = 0; i < parts; ++i) {
    const Shape& part = scorer.ShapeOf(concat.input(i));
    if (!part.known()) return std::nullopt;
    shapes.push_back({rows, part.elements() / rows});
  }
  return [&reshape, &concat, shapes, out](ScorerGraph& graph) {
    std::vector<std::string> inputs;
    for (size_t i = 0; i < shapes.size(); ++i) {
      inputs.push_back(graph.Reshape(concat.input(i), shapes[i], reshape));
    }
    inputs.push_back(graph.AddInteger(1, reshape));
    return graph.Clone(concat, inputs, out);
  };
}

// An operation on elements or along the last axis: the reshapes of its operands move behind it, and
// those behind it before it.
std::optional<Plan> MatchOperation(const ScorerGraph& scorer, const NodeDef& node) {
  const bool concat = node.op() == "ConcatV2", bias = node.op() == "BiasAdd";
  if (!OnLastAxis(scorer, node) && !IsUnary(node) && !IsBinary(node) && !bias) return std::nullopt;
  if (bias && StringOf(node, "data_format") == "NCHW") return std::nullopt;
  if (concat && TypeOf(node, "Tidx") != DT_INT32) return std::nullopt;
  const Shape& out = scorer.ShapeOf(node.name());
  if (out.rank() < 3) return std::nullopt;
  const int operands = NumInputs(node) - (concat ? 1 : 0);
  bool reshaped = false;
  for (int i = 0; i < operands; ++i) {
    const Shape& shape = scorer.ShapeOf(node.input(i));
    if (!shape.known()) return std::nullopt;
    const bool full = shape.rows() == out.rows() && shape.rank() == out.rank();
    // Any other operand must be the same in all rows.
    if (!full && (concat || shape.rows() != 1)) return std::nullopt;
    // [n, 1] beside [n, c] would have been the same as [1, n, 1].
    reshaped = reshaped || (full && IsReshapedMatrix(scorer, node.input(i), shape));
  }
  if (!reshaped && !IsWantedAsMatrix(scorer, node.name(), out)) return std::nullopt;
  return [&node, concat, bias, operands, out](ScorerGraph& graph) {
    std::vector<std::string> inputs;
    for (int i = 0; i < operands; ++i) {
      const bool as_is = (bias && i == 1) || graph.ShapeOf(node.input(i)).rank() == 0;
      inputs.push_back(as_is ? node.input(i) : AsMatrix(graph, node.input(i), node));
    }
    if (concat) inputs.push_back(graph.AddInteger(1, node));
    return graph.Reshape(graph.Clone(node, inputs, {out.rows(), out.last()}), out, node);
  };
}

std::optional<Plan> Match(const ScorerGraph& scorer, const NodeDef& node) {
  if (!scorer.OfItems(node.name())) return std::nullopt;
  const std::string& op = node.op();
  if (op == "BatchMatMulV2") return MatchProduct(scorer, node);
  if (op == "Einsum") return MatchEinsum(scorer, node);
  if (op == "Reshape" || op == "ExpandDims" || op == "Squeeze" ||
      (op == "Transpose" && KeepsOrder(scorer, node))) {
    auto plan = MatchConcat(scorer, node);
    return plan.has_value() ? plan : MatchReshape(scorer, node);
  }
  return MatchOperation(scorer, node);
}

}  // namespace

Pass FlattenRows() { return {"flatten_rows", {{{}, Match, kMaxSweeps}}}; }

}  // namespace nann_passes
}  // namespace tensorflow
