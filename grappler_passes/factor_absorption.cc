// factor_absorption: moves the factors of an item's rows that are the same for all items into the
// weights of the product that follows.
//
//   MatMul(x * y, W)                      ->  MatMul(x, y * W)
//   MatMul(Concat(x, y, x - y, x * y), W) ->  MatMul(x, W1 + W3 + y * W4) + MatMul(y, W2 - W3)
//
// where x [n, 1, d] has one row for each item, and y [1, l, d] is the same for all items: a user's
// behaviours, in the activation unit of DIN. Before, each item has l rows in the product, and every
// element of them is computed and added up; after it, an item has one row, and the weights
// [d, l * m] are computed once per request. The multiply-adds of a batch are the same or fewer.
//
//   Reshape(x [n, l * m] + y [1, l * m]) [n * l, m] + b [m]
//                                         ->  Reshape(x + (y + b)) [n * l, m]
#include "grappler_passes/broadcasts.h"
#include "grappler_passes/pass.h"

namespace tensorflow {
namespace nann_passes {
namespace {

// A batch has at least about so many items. What is computed for each of them without this pass is
// then more than the weights, which every batch reads.
constexpr int64_t kFewItems = 64;
constexpr int kMaxDepth = 8;
constexpr int kMaxReshapes = 100;

// A part of a sum: x * y, x or y, where x is what the items have and y what is the same for all.
struct Summand {
  bool of_items;
  std::optional<Reshaped> y;
  int64_t begin, width;  // The rows of W that it is multiplied by.
  bool negative;
};

// Returns the tensor whose elements `tensor` has, in the same order.
std::string Base(const ScorerGraph& scorer, std::string tensor) {
  for (int i = 0; i < kMaxReshapes; ++i) {
    const NodeDef& node = scorer.NodeOf(tensor);
    if (node.op() != "Reshape" || !scorer.Free(node)) break;
    tensor = node.input(0);
  }
  return tensor;
}

// Reads tensors [..., l, c] as sums that are linear in one x [..., 1, d].
class LinearRows {
 public:
  LinearRows(const ScorerGraph& scorer, const Shape& whole) : scorer_(scorer), whole_(whole) {}

  // Reads `tensor`, which is multiplied by the rows of W from `begin` on. Returns whether it is such
  // a sum.
  bool Read(const std::string& tensor, int64_t begin, bool negative, int depth = 0) {
    const Reshaped part = RowSource(scorer_, tensor);
    const int64_t width = part.shape.last();
    if (part.shape.rank() < 1 || depth > kMaxDepth) return false;
    if (IsSame(part)) {
      summands_.push_back({false, part, begin, width, negative});
      return true;
    }
    if (IsX(part)) {
      summands_.push_back({true, std::nullopt, begin, width, negative});
      return true;
    }
    const NodeDef& node = scorer_.NodeOf(tensor);
    if (!scorer_.Free(node)) return false;
    if (node.op() == "AddV2" || node.op() == "Add" || node.op() == "Sub") {
      for (int i : {0, 1}) {
        if (scorer_.ShapeOf(node.input(i)).last() != width) return false;
        const bool opposite = i == 1 && node.op() == "Sub";
        if (!Read(node.input(i), begin, negative != opposite, depth + 1)) return false;
      }
      return true;
    }
    if (node.op() != "Mul") return false;
    for (int i : {0, 1}) {
      const Reshaped x = RowSource(scorer_, node.input(i));
      const Reshaped y = RowSource(scorer_, node.input(1 - i));
      if (y.shape.last() != width || !IsSame(y) || !IsX(x)) continue;
      summands_.push_back({true, y, begin, width, negative});
      return true;
    }
    return false;
  }

  // Whether some summand is a product with a row for each of the l, which is what the pass is for.
  bool useful() const {
    for (const Summand& summand : summands_) {
      if (summand.of_items && summand.y.has_value() && summand.y->shape.rows() > 1) return true;
    }
    return false;
  }

  const Reshaped& x() const { return *x_; }
  const std::vector<Summand>& summands() const { return summands_; }

 private:
  // Whether `part` is the same for all items: [..., 1, l, c] or [..., 1, c].
  bool IsSame(const Reshaped& part) const {
    if (scorer_.OfItems(part.tensor) || part.shape.rank() < 1) return false;
    return part.shape.rows() == 1 ||
           (part.shape.rows() == whole_[-2] && part.shape[-2] == whole_[-2]);
  }

  // Whether `part` is x, the same in all summands.
  bool IsX(const Reshaped& part) {
    if (!scorer_.OfItems(part.tensor) || part.shape.rank() != whole_.rank()) return false;
    if (part.shape[-2] != 1 || part.shape.WithoutLast(2) != whole_.WithoutLast(2)) return false;
    if (!x_.has_value()) x_ = part;
    return part.shape == x_->shape && Base(scorer_, part.tensor) == Base(scorer_, x_->tensor);
  }

  const ScorerGraph& scorer_;
  const Shape& whole_;
  std::optional<Reshaped> x_;
  std::vector<Summand> summands_;
};

// Adds `part` to `sum`, or takes it away.
void AddUp(ScorerGraph& graph, std::optional<std::string>& sum, const std::string& part,
           bool negative, const NodeDef& like) {
  if (sum.has_value()) {
    sum = graph.Binary(negative ? "Sub" : "AddV2", *sum, part, like);
  } else {
    sum = negative ? graph.Add("Neg", {part}, graph.ShapeOf(part), like) : part;
  }
}

// Returns what `summand` is multiplied with x by, [d, l or 1, m], or what it adds, [l or 1, m].
std::string Part(ScorerGraph& graph, const Summand& summand, const NodeDef& product) {
  const int64_t m = graph.ShapeOf(product.input(1))[1], width = summand.width;
  std::string weights = product.input(1);
  if (width != graph.ShapeOf(weights)[0]) {
    weights = graph.Slice(weights, {summand.begin, 0}, {width, m}, {width, m}, product);
  }
  if (summand.of_items) weights = graph.Reshape(weights, {width, 1, m}, product);
  if (!summand.y.has_value()) return weights;
  const int64_t rows = summand.y->shape.rows();
  const std::string y = graph.Reshape(summand.y->tensor, {rows, width}, product);
  if (!summand.of_items) return graph.MatMul(y, weights, false, false, product);
  const std::string columns = graph.Add("Transpose", {y, graph.AddIntegers({1, 0}, product)},
                                        {width, rows}, product, {{"Tperm", TypeAttr(DT_INT32)}});
  return graph.Binary("Mul", graph.Reshape(columns, {width, rows, 1}, product), weights, product);
}

std::optional<Plan> MatchProduct(const ScorerGraph& scorer, const NodeDef& product) {
  const Shape& weights = scorer.ShapeOf(product.input(1));
  const Shape& out = scorer.ShapeOf(product.name());
  if (scorer.DtypeOf(product.name()) != DT_FLOAT || scorer.OfItems(product.input(1))) {
    return std::nullopt;
  }
  if (!weights.known() || !out.known()) return std::nullopt;
  if (BoolOf(product, "transpose_a") || BoolOf(product, "transpose_b")) return std::nullopt;
  const NodeDef& reshape = scorer.NodeOf(product.input(0));
  if (reshape.op() != "Reshape" || !scorer.Free(reshape)) return std::nullopt;
  const std::string& rows = reshape.input(0);
  const Shape& whole = scorer.ShapeOf(rows);
  if (!scorer.OfItems(rows) || whole.rank() < 3 || whole.last() != weights[0]) return std::nullopt;
  const int64_t l = whole[-2], m = weights[1];
  if (l < 2 || ManyItems(l)) return std::nullopt;
  LinearRows linear(scorer, whole);
  const NodeDef& concat = scorer.NodeOf(rows);
  if (concat.op() == "ConcatV2" && scorer.Free(concat)) {
    const int parts = NumInputs(concat) - 1;
    const auto axis = scorer.Integer(concat.input(parts));
    if (axis != -1 && axis != whole.rank() - 1) return std::nullopt;
    int64_t begin = 0;
    for (int i = 0; i < parts; ++i) {
      if (!linear.Read(concat.input(i), begin, false)) return std::nullopt;
      begin += scorer.ShapeOf(concat.input(i)).last();
    }
  } else if (!linear.Read(rows, 0, false)) {
    return std::nullopt;
  }
  if (!linear.useful()) return std::nullopt;
  const Reshaped x = linear.x();
  const int64_t d = x.shape.last();
  if (d * l * m > ScorerGraph::kMaxConstant || d * m > kFewItems * (d + m)) return std::nullopt;
  return [&product, x, summands = linear.summands(), l, m, d, out](ScorerGraph& graph) {
    std::optional<std::string> factor, added;
    for (const Summand& summand : summands) {
      AddUp(graph, summand.of_items ? factor : added, Part(graph, summand, product),
            summand.negative, product);
    }
    const std::string right = graph.Reshape(*factor, {d, l * m}, product);
    const std::string left = graph.Reshape(x.tensor, {x.shape.rows(), d}, product);
    std::string result = graph.MatMul(left, right, false, false, product);
    if (added.has_value()) {
      const std::string row = BroadcastTo(graph, *added, {l, m}, product);
      result = graph.Binary("AddV2", result, graph.Reshape(row, {1, l * m}, product), product);
    }
    return graph.Reshape(result, out, product);
  };
}

// A bias behind what MatchProduct() adds: it joins the row that is added to all items.
std::optional<Plan> MatchBias(const ScorerGraph& scorer, const NodeDef& node) {
  const Shape& out = scorer.ShapeOf(node.name());
  if (out.rank() != 2) return std::nullopt;
  for (int i : {0, 1}) {
    const NodeDef& reshape = scorer.NodeOf(node.input(i));
    const std::string& bias = node.input(1 - i);
    if (reshape.op() != "Reshape" || !scorer.Free(reshape)) continue;
    if (scorer.OfItems(bias) || scorer.ShapeOf(bias).rows() != 1) continue;
    if (scorer.ShapeOf(reshape.name()) != out || !SameLast(scorer.ShapeOf(bias), out)) continue;
    const NodeDef& sum = scorer.NodeOf(reshape.input(0));
    if (sum.op() != "AddV2" || !scorer.Free(sum)) continue;
    if (!scorer.HasOneConsumer(reshape.name()) || !scorer.HasOneConsumer(sum.name())) continue;
    const Shape& rows = scorer.ShapeOf(sum.name());
    const int64_t m = out.last(), l = rows.last() / m;
    if (rows.rank() != 2 || l < 2 || rows.last() % m != 0) continue;
    for (int j : {0, 1}) {
      const std::string &row = sum.input(j), &others = sum.input(1 - j);
      if (scorer.OfItems(row) || scorer.ShapeOf(row) != Shape{1, l * m}) continue;
      if (scorer.ShapeOf(others) != rows) continue;
      return [&node, &row, &others, &bias, l, m, out](ScorerGraph& graph) {
        const std::string both = graph.Binary("AddV2", graph.Reshape(row, {l, m}, node),
                                              graph.Reshape(bias, {1, m}, node), node);
        return graph.Reshape(
            graph.Binary("AddV2", others, graph.Reshape(both, {1, l * m}, node), node), out, node);
      };
    }
  }
  return std::nullopt;
}

}  // namespace

Pass FactorAbsorption() {
  return {"factor_absorption",
          {{{"MatMul"}, MatchProduct}, {{"BiasAdd", "AddV2", "Add"}, MatchBias}}};
}

}  // namespace nann_passes
}  // namespace tensorflow
