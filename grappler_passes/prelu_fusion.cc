// prelu_fusion: computes the parametric rectifier in fewer steps.
//
//   Relu(x) - a * Relu(-x)                ->  Relu(x) + a * Minimum(x, 0)
//
// Layers and users write it as on the left, with six operations on every element; the result has
// four.
#include "grappler_passes/pass.h"

namespace tensorflow {
namespace nann_passes {
namespace {

// Returns x if `tensor` is -x.
std::optional<std::string> Negated(const ScorerGraph& scorer, const std::string& tensor) {
  const NodeDef& node = scorer.NodeOf(tensor);
  if (node.op() != "Neg" || !scorer.Free(node)) return std::nullopt;
  return node.input(0);
}

// Returns a if `tensor` is a * Relu(-x).
std::optional<std::string> FactorOfNegativePart(const ScorerGraph& scorer,
                                                const std::string& tensor, const std::string& x) {
  const NodeDef& node = scorer.NodeOf(tensor);
  if (node.op() != "Mul" || !scorer.Free(node)) return std::nullopt;
  for (int i : {0, 1}) {
    const NodeDef& relu = scorer.NodeOf(node.input(i));
    if (relu.op() != "Relu" || !scorer.Free(relu) || Negated(scorer, relu.input(0)) != x) continue;
    return node.input(1 - i);
  }
  return std::nullopt;
}

std::optional<Plan> MatchPrelu(const ScorerGraph& scorer, const NodeDef& sum) {
  const bool subtracts = sum.op() == "Sub";
  for (int i : {0, 1}) {
    const NodeDef& relu = scorer.NodeOf(sum.input(i));
    if (relu.op() != "Relu" || !scorer.Free(relu) || (i == 1 && subtracts)) continue;
    const std::string x = relu.input(0);
    const auto factor = FactorOfNegativePart(scorer, sum.input(1 - i), x);
    if (!factor.has_value()) continue;
    if (!scorer.ShapeOf(x).known() || !scorer.ShapeOf(*factor).known()) return std::nullopt;
    if (scorer.DtypeOf(x) != DT_FLOAT) return std::nullopt;
    // a * Relu(-x) is -a * Minimum(x, 0).
    const auto opposite = subtracts ? factor : Negated(scorer, *factor);
    return [&sum, i, x, factor, opposite](ScorerGraph& graph) {
      const std::string slope = opposite.has_value()
                                    ? *opposite
                                    : graph.Add("Neg", {*factor}, graph.ShapeOf(*factor), sum);
      Tensor zero(DT_FLOAT, TensorShape());
      zero.scalar<float>()() = 0;
      const std::string negative = graph.Binary("Minimum", x, graph.AddConstant(zero, sum), sum);
      return graph.Binary("AddV2", sum.input(i), graph.Binary("Mul", slope, negative, sum), sum);
    };
  }
  return std::nullopt;
}

}  // namespace

Pass PreluFusion() { return {"prelu_fusion", {{{"AddV2", "Add", "Sub"}, MatchPrelu}}}; }

}  // namespace nann_passes
}  // namespace tensorflow
