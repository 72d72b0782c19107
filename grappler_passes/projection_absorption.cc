// projection_absorption: makes one product of a chain of products whose right factors are the same
// for all items.
//
//   MatMul(MatMul(x, W) + b, K)   ->  MatMul(x, MatMul(W, K)) + MatMul(b, K)
//
// where neither W, b nor K depends on the items, and the two products cost more multiply-adds per
// row than the one. In target attention the query's projection disappears into the user's keys, and
// the values absorb the first layer after them.
#include "grappler_passes/pass.h"

namespace tensorflow {
namespace nann_passes {
namespace {

// A sum of a row vector and of the operand with index `operand`.
struct SumWithRow {
  std::string row;
  int operand;
};

std::optional<SumWithRow> MatchSum(const ScorerGraph& scorer, const NodeDef& node) {
  if (node.op() == "BiasAdd") return SumWithRow{node.input(1), 0};
  if (node.op() != "AddV2" && node.op() != "Add") return std::nullopt;
  for (int i : {0, 1}) {
    const Shape& shape = scorer.ShapeOf(node.input(i));
    if (scorer.OfItems(node.input(i)) || shape.rows() != 1) continue;
    if (SameLast(shape, scorer.ShapeOf(node.name()))) return SumWithRow{node.input(i), 1 - i};
  }
  return std::nullopt;
}

std::optional<Plan> MatchChain(const ScorerGraph& scorer, const NodeDef& outer) {
  if (!scorer.OfItems(outer.input(0)) || scorer.OfItems(outer.input(1))) return std::nullopt;
  if (BoolOf(outer, "transpose_a")) return std::nullopt;
  const NodeDef* inner = &scorer.NodeOf(outer.input(0));
  bool shared = !scorer.HasOneConsumer(outer.input(0));
  std::optional<SumWithRow> sum;
  if (inner->op() != "MatMul") {
    sum = MatchSum(scorer, *inner);
    if (!sum.has_value() || !scorer.Free(*inner)) return std::nullopt;
    shared = shared || !scorer.HasOneConsumer(inner->input(sum->operand));
    inner = &scorer.NodeOf(inner->input(sum->operand));
  }
  if (inner->op() != "MatMul" || !scorer.Free(*inner)) return std::nullopt;
  if (BoolOf(*inner, "transpose_a") || scorer.OfItems(inner->input(1))) return std::nullopt;
  const Shape& x = scorer.ShapeOf(inner->input(0));
  const Shape& between = scorer.ShapeOf(inner->name());
  const Shape& out = scorer.ShapeOf(outer.name());
  if (!x.known() || !out.known()) return std::nullopt;
  // The sum must not repeat the product.
  if (between != scorer.ShapeOf(outer.input(0))) return std::nullopt;
  const int64_t k = x[1], m = between[1], n = out[1];
  if (k * n >= m * n + (shared ? 0 : k * m)) return std::nullopt;
  return [&outer, inner, sum, m](ScorerGraph& graph) {
    const bool transposed = BoolOf(outer, "transpose_b");
    const std::string factor = graph.MatMul(inner->input(1), outer.input(1),
                                            BoolOf(*inner, "transpose_b"), transposed, outer);
    const std::string product = graph.MatMul(inner->input(0), factor, false, false, outer);
    if (!sum.has_value()) return product;
    const std::string row = graph.Reshape(sum->row, {1, m}, outer);
    return graph.Binary("AddV2", product,
                        graph.MatMul(row, outer.input(1), false, transposed, outer), outer);
  };
}

}  // namespace

Pass ProjectionAbsorption() { return {"projection_absorption", {{{"MatMul"}, MatchChain}}}; }

}  // namespace nann_passes
}  // namespace tensorflow
