#ifndef GRAPPLER_PASSES_ITEM_FOLD_H_
#define GRAPPLER_PASSES_ITEM_FOLD_H_

#include <string>

#include "absl/status/statusor.h"
#include "grappler_passes/scorer_graph.h"

namespace tensorflow {
namespace nann_passes {

// Gathers what depends on the items alone, and is needed by what does not, in one tensor [1, n,
// width]: a row per item, to be computed once and kept in the index. Returns that tensor.
// FailedPrecondition, with the reason, if there is nothing to compute, if it is not one row per
// item, or if reading the wider rows would take longer than what is saved. The graph may have
// changed then.
absl::StatusOr<std::string> FoldItems(ScorerGraph& scorer);

}  // namespace nann_passes
}  // namespace tensorflow

#endif  // GRAPPLER_PASSES_ITEM_FOLD_H_
