// The methods of ScorerGraph that read a graph and infer its shapes and integers.
#include <algorithm>
#include <limits>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "grappler_passes/scorer_graph.h"
#include "tensorflow/core/common_runtime/graph_constructor.h"
#include "tensorflow/core/common_runtime/shape_refiner.h"
#include "tensorflow/core/framework/attr_value.pb.h"
#include "tensorflow/core/framework/node_def_util.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/tensor.pb.h"
#include "tensorflow/core/framework/tensor_shape.h"
#include "tensorflow/core/framework/tensor_util.h"
#include "tensorflow/core/graph/algorithm.h"
#include "tensorflow/core/graph/graph.h"
#include "tensorflow/core/grappler/costs/graph_properties.h"
#include "tensorflow/core/grappler/grappler_item.h"

namespace tensorflow {
namespace nann_passes {
namespace {

// Control flow as sessions run it: such a graph has cycles, or tensors that are never computed.
bool IsLowered(absl::string_view op) {
  static const auto* const kOps = new absl::flat_hash_set<absl::string_view>(
      {"Enter", "Exit", "LoopCond", "Merge", "NextIteration", "RefEnter", "RefExit", "RefMerge",
       "RefNextIteration", "RefSwitch", "Switch", "_SwitchN"});
  return kOps->contains(op);
}

// A second number of items, which shows what depends on that number.
constexpr int64_t kOtherItems = 1'000'033;

// Whether passes can write the shape down: the extents that were inferred with either number of
// items are the same, but for at most one, which is the same multiple of either number. All other
// shapes count as unknown: with one row more than there are items, with pairs of items, or with an
// extent of 0 beside the items, where -1 could stand for any extent.
bool Expressible(const TensorShapeProto& shape, const TensorShapeProto& other) {
  if (shape.unknown_rank() || other.unknown_rank() || shape.dim_size() != other.dim_size()) {
    return false;
  }
  int many = 0;
  bool empty = false;
  for (int i = 0; i < shape.dim_size(); ++i) {
    const int64_t extent = shape.dim(i).size(), instead = other.dim(i).size();
    if (extent < 0 || instead < 0) return false;
    empty = empty || extent == 0;
    if (extent == instead && !ManyItems(extent)) {
      if (extent > std::numeric_limits<int32_t>::max()) return false;
      continue;
    }
    if (!ManyItems(extent) || extent / kItems >= kItems) return false;
    if (extent / kItems * kOtherItems != instead) return false;
    ++many;
  }
  return many == 0 || (many == 1 && !empty);
}

// Writes the shape that was inferred with both numbers of items as text.
std::string Shown(const TensorShapeProto& shape, const TensorShapeProto& other) {
  if (shape.unknown_rank() || other.unknown_rank() || shape.dim_size() != other.dim_size()) {
    return "[?]";
  }
  std::vector<std::string> extents;
  for (int i = 0; i < shape.dim_size(); ++i) {
    const int64_t extent = shape.dim(i).size(), instead = other.dim(i).size();
    if (extent >= 0 && extent == instead) {
      extents.push_back(absl::StrCat(extent));
    } else if (ManyItems(extent) && instead % kOtherItems == 0 &&
               extent / kItems == instead / kOtherItems) {
      extents.push_back(extent == kItems ? "n" : absl::StrCat(extent / kItems, "n"));
    } else {
      extents.push_back("?");
    }
  }
  return absl::StrCat("[", absl::StrJoin(extents, ", "), "]");
}

// Replaces the arguments of `graph` by placeholders and variables, whose shapes TensorFlow reads.
GraphDef WithShapedArguments(const GraphDef& graph, const std::vector<Argument>& arguments,
                             int64_t items) {
  GraphDef shaped = graph;
  for (NodeDef& node : *shaped.mutable_node()) {
    if (node.op() != "_Arg") continue;
    const Argument& argument = arguments[IntOf(node, "index").value_or(0)];
    const bool variable = argument.variable_dtype != DT_INVALID;
    node.set_op(variable ? "VarHandleOp" : "Placeholder");
    node.clear_attr();
    (*node.mutable_attr())["dtype"].set_type(variable ? argument.variable_dtype : argument.dtype);
    TensorShapeProto& shape = *(*node.mutable_attr())["shape"].mutable_shape();
    shape.set_unknown_rank(!argument.shaped);
    for (const int64_t extent : argument.shape) {
      const bool many = argument.dependence == kItem && ManyItems(extent);
      shape.add_dim()->set_size(many ? extent / kItems * items : extent);
    }
  }
  return shaped;
}

// Returns the integers that a tensor holds with either number of items.
std::optional<std::vector<int64_t>> Values(const OpInfo::TensorProperties& one,
                                           const OpInfo::TensorProperties& other) {
  Tensor value, instead;
  if (!one.has_value() || !other.has_value() || !value.FromProto(one.value()) ||
      !instead.FromProto(other.value())) {
    return std::nullopt;
  }
  const auto values = ReadIntegers(value);
  const bool same = values.has_value() && !values->empty() && values == ReadIntegers(instead);
  return same ? values : std::nullopt;
}

bool IsLarge(const TensorProto& value) {
  TensorShape shape;
  return !TensorShape::BuildTensorShape(value.tensor_shape(), &shape).ok() ||
         shape.num_elements() > ScorerGraph::kMaxConstant;
}

// Replaces concatenations of constant vectors of integers by constants. Grappler's inference does
// not see the value of such a concatenation, and so not the shape of a tensordot's transpose.
absl::Status JoinConstants(GraphDef* graph) {
  absl::flat_hash_map<std::string, const NodeDef*> constants;
  for (const NodeDef& node : graph->node()) {
    if (node.op() == "Const" && node.input_size() == 0) constants[node.name()] = &node;
  }
  for (NodeDef& node : *graph->mutable_node()) {
    if (node.op() != "ConcatV2" || NumInputs(node) != node.input_size()) continue;
    std::vector<Tensor> parts;
    for (int i = 0; i + 1 < node.input_size(); ++i) {
      const auto found = constants.find(Canonical(node.input(i)));
      if (found == constants.end()) break;
      const TensorProto& value = found->second->attr().at("value").tensor();
      Tensor part;
      if ((value.dtype() != DT_INT32 && value.dtype() != DT_INT64) || IsLarge(value) ||
          !part.FromProto(value) || part.dims() != 1) {
        break;
      }
      parts.push_back(std::move(part));
    }
    if (parts.empty() || parts.size() + 1 != node.input_size()) continue;
    Tensor joined;
    TF_RETURN_IF_ERROR(tensor::Concat(parts, &joined));
    node.set_op("Const");
    node.clear_input();
    node.clear_attr();
    (*node.mutable_attr())["dtype"].set_type(joined.dtype());
    joined.AsProtoTensorContent((*node.mutable_attr())["value"].mutable_tensor());
  }
  return absl::OkStatus();
}

// Checks that TensorFlow could build the graph: types, attributes and shapes fit. For Grappler's
// inference, shapes that contradict each other are only unknown.
absl::Status Check(const GraphDef& shaped) {
  Graph graph(OpRegistry::Global());
  GraphConstructorOptions options;
  options.allow_internal_ops = true;
  TF_RETURN_IF_ERROR(ConvertGraphDefToGraph(options, shaped, &graph));
  std::vector<Node*> order;
  GetReversePostOrder(graph, &order);
  ShapeRefiner refiner(graph.versions(), graph.op_registry());
  refiner.set_require_shape_inference_fns(false);
  for (Node* node : order) {
    if (node->IsOp()) TF_RETURN_IF_ERROR(refiner.AddNode(node));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ScorerGraph>> ScorerGraph::Create(GraphDef graph,
                                                                 std::vector<Argument> arguments) {
  for (NodeDef& node : *graph.mutable_node()) {
    if (IsLowered(node.op())) {
      return absl::UnimplementedError(absl::StrCat("node ", node.name(), " is a ", node.op(),
                                                   ": control flow between nodes is not read"));
    }
    TF_RETURN_IF_ERROR(Complete(&node));
    for (std::string& input : *node.mutable_input()) input = Canonical(input);
    const int64_t index = node.op() == "_Arg" ? IntOf(node, "index").value_or(-1) : 0;
    if (index < 0 || (node.op() == "_Arg" && index >= static_cast<int64_t>(arguments.size()))) {
      return absl::InvalidArgumentError(
          absl::StrCat("the scorer's argument ", index, " is one of ", arguments.size()));
    }
  }
  TF_RETURN_IF_ERROR(JoinConstants(&graph));
  std::unique_ptr<ScorerGraph> made(new ScorerGraph);
  made->arguments_ = std::move(arguments);
  made->versions_ = graph.versions();
  for (const NodeDef& node : graph.node()) {
    if (!made->nodes_.emplace(node.name(), std::make_unique<NodeDef>(node)).second) {
      return absl::InvalidArgumentError(absl::StrCat("two nodes are called ", node.name()));
    }
  }
  for (const auto& [name, node] : made->nodes_) {
    for (const std::string& input : node->input()) {
      if (!made->nodes_.contains(NodeName(input))) {
        return absl::InvalidArgumentError(
            absl::StrCat("node ", name, " takes ", input, ", which no node computes"));
      }
    }
  }
  TF_RETURN_IF_ERROR(made->Infer(graph));
  made->DropIdleEdges();
  made->Prune();
  return made;
}

absl::Status ScorerGraph::Infer(const GraphDef& graph) {
  grappler::GrapplerItem item, other;
  item.graph = WithShapedArguments(graph, arguments_, kItems);
  other.graph = WithShapedArguments(graph, arguments_, kOtherItems);
  TF_RETURN_IF_ERROR(Check(item.graph));
  grappler::GraphProperties properties(item), others(other);
  for (grappler::GraphProperties* inferred : {&properties, &others}) {
    TF_RETURN_IF_ERROR(inferred->InferStatically(
        /*assume_valid_feeds=*/true, /*aggressive_shape_inference=*/true,
        /*include_input_tensor_values=*/false, /*include_output_tensor_values=*/true));
  }
  for (const NodeDef& node : graph.node()) {
    const auto& outputs = properties.GetOutputProperties(node.name());
    const auto& instead = others.GetOutputProperties(node.name());
    for (size_t i = 0; i < outputs.size(); ++i) {
      Known known{outputs[i].dtype(), Shape(), {}};
      if (i < instead.size()) known.shown = Shown(outputs[i].shape(), instead[i].shape());
      if (node.op() == "_Arg") known.dtype = arguments_[IntOf(node, "index").value_or(0)].dtype;
      if (i < instead.size() && Expressible(outputs[i].shape(), instead[i].shape())) {
        Extents extents;
        for (const auto& dim : outputs[i].shape().dim()) extents.push_back(dim.size());
        known.shape = Shape(std::move(extents));
      }
      if (i < instead.size()) known.values = Values(outputs[i], instead[i]);
      tensors_[i == 0 ? node.name() : absl::StrCat(node.name(), ":", i)] = std::move(known);
    }
  }
  return absl::OkStatus();
}

void ScorerGraph::DropIdleEdges() {
  // A control edge waits for the nodes with effects among its source and all that the source is
  // computed from. Edges from those nodes replace it.
  for (const auto& [name, node] : nodes_) {
    std::vector<NodeDef*> sources;
    std::vector<std::string> kept;
    for (const std::string& input : node->input()) {
      if (!IsControl(input)) {
        kept.push_back(input);
        continue;
      }
      const auto source = nodes_.find(NodeName(input));
      if (source != nodes_.end()) sources.push_back(source->second.get());
    }
    if (sources.empty()) continue;
    std::vector<std::string> waits;
    for (const NodeDef* source : InputsFirst(sources, [](const NodeDef&) { return false; })) {
      if (HasEffect(*source)) waits.push_back(absl::StrCat("^", source->name()));
    }
    std::sort(waits.begin(), waits.end());
    node->clear_input();
    for (std::string& input : kept) node->add_input(std::move(input));
    for (std::string& wait : waits) node->add_input(std::move(wait));
  }
  FindConsumers();
  for (const NodeDef* node : NodesOf({"Identity", "StopGradient", "PreventGradient"})) {
    if (Free(*node)) Replace(node->name(), node->input(0));
  }
}

}  // namespace nann_passes
}  // namespace tensorflow
