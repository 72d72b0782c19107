// item_fold: computes what depends on an item alone once, when the model is exported.
//
//   score(user, items [1, n, d]) = g(user, f(items), h(items))
//     ->  score(user, rows [1, n, |f| + |h|]) = g(user, rows[:, :, :|f|], rows[:, :, |f|:])
//
// with rows = Concat(f(items), h(items)), which the index holds in place of the embeddings.
#include "grappler_passes/item_fold.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "grappler_passes/broadcasts.h"
#include "grappler_passes/costs.h"
#include "grappler_passes/run_passes.h"
#include "grappler_passes/scorer_function.h"
#include "tensorflow/core/platform/statusor.h"

namespace tensorflow {
namespace nann_passes {
namespace {

// The time of a multiply-add in a large product, and of a byte of a row that is gathered from a
// table larger than the caches and then sliced. `make bench-scorer` measures both.
constexpr double kNanosecondsPerMultiplyAdd = 0.03;
constexpr double kNanosecondsPerByte = 0.2;
constexpr int64_t kMaxWidth = 1 << 16;

bool OfItemsAlone(const ScorerGraph& scorer, const NodeDef& node) {
  return node.op() != "Const" && scorer.DependenceOf(node.name()) == kItem;
}

// Add(Add(x, f(items)), b)  ->  Add(x, Add(f(items), b)): what is the same for all users joins the
// item's side.
std::optional<Plan> MatchBias(const ScorerGraph& scorer, const NodeDef& outer) {
  if (scorer.DependenceOf(outer.input(1)) != kModel) return std::nullopt;
  const NodeDef& inner = scorer.NodeOf(outer.input(0));
  if (inner.op() != "AddV2" || !scorer.Free(inner)) return std::nullopt;
  if (!scorer.HasOneConsumer(inner.name())) return std::nullopt;
  const Shape& out = scorer.ShapeOf(outer.name());
  for (int i : {0, 1}) {
    if (scorer.ShapeOf(inner.input(i)) != out || out.rank() != 2) continue;
    if (!OfItemsAlone(scorer, scorer.NodeOf(inner.input(i)))) continue;
    return [&outer, &inner, i](ScorerGraph& graph) {
      const std::string item = graph.Binary("AddV2", inner.input(i), outer.input(1), outer);
      return graph.Binary("AddV2", inner.input(1 - i), item, outer);
    };
  }
  return std::nullopt;
}

absl::Status Refused(const std::string& reason) { return absl::FailedPreconditionError(reason); }

// Returns the nodes that ask for the shape of a tensor that is computed from the items alone. A
// vector of the shape can replace each.
absl::StatusOr<std::vector<const NodeDef*>> MatchShapes(const ScorerGraph& scorer) {
  std::vector<const NodeDef*> asking;
  for (const NodeDef* node : scorer.NodesOf({"Shape", "Size"})) {
    if (scorer.DependenceOf(node->input(0)) != kItem) continue;
    if (node->op() != "Shape" || !scorer.ShapeOf(node->input(0)).known() ||
        scorer.DtypeOf(node->name()) != DT_INT32) {
      return Refused("it asks for the shape of what it computes");
    }
    asking.push_back(node);
  }
  return asking;
}

// Columns of the rows that take the place of the items.
struct Columns {
  std::string tensor;
  int64_t width;
};

// Returns what goes into a row, if it is worth it.
absl::StatusOr<std::vector<Columns>> MatchRows(const ScorerGraph& scorer) {
  const NodeDef& items = scorer.Items();
  if (items.op().empty()) return Refused("the scorer takes no items");
  double multiply_adds = 0;  // Of each item.
  for (const NodeDef* node : scorer.Nodes()) {
    if (!OfItemsAlone(scorer, *node)) continue;
    multiply_adds += MultiplyAdds(scorer, *node).value_or(0) / kItems;
  }
  std::vector<Columns> row;
  int64_t width = 0;
  for (const std::string& tensor : ItemFrontier(scorer)) {
    const Shape& shape = scorer.ShapeOf(tensor);
    const int64_t elements = shape.elements();
    if (!ManyItems(elements) || scorer.DtypeOf(tensor) != DT_FLOAT) {
      return Refused(
          absl::StrCat(tensor, " depends on the items alone and is no float32 row of each"));
    }
    row.push_back({tensor, elements / kItems});
    width = std::min(width + row.back().width, kMaxWidth + 1);
    // The items' axis must lead, or a reshape would tear the rows apart.
    int axis = 0;
    while (shape[axis] == 1) ++axis;
    if (shape[axis] != kItems || width > kMaxWidth) {
      return Refused(absl::StrCat(tensor, " depends on the items alone and is no row of at most ",
                                  kMaxWidth, " of each"));
    }
  }
  if (width == 0 || (row.size() == 1 && row[0].tensor == items.name())) {
    return Refused("nothing is computed of the items alone");
  }
  const int64_t bytes_before = 4 * scorer.ShapeOf(items.name()).last(), bytes_after = 4 * width;
  const double more = (bytes_after - bytes_before) * kNanosecondsPerByte;
  const double less = multiply_adds * kNanosecondsPerMultiplyAdd;
  if (more >= less) {
    return Refused(absl::StrCat("rows of ", bytes_after, " bytes instead of ", bytes_before,
                                " take about ", more, " ns an item more to read, and save ", less));
  }
  return row;
}

// Adds the rows, and has all that needs the columns take them from the rows.
std::string AddRows(ScorerGraph& graph, const std::vector<Columns>& row) {
  const NodeDef& like = graph.Items();
  std::vector<std::string> parts;
  int64_t width = 0;
  for (const Columns& columns : row) {
    parts.push_back(graph.Reshape(columns.tensor, {1, kItems, columns.width}, like));
    width += columns.width;
  }
  const bool joins = row.size() > 1;
  const Shape shape{1, kItems, width};
  const std::string rows =
      joins ? graph.Concat(parts, 2, shape, like) : graph.Add("Identity", parts, shape, like);
  int64_t begin = 0;
  for (const Columns& columns : row) {
    std::string part = rows;
    if (joins) {
      part = graph.Slice(rows, {0, 0, begin}, {-1, -1, columns.width}, {1, kItems, columns.width},
                         like);
    }
    begin += columns.width;
    part = graph.Reshape(part, graph.ShapeOf(columns.tensor), like);
    for (const NodeDef* node : graph.Consumers(columns.tensor)) {
      if (OfItemsAlone(graph, *node) && node->op() != "_Retval") continue;
      for (int input = 0; input < NumInputs(*node); ++input) {
        if (node->input(input) == columns.tensor) graph.SetInput(*node, input, part);
      }
    }
  }
  for (const NodeDef* node : graph.NodesOf({"Shape"})) {
    if (node->input(0) == like.name()) graph.SetInput(*node, 0, rows);
  }
  return rows;
}

}  // namespace

absl::StatusOr<std::string> FoldItems(ScorerGraph& scorer) {
  ApplyRule({{"AddV2", "BiasAdd"}, MatchBias}, scorer);
  TF_ASSIGN_OR_RETURN(const auto asking, MatchShapes(scorer));
  for (const NodeDef* node : asking) {
    scorer.Replace(node->name(), ShapeVector(scorer, scorer.ShapeOf(node->input(0)), *node));
  }
  scorer.Prune();
  TF_ASSIGN_OR_RETURN(const auto row, MatchRows(scorer));
  return AddRows(scorer, row);
}

}  // namespace nann_passes
}  // namespace tensorflow
