// broadcast_elimination: drops the repetition of a user's tensor for every item, or moves it behind
// the operations that follow.
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

std::optional<Plan> MatchElementwise(const ScorerGraph& scorer, const NodeDef& node) {
  if (!IsUnary(node) && !IsBinary(node) && node.op() != "Softmax") return std::nullopt;
  const Shape& out = scorer.ShapeOf(node.name());
  if (!out.known()) return std::nullopt;
  std::vector<std::optional<Reshaped>> sources;
  bool any = false;
  Shape inner = Shape::Scalar();
  for (int i = 0; i < NumInputs(node); ++i) {
    sources.push_back(BroadcastSource(scorer, node.input(i)));
    const auto& source = sources.back();
    any = any || source.has_value();
    inner = Broadcast(inner, source.has_value() ? source->shape : scorer.ShapeOf(node.input(i)));
  }
  if (!any || !inner.known()) return std::nullopt;
  if (node.op() == "Softmax" && !SameLast(inner, out)) return std::nullopt;
  return [&node, sources, inner, out](ScorerGraph& graph) {
    std::vector<std::string> inputs;
    for (size_t i = 0; i < sources.size(); ++i) {
      inputs.push_back(sources[i].has_value() ? sources[i]->AddTo(graph) : node.input(i));
    }
    return BroadcastTo(graph, graph.Clone(node, inputs, inner), out, node);
  };
}

std::optional<Plan> MatchProduct(const ScorerGraph& scorer, const NodeDef& node) {
  const auto source = BroadcastSource(scorer, node.input(0));
  const Shape& out = scorer.ShapeOf(node.name());
  if (!source.has_value() || !out.known() || BoolOf(node, "transpose_a")) return std::nullopt;
  if (!SameLast(source->shape, scorer.ShapeOf(node.input(0)))) return std::nullopt;
  return [&node, source, out](ScorerGraph& graph) {
    const std::string product =
        graph.MatMul(source->AddTo(graph), node.input(1), false, BoolOf(node, "transpose_b"), node);
    return BroadcastTo(graph, product, out, node);
  };
}

std::optional<Plan> MatchBatchedProduct(const ScorerGraph& scorer, const NodeDef& node) {
  const Shape& out = scorer.ShapeOf(node.name());
  for (int i : {0, 1}) {
    const auto source = BroadcastSource(scorer, node.input(i));
    if (!source.has_value()) continue;
    const Shape &small = source->shape, &full = scorer.ShapeOf(node.input(i));
    const Shape& other = scorer.ShapeOf(node.input(1 - i));
    if (!SameLast(small, full) || !SameLast(small.WithoutLast(1), full.WithoutLast(1))) continue;
    if (Broadcast(small.WithoutLast(2), other.WithoutLast(2)) != out.WithoutLast(2)) continue;
    return [&node, i, source](ScorerGraph& graph) {
      graph.SetInput(node, i, source->AddTo(graph));
      return node.name();
    };
  }
  return std::nullopt;
}

std::optional<Plan> Match(const ScorerGraph& scorer, const NodeDef& node) {
  if ((node.op() == "Tile" || node.op() == "BroadcastTo") &&
      scorer.ShapeOf(node.input(0)) == scorer.ShapeOf(node.name())) {
    return Existing(node.input(0));
  }
  // A broadcast is not moved behind another one.
  if (BroadcastSource(scorer, node.name()).has_value()) return std::nullopt;
  if (node.op() == "MatMul") return MatchProduct(scorer, node);
  if (node.op() == "BatchMatMulV2") return MatchBatchedProduct(scorer, node);
  return MatchElementwise(scorer, node);
}

}  // namespace

Pass BroadcastElimination() { return {"broadcast_elimination", {{{}, Match}}}; }

}  // namespace nann_passes
}  // namespace tensorflow
