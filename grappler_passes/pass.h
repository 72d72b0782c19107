#ifndef GRAPPLER_PASSES_PASS_H_
#define GRAPPLER_PASSES_PASS_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "grappler_passes/scorer_graph.h"

namespace tensorflow {
namespace nann_passes {

// A pattern that ends at one node, and what takes its place.
struct Rule {
  std::vector<absl::string_view> ops;  // Of the nodes to look at; any where it is empty.
  // Rewrites the graph where the pattern ends at `node`; returns whether it did. The results keep
  // their values for all arguments, up to rounding. `node` is free, and something consumes it.
  bool (*rewrite)(ScorerGraph& scorer, NodeDef& node);
  int sweeps = 1;  // How often to go over the nodes, while something is found.
};

// Its rules run one after another, each over the whole graph.
struct Pass {
  std::string name;
  std::vector<Rule> rules;
};

// Each in a file of its own name.
Pass BranchSwitch();
Pass FlattenRows();
Pass BroadcastElimination();
Pass ConcatMatmulSplit();
Pass BatchNormFolding();
Pass ProjectionAbsorption();
Pass PackedGemm();
Pass PreluFusion();

}  // namespace nann_passes
}  // namespace tensorflow

#endif  // GRAPPLER_PASSES_PASS_H_
