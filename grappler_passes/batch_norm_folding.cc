// batch_norm_folding: moves what scales and shifts columns alike for all items into the weights of
// a product before it, or behind the product after it.
//
//   Mul(MatMul(x, W), s)     ->  MatMul(x, Mul(W, s))
//   Mul(x + b, s)            ->  Mul(x, s) + Mul(b, s)       where x is such a product
//   Add(Add(x, b), c)        ->  Add(x, Add(b, c))
//   MatMul(Mul(x, s), W)     ->  MatMul(x, Mul(W, s as a column))
//   MatMul(Add(x, b), W)     ->  Add(MatMul(x, W), MatMul(b, W))     where that is no wider
//
// where s, b and c are scalars or rows that do not depend on the items. Batch norm at inference is
// a scale and a shift, the attention's 1 / sqrt(d) a scale, its mask a shift. A user's scale stays
// behind a product of the item alone, because item_fold moves that product out of the scorer.
#include "grappler_passes/pass.h"

namespace tensorflow {
namespace nann_passes {
namespace {

constexpr int kMaxSums = 100;  // Between a product and its scale.

bool IsSum(const NodeDef& node) {
  return node.op() == "AddV2" || node.op() == "Add" || node.op() == "BiasAdd";
}

// Returns the index of the operand that is the same in all rows and does not depend on the items.
std::optional<int> RowOperand(const ScorerGraph& scorer, const NodeDef& node) {
  const Shape& out = scorer.ShapeOf(node.name());
  if (out.rank() != 2) return std::nullopt;
  for (int i : {1, 0}) {
    const Shape& shape = scorer.ShapeOf(node.input(i));
    if (scorer.OfItems(node.input(i)) || scorer.ShapeOf(node.input(1 - i)) != out) continue;
    if (shape.rows() == 1 && shape.rank() <= 2) return i;
  }
  return std::nullopt;
}

// Plans `tensor` times the row `scale`: the weights of the product that it is are scaled.
std::optional<Plan> PlanScaled(const ScorerGraph& scorer, const std::string& tensor,
                               const std::string& scale, int sums = 0) {
  const NodeDef& node = scorer.NodeOf(tensor);
  if (sums > kMaxSums || !scorer.Free(node) || !scorer.HasOneConsumer(tensor)) return std::nullopt;
  if (IsSum(node)) {
    const auto row = RowOperand(scorer, node);
    if (!row.has_value()) return std::nullopt;
    auto x = PlanScaled(scorer, node.input(1 - *row), scale, sums + 1);
    if (!x.has_value()) return std::nullopt;
    return [&node, x = *std::move(x), row = *row, scale](ScorerGraph& graph) {
      const std::string scaled = x(graph);
      return graph.Binary("AddV2", scaled, graph.Binary("Mul", node.input(row), scale, node), node);
    };
  }
  if (node.op() != "MatMul" || scorer.OfItems(node.input(1))) return std::nullopt;
  if (scorer.DependenceOf(tensor) == kItem && scorer.DependenceOf(scale) != kModel) {
    return std::nullopt;
  }
  return [&node, scale](ScorerGraph& graph) {
    const bool transposed = BoolOf(node, "transpose_b");
    const Shape& shape = graph.ShapeOf(scale);
    const bool column = transposed && shape.elements() > 1;
    const std::string factor = column ? graph.Reshape(scale, {shape.last(), 1}, node) : scale;
    const std::string weights = graph.Binary("Mul", node.input(1), factor, node);
    return graph.MatMul(node.input(0), weights, BoolOf(node, "transpose_a"), transposed, node);
  };
}

// A product whose input is scaled or shifted: the scale moves into the weights, the shift behind
// the product.
std::optional<Plan> MatchInput(const ScorerGraph& scorer, const NodeDef& product) {
  if (BoolOf(product, "transpose_a") || scorer.OfItems(product.input(1))) return std::nullopt;
  const NodeDef& inner = scorer.NodeOf(product.input(0));
  if (!scorer.Free(inner) || !scorer.HasOneConsumer(inner.name())) return std::nullopt;
  if (inner.op() != "Mul" && !IsSum(inner)) return std::nullopt;
  const auto operand = RowOperand(scorer, inner);
  const Shape& weights = scorer.ShapeOf(product.input(1));
  if (!operand.has_value() || !weights.known()) return std::nullopt;
  const std::string row = inner.input(*operand), x = inner.input(1 - *operand);
  const int64_t elements = scorer.ShapeOf(row).elements();
  const bool transposed = BoolOf(product, "transpose_b");
  const int64_t depth = weights[transposed ? 1 : 0], width = weights[transposed ? 0 : 1];
  if (inner.op() == "Mul") {
    const Shape shape = elements == 1 ? Shape{1, 1}
                        : transposed  ? Shape{1, depth}
                                      : Shape{depth, 1};
    return [&product, row, x, shape, transposed](ScorerGraph& graph) {
      const std::string scale = graph.Reshape(row, shape, product);
      return graph.MatMul(x, graph.Binary("Mul", product.input(1), scale, product), false,
                          transposed, product);
    };
  }
  if (elements != depth || width > depth) return std::nullopt;
  return [&product, row, x, depth, transposed](ScorerGraph& graph) {
    const std::string shift = graph.MatMul(graph.Reshape(row, {1, depth}, product),
                                           product.input(1), false, transposed, product);
    return graph.Binary("AddV2", graph.MatMul(x, product.input(1), false, transposed, product),
                        shift, product);
  };
}

std::optional<Plan> MatchShifts(const ScorerGraph& scorer, const NodeDef& outer, int row) {
  const NodeDef& inner = scorer.NodeOf(outer.input(1 - row));
  if (!IsSum(inner) || !scorer.Free(inner)) return std::nullopt;
  if (!scorer.HasOneConsumer(inner.name())) return std::nullopt;
  const auto inner_row = RowOperand(scorer, inner);
  if (!inner_row.has_value()) return std::nullopt;
  return [&outer, &inner, row, inner_row = *inner_row](ScorerGraph& graph) {
    const std::string shift =
        graph.Binary("AddV2", inner.input(inner_row), outer.input(row), outer);
    return graph.Binary("AddV2", inner.input(1 - inner_row), shift, outer);
  };
}

std::optional<Plan> Match(const ScorerGraph& scorer, const NodeDef& node) {
  if (!scorer.OfItems(node.name())) return std::nullopt;
  if (scorer.DtypeOf(node.name()) == DT_STRING) return std::nullopt;  // Add concatenates strings.
  if (node.op() == "MatMul") return MatchInput(scorer, node);
  const auto row = RowOperand(scorer, node);
  if (!row.has_value()) return std::nullopt;
  if (node.op() != "Mul") return MatchShifts(scorer, node, *row);
  return PlanScaled(scorer, node.input(1 - *row), node.input(*row));
}

}  // namespace

Pass BatchNormFolding() {
  return {"batch_norm_folding", {{{"MatMul", "Mul", "AddV2", "Add", "BiasAdd"}, Match}}};
}

}  // namespace nann_passes
}  // namespace tensorflow
