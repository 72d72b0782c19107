#ifndef GRAPPLER_PASSES_SCORER_REPORT_H_
#define GRAPPLER_PASSES_SCORER_REPORT_H_

#include <vector>

#include "absl/status/statusor.h"
#include "grappler_passes/rewrite_scorer.h"
#include "tensorflow/core/framework/graph.pb.h"

namespace tensorflow {
namespace nann_passes {

// What is known of each node of a scorer.
struct ScorerReport {
  // The nodes, inputs first, with these attributes in place of their own: `shapes`, for people, of
  // each output; `depends`, on "weights", "user", "item" or "both"; `pass`, which added the node.
  GraphDef nodes;
  // Of each node: multiply-adds of a matrix product, NaN where they are not known, and elements of
  // the outputs; per item where the node depends on items, else per run.
  std::vector<double> multiply_adds, elements;
};

// A scorer as people read it out of a model: a graph whose nodes are Placeholders and VarHandleOps
// with an attribute `_kind`, "user", "item" or "model", whose values need not exist; the functions
// that the scorer consists of, called by name, from the graph's library; and `_Retval`s. An item's
// second extent that is not known is the number of items.
//
// Reports on the nodes of all functions. InvalidArgument where the graph is none, or its shapes
// contradict each other.
absl::StatusOr<ScorerReport> DescribeScorer(const GraphDef& calls);

// Runs the passes on the scorer, and reports on what they make of it: nodes that run once per item,
// once per user and per batch are called fold/..., prepare/... and score/....
absl::StatusOr<ScorerReport> DescribeRewritten(const GraphDef& calls, const RewriteOptions& options,
                                               std::vector<PassReport>* passes);

}  // namespace nann_passes
}  // namespace tensorflow

#endif  // GRAPPLER_PASSES_SCORER_REPORT_H_
