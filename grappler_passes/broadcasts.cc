#include "grappler_passes/broadcasts.h"

namespace tensorflow {
namespace nann_passes {
namespace {

// All axes on which the shapes differ have extent 1 in `from`.
bool Repeats(const Shape& from, const Shape& to) {
  if (!from.known() || from.rank() != to.rank() || from == to) return false;
  for (int i = 0; i < from.rank(); ++i) {
    if (from[i] != to[i] && from[i] != 1) return false;
  }
  return true;
}

bool AllOnes(const ScorerGraph& scorer, const std::string& tensor) {
  const NodeDef* node = &scorer.NodeOf(tensor);
  std::string filled = tensor;
  if (node->op() == "Fill") {
    filled = node->input(1);
    node = &scorer.NodeOf(filled);
  }
  if (node->op() == "OnesLike") return true;
  Tensor value;
  if (!scorer.Constant(filled, &value) || value.dtype() != DT_FLOAT) return false;
  for (int64_t i = 0; i < value.NumElements(); ++i) {
    if (value.flat<float>()(i) != 1) return false;
  }
  return true;
}

// `tensor` with axes of extent 1 before, up to `rank`; "" where it has more, or none that are known.
std::string WithRank(ScorerGraph& scorer, const std::string& tensor, int rank,
                     const NodeDef& like) {
  Shape shape = scorer.ShapeOf(tensor);
  if (!shape.known() || shape.rank() > rank) return "";
  while (shape.rank() < rank) shape = shape.WithFirst(1);
  return scorer.Reshape(tensor, shape, like);
}

// A stranger's graph may reshape what was reshaped without end.
constexpr int kMaxReshapes = 100;

std::string Source(ScorerGraph& scorer, const std::string& tensor, int reshapes);

// Of a reshape that drops or adds axes of extent 1, as tf.repeat has one behind a Tile, or that merges
// axes of which all are repeated from one, or none.
std::string BehindReshape(ScorerGraph& scorer, const NodeDef& node, const Shape& out,
                          int reshapes) {
  const std::string inner = Source(scorer, node.input(0), reshapes + 1);
  if (inner.empty()) return "";
  const Shape &full = scorer.ShapeOf(node.input(0)), &small = scorer.ShapeOf(inner);
  Extents source;
  int axis = 0;
  for (const int64_t extent : out.extents()) {
    int64_t merged = 1, kept = 1;
    for (; merged < extent && axis < full.rank(); ++axis) {
      merged *= full[axis];
      kept *= small[axis];
    }
    if (merged != extent || (kept != merged && kept != 1)) return "";
    source.push_back(kept);
  }
  while (full[axis] == 1) ++axis;
  return axis < full.rank() ? "" : scorer.Reshape(inner, Shape(std::move(source)), node);
}

std::string Source(ScorerGraph& scorer, const std::string& tensor, int reshapes) {
  const NodeDef& node = scorer.NodeOf(tensor);
  const Shape& out = scorer.ShapeOf(tensor);
  if (!out.known() || !scorer.Free(node) || reshapes > kMaxReshapes) return "";
  const auto checked = [&](const std::string& source) {
    return Repeats(scorer.ShapeOf(source), out) ? source : "";
  };
  if (node.op() == "Tile" || node.op() == "BroadcastTo") {
    return checked(WithRank(scorer, node.input(0), out.rank(), node));
  }
  if (node.op() == "Reshape") return checked(BehindReshape(scorer, node, out, reshapes));
  if (node.op() == "Mul") {
    for (int i : {0, 1}) {
      if (AllOnes(scorer, node.input(i)) && scorer.ShapeOf(node.input(1 - i)).known()) {
        return checked(WithRank(scorer, node.input(1 - i), out.rank(), node));
      }
    }
  }
  if (node.op() == "GatherV2") {
    const Shape& rows = scorer.ShapeOf(node.input(0));
    const Shape& indices = scorer.ShapeOf(node.input(1));
    const int64_t axis = scorer.Integer(node.input(2)).value_or(-1);
    if (!rows.known() || !indices.known() || axis < 0 || IntOf(node, "batch_dims") != 0) return "";
    if (rows[axis] != 1) return "";  // A single row: any index that is allowed is its.
    Extents source = rows.extents();
    source.erase(source.begin() + axis);
    source.insert(source.begin() + axis, indices.rank(), 1);
    return checked(scorer.Reshape(node.input(0), Shape(std::move(source)), node));
  }
  return "";
}

}  // namespace

std::string BroadcastSource(ScorerGraph& scorer, const std::string& tensor) {
  return Source(scorer, tensor, 0);
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
  for (const int64_t extent : shape.extents()) {
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
  if (scorer.ShapeOf(tensor) == shape) return tensor;
  return scorer.Add("BroadcastTo", {tensor, ShapeVector(scorer, shape, like)}, shape, like,
                    {{"Tidx", TypeAttr(DT_INT32)}});
}

std::string AsMatrix(ScorerGraph& scorer, const std::string& tensor, const NodeDef& like) {
  const Shape& shape = scorer.ShapeOf(tensor);
  return scorer.Reshape(tensor, {shape.rows(), shape.rank() == 0 ? 1 : shape.last()}, like);
}

}  // namespace nann_passes
}  // namespace tensorflow
