#ifndef GRAPPLER_PASSES_OPTIMIZE_SCORER_H_
#define GRAPPLER_PASSES_OPTIMIZE_SCORER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "grappler_passes/costs.h"
#include "grappler_passes/scorer_graph.h"

namespace tensorflow {
namespace nann_passes {

// What one pass did.
struct PassReport {
  std::string pass;
  int rewrites = 0;
  ScorerCosts before, after;
  std::string reason;  // Why it did nothing, where it says.
};

// Runs the passes called `names`, all where it is empty, in their order, until nothing changes. A
// pass that fails, or makes a graph that is none, leaves the graph as it was; the report has the
// reason. InvalidArgument for an unknown name.
absl::StatusOr<std::vector<PassReport>> RunPasses(std::unique_ptr<ScorerGraph>& scorer,
                                                  absl::Span<const std::string> names);

}  // namespace nann_passes
}  // namespace tensorflow

#endif  // GRAPPLER_PASSES_OPTIMIZE_SCORER_H_
