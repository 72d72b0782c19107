#ifndef GRAPPLER_PASSES_COSTS_H_
#define GRAPPLER_PASSES_COSTS_H_

#include <cstdint>
#include <optional>

#include "grappler_passes/scorer_graph.h"

namespace tensorflow {
namespace nann_passes {

struct ScorerCosts {
  int nodes = 0;                  // Those that depend on the items, which each batch runs.
  double multiply_adds = 0;       // Of matrix products, per item.
  double multiply_adds_user = 0;  // Those that do not depend on the items, per request.
};

// Returns the multiply-adds of one run of a node with kItems items: 0 if it is no matrix product,
// std::nullopt if it is one and its shapes are not known.
std::optional<double> MultiplyAdds(const ScorerGraph& scorer, const NodeDef& node);
ScorerCosts CostsOf(const ScorerGraph& scorer);

}  // namespace nann_passes
}  // namespace tensorflow

#endif  // GRAPPLER_PASSES_COSTS_H_
