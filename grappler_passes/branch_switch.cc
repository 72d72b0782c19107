// branch_switch: has a request of one scenario run that scenario's network alone.
//
//   DynamicStitch(DynamicPartition(Range(n), p), [f(x0; W0), f(x1; W1), ...])
//     with x0, x1, ... = DynamicPartition(x, p), and p the same scenario s for every item
//   ->  f(x; Gather(Pack(W0, W1, ...), s))
//
// where the networks differ in nothing but their weights, which are chosen once per request; no
// item is moved. (The original's multi-DNN switch.) Networks that differ in more stay: those of the
// other scenarios run on no items.
#include <algorithm>
#include <map>
#include <memory>

#include "grappler_passes/broadcasts.h"
#include "grappler_passes/pass.h"

namespace tensorflow {
namespace nann_passes {
namespace {

// Returns the tensor with one element that all entries of `partitions` repeat.
std::optional<std::string> Scenario(const ScorerGraph& scorer, const std::string& partitions) {
  std::string tensor = partitions;
  for (int steps = 0; steps < 4; ++steps) {
    const NodeDef& node = scorer.NodeOf(tensor);
    if (const auto source = BroadcastSource(scorer, tensor); source.has_value()) {
      tensor = source->tensor;
    } else if (node.op() == "Reshape") {
      tensor = std::string(node.input(0));
    } else if (node.op() == "Fill") {
      tensor = std::string(node.input(1));
    } else {
      return std::nullopt;
    }
    if (scorer.ShapeOf(tensor).elements() != 1 || scorer.OfItems(tensor)) continue;
    if (scorer.DtypeOf(tensor) != DT_INT32) return std::nullopt;
    return tensor;
  }
  return std::nullopt;
}

bool CountsFromZero(const ScorerGraph& scorer, const std::string& tensor) {
  const NodeDef& node = scorer.NodeOf(tensor);
  return node.op() == "Range" && scorer.Integer(node.input(0)) == 0 &&
         scorer.Integer(node.input(2)) == 1 && scorer.ShapeOf(tensor).rank() == 1;
}

// A plan that is applied once, however many others need its tensor.
Plan Once(Plan plan) {
  struct State {
    Plan plan;
    std::optional<std::string> made;
  };
  return [state = std::make_shared<State>(State{std::move(plan), {}})](ScorerGraph& graph) {
    if (!state->made.has_value()) state->made = state->plan(graph);
    return *state->made;
  };
}

// Plans the one network that the networks of all scenarios become.
class Merger {
 public:
  Merger(const ScorerGraph& scorer, std::string partitions, const std::string& scenario)
      : scorer_(scorer),
        partitions_(std::move(partitions)),
        scenario_(Once([scenario](ScorerGraph& graph) {
          return graph.Reshape(scenario, Shape::Scalar(), graph.NodeOf(scenario));
        })) {}

  // Returns the tensor that DynamicPartition cut into `tensors`.
  std::optional<std::string> Partitioned(const std::vector<std::string>& tensors) const {
    const NodeDef& node = scorer_.NodeOf(tensors[0]);
    if (node.op() != "DynamicPartition" || node.input(1) != partitions_) return std::nullopt;
    if (IntOf(node, "num_partitions") != tensors.size() || !scorer_.Free(node)) return std::nullopt;
    if (!AreOutputs(node, tensors)) return std::nullopt;
    return node.input(0);
  }

  // Plans the tensor of the scenario's network, where each network computes one of `tensors`.
  std::optional<Plan> Merge(const std::vector<std::string>& tensors, int depth = 0) {
    // Networks may need the same tensors again and again: each is looked at once.
    const auto [found, first] = merged_.try_emplace(tensors);
    if (first && depth < kMaxDepth) found->second = Make(tensors, depth);
    return found->second;
  }

 private:
  static constexpr int kMaxDepth = 200;  // Of operations; no network that we know has so many.

  std::optional<Plan> Make(const std::vector<std::string>& tensors, int depth) {
    const auto all = [&tensors](auto condition) {
      return std::all_of(tensors.begin(), tensors.end(), condition);
    };
    if (const auto whole = Partitioned(tensors); whole.has_value()) return Existing(*whole);
    const NodeDef& first = scorer_.NodeOf(tensors[0]);
    if (all([&tensors](const std::string& tensor) { return tensor == tensors[0]; })) {
      if (scorer_.OfItems(tensors[0])) return std::nullopt;
      return Existing(tensors[0]);
    }
    if (all([&](const std::string& tensor) {
          const NodeDef& node = scorer_.NodeOf(tensor);
          return node.op() == "Const" && SameAttributes(node, first);
        })) {
      return Existing(tensors[0]);
    }
    if (all([this](const std::string& tensor) { return !scorer_.OfItems(tensor); })) {
      return Choose(tensors);
    }
    std::vector<Plan> inputs;
    for (int input = 0; input < NumInputs(first); ++input) {
      std::vector<std::string> operands;
      for (const std::string& tensor : tensors) {
        const NodeDef& node = scorer_.NodeOf(tensor);
        if (NodeName(tensor) != tensor || !Alike(node, first)) return std::nullopt;
        operands.push_back(node.input(input));
      }
      auto plan = Merge(operands, depth + 1);
      if (!plan.has_value()) return std::nullopt;
      inputs.push_back(*std::move(plan));
    }
    if (inputs.empty()) return std::nullopt;
    return Once([&first, inputs = std::move(inputs)](ScorerGraph& graph) {
      return graph.Clone(first, Apply(inputs, graph), Shape());
    });
  }

  bool Alike(const NodeDef& node, const NodeDef& first) const {
    // Each row of the result must be computed from that row of the operands.
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

  // Plans the choice of the scenario's tensor among `tensors`.
  std::optional<Plan> Choose(const std::vector<std::string>& tensors) const {
    const Shape& shape = scorer_.ShapeOf(tensors[0]);
    const DataType dtype = scorer_.DtypeOf(tensors[0]);
    if (dtype == DT_RESOURCE) return std::nullopt;
    for (const std::string& tensor : tensors) {
      if (scorer_.ShapeOf(tensor) != shape || scorer_.DtypeOf(tensor) != dtype) return std::nullopt;
    }
    return Once([scenario = scenario_, tensors, shape, dtype](ScorerGraph& graph) {
      const NodeDef& like = graph.NodeOf(tensors[0]);
      const int64_t count = tensors.size();
      const std::string all = graph.Add("Pack", tensors, shape.WithFirst(count), like,
                                        {{"N", IntAttr(count)}, {"axis", IntAttr(0)}});
      return graph.Add("GatherV2", {all, scenario(graph), graph.AddInteger(0, like)}, shape, like,
                       {{"Tparams", TypeAttr(dtype)},
                        {"Tindices", TypeAttr(DT_INT32)},
                        {"Taxis", TypeAttr(DT_INT32)},
                        {"batch_dims", IntAttr(0)}});
    });
  }

  const ScorerGraph& scorer_;
  const std::string partitions_;
  const Plan scenario_;
  std::map<std::vector<std::string>, std::optional<Plan>> merged_;
};

std::optional<Plan> MatchStitch(const ScorerGraph& scorer, const NodeDef& stitch) {
  const int count = NumInputs(stitch) / 2;  // Places, then data.
  if (count < 2) return std::nullopt;
  const auto data = stitch.input().begin() + count;
  const std::vector<std::string> places(stitch.input().begin(), data);
  const NodeDef& partition = scorer.NodeOf(places[0]);
  if (partition.op() != "DynamicPartition") return std::nullopt;
  const std::string partitions = partition.input(1);
  const auto scenario = Scenario(scorer, partitions);
  if (!scenario.has_value()) return std::nullopt;
  Merger merger(scorer, partitions, *scenario);
  const auto order = merger.Partitioned(places);
  if (!order.has_value() || !CountsFromZero(scorer, *order)) return std::nullopt;
  return merger.Merge({data, data + count});
}

}  // namespace

Pass BranchSwitch() {
  return {"branch_switch", {{{"DynamicStitch", "ParallelDynamicStitch"}, MatchStitch}}};
}

}  // namespace nann_passes
}  // namespace tensorflow
