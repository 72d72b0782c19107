#ifndef GRAPPLER_PASSES_BROADCASTS_H_
#define GRAPPLER_PASSES_BROADCASTS_H_

#include <optional>
#include <string>

#include "grappler_passes/scorer_graph.h"

namespace tensorflow {
namespace nann_passes {

// A tensor in another shape, which is known. AddTo() reshapes it, beside the node `like`.
struct Reshaped {
  std::string tensor;
  Shape shape;
  const NodeDef* like;

  std::string AddTo(ScorerGraph& graph) const { return graph.Reshape(tensor, shape, *like); }
};

// Returns the tensor that `tensor` repeats along axes of extent 1, in a shape of the rank of
// `tensor`. It sees through Tile, BroadcastTo, a product with ones, and a gather from a single row.
// `reshapes` is how many reshapes it saw through before.
std::optional<Reshaped> BroadcastSource(const ScorerGraph& scorer, const std::string& tensor,
                                        int reshapes = 0);

// Returns the tensor that `tensor` repeats, if it has the same last axis, or else `tensor`.
Reshaped RowSource(const ScorerGraph& scorer, const std::string& tensor);

// Adds an int32 vector with the extents of `shape`. The number of items is read off the items when
// the graph runs.
std::string ShapeVector(ScorerGraph& graph, const Shape& shape, const NodeDef& like);

// Repeats `tensor` along axes of extent 1 to `shape`.
std::string BroadcastTo(ScorerGraph& graph, const std::string& tensor, const Shape& shape,
                        const NodeDef& like);

// Reshapes [..., c] to a matrix with the same rows, [rows, c]. The shape must be known.
std::string AsMatrix(ScorerGraph& graph, const std::string& tensor, const NodeDef& like);

}  // namespace nann_passes
}  // namespace tensorflow

#endif  // GRAPPLER_PASSES_BROADCASTS_H_
