// concat_matmul_split: a matrix product of things side by side is a sum of products.
//
//   MatMul(Concat(a, b), W)   ->  MatMul(a, W[:|a|]) + MatMul(b, W[|a|:])
//   MatMul(a + b, W)          ->  MatMul(a, W) + MatMul(b, W)             (and a - b)
//
// where a part depends on the user alone or on the item alone, so that other passes can take it
// away, or has fewer rows than the whole, because it is repeated for every item or for every
// behaviour. (The original's gemm compression.)
#include "grappler_passes/broadcasts.h"
#include "grappler_passes/pass.h"

namespace tensorflow {
namespace nann_passes {
namespace {

struct Summand {
  std::string tensor;
  int64_t begin, size;  // Rows of W.
  bool negative = false;
};

// What a tensor repeats, or the tensor.
std::string Source(ScorerGraph& scorer, const std::string& tensor) {
  const std::string source = BroadcastSource(scorer, tensor);
  return source.empty() || scorer.ShapeOf(source)->back() != scorer.ShapeOf(tensor)->back()
             ? tensor
             : source;
}

bool OfConcat(ScorerGraph& scorer, const NodeDef& concat, std::vector<Summand>* summands) {
  std::vector<int64_t> axis;
  const Shape* whole = scorer.ShapeOf(concat.name());
  const int parts = NumInputs(concat) - 1;
  if (whole == nullptr || !scorer.Integers(concat.input(parts), &axis)) return false;
  const int64_t rank = whole->size();
  if (axis[0] != -1 && axis[0] != rank - 1) return false;
  int64_t begin = 0;
  bool useful = false, differ = false;
  for (int i = 0; i < parts; ++i) {
    if (scorer.ShapeOf(concat.input(i)) == nullptr) return false;
    const std::string part = Source(scorer, concat.input(i));
    const Shape& shape = *scorer.ShapeOf(part);
    const unsigned dependence = scorer.DependenceOf(part);
    useful = useful || dependence != (kUser | kItem) || RowsOf(shape) < RowsOf(*whole);
    if (!summands->empty()) {
      Summand& last = summands->back();
      const bool same = dependence == scorer.DependenceOf(last.tensor) &&
                        RowsOf(shape) == RowsOf(*scorer.ShapeOf(last.tensor));
      differ = differ || !same;
      Shape joinable = *scorer.ShapeOf(last.tensor);
      joinable.back() = shape.back();
      if (same && shape == joinable) {
        // Neighbours of one kind stay side by side.
        Shape joined = shape;
        joined.back() += last.size;
        last.tensor =
            scorer.Add("ConcatV2", {last.tensor, part, scorer.AddInteger(rank - 1, concat)}, joined,
                       concat, {{"N", IntAttr(2)}, {"Tidx", TypeAttr(DT_INT32)}});
        last.size = joined.back();
        begin += shape.back();
        continue;
      }
    }
    summands->push_back({part, begin, shape.back()});
    begin += shape.back();
  }
  return useful && differ && summands->size() > 1;
}

bool OfSum(ScorerGraph& scorer, const NodeDef& sum, std::vector<Summand>* summands) {
  const Shape* whole = scorer.ShapeOf(sum.name());
  if (whole == nullptr) return false;
  for (int i : {0, 1}) {
    if (scorer.ShapeOf(sum.input(i)) == nullptr) return false;
    const std::string part = Source(scorer, sum.input(i));
    const Shape& shape = *scorer.ShapeOf(part);
    // Both must be smaller: else there is a product of the whole's rows before and after.
    if (shape.empty() || shape.back() != whole->back()) return false;
    if (RowsOf(shape) >= RowsOf(*whole)) return false;
    summands->push_back({part, 0, shape.back(), i == 1 && sum.op() == "Sub"});
  }
  return true;
}

bool Split(ScorerGraph& scorer, const NodeDef& product) {
  const Shape* weights = scorer.ShapeOf(product.input(1));
  const Shape* out = scorer.ShapeOf(product.name());
  if (weights == nullptr || out == nullptr || scorer.OfItems(product.input(1))) return false;
  if (product.attr().at("transpose_a").b() || product.attr().at("transpose_b").b()) return false;
  const NodeDef* source = scorer.NodeOf(product.input(0));
  if (source->op() == "Reshape" && scorer.Free(*source)) {
    const Shape* before = scorer.ShapeOf(source->input(0));
    if (before == nullptr || before->empty() || before->back() != (*weights)[0]) return false;
    source = scorer.NodeOf(source->input(0));
  }
  if (!scorer.Free(*source)) return false;
  std::vector<Summand> summands;
  if (source->op() == "ConcatV2") {
    if (!OfConcat(scorer, *source, &summands)) return false;
  } else if (source->op() == "AddV2" || source->op() == "Sub") {
    if (!OfSum(scorer, *source, &summands)) return false;
  } else {
    return false;
  }
  Shape whole = *scorer.ShapeOf(source->name());
  whole.back() = (*out)[1];
  const Shape result = *out;
  std::string sum;
  for (const Summand& summand : summands) {
    Shape shape = *scorer.ShapeOf(summand.tensor);
    shape.back() = result[1];
    const std::string rows =
        summand.size == (*scorer.ShapeOf(product.input(1)))[0]
            ? product.input(1)
            : scorer.Rows(product.input(1), summand.begin, summand.size, product);
    const std::string part = scorer.Reshape(
        scorer.MatMul(AsMatrix(scorer, summand.tensor, product), rows, false, false, product),
        shape, product);
    sum =
        sum.empty() ? part : scorer.Binary(summand.negative ? "Sub" : "AddV2", sum, part, product);
  }
  sum = BroadcastTo(scorer, sum, whole, product);
  scorer.Replace(product.name(), scorer.Reshape(sum, result, product));
  return true;
}

}  // namespace

absl::StatusOr<int> ConcatMatmulSplit(ScorerGraph& scorer) {
  int rewrites = 0;
  for (NodeDef* node : scorer.NodesOf({"MatMul"})) {
    if (!scorer.Free(*node) || scorer.Consumers(node->name()).empty()) continue;
    rewrites += scorer.OfItems(node->name()) && Split(scorer, *node);
  }
  scorer.Prune();
  return rewrites;
}

}  // namespace nann_passes
}  // namespace tensorflow
