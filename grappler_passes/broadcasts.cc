#include "grappler_passes/broadcasts.h"

namespace tensorflow {
namespace nann_passes {
namespace {

// All axes on which the shapes differ have extent 1 in `from`.
bool Repeats(const Shape& from, const Shape& to) {
  if (from.size() != to.size() || from == to) return false;
  for (size_t i = 0; i < from.size(); ++i) {
    if (from[i] != to[i] && from[i] != 1) return false;
  }
  return true;
}

bool AllOnes(const ScorerGraph& scorer, const std::string& tensor) {
  const NodeDef& node = *scorer.NodeOf(tensor);
  if (node.op() == "OnesLike") return true;
  if (node.op() == "Fill") return AllOnes(scorer, node.input(1));
  Tensor value;
  if (!scorer.Constant(tensor, &value) || value.dtype() != DT_FLOAT) return false;
  for (int64_t i = 0; i < value.NumElements(); ++i) {
    if (value.flat<float>()(i) != 1) return false;
  }
  return true;
}

// `tensor` with axes of extent 1 before, up to `rank`.
std::string WithRank(ScorerGraph& scorer, const std::string& tensor, size_t rank,
                     const NodeDef& like) {
  Shape shape = *scorer.ShapeOf(tensor);
  if (shape.size() > rank) return "";
  shape.insert(shape.begin(), rank - shape.size(), 1);
  return scorer.Reshape(tensor, shape, like);
}

// Of a reshape that drops or adds axes of extent 1, as tf.repeat has one behind a Tile, or that merges
// axes of which all are repeated from one, or none.
std::string BehindReshape(ScorerGraph& scorer, const NodeDef& node, const Shape& out) {
  const std::string inner = BroadcastSource(scorer, node.input(0));
  if (inner.empty()) return "";
  const Shape full = *scorer.ShapeOf(node.input(0)), small = *scorer.ShapeOf(inner);
  Shape source;
  size_t axis = 0;
  for (const int64_t extent : out) {
    int64_t merged = 1, kept = 1;
    for (; merged < extent && axis < full.size(); ++axis) {
      merged *= full[axis];
      kept *= small[axis];
    }
    if (merged != extent || (kept != merged && kept != 1)) return "";
    source.push_back(kept);
  }
  while (axis < full.size() && full[axis] == 1) ++axis;
  return axis < full.size() ? "" : scorer.Reshape(inner, source, node);
}

}  // namespace

std::string BroadcastSource(ScorerGraph& scorer, const std::string& tensor) {
  const NodeDef& node = *scorer.NodeOf(tensor);
  const Shape* out = scorer.ShapeOf(tensor);
  if (out == nullptr || !scorer.Free(node)) return "";
  const auto checked = [&](const std::string& source) {
    return !source.empty() && Repeats(*scorer.ShapeOf(source), *out) ? source : "";
  };
  if (node.op() == "Tile" || node.op() == "BroadcastTo") {
    if (scorer.ShapeOf(node.input(0)) == nullptr) return "";
    return checked(WithRank(scorer, node.input(0), out->size(), node));
  }
  if (node.op() == "Reshape") return checked(BehindReshape(scorer, node, Shape(*out)));
  if (node.op() == "Mul") {
    for (int i : {0, 1}) {
      if (AllOnes(scorer, node.input(i)) && scorer.ShapeOf(node.input(1 - i)) != nullptr) {
        return checked(WithRank(scorer, node.input(1 - i), out->size(), node));
      }
    }
  }
  if (node.op() == "GatherV2") {
    const Shape* rows = scorer.ShapeOf(node.input(0));
    const Shape* indices = scorer.ShapeOf(node.input(1));
    std::vector<int64_t> axis;
    if (rows == nullptr || indices == nullptr || !scorer.Integers(node.input(2), &axis)) return "";
    if (node.attr().at("batch_dims").i() != 0 || axis[0] < 0 || axis[0] >= rows->size()) return "";
    if ((*rows)[axis[0]] != 1) return "";  // A single row: any index that is allowed is its.
    Shape source = *rows;
    source.erase(source.begin() + axis[0]);
    source.insert(source.begin() + axis[0], indices->size(), 1);
    return checked(scorer.Reshape(node.input(0), source, node));
  }
  return "";
}

std::string ShapeVector(ScorerGraph& scorer, const Shape& shape, const NodeDef& like) {
  std::string items;
  for (const NodeDef* node : scorer.NodesOf({"_Arg"})) {
    if (scorer.DependenceOf(node->name()) == kItem) items = node->name();
  }
  const AttrValue int32 = TypeAttr(DT_INT32);
  const std::string extents =
      scorer.Add("Shape", {items}, {3}, like, {{"out_type", int32}}, DT_INT32);
  const std::string count =
      scorer.Add("Slice", {extents, scorer.AddIntegers({1}, like), scorer.AddIntegers({1}, like)},
                 {1}, like, {{"Index", int32}});
  std::vector<std::string> parts;
  for (const int64_t extent : shape) {
    if (!ManyItems(extent)) {
      parts.push_back(scorer.AddIntegers({extent}, like));
    } else if (extent == kItems) {
      parts.push_back(count);
    } else {
      parts.push_back(
          scorer.Binary("Mul", count, scorer.AddIntegers({extent / kItems}, like), like));
    }
  }
  if (parts.size() == 1) return parts[0];
  const int64_t rank = parts.size();
  parts.push_back(scorer.AddInteger(0, like));
  return scorer.Add("ConcatV2", parts, {rank}, like, {{"N", IntAttr(rank)}, {"Tidx", int32}});
}

std::string BroadcastTo(ScorerGraph& scorer, const std::string& tensor, const Shape& shape,
                        const NodeDef& like) {
  if (*scorer.ShapeOf(tensor) == shape) return tensor;
  return scorer.Add("BroadcastTo", {tensor, ShapeVector(scorer, shape, like)}, shape, like,
                    {{"Tidx", TypeAttr(DT_INT32)}});
}

std::string AsMatrix(ScorerGraph& scorer, const std::string& tensor, const NodeDef& like) {
  const Shape& shape = *scorer.ShapeOf(tensor);
  return scorer.Reshape(tensor, {RowsOf(shape), shape.empty() ? 1 : shape.back()}, like);
}

}  // namespace nann_passes
}  // namespace tensorflow
