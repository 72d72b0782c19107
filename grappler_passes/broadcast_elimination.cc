// broadcast_elimination: a tensor of the user that is repeated for every item need not be.
//
//   Broadcast(x)                    ->  x                       where it repeats nothing
//   op(Broadcast(x), y)             ->  op(x, y)                where y has the result's shape
//   op(Broadcast(x), Broadcast(y))  ->  Broadcast(op(x, y))     where the inner one is smaller
//   MatMul(Broadcast(x), w)         ->  Broadcast(MatMul(x, w))
//   BatchMatMulV2(Broadcast(x), y)  ->  BatchMatMulV2(x, y)     where batch axes are repeated
//
// Broadcast is Tile, BroadcastTo, tf.repeat, a product with ones, or a gather from a single row; op
// works on one element at a time, or along a last axis that is not repeated. (The original's memory
// access optimizer.)
#include "grappler_passes/broadcasts.h"
#include "grappler_passes/pass.h"

namespace tensorflow {
namespace nann_passes {
namespace {

bool RepeatsNothing(const ScorerGraph& scorer, const NodeDef& node) {
  if (node.op() != "Tile" && node.op() != "BroadcastTo") return false;
  return scorer.ShapeOf(node.input(0)) == scorer.ShapeOf(node.name());
}

bool OnElements(const NodeDef& node) {
  return IsUnary(node) || IsBinary(node) || node.op() == "Softmax";
}

bool Elementwise(ScorerGraph& scorer, NodeDef* node) {
  const Shape& out = scorer.ShapeOf(node->name());
  if (!out.known()) return false;
  std::vector<std::string> inputs;
  bool any = false;
  Shape inner = Shape::Scalar();
  for (int i = 0; i < NumInputs(*node); ++i) {
    const std::string source = BroadcastSource(scorer, node->input(i));
    inputs.push_back(source.empty() ? node->input(i) : source);
    any = any || !source.empty();
    inner = Broadcast(inner, scorer.ShapeOf(inputs.back()));
  }
  if (!any || !inner.known()) return false;
  if (node->op() == "Softmax" && !SameLast(inner, out)) return false;
  const std::string made = scorer.Clone(*node, inputs, inner);
  scorer.Replace(node->name(), BroadcastTo(scorer, made, out, *node));
  return true;
}

bool Product(ScorerGraph& scorer, NodeDef* node) {
  const std::string source = BroadcastSource(scorer, node->input(0));
  const Shape& out = scorer.ShapeOf(node->name());
  if (source.empty() || !out.known() || BoolOf(*node, "transpose_a")) return false;
  if (!SameLast(scorer.ShapeOf(source), scorer.ShapeOf(node->input(0)))) return false;
  const std::string made =
      scorer.MatMul(source, node->input(1), false, BoolOf(*node, "transpose_b"), *node);
  scorer.Replace(node->name(), BroadcastTo(scorer, made, out, *node));
  return true;
}

bool BatchedProduct(ScorerGraph& scorer, NodeDef* node) {
  const Shape& out = scorer.ShapeOf(node->name());
  for (int i : {0, 1}) {
    const std::string source = BroadcastSource(scorer, node->input(i));
    const Shape& other = scorer.ShapeOf(node->input(1 - i));
    const Shape& small = scorer.ShapeOf(source);
    const Shape& full = scorer.ShapeOf(node->input(i));
    if (!SameLast(small, full) || !SameLast(small.WithoutLast(1), full.WithoutLast(1))) continue;
    if (Broadcast(small.WithoutLast(2), other.WithoutLast(2)) != out.WithoutLast(2)) continue;
    scorer.SetInput(node, i, source);
    return true;
  }
  return false;
}

bool Eliminate(ScorerGraph& scorer, NodeDef& node) {
  if (RepeatsNothing(scorer, node)) {
    scorer.Replace(node.name(), node.input(0));
    return true;
  }
  // A broadcast itself is no operation to move one behind.
  if (!BroadcastSource(scorer, node.name()).empty()) return false;
  if (node.op() == "MatMul") return Product(scorer, &node);
  if (node.op() == "BatchMatMulV2") return BatchedProduct(scorer, &node);
  return OnElements(node) && Elementwise(scorer, &node);
}

}  // namespace

Pass BroadcastElimination() { return {"broadcast_elimination", {{{}, Eliminate}}}; }

}  // namespace nann_passes
}  // namespace tensorflow
