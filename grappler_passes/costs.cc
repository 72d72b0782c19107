#include "grappler_passes/costs.h"

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace tensorflow {
namespace nann_passes {

namespace {

// Multiplies the extents of all labels of an Einsum. Axes of an ellipsis are counted from its end.
std::optional<double> OfEinsum(const ScorerGraph& scorer, const NodeDef& node) {
  const std::string equation = StringOf(node, "equation");
  const std::vector<std::string> operands =
      absl::StrSplit(equation.substr(0, equation.find("->")), ',');
  std::map<std::string, int64_t> extents;
  if (operands.size() != NumInputs(node)) return std::nullopt;
  for (size_t i = 0; i < operands.size(); ++i) {
    const Shape& shape = scorer.ShapeOf(node.input(i));
    if (!shape.known()) return std::nullopt;
    std::vector<std::string> labels;
    for (size_t at = 0; at < operands[i].size(); ++at) {
      if (operands[i][at] != '.') {
        labels.push_back(std::string(1, operands[i][at]));
        continue;
      }
      at += 2;  // "..."
      const int64_t unnamed = shape.rank() + 3 - static_cast<int64_t>(operands[i].size());
      for (int64_t axis = unnamed; axis > 0; --axis) labels.push_back(absl::StrCat("...", axis));
    }
    if (static_cast<int>(labels.size()) != shape.rank()) return std::nullopt;
    for (int axis = 0; axis < shape.rank(); ++axis) {
      int64_t& extent = extents[labels[axis]];
      extent = std::max(extent, shape[axis]);
    }
  }
  double product = 1;
  for (const auto& [label, extent] : extents) product *= static_cast<double>(extent);
  return product;
}

}  // namespace

std::optional<double> MultiplyAdds(const ScorerGraph& scorer, const NodeDef& node) {
  if (node.op() == "Einsum") return OfEinsum(scorer, node);
  const bool matrices = node.op() == "MatMul" || node.op() == "_FusedMatMul";
  const bool batched =
      node.op() == "BatchMatMul" || node.op() == "BatchMatMulV2" || node.op() == "BatchMatMulV3";
  if (!matrices && !batched) return 0;
  const Shape& left = scorer.ShapeOf(node.input(0));
  const Shape& out = scorer.ShapeOf(node.name());
  if (!out.known() || left.rank() < 2) return std::nullopt;
  const bool transposed = BoolOf(node, matrices ? "transpose_a" : "adj_x");
  return static_cast<double>(out.elements()) * left[transposed ? -2 : -1];
}

ScorerCosts CostsOf(const ScorerGraph& scorer) {
  ScorerCosts costs;
  for (const NodeDef* node : scorer.Nodes()) {
    if (node->op() == "Const" || node->op() == "_Arg" || node->op() == "_Retval") continue;
    const double products = MultiplyAdds(scorer, *node).value_or(0);
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
