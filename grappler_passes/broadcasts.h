#ifndef GRAPPLER_PASSES_BROADCASTS_H_
#define GRAPPLER_PASSES_BROADCASTS_H_

#include <string>

#include "grappler_passes/scorer_graph.h"

namespace tensorflow {
namespace nann_passes {

// What `tensor` repeats along axes of extent 1, or "" where it repeats nothing: of Tile,
// BroadcastTo, a product with ones, and a gather from a single row. It has the rank of `tensor`.
std::string BroadcastSource(ScorerGraph& scorer, const std::string& tensor);

// An int32 vector of `shape`; how many items there are is known when the graph runs, from its
// argument.
std::string ShapeVector(ScorerGraph& scorer, const Shape& shape, const NodeDef& like);

// `tensor`, repeated along axes of extent 1 to `shape`.
std::string BroadcastTo(ScorerGraph& scorer, const std::string& tensor, const Shape& shape,
                        const NodeDef& like);

// A matrix with the rows of `tensor`: [..., c] as [rows, c].
std::string AsMatrix(ScorerGraph& scorer, const std::string& tensor, const NodeDef& like);

}  // namespace nann_passes
}  // namespace tensorflow

#endif  // GRAPPLER_PASSES_BROADCASTS_H_
