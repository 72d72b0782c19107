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
  return SameLast(scorer.ShapeOf(source), scorer.ShapeOf(tensor)) ? source : tensor;
}

bool OfConcat(ScorerGraph& scorer, const NodeDef& concat, std::vector<Summand>* summands) {
  const Shape& whole = scorer.ShapeOf(concat.name());
  const int parts = NumInputs(concat) - 1;
  const int rank = whole.rank();
  const auto axis = scorer.Integer(concat.input(parts));
  if (!whole.known() || (axis != -1 && axis != rank - 1)) return false;
  int64_t begin = 0;
  bool useful = false, differ = false;
  for (int i = 0; i < parts; ++i) {
    const std::string part = Source(scorer, concat.input(i));
    const Shape& shape = scorer.ShapeOf(part);
    if (shape.rank() < 1) return false;
    const unsigned dependence = scorer.DependenceOf(part);
    useful = useful || dependence != (kUser | kItem) || shape.rows() < whole.rows();
    if (!summands->empty()) {
      Summand& last = summands->back();
      const Shape& beside = scorer.ShapeOf(last.tensor);
      const bool same =
          dependence == scorer.DependenceOf(last.tensor) && shape.rows() == beside.rows();
      differ = differ || !same;
      if (same && shape == beside.WithLast(shape.last())) {
        // Neighbours of one kind stay side by side.
        const Shape joined = shape.WithLast(shape.last() + last.size);
        last.tensor =
            scorer.Add("ConcatV2", {last.tensor, part, scorer.AddInteger(rank - 1, concat)}, joined,
                       concat, {{"N", IntAttr(2)}, {"Tidx", TypeAttr(DT_INT32)}});
        last.size = joined.last();
        begin += shape.last();
        continue;
      }
    }
    summands->push_back({part, begin, shape.last()});
    begin += shape.last();
  }
  return useful && differ && summands->size() > 1;
}

bool OfSum(ScorerGraph& scorer, const NodeDef& sum, std::vector<Summand>* summands) {
  const Shape& whole = scorer.ShapeOf(sum.name());
  if (!whole.known()) return false;
  for (int i : {0, 1}) {
    const std::string part = Source(scorer, sum.input(i));
    const Shape& shape = scorer.ShapeOf(part);
    // Both must be smaller: else there is a product of the whole's rows before and after.
    if (!SameLast(shape, whole) || shape.rows() >= whole.rows()) return false;
    summands->push_back({part, 0, shape.last(), i == 1 && sum.op() == "Sub"});
  }
  return true;
}

bool Split(ScorerGraph& scorer, NodeDef& product) {
  const Shape& weights = scorer.ShapeOf(product.input(1));
  const Shape& out = scorer.ShapeOf(product.name());
  if (!scorer.OfItems(product.input(0)) || scorer.OfItems(product.input(1))) return false;
  if (!weights.known() || !out.known()) return false;
  if (BoolOf(product, "transpose_a") || BoolOf(product, "transpose_b")) return false;
  const NodeDef* source = &scorer.NodeOf(product.input(0));
  if (source->op() == "Reshape" && scorer.Free(*source)) {
    if (scorer.ShapeOf(source->input(0)).last() != weights[0]) return false;
    source = &scorer.NodeOf(source->input(0));
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
  const Shape whole = scorer.ShapeOf(source->name()).WithLast(out[1]);
  std::string sum;
  for (const Summand& summand : summands) {
    const Shape shape = scorer.ShapeOf(summand.tensor).WithLast(out[1]);
    const std::string rows =
        summand.size == weights[0]
            ? product.input(1)
            : scorer.Rows(product.input(1), summand.begin, summand.size, product);
    const std::string part = scorer.Reshape(
        scorer.MatMul(AsMatrix(scorer, summand.tensor, product), rows, false, false, product),
        shape, product);
    sum =
        sum.empty() ? part : scorer.Binary(summand.negative ? "Sub" : "AddV2", sum, part, product);
  }
  sum = BroadcastTo(scorer, sum, whole, product);
  scorer.Replace(product.name(), scorer.Reshape(sum, out, product));
  return true;
}

}  // namespace

Pass ConcatMatmulSplit() { return {"concat_matmul_split", {{{"MatMul"}, Split}}}; }

}  // namespace nann_passes
}  // namespace tensorflow
