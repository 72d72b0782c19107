// packed_gemm: makes one product of many small ones.
//
//   Pack(f(x0), f(x1), ...), with x0, x1, ... = Unpack(x)  ->  f on all at once
//   MatMul(x, W0), MatMul(x, W1), ...    ->  columns of MatMul(x, Concat(W0, W1, ...))
//
// where f consists of the same transposes, products, and operations on elements. (The original's
// gemm optimizer.) Products with a common input are packed where they are narrow. On a CPU (AMD
// EPYC, one thread, 256 to 4,096 rows) four products to width 4 took 1.2 to 1.9 times as long as
// one to width 16; from width 16 on, cutting the result into its columns cost more than that saved.
#include <algorithm>

#include "grappler_passes/pass.h"

namespace tensorflow {
namespace nann_passes {
namespace {

constexpr int64_t kNarrow = 8;         // Columns of each product, at most,
constexpr int64_t kDeepPerColumn = 8;  // and rows of its weights for each of them, at least.

// Plans all of `tensors` as one with a leading axis, if they have one shape and are computed in the
// same way.
class Packer {
 public:
  explicit Packer(const ScorerGraph& scorer) : scorer_(scorer) {}

  std::optional<Plan> Pack(const std::vector<std::string>& tensors, int depth = 0) {
    const Shape& shape = scorer_.ShapeOf(tensors[0]);
    if (depth > kMaxDepth) return std::nullopt;
    for (const std::string& tensor : tensors) {
      if (scorer_.ShapeOf(tensor) != shape) return std::nullopt;
    }
    if (auto whole = Unpacked(tensors); whole.has_value()) return Existing(*std::move(whole));
    if (std::none_of(tensors.begin(), tensors.end(),
                     [this](const std::string& tensor) { return scorer_.OfItems(tensor); })) {
      return [tensors](ScorerGraph& graph) {
        const int64_t count = tensors.size();
        return graph.Add("Pack", tensors, graph.ShapeOf(tensors[0]).WithFirst(count),
                         graph.NodeOf(tensors[0]), {{"N", IntAttr(count)}, {"axis", IntAttr(0)}});
      };
    }
    return Operation(tensors, depth);
  }

  int products() const { return products_; }

 private:
  static constexpr int kMaxDepth = 200;  // Of operations; no network that we know has so many.

  // Returns the tensor that Unpack cut into `tensors`, in order.
  std::optional<std::string> Unpacked(const std::vector<std::string>& tensors) const {
    const NodeDef& node = scorer_.NodeOf(tensors[0]);
    if (node.op() != "Unpack" || IntOf(node, "axis") != 0) return std::nullopt;
    if (IntOf(node, "num") != tensors.size()) return std::nullopt;
    if (!AreOutputs(node, tensors)) return std::nullopt;
    return node.input(0);
  }

  std::optional<Plan> Operation(const std::vector<std::string>& tensors, int depth) {
    const NodeDef& first = scorer_.NodeOf(tensors[0]);
    const bool product = first.op() == "MatMul", transpose = first.op() == "Transpose";
    if (!product && !transpose && !IsUnary(first) && !IsBinary(first)) return std::nullopt;
    for (const std::string& tensor : tensors) {
      const NodeDef& node = scorer_.NodeOf(tensor);
      if (node.op() != first.op() || !SameAttributes(node, first)) return std::nullopt;
      if (!scorer_.Free(node) || !scorer_.HasOneConsumer(tensor)) return std::nullopt;
      if (!transpose) continue;
      const auto order = scorer_.Integers(node.input(1));
      if (!order.has_value() || order != scorer_.Integers(first.input(1))) return std::nullopt;
    }
    const Shape shape = scorer_.ShapeOf(tensors[0]).WithFirst(tensors.size());
    std::vector<Plan> packed;
    for (int input = 0; input < (transpose ? 1 : NumInputs(first)); ++input) {
      std::vector<std::string> operands;
      for (const std::string& tensor : tensors) {
        operands.push_back(scorer_.NodeOf(tensor).input(input));
      }
      // A broadcast along an axis that was not there before would be another one.
      if (IsBinary(first) && scorer_.ShapeOf(operands[0]).WithFirst(1).rank() != shape.rank()) {
        return std::nullopt;
      }
      auto plan = Pack(operands, depth + 1);
      if (!plan.has_value()) return std::nullopt;
      packed.push_back(*std::move(plan));
    }
    products_ += product;
    return [&first, packed = std::move(packed), shape](ScorerGraph& graph) {
      const std::vector<std::string> inputs = Apply(packed, graph);
      if (first.op() == "MatMul") {
        return graph.Add("BatchMatMulV2", inputs, shape, first,
                         {{"adj_x", BoolAttr(BoolOf(first, "transpose_a"))},
                          {"adj_y", BoolAttr(BoolOf(first, "transpose_b"))}});
      }
      if (first.op() != "Transpose") return graph.Clone(first, inputs, shape);
      std::vector<int64_t> moved{0};
      const auto order = graph.Integers(first.input(1));
      for (const int64_t axis : *order) moved.push_back(axis + 1);
      return graph.Add("Transpose", {inputs[0], graph.AddIntegers(moved, first)}, shape, first,
                       {{"Tperm", TypeAttr(DT_INT32)}});
    };
  }

  const ScorerGraph& scorer_;
  int products_ = 0;
};

std::optional<Plan> MatchParts(const ScorerGraph& scorer, const NodeDef& pack) {
  if (!scorer.OfItems(pack.name())) return std::nullopt;
  if (IntOf(pack, "axis") != 0 || NumInputs(pack) < 2) return std::nullopt;
  Packer packer(scorer);
  auto plan = packer.Pack({pack.input().begin(), pack.input().end()});
  return packer.products() > 0 ? plan : std::nullopt;
}

bool IsNarrowProduct(const ScorerGraph& scorer, const NodeDef& node) {
  if (node.op() != "MatMul" || !scorer.Free(node) || scorer.OfItems(node.input(1))) return false;
  if (BoolOf(node, "transpose_a") || BoolOf(node, "transpose_b")) return false;
  const Shape& weights = scorer.ShapeOf(node.input(1));
  if (!weights.known() || !scorer.ShapeOf(node.name()).known()) return false;
  return weights[1] <= kNarrow && weights[0] >= kDeepPerColumn * weights[1];
}

// `first` is the first of several narrow products of one input. Its plan replaces the others, too.
std::optional<Plan> MatchColumns(const ScorerGraph& scorer, const NodeDef& first) {
  if (!scorer.OfItems(first.input(0))) return std::nullopt;
  std::vector<const NodeDef*> products;
  for (const NodeDef* node : scorer.Consumers(first.input(0))) {
    if (IsNarrowProduct(scorer, *node)) products.push_back(node);
  }
  if (products.size() < 2 || products[0] != &first) return std::nullopt;
  return [&first, products](ScorerGraph& graph) {
    std::vector<std::string> weights, parts;
    int64_t width = 0;
    for (const NodeDef* node : products) {
      weights.push_back(node->input(1));
      width += graph.ShapeOf(node->input(1))[1];
    }
    const int64_t depth = graph.ShapeOf(weights[0])[0], rows = graph.ShapeOf(first.name())[0];
    const std::string wide = graph.Concat(weights, 1, {depth, width}, first);
    const std::string all = graph.MatMul(first.input(0), wide, false, false, first);
    int64_t begin = 0;
    for (const NodeDef* node : products) {
      const int64_t columns = graph.ShapeOf(node->name())[1];
      parts.push_back(graph.Slice(all, {0, begin}, {-1, columns}, {rows, columns}, first));
      begin += columns;
    }
    for (size_t i = 1; i < products.size(); ++i) graph.Replace(products[i]->name(), parts[i]);
    return parts[0];
  };
}

}  // namespace

Pass PackedGemm() { return {"packed_gemm", {{{"Pack"}, MatchParts}, {{"MatMul"}, MatchColumns}}}; }

}  // namespace nann_passes
}  // namespace tensorflow
