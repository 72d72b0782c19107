#include "grappler_passes/broadcasts.h"

#include <utility>
#include <vector>

namespace tensorflow {
namespace nann_passes {
namespace {

// Whether `from` becomes `to` by repetition along axes of extent 1.
bool Repeats(const Shape& from, const Shape& to) {
  if (!from.known() || from.rank() != to.rank() || from == to) return false;
  for (int i = 0; i < from.rank(); ++i) {
    if (from[i] != to[i] && from[i] != 1) return false;
  }
  return true;
}

bool AllOnes(const ScorerGraph& scorer, const std::string& tensor) {
  const NodeDef& node = scorer.NodeOf(tensor);
  const std::string filled = node.op() == "Fill" ? node.input(1) : tensor;
  if (scorer.NodeOf(filled).op() == "OnesLike") return true;
  const auto value = scorer.Constant(filled);
  if (!value.has_value() || value->dtype() != DT_FLOAT) return false;
  for (int64_t i = 0; i < value->NumElements(); ++i) {
    if (value->flat<float>()(i) != 1) return false;
  }
  return true;
}

// An input of `node`, with axes of extent 1 before its own, up to `rank`.
std::optional<Reshaped> WithRank(const ScorerGraph& scorer, const NodeDef& node, int input,
                                 int rank) {
  Shape shape = scorer.ShapeOf(node.input(input));
  if (!shape.known() || shape.rank() > rank) return std::nullopt;
  while (shape.rank() < rank) shape = shape.WithFirst(1);
  return Reshaped{node.input(input), shape, &node};
}

// A graph that a stranger wrote may chain reshapes without end.
constexpr int kMaxReshapes = 100;

// The source of a reshape that drops or adds axes of extent 1, as tf.repeat has one behind a Tile,
// or that merges axes of which all are repeated from extent 1, or none.
std::optional<Reshaped> SourceOfReshape(const ScorerGraph& scorer, const NodeDef& node,
                                        const Shape& out, int reshapes) {
  const auto inner = BroadcastSource(scorer, node.input(0), reshapes + 1);
  if (!inner.has_value()) return std::nullopt;
  const Shape& full = scorer.ShapeOf(node.input(0));
  Extents source;
  int axis = 0;
  for (const int64_t extent : out.extents()) {
    int64_t merged = 1, kept = 1;
    for (; merged < extent && axis < full.rank(); ++axis) {
      merged *= full[axis];
      kept *= inner->shape[axis];
    }
    if (merged != extent || (kept != merged && kept != 1)) return std::nullopt;
    source.push_back(kept);
  }
  while (full[axis] == 1) ++axis;
  if (axis < full.rank()) return std::nullopt;
  const Shape shape(std::move(source));
  return shape == inner->shape ? *inner : Reshaped{inner->tensor, shape, &node};
}

std::optional<Reshaped> SourceOfGather(const ScorerGraph& scorer, const NodeDef& node) {
  const Shape& rows = scorer.ShapeOf(node.input(0));
  const Shape& indices = scorer.ShapeOf(node.input(1));
  const int64_t axis = scorer.Integer(node.input(2)).value_or(-1);
  if (!rows.known() || !indices.known() || axis < 0) return std::nullopt;
  // With a single row, every index that is allowed is that row's.
  if (IntOf(node, "batch_dims") != 0 || rows[axis] != 1) return std::nullopt;
  Extents source = rows.extents();
  source.erase(source.begin() + axis);
  source.insert(source.begin() + axis, indices.rank(), 1);
  return Reshaped{node.input(0), Shape(std::move(source)), &node};
}

// Adds the number of items, an int32 vector with one element.
std::string CountOfItems(ScorerGraph& graph, const NodeDef& like) {
  const std::string extents = graph.Add("Shape", {graph.Items().name()}, {3}, like,
                                        {{"out_type", TypeAttr(DT_INT32)}}, DT_INT32);
  return graph.Slice(extents, {1}, {1}, {1}, like);
}

}  // namespace

std::optional<Reshaped> BroadcastSource(const ScorerGraph& scorer, const std::string& tensor,
                                        int reshapes) {
  const NodeDef& node = scorer.NodeOf(tensor);
  const Shape& out = scorer.ShapeOf(tensor);
  if (!out.known() || !scorer.Free(node) || reshapes > kMaxReshapes) return std::nullopt;
  std::optional<Reshaped> source;
  if (node.op() == "Tile" || node.op() == "BroadcastTo") {
    source = WithRank(scorer, node, 0, out.rank());
  } else if (node.op() == "Reshape") {
    source = SourceOfReshape(scorer, node, out, reshapes);
  } else if (node.op() == "Mul") {
    for (int i : {0, 1}) {
      if (!AllOnes(scorer, node.input(i)) || !scorer.ShapeOf(node.input(1 - i)).known()) continue;
      source = WithRank(scorer, node, 1 - i, out.rank());
      break;
    }
  } else if (node.op() == "GatherV2") {
    source = SourceOfGather(scorer, node);
  }
  return source.has_value() && Repeats(source->shape, out) ? source : std::nullopt;
}

Reshaped RowSource(const ScorerGraph& scorer, const std::string& tensor) {
  const Shape& shape = scorer.ShapeOf(tensor);
  const auto source = BroadcastSource(scorer, tensor);
  if (source.has_value() && SameLast(source->shape, shape)) return *source;
  return {tensor, shape, &scorer.NodeOf(tensor)};
}

std::string ShapeVector(ScorerGraph& graph, const Shape& shape, const NodeDef& like) {
  const std::string count = CountOfItems(graph, like);
  std::vector<std::string> parts;
  for (const int64_t extent : shape.extents()) {
    if (!ManyItems(extent)) {
      parts.push_back(graph.AddIntegers({extent}, like));
    } else if (extent == kItems) {
      parts.push_back(count);
    } else {
      parts.push_back(graph.Binary("Mul", count, graph.AddIntegers({extent / kItems}, like), like));
    }
  }
  if (parts.size() == 1) return parts[0];
  const int64_t rank = parts.size();
  return graph.Concat(std::move(parts), 0, {rank}, like);
}

std::string BroadcastTo(ScorerGraph& graph, const std::string& tensor, const Shape& shape,
                        const NodeDef& like) {
  if (graph.ShapeOf(tensor) == shape) return tensor;
  return graph.Add("BroadcastTo", {tensor, ShapeVector(graph, shape, like)}, shape, like,
                   {{"Tidx", TypeAttr(DT_INT32)}});
}

std::string AsMatrix(ScorerGraph& graph, const std::string& tensor, const NodeDef& like) {
  const Shape& shape = graph.ShapeOf(tensor);
  return graph.Reshape(tensor, {shape.rows(), shape.rank() == 0 ? 1 : shape.last()}, like);
}

}  // namespace nann_passes
}  // namespace tensorflow
