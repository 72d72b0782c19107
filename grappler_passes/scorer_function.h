#ifndef GRAPPLER_PASSES_SCORER_FUNCTION_H_
#define GRAPPLER_PASSES_SCORER_FUNCTION_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "grappler_passes/scorer_graph.h"
#include "tensorflow/core/framework/attr_value.pb.h"
#include "tensorflow/core/framework/function.h"
#include "tensorflow/core/framework/function.pb.h"

namespace tensorflow {
namespace nann_passes {

// The body of a function as one graph: what it calls is inlined, but for what XLA is to compile.
absl::StatusOr<GraphDef> FlatGraph(const NameAttrList& function,
                                   const FunctionLibraryDefinition& library);

// The same of a graph that calls functions of its own library.
absl::StatusOr<GraphDef> FlatGraph(const GraphDef& graph);

// A function of `graph`, whose arguments and results are its `_Arg` and `_Retval` nodes.
absl::StatusOr<FunctionDef> ToFunction(const GraphDef& graph, const std::string& name);

// What was f(user..., items, captured...).
struct SplitScorer {
  GraphDef prepare;  // (user..., captured...) -> prepared...; once per user.
  GraphDef score;    // (user..., prepared..., items, captured...) -> scores.
  std::vector<Argument> prepared;
};

// Takes what does not depend on the items out of the scorer. Nothing is prepared where all does.
SplitScorer SplitByUser(const ScorerGraph& scorer);

// What is computed of the items alone and needed with what is not: tensors of `scorer`.
std::vector<std::string> ItemFrontier(const ScorerGraph& scorer);

// What depends on the items alone, and the scorer of that.
struct FoldedScorer {
  GraphDef fold;   // (items, captured...) -> rows, [1, n, width].
  GraphDef score;  // (user..., rows, captured...) -> scores.
};

// Takes the tensor `rows`, which all that depends on the items depends on through it alone, for the
// items.
FoldedScorer SplitByItem(const ScorerGraph& scorer, const std::string& rows);

}  // namespace nann_passes
}  // namespace tensorflow

#endif  // GRAPPLER_PASSES_SCORER_FUNCTION_H_
