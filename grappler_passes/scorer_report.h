#ifndef GRAPPLER_PASSES_SCORER_REPORT_H_
#define GRAPPLER_PASSES_SCORER_REPORT_H_

#include <vector>

#include "absl/status/statusor.h"
#include "grappler_passes/rewrite_scorer.h"
#include "tensorflow/core/framework/graph.pb.h"

namespace tensorflow {
namespace nann_passes {

// What the passes know about each node of a scorer.
struct ScorerReport {
  // The nodes, inputs first, with these attributes in place of their own: `shapes`, the shapes of
  // the outputs as text; `depends`, "weights", "user", "item" or "both"; `pass`, which added the
  // node, "" for a node of the model.
  GraphDef nodes;
  // For each node the multiply-adds of its matrix product, NaN if they are not known, and the
  // elements of its outputs: per item if the node depends on the items, else per run.
  std::vector<double> multiply_adds, elements;
};

// Reports on the nodes of a scorer, with all functions inlined. `calls` is a graph of Placeholders
// and VarHandleOps with an attribute `_kind`, "user", "item" or "model", whose values need not
// exist; of calls, by name, of functions in the graph's library; and of `_Retval` nodes. If the
// second extent of the items is not known, it is their number. InvalidArgument if it is no such
// graph, or its shapes contradict each other.
absl::StatusOr<ScorerReport> DescribeScorer(const GraphDef& calls);

// Runs the passes on the scorer and reports on the result. The names of nodes that run once per
// item, once per user and once per batch start with fold/, prepare/ and score/.
absl::StatusOr<ScorerReport> DescribeRewritten(const GraphDef& calls, const RewriteOptions& options,
                                               std::vector<PassReport>* passes);

}  // namespace nann_passes
}  // namespace tensorflow

#endif  // GRAPPLER_PASSES_SCORER_REPORT_H_
