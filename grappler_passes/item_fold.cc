// item_fold: what the scorer computes of an item alone is computed once, when the model is
// exported.
//
//   score(user, items [1, n, d]) = g(user, f(items), h(items))
//     ->  score(user, rows [1, n, |f| + |h|]) = g(user, rows[:, :, :|f|], rows[:, :, |f|:])
//
// with rows = Concat(f(items), h(items)), for the index to hold in place of the embeddings.
#include "grappler_passes/item_fold.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "grappler_passes/broadcasts.h"
#include "grappler_passes/costs.h"
#include "grappler_passes/run_passes.h"
#include "grappler_passes/scorer_function.h"

namespace tensorflow {
namespace nann_passes {
namespace {

// What a multiply-add of a large product takes, and a byte of a row that is gathered from a table
// beyond the caches and then cut. `make bench-scorer` measures both.
constexpr double kNanosecondsPerMultiplyAdd = 0.03;
constexpr double kNanosecondsPerByte = 0.2;
constexpr int64_t kMaxWidth = 1 << 16;

bool OfItemsAlone(const ScorerGraph& scorer, const NodeDef& node) {
  return node.op() != "Const" && scorer.DependenceOf(node.name()) == kItem;
}

// Add(Add(x, f(items)), b)  ->  Add(x, Add(f(items), b)): what is the same for all users joins the
// item's side.
bool MergeBias(ScorerGraph& scorer, NodeDef& outer) {
  if (scorer.DependenceOf(outer.input(1)) != kModel) return false;
  const NodeDef& inner = scorer.NodeOf(outer.input(0));
  if (inner.op() != "AddV2" || !scorer.Free(inner) || !scorer.HasOneConsumer(inner.name())) {
    return false;
  }
  for (int i : {0, 1}) {
    const Shape& out = scorer.ShapeOf(outer.name());
    if (scorer.ShapeOf(inner.input(i)) != out || out.rank() != 2) continue;
    if (!OfItemsAlone(scorer, scorer.NodeOf(inner.input(i)))) continue;
    const std::string item = scorer.Binary("AddV2", inner.input(i), outer.input(1), outer);
    scorer.Replace(outer.name(), scorer.Binary("AddV2", inner.input(1 - i), item, outer));
    return true;
  }
  return false;
}

// The number of items is the only thing that is asked of an item's tensor's shape, and of the
// argument.
bool OnlyCountIsAsked(ScorerGraph& scorer) {
  for (NodeDef* node : scorer.NodesOf({"Shape", "Size"})) {
    if (scorer.DependenceOf(node->input(0)) != kItem) continue;
    const Shape& shape = scorer.ShapeOf(node->input(0));
    if (node->op() != "Shape" || !shape.known() || scorer.DtypeOf(node->name()) != DT_INT32) {
      return false;
    }
    scorer.Replace(node->name(), ShapeVector(scorer, shape, *node));
  }
  scorer.Prune();
  return true;
}

absl::Status Refused(const std::string& reason) { return absl::FailedPreconditionError(reason); }

}  // namespace

absl::StatusOr<std::string> FoldItems(ScorerGraph& scorer) {
  ApplyRule({{"AddV2", "BiasAdd"}, MergeBias}, scorer);
  if (!OnlyCountIsAsked(scorer)) return Refused("it asks for the shape of what it computes");
  NodeDef* items = nullptr;
  for (NodeDef* node : scorer.NodesOf({"_Arg"})) {
    if (scorer.DependenceOf(node->name()) == kItem) items = node;
  }
  if (items == nullptr) return Refused("the scorer takes no items");
  double multiply_adds = 0;  // Of each item.
  for (const NodeDef* node : scorer.Nodes()) {
    if (!OfItemsAlone(scorer, *node)) continue;
    multiply_adds += MultiplyAdds(scorer, *node).value_or(0) / kItems;
  }
  const std::vector<std::string> frontier = ItemFrontier(scorer);
  const NodeDef like = *items;
  std::vector<std::string> parts;
  std::vector<int64_t> widths;
  int64_t width = 0;
  for (const std::string& tensor : frontier) {
    const Shape& shape = scorer.ShapeOf(tensor);
    const int64_t elements = shape.elements();
    if (!ManyItems(elements) || scorer.DtypeOf(tensor) != DT_FLOAT) {
      return Refused(
          absl::StrCat(tensor, " depends on the items alone and is no float32 row of each"));
    }
    widths.push_back(elements / kItems);
    width = std::min(width + widths.back(), kMaxWidth + 1);
    // The items' axis must lead, or a reshape would tear the rows apart.
    int axis = 0;
    while (shape[axis] == 1) ++axis;
    if (shape[axis] != kItems || width > kMaxWidth) {
      return Refused(absl::StrCat(tensor, " depends on the items alone and is no row of at most ",
                                  kMaxWidth, " of each"));
    }
    parts.push_back(scorer.Reshape(tensor, {1, kItems, widths.back()}, like));
  }
  if (width == 0 || (frontier.size() == 1 && frontier[0] == items->name())) {
    return Refused("nothing is computed of the items alone");
  }
  const int64_t bytes_before = 4 * scorer.ShapeOf(items->name()).last(), bytes_after = 4 * width;
  const double more = (bytes_after - bytes_before) * kNanosecondsPerByte;
  const double less = multiply_adds * kNanosecondsPerMultiplyAdd;
  if (more >= less) {
    return Refused(absl::StrCat("rows of ", bytes_after, " bytes instead of ", bytes_before,
                                " take about ", more, " ns an item more to read, and save ", less));
  }
  std::string rows;
  if (parts.size() == 1) {
    rows = scorer.Add("Identity", parts, {1, kItems, width}, like);
  } else {
    parts.push_back(scorer.AddInteger(2, like));
    rows = scorer.Add("ConcatV2", parts, {1, kItems, width}, like,
                      {{"N", IntAttr(frontier.size())}, {"Tidx", TypeAttr(DT_INT32)}});
  }
  // What needs the parts takes them from the rows.
  int64_t begin = 0;
  for (size_t i = 0; i < frontier.size(); ++i) {
    const Shape shape = scorer.ShapeOf(frontier[i]);
    std::string part = rows;
    if (frontier.size() > 1) {
      part = scorer.Add("Slice",
                        {rows, scorer.AddIntegers({0, 0, begin}, like),
                         scorer.AddIntegers({-1, -1, widths[i]}, like)},
                        {1, kItems, widths[i]}, like, {{"Index", TypeAttr(DT_INT32)}});
    }
    begin += widths[i];
    part = scorer.Reshape(part, shape, like);
    for (NodeDef* node : scorer.Consumers(frontier[i])) {
      if (OfItemsAlone(scorer, *node) && node->op() != "_Retval") continue;
      for (int input = 0; input < NumInputs(*node); ++input) {
        if (node->input(input) == frontier[i]) scorer.SetInput(node, input, part);
      }
    }
  }
  for (NodeDef* node : scorer.NodesOf({"Shape"})) {
    if (node->input(0) == items->name()) scorer.SetInput(node, 0, rows);
  }
  return rows;
}

}  // namespace nann_passes
}  // namespace tensorflow
