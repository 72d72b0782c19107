// prelu_fusion: the parametric rectifier in fewer steps.
//
//   Relu(x) - a * Relu(-x)                ->  Relu(x) + a * Minimum(x, 0)
//
// as layers and users write it; the result has four operations on every element instead of six.
#include "grappler_passes/pass.h"

namespace tensorflow {
namespace nann_passes {
namespace {

// x of -x, or "".
std::string Negated(const ScorerGraph& scorer, const std::string& tensor) {
  const NodeDef& node = scorer.NodeOf(tensor);
  return node.op() == "Neg" && scorer.Free(node) ? node.input(0) : "";
}

// Whether `tensor` is a * Relu(-x).
bool IsNegativePart(const ScorerGraph& scorer, const std::string& tensor, const std::string& x,
                    std::string* factor) {
  const NodeDef& node = scorer.NodeOf(tensor);
  if (node.op() != "Mul" || !scorer.Free(node)) return false;
  for (int i : {0, 1}) {
    const NodeDef& relu = scorer.NodeOf(node.input(i));
    if (relu.op() != "Relu" || !scorer.Free(relu) || Negated(scorer, relu.input(0)) != x) continue;
    *factor = node.input(1 - i);
    return true;
  }
  return false;
}

bool Fuse(ScorerGraph& scorer, NodeDef& sum) {
  for (int i : {0, 1}) {
    const NodeDef& relu = scorer.NodeOf(sum.input(i));
    if (relu.op() != "Relu" || !scorer.Free(relu) || (i == 1 && sum.op() == "Sub")) continue;
    const std::string x = relu.input(0);
    std::string factor;
    if (!IsNegativePart(scorer, sum.input(1 - i), x, &factor)) continue;
    if (!scorer.ShapeOf(x).known() || !scorer.ShapeOf(factor).known()) return false;
    // a * Relu(-x) is -a * Minimum(x, 0).
    std::string slope = factor;
    if (sum.op() != "Sub") {
      slope = Negated(scorer, factor);
      if (slope.empty()) slope = scorer.Add("Neg", {factor}, scorer.ShapeOf(factor), sum);
    }
    if (scorer.DtypeOf(x) != DT_FLOAT) return false;
    Tensor zero(DT_FLOAT, TensorShape());
    zero.scalar<float>()() = 0;
    const std::string negative = scorer.Binary("Minimum", x, scorer.AddConstant(zero, sum), sum);
    const std::string made =
        scorer.Binary("AddV2", sum.input(i), scorer.Binary("Mul", slope, negative, sum), sum);
    scorer.Replace(sum.name(), made);
    return true;
  }
  return false;
}

}  // namespace

Pass PreluFusion() { return {"prelu_fusion", {{{"AddV2", "Add", "Sub"}, Fuse}}}; }

}  // namespace nann_passes
}  // namespace tensorflow
