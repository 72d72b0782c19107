// packed_gemm: many small products are one.
//
//   Pack(f(x0), f(x1), ...), with x0, x1, ... = Unpack(x)  ->  f on all at once
//   MatMul(x, W0), MatMul(x, W1), ...    ->  columns of MatMul(x, Concat(W0, W1, ...))
//
// where f is made of the same transposes, products, and operations on elements. (The original's
// gemm optimizer.) Products with a common input are packed where they are narrow. On a CPU (AMD
// EPYC, one thread, 256 to 4,096 rows) four products to width 4 took 1.2 to 1.9 times as long as
// one to width 16; from width 16 on, cutting the result into its columns cost more than that saved.
#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "grappler_passes/pass.h"

namespace tensorflow {
namespace nann_passes {
namespace {

constexpr int64_t kNarrow = 8;         // Columns of each product, at most,
constexpr int64_t kDeepPerColumn = 8;  // and rows of its weights for each of them, at least.

// All of `tensors`, of one shape, as one with a leading axis; "" where they do not stand in
// parallel.
class Packer {
 public:
  explicit Packer(ScorerGraph& scorer) : scorer_(scorer) {}

  std::string Pack(const std::vector<std::string>& tensors, int depth = 0) {
    const Shape& shape = scorer_.ShapeOf(tensors[0]);
    if (depth > kMaxDepth) return "";
    for (const std::string& tensor : tensors) {
      if (scorer_.ShapeOf(tensor) != shape) return "";
    }
    const std::string whole = Unpacked(tensors);
    if (!whole.empty()) return whole;
    if (std::none_of(tensors.begin(), tensors.end(),
                     [this](const std::string& tensor) { return scorer_.OfItems(tensor); })) {
      const int64_t count = tensors.size();
      return scorer_.Add("Pack", tensors, shape.WithFirst(count), scorer_.NodeOf(tensors[0]),
                         {{"N", IntAttr(count)}, {"axis", IntAttr(0)}});
    }
    return Operation(tensors, depth);
  }

  int products() const { return products_; }

 private:
  static constexpr int kMaxDepth = 200;  // Of operations; no network that we know has so many.

  // The tensor whose parts they are, in order.
  std::string Unpacked(const std::vector<std::string>& tensors) const {
    const NodeDef& node = scorer_.NodeOf(tensors[0]);
    if (node.op() != "Unpack" || IntOf(node, "axis") != 0) return "";
    if (IntOf(node, "num") != tensors.size()) return "";
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (tensors[i] != (i == 0 ? node.name() : absl::StrCat(node.name(), ":", i))) return "";
    }
    return node.input(0);
  }

  std::string Operation(const std::vector<std::string>& tensors, int depth) {
    const NodeDef& first = scorer_.NodeOf(tensors[0]);
    const bool product = first.op() == "MatMul";
    if (!product && first.op() != "Transpose" && !IsUnary(first) && !IsBinary(first)) return "";
    for (const std::string& tensor : tensors) {
      const NodeDef& node = scorer_.NodeOf(tensor);
      if (node.op() != first.op() || !scorer_.Free(node) || !SameAttributes(node, first)) return "";
      if (!scorer_.HasOneConsumer(tensor)) return "";
    }
    const Shape shape = scorer_.ShapeOf(tensors[0]).WithFirst(tensors.size());
    std::vector<std::string> packed;
    for (int input = 0; input < (first.op() == "Transpose" ? 1 : NumInputs(first)); ++input) {
      std::vector<std::string> operands;
      for (const std::string& tensor : tensors) {
        operands.push_back(scorer_.NodeOf(tensor).input(input));
      }
      // A broadcast along an axis that was not there before would be another one.
      if (IsBinary(first) && scorer_.ShapeOf(operands[0]).WithFirst(1).rank() != shape.rank()) {
        return "";
      }
      packed.push_back(Pack(operands, depth + 1));
      if (packed.back().empty()) return "";
    }
    if (product) {
      ++products_;
      return scorer_.Add("BatchMatMulV2", packed, shape, first,
                         {{"adj_x", BoolAttr(BoolOf(first, "transpose_a"))},
                          {"adj_y", BoolAttr(BoolOf(first, "transpose_b"))}});
    }
    if (first.op() == "Transpose") {
      std::vector<int64_t> order, moved{0};
      for (const std::string& tensor : tensors) {
        std::vector<int64_t> other;
        if (!scorer_.Integers(scorer_.NodeOf(tensor).input(1), &other)) return "";
        if (!order.empty() && other != order) return "";
        order = other;
      }
      for (const int64_t axis : order) moved.push_back(axis + 1);
      return scorer_.Add("Transpose", {packed[0], scorer_.AddIntegers(moved, first)}, shape, first,
                         {{"Tperm", TypeAttr(DT_INT32)}});
    }
    return scorer_.Clone(first, packed, shape);
  }

  ScorerGraph& scorer_;
  int products_ = 0;
};

bool PackParts(ScorerGraph& scorer, NodeDef& pack) {
  if (!scorer.OfItems(pack.name())) return false;
  if (IntOf(pack, "axis") != 0 || NumInputs(pack) < 2) return false;
  Packer packer(scorer);
  const std::string made = packer.Pack({pack.input().begin(), pack.input().end()});
  if (made.empty() || packer.products() == 0) return false;
  scorer.Replace(pack.name(), made);
  return true;
}

// Products with narrow weights of what `product` takes.
bool PackColumns(ScorerGraph& scorer, NodeDef& product) {
  const std::string input = product.input(0);
  if (!scorer.OfItems(input)) return false;
  std::vector<NodeDef*> products;
  for (NodeDef* node : scorer.NodesOf({"MatMul"})) {
    if (node->input(0) != input || !scorer.Free(*node) || scorer.OfItems(node->input(1))) continue;
    if (BoolOf(*node, "transpose_a") || BoolOf(*node, "transpose_b")) continue;
    const Shape& weights = scorer.ShapeOf(node->input(1));
    if (!weights.known() || !scorer.ShapeOf(node->name()).known()) continue;
    if (weights[1] > kNarrow || weights[0] < kDeepPerColumn * weights[1]) continue;
    products.push_back(node);
  }
  if (products.size() < 2 || products[0] != &product) return false;
  std::vector<std::string> weights;
  int64_t width = 0;
  for (const NodeDef* node : products) {
    weights.push_back(node->input(1));
    width += scorer.ShapeOf(node->input(1))[1];
  }
  const NodeDef like = *products[0];
  const int64_t depth = scorer.ShapeOf(weights[0])[0];
  const int64_t rows = scorer.ShapeOf(like.name())[0];
  weights.push_back(scorer.AddInteger(1, like));
  const std::string wide =
      scorer.Add("ConcatV2", weights, {depth, width}, like,
                 {{"N", IntAttr(products.size())}, {"Tidx", TypeAttr(DT_INT32)}});
  const std::string all = scorer.MatMul(input, wide, false, false, like);
  int64_t begin = 0;
  for (const NodeDef* node : products) {
    const int64_t columns = scorer.ShapeOf(node->name())[1];
    const std::string part = scorer.Add(
        "Slice",
        {all, scorer.AddIntegers({0, begin}, like), scorer.AddIntegers({-1, columns}, like)},
        {rows, columns}, like, {{"Index", TypeAttr(DT_INT32)}});
    scorer.Replace(node->name(), part);
    begin += columns;
  }
  return true;
}

}  // namespace

Pass PackedGemm() { return {"packed_gemm", {{{"Pack"}, PackParts}, {{"MatMul"}, PackColumns}}}; }

}  // namespace nann_passes
}  // namespace tensorflow
