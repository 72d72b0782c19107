#ifndef GRAPPLER_PASSES_ITEM_FOLD_H_
#define GRAPPLER_PASSES_ITEM_FOLD_H_

#include <string>

#include "absl/status/statusor.h"
#include "grappler_passes/scorer_graph.h"

namespace tensorflow {
namespace nann_passes {

// Gathers what depends on the items alone, and what else needs it, into one tensor [1, n, width],
// which it returns: a row an item, to be computed once and kept in the index. FailedPrecondition,
// with the reason, where there is nothing to compute, where it is no row an item, or where wider
// rows cost more time to read than is saved.
absl::StatusOr<std::string> FoldItems(ScorerGraph& scorer);

}  // namespace nann_passes
}  // namespace tensorflow

#endif  // GRAPPLER_PASSES_ITEM_FOLD_H_
