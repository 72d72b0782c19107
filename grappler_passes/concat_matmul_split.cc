// concat_matmul_split: splits the matrix product of a concatenation or of a sum into a sum of
// products.
//
//   MatMul(Concat(a, b), W)   ->  MatMul(a, W[:|a|]) + MatMul(b, W[|a|:])
//   MatMul(a + b, W)          ->  MatMul(a, W) + MatMul(b, W)             (and a - b)
//
// where a part depends on the user alone or on the item alone, so that other passes can move it out
// of the scorer, or has fewer rows than the whole, because it is repeated for every item or for
// every behaviour. (The original's gemm compression.)
#include "grappler_passes/broadcasts.h"
#include "grappler_passes/pass.h"

namespace tensorflow {
namespace nann_passes {
namespace {

struct Summand {
  std::vector<Reshaped> parts;  // Side by side.
  Shape shape;                  // Of all parts together.
  unsigned dependence;
  int64_t begin = 0;  // The first of the rows of W that it is multiplied by, shape.last() of them.
  bool negative = false;
};

std::optional<std::vector<Summand>> MatchConcat(const ScorerGraph& scorer, const NodeDef& concat) {
  const Shape& whole = scorer.ShapeOf(concat.name());
  const int parts = NumInputs(concat) - 1;
  const auto axis = scorer.Integer(concat.input(parts));
  if (!whole.known() || (axis != -1 && axis != whole.rank() - 1)) return std::nullopt;
  std::vector<Summand> summands;
  int64_t begin = 0;
  bool useful = false, differ = false;
  for (int i = 0; i < parts; ++i) {
    const Reshaped part = RowSource(scorer, concat.input(i));
    const Shape& shape = part.shape;
    if (shape.rank() < 1) return std::nullopt;
    const unsigned dependence = scorer.DependenceOf(part.tensor);
    useful = useful || dependence != (kUser | kItem) || shape.rows() < whole.rows();
    const bool same = !summands.empty() && dependence == summands.back().dependence &&
                      shape.rows() == summands.back().shape.rows();
    differ = differ || (!summands.empty() && !same);
    if (same && shape == summands.back().shape.WithLast(shape.last())) {
      // Neighbours of one kind stay side by side.
      Summand& last = summands.back();
      last.shape = shape.WithLast(shape.last() + last.shape.last());
      last.parts.push_back(part);
    } else {
      summands.push_back({{part}, shape, dependence, begin});
    }
    begin += shape.last();
  }
  if (!useful || !differ || summands.size() < 2) return std::nullopt;
  return summands;
}

std::optional<std::vector<Summand>> MatchSum(const ScorerGraph& scorer, const NodeDef& sum) {
  const Shape& whole = scorer.ShapeOf(sum.name());
  if (!whole.known()) return std::nullopt;
  std::vector<Summand> summands;
  for (int i : {0, 1}) {
    const Reshaped part = RowSource(scorer, sum.input(i));
    // Both must be smaller: else there is a product of the whole's rows before and after.
    if (!SameLast(part.shape, whole) || part.shape.rows() >= whole.rows()) return std::nullopt;
    summands.push_back({{part}, part.shape, kModel, 0, i == 1 && sum.op() == "Sub"});
  }
  return summands;
}

// Concatenates the parts of a summand.
std::string Joined(ScorerGraph& graph, const Summand& summand, const NodeDef& concat) {
  std::string joined = summand.parts[0].AddTo(graph);
  for (size_t i = 1; i < summand.parts.size(); ++i) {
    const std::string part = summand.parts[i].AddTo(graph);
    const int64_t width = graph.ShapeOf(joined).last() + summand.parts[i].shape.last();
    joined = graph.Concat({joined, part}, summand.shape.rank() - 1, summand.shape.WithLast(width),
                          concat);
  }
  return joined;
}

std::optional<Plan> MatchProduct(const ScorerGraph& scorer, const NodeDef& product) {
  const Shape& weights = scorer.ShapeOf(product.input(1));
  const Shape& out = scorer.ShapeOf(product.name());
  if (!scorer.OfItems(product.input(0)) || scorer.OfItems(product.input(1))) return std::nullopt;
  if (!weights.known() || !out.known()) return std::nullopt;
  if (BoolOf(product, "transpose_a") || BoolOf(product, "transpose_b")) return std::nullopt;
  const NodeDef* source = &scorer.NodeOf(product.input(0));
  if (source->op() == "Reshape" && scorer.Free(*source)) {
    if (scorer.ShapeOf(source->input(0)).last() != weights[0]) return std::nullopt;
    source = &scorer.NodeOf(source->input(0));
  }
  if (!scorer.Free(*source)) return std::nullopt;
  std::optional<std::vector<Summand>> summands;
  if (source->op() == "ConcatV2") summands = MatchConcat(scorer, *source);
  if (source->op() == "AddV2" || source->op() == "Sub") summands = MatchSum(scorer, *source);
  if (!summands.has_value()) return std::nullopt;
  const Shape whole = scorer.ShapeOf(source->name()).WithLast(out[1]);
  return [&product, source, summands, whole, out, weights](ScorerGraph& graph) {
    std::optional<std::string> sum;
    for (const Summand& summand : *summands) {
      const std::string tensor = Joined(graph, summand, *source);
      const int64_t size = summand.shape.last();
      std::string rows = product.input(1);
      if (size != weights[0]) {
        rows =
            graph.Slice(rows, {summand.begin, 0}, {size, weights[1]}, {size, weights[1]}, product);
      }
      const std::string part =
          graph.Reshape(graph.MatMul(AsMatrix(graph, tensor, product), rows, false, false, product),
                        summand.shape.WithLast(out[1]), product);
      sum = sum.has_value() ? graph.Binary(summand.negative ? "Sub" : "AddV2", *sum, part, product)
                            : part;
    }
    return graph.Reshape(BroadcastTo(graph, *sum, whole, product), out, product);
  };
}

}  // namespace

Pass ConcatMatmulSplit() { return {"concat_matmul_split", {{{"MatMul"}, MatchProduct}}}; }

}  // namespace nann_passes
}  // namespace tensorflow
