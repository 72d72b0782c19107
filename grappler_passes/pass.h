#ifndef GRAPPLER_PASSES_PASS_H_
#define GRAPPLER_PASSES_PASS_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "grappler_passes/scorer_graph.h"

namespace tensorflow {
namespace nann_passes {

// Rewrites a scorer's graph and says how often it did. A rewrite keeps the results' values for all
// arguments, up to rounding. A pass that fails may leave the graph in any state: it is given a
// copy.
using Pass = std::function<absl::StatusOr<int>(ScorerGraph& scorer)>;

struct NamedPass {
  std::string name;
  Pass run;
};

// In the order in which they run.
const std::vector<NamedPass>& Passes();

// Each in a file of its own name.
absl::StatusOr<int> FlattenRows(ScorerGraph& scorer);
absl::StatusOr<int> BroadcastElimination(ScorerGraph& scorer);
absl::StatusOr<int> BatchNormFolding(ScorerGraph& scorer);
absl::StatusOr<int> ConcatMatmulSplit(ScorerGraph& scorer);
absl::StatusOr<int> ProjectionAbsorption(ScorerGraph& scorer);
absl::StatusOr<int> PackedGemm(ScorerGraph& scorer);
absl::StatusOr<int> PreluFusion(ScorerGraph& scorer);
absl::StatusOr<int> BranchSwitch(ScorerGraph& scorer);

}  // namespace nann_passes
}  // namespace tensorflow

#endif  // GRAPPLER_PASSES_PASS_H_
