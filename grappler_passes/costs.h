#ifndef GRAPPLER_PASSES_COSTS_H_
#define GRAPPLER_PASSES_COSTS_H_

#include <cstdint>
#include <optional>

#include "grappler_passes/scorer_graph.h"

namespace tensorflow {
namespace nann_passes {

struct ScorerCosts {
  int nodes = 0;                  // That depend on the items: what each batch runs.
  double multiply_adds = 0;       // Of matrix products, per item.
  double multiply_adds_user = 0;  // Per request.
};

// Multiply-adds of one node per run, with kItems items: 0 where it is no matrix product, nothing
// where it is one of shapes that are not known.
std::optional<double> MultiplyAdds(const ScorerGraph& scorer, const NodeDef& node);
ScorerCosts CostsOf(const ScorerGraph& scorer);

}  // namespace nann_passes
}  // namespace tensorflow

#endif  // GRAPPLER_PASSES_COSTS_H_
