#ifndef GRAPPLER_PASSES_PASS_H_
#define GRAPPLER_PASSES_PASS_H_

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "grappler_passes/scorer_graph.h"

namespace tensorflow {
namespace nann_passes {

// How a node is rewritten: adds nodes to the graph, and returns the tensor that takes the place of
// the node's first output. It has the same values for all arguments, up to rounding. A plan holds
// references to nodes: it is applied before any node is removed.
using Plan = std::function<std::string(ScorerGraph& graph)>;

// The plan that adds nothing.
inline Plan Existing(std::string tensor) {
  return [tensor = std::move(tensor)](ScorerGraph& graph) { return tensor; };
}

// The tensors that the plans make, in order.
inline std::vector<std::string> Apply(const std::vector<Plan>& plans, ScorerGraph& graph) {
  std::vector<std::string> tensors;
  for (const Plan& plan : plans) tensors.push_back(plan(graph));
  return tensors;
}

// A pattern of nodes that ends at one node, and how it is rewritten.
struct Rule {
  std::vector<absl::string_view> ops;  // The ops that the last node may have. Empty: any op.
  // Returns the plan if the pattern ends at `node`, which is free and has a consumer.
  std::optional<Plan> (*match)(const ScorerGraph& scorer, const NodeDef& node);
  int sweeps = 1;  // How often the rule may go over all nodes; it stops when it finds nothing.
};

// The rules of a pass run one after another, each over the whole graph.
struct Pass {
  std::string name;
  std::vector<Rule> rules;
};

// Each pass is in the file of its name.
Pass BranchSwitch();
Pass FlattenRows();
Pass BroadcastElimination();
Pass FactorAbsorption();
Pass ConcatMatmulSplit();
Pass BatchNormFolding();
Pass ProjectionAbsorption();
Pass PackedGemm();
Pass PreluFusion();

}  // namespace nann_passes
}  // namespace tensorflow

#endif  // GRAPPLER_PASSES_PASS_H_
