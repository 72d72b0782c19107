// projection_absorption: a chain of products whose right factors are the same for all items is one
// product.
//
//   MatMul(MatMul(x, W) + b, K)   ->  MatMul(x, MatMul(W, K)) + MatMul(b, K)
//
// where neither W, b nor K depends on the items, and the two products cost more multiply-adds a row
// than the one. In target attention the query's projection disappears into the user's keys, and the
// values take in the first layer after them.
#include "grappler_passes/pass.h"

namespace tensorflow {
namespace nann_passes {
namespace {

// The row vector that `node` adds to its first operand, or "".
std::string AddedRow(const ScorerGraph& scorer, const NodeDef& node, int* operand) {
  if (node.op() == "BiasAdd") {
    *operand = 0;
    return node.input(1);
  }
  if (node.op() != "AddV2" && node.op() != "Add") return "";
  for (int i : {0, 1}) {
    const Shape& shape = scorer.ShapeOf(node.input(i));
    if (scorer.OfItems(node.input(i)) || shape.rows() != 1) continue;
    if (!SameLast(shape, scorer.ShapeOf(node.name()))) continue;
    *operand = 1 - i;
    return node.input(i);
  }
  return "";
}

bool Absorb(ScorerGraph& scorer, NodeDef& outer) {
  if (!scorer.OfItems(outer.input(0)) || scorer.OfItems(outer.input(1))) return false;
  if (BoolOf(outer, "transpose_a")) return false;
  const NodeDef* inner = &scorer.NodeOf(outer.input(0));
  bool shared = !scorer.HasOneConsumer(outer.input(0));
  std::string row;
  if (inner->op() != "MatMul") {
    int operand = 0;
    row = AddedRow(scorer, *inner, &operand);
    if (row.empty() || !scorer.Free(*inner)) return false;
    shared = shared || !scorer.HasOneConsumer(inner->input(operand));
    inner = &scorer.NodeOf(inner->input(operand));
  }
  if (inner->op() != "MatMul" || !scorer.Free(*inner)) return false;
  if (BoolOf(*inner, "transpose_a") || scorer.OfItems(inner->input(1))) return false;
  const Shape& x = scorer.ShapeOf(inner->input(0));
  const Shape& between = scorer.ShapeOf(inner->name());
  const Shape& out = scorer.ShapeOf(outer.name());
  if (!x.known() || !out.known()) return false;
  if (between != scorer.ShapeOf(outer.input(0))) return false;  // The sum repeats the product.
  const int64_t k = x[1], m = between[1], n = out[1];
  if (k * n >= m * n + (shared ? 0 : k * m)) return false;
  const bool transposed = BoolOf(outer, "transpose_b");
  const std::string factor = scorer.MatMul(inner->input(1), outer.input(1),
                                           BoolOf(*inner, "transpose_b"), transposed, outer);
  std::string made = scorer.MatMul(inner->input(0), factor, false, false, outer);
  if (!row.empty()) {
    const std::string matrix = scorer.Reshape(row, {1, m}, outer);
    made = scorer.Binary("AddV2", made,
                         scorer.MatMul(matrix, outer.input(1), false, transposed, outer), outer);
  }
  scorer.Replace(outer.name(), made);
  return true;
}

}  // namespace

Pass ProjectionAbsorption() { return {"projection_absorption", {{{"MatMul"}, Absorb}}}; }

}  // namespace nann_passes
}  // namespace tensorflow
