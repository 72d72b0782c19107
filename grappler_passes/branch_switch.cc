// branch_switch: a request of one scenario runs that scenario's network alone.
//
//   DynamicStitch(DynamicPartition(Range(n), p), [f(x0; W0), f(x1; W1), ...])
//     with x0, x1, ... = DynamicPartition(x, p), and p the same scenario s for every item
//   ->  f(x; Gather(Pack(W0, W1, ...), s))
//
// where the networks are alike and differ in their weights: these are chosen once per request, and
// no item is moved. (The original's multi-DNN switch.) Networks that are not alike stay: those of
// other scenarios run on no items.
#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "grappler_passes/broadcasts.h"
#include "grappler_passes/pass.h"

namespace tensorflow {
namespace nann_passes {
namespace {

// The scalar that all entries of `partitions` are, or "" where they may differ.
std::string Scenario(ScorerGraph& scorer, const std::string& partitions) {
  std::string tensor = partitions;
  for (int steps = 0; steps < 4; ++steps) {
    const NodeDef& node = scorer.NodeOf(tensor);
    const std::string source = BroadcastSource(scorer, tensor);
    if (!source.empty()) {
      tensor = source;
    } else if (node.op() == "Reshape") {
      tensor = std::string(node.input(0));
    } else if (node.op() == "Fill") {
      tensor = std::string(node.input(1));
    } else {
      return "";
    }
    if (scorer.ShapeOf(tensor).elements() != 1 || scorer.OfItems(tensor)) continue;
    if (scorer.DtypeOf(tensor) != DT_INT32) return "";
    return scorer.Reshape(tensor, Shape::Scalar(), scorer.NodeOf(tensor));
  }
  return "";
}

bool CountsFromZero(const ScorerGraph& scorer, const std::string& tensor) {
  const NodeDef& node = scorer.NodeOf(tensor);
  return node.op() == "Range" && scorer.Integer(node.input(0)) == 0 &&
         scorer.Integer(node.input(2)) == 1 && scorer.ShapeOf(tensor).rank() == 1;
}

// Merges the networks of all scenarios.
class Merger {
 public:
  Merger(ScorerGraph& scorer, std::string partitions, std::string scenario)
      : scorer_(scorer), partitions_(std::move(partitions)), scenario_(std::move(scenario)) {}

  // What DynamicPartition cut into `tensors`, or "".
  std::string Partitioned(const std::vector<std::string>& tensors) const {
    const NodeDef& node = scorer_.NodeOf(tensors[0]);
    if (node.op() != "DynamicPartition" || node.input(1) != partitions_) return "";
    if (IntOf(node, "num_partitions") != tensors.size() || !scorer_.Free(node)) return "";
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (tensors[i] != (i == 0 ? node.name() : absl::StrCat(node.name(), ":", i))) return "";
    }
    return node.input(0);
  }

  // What the scenario's network computes where each network computes one of `tensors`, or "".
  std::string Merge(const std::vector<std::string>& tensors, int depth = 0) {
    // Networks may need the same tensors again and again: each is looked at once.
    const auto [found, first] = merged_.try_emplace(tensors, "");
    if (first && depth < kMaxDepth) {
      const std::string made = Make(tensors, depth);
      merged_[tensors] = made;
      return made;
    }
    return found->second;
  }

 private:
  static constexpr int kMaxDepth = 200;  // Of operations; no network that we know has so many.

  std::string Make(const std::vector<std::string>& tensors, int depth) {
    const std::string whole = Partitioned(tensors);
    if (!whole.empty()) return whole;
    if (std::all_of(tensors.begin(), tensors.end(),
                    [&](const std::string& tensor) { return tensor == tensors[0]; })) {
      return scorer_.OfItems(tensors[0]) ? "" : tensors[0];
    }
    const std::string same = SameConstant(tensors);
    if (!same.empty()) return same;
    if (std::none_of(tensors.begin(), tensors.end(),
                     [this](const std::string& tensor) { return scorer_.OfItems(tensor); })) {
      return Choose(tensors);
    }
    const NodeDef& first = scorer_.NodeOf(tensors[0]);
    std::vector<std::string> inputs;
    for (int input = 0; input < NumInputs(first); ++input) {
      std::vector<std::string> operands;
      for (const std::string& tensor : tensors) {
        const NodeDef& node = scorer_.NodeOf(tensor);
        if (NodeName(tensor) != tensor || !Alike(node, first)) return "";
        operands.push_back(node.input(input));
      }
      inputs.push_back(Merge(operands, depth + 1));
      if (inputs.back().empty()) return "";
    }
    return inputs.empty() ? "" : scorer_.Clone(first, inputs, Shape());
  }

  bool Alike(const NodeDef& node, const NodeDef& first) const {
    // Each row of the result must be made of that row of the operands.
    if (!IsUnary(node) && !IsBinary(node) && node.op() != "MatMul" && node.op() != "BiasAdd" &&
        node.op() != "ConcatV2" && node.op() != "Softmax") {
      return false;
    }
    if (node.op() == "MatMul" && BoolOf(node, "transpose_a")) return false;
    if (node.op() == "ConcatV2") {
      const auto axis = scorer_.Integer(node.input(NumInputs(node) - 1));
      if (!axis.has_value() || axis == 0) return false;
    }
    if (node.op() != first.op() || NumInputs(node) != NumInputs(first)) return false;
    return scorer_.Free(node) && SameAttributes(node, first);
  }

  std::string SameConstant(const std::vector<std::string>& tensors) const {
    const NodeDef& first = scorer_.NodeOf(tensors[0]);
    for (const std::string& tensor : tensors) {
      const NodeDef& node = scorer_.NodeOf(tensor);
      if (node.op() != "Const" || !SameAttributes(node, first)) return "";
    }
    return tensors[0];
  }

  // The one of the scenario.
  std::string Choose(const std::vector<std::string>& tensors) {
    const Shape& shape = scorer_.ShapeOf(tensors[0]);
    if (scorer_.DtypeOf(tensors[0]) == DT_RESOURCE) return "";
    for (const std::string& tensor : tensors) {
      if (scorer_.ShapeOf(tensor) != shape) return "";
      if (scorer_.DtypeOf(tensor) != scorer_.DtypeOf(tensors[0])) return "";
    }
    const NodeDef& like = scorer_.NodeOf(tensors[0]);
    const int64_t count = tensors.size();
    const std::string all = scorer_.Add("Pack", tensors, shape.WithFirst(count), like,
                                        {{"N", IntAttr(count)}, {"axis", IntAttr(0)}});
    return scorer_.Add("GatherV2", {all, scenario_, scorer_.AddInteger(0, like)}, shape, like,
                       {{"Tparams", TypeAttr(scorer_.DtypeOf(all))},
                        {"Tindices", TypeAttr(DT_INT32)},
                        {"Taxis", TypeAttr(DT_INT32)},
                        {"batch_dims", IntAttr(0)}});
  }

  ScorerGraph& scorer_;
  const std::string partitions_, scenario_;
  std::map<std::vector<std::string>, std::string> merged_;
};

bool Switch(ScorerGraph& scorer, NodeDef& stitch) {
  const int count = NumInputs(stitch) / 2;  // Places, then data.
  if (count < 2) return false;
  const std::vector<std::string> places(stitch.input().begin(), stitch.input().begin() + count);
  const std::vector<std::string> data(stitch.input().begin() + count,
                                      stitch.input().begin() + 2 * count);
  const NodeDef& partition = scorer.NodeOf(places[0]);
  if (partition.op() != "DynamicPartition") return false;
  const std::string partitions = partition.input(1);
  const std::string scenario = Scenario(scorer, partitions);
  if (scenario.empty()) return false;
  Merger merger(scorer, partitions, scenario);
  const std::string order = merger.Partitioned(places);
  if (order.empty() || !CountsFromZero(scorer, order)) return false;
  const std::string made = merger.Merge(data);
  if (made.empty()) return false;
  scorer.Replace(stitch.name(), made);
  return true;
}

}  // namespace

Pass BranchSwitch() {
  return {"branch_switch", {{{"DynamicStitch", "ParallelDynamicStitch"}, Switch}}};
}

}  // namespace nann_passes
}  // namespace tensorflow
