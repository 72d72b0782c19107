// batch_norm_folding: what scales and shifts columns alike for all items belongs to the weights of a
// product before it, or behind it.
//
//   Mul(MatMul(x, W), s)     ->  MatMul(x, Mul(W, s))
//   Mul(x + b, s)            ->  Mul(x, s) + Mul(b, s)       where x is such a product
//   Add(Add(x, b), c)        ->  Add(x, Add(b, c))
//   MatMul(Mul(x, s), W)     ->  MatMul(x, Mul(W, s as a column))
//   MatMul(Add(x, b), W)     ->  Add(MatMul(x, W), MatMul(b, W))     where that is no wider
//
// where s, b and c are scalars or rows that do not depend on the items. Batch norm at inference is
// a scale and a shift, the attention's 1 / sqrt(d) a scale, its mask a shift. A user's scale stays
// behind a product of the item alone: item_fold takes that one away whole.
#include "grappler_passes/pass.h"

namespace tensorflow {
namespace nann_passes {
namespace {

constexpr int kMaxSums = 100;  // Between a product and its scale.

bool IsSum(const NodeDef& node) {
  return node.op() == "AddV2" || node.op() == "Add" || node.op() == "BiasAdd";
}

// The operand of `node` that is the same in all rows and does not depend on the items; -1 for none.
int RowOperand(const ScorerGraph& scorer, const NodeDef& node) {
  const Shape& out = scorer.ShapeOf(node.name());
  if (out.rank() != 2) return -1;
  for (int i : {1, 0}) {
    const Shape& shape = scorer.ShapeOf(node.input(i));
    if (scorer.OfItems(node.input(i)) || scorer.ShapeOf(node.input(1 - i)) != out) continue;
    if (shape.rows() == 1 && shape.rank() <= 2) return i;
  }
  return -1;
}

// `tensor` times the row `scale`, the scale moved into the weights of what it is a product of; ""
// where it is none.
std::string Scaled(ScorerGraph& scorer, const std::string& tensor, const std::string& scale,
                   int sums = 0) {
  const NodeDef& node = scorer.NodeOf(tensor);
  if (sums > kMaxSums || !scorer.Free(node) || !scorer.HasOneConsumer(tensor)) return "";
  if (IsSum(node)) {
    const int row = RowOperand(scorer, node);
    if (row < 0) return "";
    const std::string x = Scaled(scorer, node.input(1 - row), scale, sums + 1);
    if (x.empty()) return "";
    return scorer.Binary("AddV2", x, scorer.Binary("Mul", node.input(row), scale, node), node);
  }
  if (node.op() != "MatMul" || scorer.OfItems(node.input(1))) return "";
  if (scorer.DependenceOf(tensor) == kItem && scorer.DependenceOf(scale) != kModel) return "";
  std::string factor = scale;
  const bool transposed = BoolOf(node, "transpose_b");
  const Shape& shape = scorer.ShapeOf(scale);
  if (transposed && shape.elements() > 1) factor = scorer.Reshape(scale, {shape.last(), 1}, node);
  const std::string weights = scorer.Binary("Mul", node.input(1), factor, node);
  return scorer.MatMul(node.input(0), weights, BoolOf(node, "transpose_a"), transposed, node);
}

bool FoldScale(ScorerGraph& scorer, const NodeDef& node) {
  const int row = RowOperand(scorer, node);
  if (row < 0) return false;
  const std::string made = Scaled(scorer, node.input(1 - row), node.input(row));
  if (made.empty()) return false;
  scorer.Replace(node.name(), made);
  return true;
}

// What scales or shifts a product's input moves behind it.
bool FoldInput(ScorerGraph& scorer, const NodeDef& product) {
  if (BoolOf(product, "transpose_a") || scorer.OfItems(product.input(1))) return false;
  const NodeDef& inner = scorer.NodeOf(product.input(0));
  if (!scorer.Free(inner) || !scorer.HasOneConsumer(inner.name())) return false;
  if (inner.op() != "Mul" && !IsSum(inner)) return false;
  const int row = RowOperand(scorer, inner);
  const Shape& weights = scorer.ShapeOf(product.input(1));
  if (row < 0 || !weights.known()) return false;
  const std::string x = inner.input(1 - row);
  const Shape& shape = scorer.ShapeOf(inner.input(row));
  const bool transposed = BoolOf(product, "transpose_b");
  const int64_t depth = weights[transposed ? 1 : 0], width = weights[transposed ? 0 : 1];
  if (inner.op() == "Mul") {
    const bool scalar = shape.elements() == 1;
    const Shape along = transposed ? Shape{1, depth} : Shape{depth, 1};
    const std::string scale =
        scorer.Reshape(inner.input(row), scalar ? Shape{1, 1} : along, product);
    scorer.Replace(product.name(),
                   scorer.MatMul(x, scorer.Binary("Mul", product.input(1), scale, product), false,
                                 transposed, product));
    return true;
  }
  if (shape.elements() != depth || width > depth) return false;
  const std::string shift = scorer.MatMul(scorer.Reshape(inner.input(row), {1, depth}, product),
                                          product.input(1), false, transposed, product);
  scorer.Replace(
      product.name(),
      scorer.Binary("AddV2", scorer.MatMul(x, product.input(1), false, transposed, product), shift,
                    product));
  return true;
}

bool MergeShifts(ScorerGraph& scorer, const NodeDef& outer) {
  const int row = RowOperand(scorer, outer);
  if (row < 0) return false;
  const NodeDef& inner = scorer.NodeOf(outer.input(1 - row));
  if (!IsSum(inner) || !scorer.Free(inner) || !scorer.HasOneConsumer(inner.name())) return false;
  const int inner_row = RowOperand(scorer, inner);
  if (inner_row < 0) return false;
  const std::string shift = scorer.Binary("AddV2", inner.input(inner_row), outer.input(row), outer);
  scorer.Replace(outer.name(), scorer.Binary("AddV2", inner.input(1 - inner_row), shift, outer));
  return true;
}

bool Fold(ScorerGraph& scorer, NodeDef& node) {
  if (!scorer.OfItems(node.name())) return false;
  if (scorer.DtypeOf(node.name()) == DT_STRING)
    return false;  // Add, which puts one behind another.
  if (node.op() == "MatMul") return FoldInput(scorer, node);
  return node.op() == "Mul" ? FoldScale(scorer, node) : MergeShifts(scorer, node);
}

}  // namespace

Pass BatchNormFolding() {
  return {"batch_norm_folding", {{{"MatMul", "Mul", "AddV2", "Add", "BiasAdd"}, Fold}}};
}

}  // namespace nann_passes
}  // namespace tensorflow
