#include "grappler_passes/costs.h"

namespace tensorflow {
namespace nann_passes {

double MultiplyAdds(const ScorerGraph& scorer, const NodeDef& node) {
  const bool matrices = node.op() == "MatMul" || node.op() == "_FusedMatMul";
  const bool batched = node.op() == "BatchMatMulV2" || node.op() == "BatchMatMul";
  if (!matrices && !batched) return 0;
  const Shape* left = scorer.ShapeOf(node.input(0));
  const Shape* out = scorer.ShapeOf(node.name());
  if (left == nullptr || out == nullptr || left->size() < 2) return 0;
  const bool transposed = node.attr().at(matrices ? "transpose_a" : "adj_x").b();
  return static_cast<double>(Elements(*out)) * (*left)[left->size() - (transposed ? 2 : 1)];
}

ScorerCosts CostsOf(const ScorerGraph& scorer) {
  ScorerCosts costs;
  for (const NodeDef* node : scorer.Nodes()) {
    if (node->op() == "Const" || node->op() == "_Arg" || node->op() == "_Retval") continue;
    const double products = MultiplyAdds(scorer, *node);
    if (scorer.OfItems(node->name())) {
      ++costs.nodes;
      costs.multiply_adds += products / kItems;
    } else {
      costs.multiply_adds_user += products;
    }
  }
  return costs;
}

}  // namespace nann_passes
}  // namespace tensorflow
