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

// Returns the body of a function as one graph: the functions that it calls are inlined, except for
// those that XLA is to compile.
absl::StatusOr<GraphDef> FlatGraph(const NameAttrList& function,
                                   const FunctionLibraryDefinition& library);

// The same for a graph that calls functions of its own library.
absl::StatusOr<GraphDef> FlatGraph(const GraphDef& graph);

// Makes a function of `graph`, whose `_Arg` and `_Retval` nodes are the arguments and results.
absl::StatusOr<FunctionDef> ToFunction(const GraphDef& graph, const std::string& name);

// The two parts of f(user..., items, captured...).
struct SplitScorer {
  GraphDef prepare;  // (user..., captured...) -> prepared...; once per user.
  GraphDef score;    // (user..., prepared..., items, captured...) -> scores.
  std::vector<Argument> prepared;
};

// Moves what does not depend on the items out of the scorer. `prepared` is empty if everything
// does.
SplitScorer SplitByUser(const ScorerGraph& scorer);

// Returns the tensors that are computed from the items alone and consumed by nodes that are not.
std::vector<std::string> ItemFrontier(const ScorerGraph& scorer);

// The part of a scorer that depends on the items alone, and the rest.
struct FoldedScorer {
  GraphDef fold;   // (items, captured...) -> rows, [1, n, width].
  GraphDef score;  // (user..., rows, captured...) -> scores.
};

// Splits a scorer that uses the items only through the tensor `rows`: `score` takes the rows in the
// place of the items.
FoldedScorer SplitByItem(const ScorerGraph& scorer, const std::string& rows);

}  // namespace nann_passes
}  // namespace tensorflow

#endif  // GRAPPLER_PASSES_SCORER_FUNCTION_H_
