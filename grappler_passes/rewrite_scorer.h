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
  std::vector<std::string> passes;  // Names; empty for all passes.
  bool fold_items = false;          // For exports: the scorer may take rows in place of the items.
};

// The parts of a scorer f(user..., items, captured...): what runs once per item, once per user, and
// once per batch.
struct RewrittenScorer {
  GraphDef fold;     // (items, captured...) -> rows; empty if nothing was folded.
  GraphDef prepare;  // (user..., captured...) -> prepared...; empty if nothing is prepared.
  GraphDef score;    // (user..., prepared..., items or rows, captured...) -> scores.
  std::vector<Argument> prepared;
  std::vector<PassReport> reports;
};

// Runs the passes on the function and splits it. A pass leaves alone what it does not understand.
// InvalidArgument for the name of a pass that there is not; an error, too, if the function cannot
// be read as a scorer.
absl::StatusOr<RewrittenScorer> RewriteScorer(const NameAttrList& function,
                                              const FunctionLibraryDefinition& library,
                                              const std::vector<Argument>& arguments,
                                              const RewriteOptions& options);
// The same for a graph without calls, whose arguments are `_Arg` nodes.
absl::StatusOr<RewrittenScorer> RewriteScorer(GraphDef flat, const std::vector<Argument>& arguments,
                                              const RewriteOptions& options);

}  // namespace nann_passes
}  // namespace tensorflow

#endif  // GRAPPLER_PASSES_REWRITE_SCORER_H_
