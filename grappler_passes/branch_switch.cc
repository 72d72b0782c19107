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

#include "absl/strings/str_cat.h"
#include "grappler_passes/broadcasts.h"
#include "grappler_passes/pass.h"
#include "tensorflow/core/framework/node_def_util.h"

namespace tensorflow {
namespace nann_passes {
namespace {

// The scalar that all entries of `partitions` are, or "" where they may differ.
std::string Scenario(ScorerGraph& scorer, const std::string& partitions) {
  const NodeDef* node = scorer.NodeOf(partitions);
  std::string tensor = partitions;
  for (int steps = 0; steps < 4; ++steps) {
    const std::string source = BroadcastSource(scorer, tensor);
    if (!source.empty()) {
      tensor = source;
    } else if (node->op() == "Reshape" || IsUnary(*node)) {
      tensor = node->input(0);
    } else if (node->op() == "Fill") {
      tensor = node->input(1);
    } else {
      return "";
    }
    node = scorer.NodeOf(tensor);
    const Shape* shape = scorer.ShapeOf(tensor);
    if (shape == nullptr || Elements(*shape) != 1 || scorer.OfItems(tensor)) continue;
    if (scorer.DtypeOf(tensor) != DT_INT32) return "";
    return scorer.Reshape(tensor, {}, *node);
  }
  return "";
}

bool CountsFromZero(const ScorerGraph& scorer, const std::string& tensor) {
  const NodeDef& node = *scorer.NodeOf(tensor);
  std::vector<int64_t> start, step;
  const Shape* shape = scorer.ShapeOf(tensor);
  return node.op() == "Range" && scorer.Integers(node.input(0), &start) && start[0] == 0 &&
         scorer.Integers(node.input(2), &step) && step[0] == 1 && shape != nullptr &&
         shape->size() == 1;
}

// Merges the networks of all scenarios.
class Merger {
 public:
  Merger(ScorerGraph& scorer, std::string partitions, std::string scenario)
      : scorer_(scorer), partitions_(std::move(partitions)), scenario_(std::move(scenario)) {}

  // What DynamicPartition cut into `tensors`, or "".
  std::string Partitioned(const std::vector<std::string>& tensors) const {
    const NodeDef& node = *scorer_.NodeOf(tensors[0]);
    if (node.op() != "DynamicPartition" || node.input(1) != partitions_) return "";
    if (node.attr().at("num_partitions").i() != tensors.size() || !scorer_.Free(node)) return "";
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (tensors[i] != (i == 0 ? node.name() : absl::StrCat(node.name(), ":", i))) return "";
    }
    return node.input(0);
  }

  std::string Merge(const std::vector<std::string>& tensors) {
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
    const NodeDef& first = *scorer_.NodeOf(tensors[0]);
    std::vector<std::string> inputs;
    for (int input = 0; input < NumInputs(first); ++input) {
      std::vector<std::string> operands;
      for (const std::string& tensor : tensors) {
        const NodeDef& node = *scorer_.NodeOf(tensor);
        if (NodeName(tensor) != tensor || !Alike(node, first)) return "";
        operands.push_back(node.input(input));
      }
      inputs.push_back(Merge(operands));
      if (inputs.back().empty()) return "";
    }
    return inputs.empty() ? "" : scorer_.CloneUnshaped(first, inputs);
  }

 private:
  bool Alike(const NodeDef& node, const NodeDef& first) const {
    // Each row of the result must be made of that row of the operands.
    if (!IsUnary(node) && !IsBinary(node) && node.op() != "MatMul" && node.op() != "BiasAdd" &&
        node.op() != "ConcatV2" && node.op() != "Softmax") {
      return false;
    }
    if (node.op() == "MatMul" && node.attr().at("transpose_a").b()) return false;
    if (node.op() == "ConcatV2") {
      std::vector<int64_t> axis;
      if (!scorer_.Integers(node.input(NumInputs(node) - 1), &axis) || axis[0] == 0) return false;
    }
    if (node.op() != first.op() || NumInputs(node) != NumInputs(first)) return false;
    if (!scorer_.Free(node) || node.attr_size() != first.attr_size()) return false;
    for (const auto& [key, value] : node.attr()) {
      const auto other = first.attr().find(key);
      if (other == first.attr().end() || !AreAttrValuesEqual(value, other->second)) return false;
    }
    return true;
  }

  std::string SameConstant(const std::vector<std::string>& tensors) const {
    const NodeDef& first = *scorer_.NodeOf(tensors[0]);
    for (const std::string& tensor : tensors) {
      const NodeDef& node = *scorer_.NodeOf(tensor);
      if (node.op() != "Const") return "";
      if (!AreAttrValuesEqual(node.attr().at("value"), first.attr().at("value"))) return "";
    }
    return tensors[0];
  }

  // The one of the scenario.
  std::string Choose(const std::vector<std::string>& tensors) {
    const Shape* shape = scorer_.ShapeOf(tensors[0]);
    if (shape == nullptr || scorer_.DtypeOf(tensors[0]) == DT_RESOURCE) return "";
    for (const std::string& tensor : tensors) {
      const Shape* other = scorer_.ShapeOf(tensor);
      if (other == nullptr || *other != *shape) return "";
      if (scorer_.DtypeOf(tensor) != scorer_.DtypeOf(tensors[0])) return "";
    }
    const Shape chosen = *shape;
    const NodeDef like = *scorer_.NodeOf(tensors[0]);
    Shape packed = chosen;
    packed.insert(packed.begin(), tensors.size());
    const std::string all = scorer_.Add("Pack", tensors, packed, like,
                                        {{"N", IntAttr(tensors.size())}, {"axis", IntAttr(0)}});
    return scorer_.Add("GatherV2", {all, scenario_, scorer_.AddInteger(0, like)}, chosen, like,
                       {{"Tparams", TypeAttr(scorer_.DtypeOf(all))},
                        {"Tindices", TypeAttr(DT_INT32)},
                        {"Taxis", TypeAttr(DT_INT32)},
                        {"batch_dims", IntAttr(0)}});
  }

  ScorerGraph& scorer_;
  const std::string partitions_, scenario_;
};

bool Switch(ScorerGraph& scorer, const NodeDef& stitch) {
  const int count = stitch.attr().at("N").i();
  if (count < 2) return false;
  const std::vector<std::string> places(stitch.input().begin(), stitch.input().begin() + count);
  const std::vector<std::string> data(stitch.input().begin() + count,
                                      stitch.input().begin() + 2 * count);
  const NodeDef& partition = *scorer.NodeOf(places[0]);
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

absl::StatusOr<int> BranchSwitch(ScorerGraph& scorer) {
  int rewrites = 0;
  for (NodeDef* node : scorer.NodesOf({"DynamicStitch", "ParallelDynamicStitch"})) {
    if (!scorer.Free(*node) || scorer.Consumers(node->name()).empty()) continue;
    rewrites += Switch(scorer, *node);
  }
  scorer.Prune();
  return rewrites;
}

}  // namespace nann_passes
}  // namespace tensorflow
