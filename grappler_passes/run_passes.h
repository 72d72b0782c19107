#ifndef GRAPPLER_PASSES_RUN_PASSES_H_
#define GRAPPLER_PASSES_RUN_PASSES_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "grappler_passes/costs.h"
#include "grappler_passes/pass.h"
#include "grappler_passes/scorer_graph.h"

namespace tensorflow {
namespace nann_passes {

// What one pass did.
struct PassReport {
  std::string pass;
  int rewrites = 0;
  ScorerCosts before, after;
  std::string reason;  // Why it did nothing, if it says so.
};

// Rewrites the nodes that a rule matches, and then removes all nodes that nothing needs any more.
// Returns the number of rewrites.
int ApplyRule(const Rule& rule, ScorerGraph& scorer);

// Runs `rewrite`, which returns a number of rewrites, on a copy of `scorer`. The copy replaces
// `scorer` if something was rewritten, TensorFlow could build the graph, the new nodes have the
// shapes that the pass gave them, and the results have the same shapes and types as before.
// Otherwise `scorer` is unchanged, and the report has the reason.
PassReport RunPass(
    const std::string& name,
    absl::FunctionRef<absl::StatusOr<int>(std::unique_ptr<ScorerGraph>& copy)> rewrite,
    std::unique_ptr<ScorerGraph>& scorer);

// Runs the passes in their order, again and again until nothing changes. Returns a report for each
// pass, and one more for every later time that it rewrote something.
std::vector<PassReport> RunPasses(absl::Span<const Pass> passes,
                                  std::unique_ptr<ScorerGraph>& scorer);

}  // namespace nann_passes
}  // namespace tensorflow

#endif  // GRAPPLER_PASSES_RUN_PASSES_H_
