#ifndef GRAPPLER_PASSES_REWRITE_SCORER_H_
#define GRAPPLER_PASSES_REWRITE_SCORER_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "grappler_passes/pass.h"
#include "grappler_passes/run_passes.h"
#include "tensorflow/core/framework/attr_value.pb.h"
#include "tensorflow/core/framework/function.h"

namespace tensorflow {
namespace nann_passes {

// The passes that rewrite the graph of a scorer, in the order in which they run.
const std::vector<Pass>& Passes();

struct RewriteOptions {
  std::vector<std::string> passes;  // By name; all where it is empty.
  bool fold_items = false;          // Changes what the items are; for exports.
};

// A scorer f(user..., items, captured...) as what runs once per user and what runs per batch.
struct RewrittenScorer {
  GraphDef fold;     // (items, captured...) -> rows; no node where nothing was folded.
  GraphDef prepare;  // (user..., captured...) -> prepared...; no node where nothing is prepared.
  GraphDef score;    // (user..., prepared..., items or rows, captured...) -> scores.
  std::vector<Argument> prepared;
  std::vector<PassReport> reports;
};

// Runs the passes on the function and splits it. Fails where it cannot be read as a scorer's graph;
// what a pass does not understand it leaves.
absl::StatusOr<RewrittenScorer> RewriteScorer(const NameAttrList& function,
                                              const FunctionLibraryDefinition& library,
                                              const std::vector<Argument>& arguments,
                                              const RewriteOptions& options);
// The same of a graph without calls, whose arguments are `_Arg` nodes.
absl::StatusOr<RewrittenScorer> RewriteScorer(GraphDef flat, const std::vector<Argument>& arguments,
                                              const RewriteOptions& options);

}  // namespace nann_passes
}  // namespace tensorflow

#endif  // GRAPPLER_PASSES_REWRITE_SCORER_H_
