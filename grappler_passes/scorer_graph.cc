#include "grappler_passes/scorer_graph.h"

#include <algorithm>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/attr_value.pb.h"
#include "tensorflow/core/framework/tensor.pb.h"
#include "tensorflow/core/framework/tensor_shape.h"

namespace tensorflow {
namespace nann_passes {

std::vector<NodeDef*> ScorerGraph::InputsFirst(absl::Span<NodeDef* const> from,
                                               absl::FunctionRef<bool(const NodeDef&)> skip) const {
  std::vector<NodeDef*> order;
  absl::flat_hash_set<const NodeDef*> seen;
  struct Entry {
    NodeDef* node;
    int next;  // The input to visit next.
  };
  std::vector<Entry> waiting;
  const auto enter = [&](NodeDef* node) {
    if (!skip(*node) && seen.insert(node).second) waiting.push_back({node, 0});
  };
  for (NodeDef* start : from) {
    enter(start);
    while (!waiting.empty()) {
      Entry& entry = waiting.back();
      if (entry.next == entry.node->input_size()) {
        order.push_back(entry.node);
        waiting.pop_back();
        continue;
      }
      const auto input = nodes_.find(NodeName(entry.node->input(entry.next++)));
      if (input != nodes_.end()) enter(input->second.get());
    }
  }
  return order;
}

std::unique_ptr<ScorerGraph> ScorerGraph::Copy() const {
  std::unique_ptr<ScorerGraph> copy(new ScorerGraph);
  copy->arguments_ = arguments_;
  copy->tensors_ = tensors_;
  copy->versions_ = versions_;
  for (const auto& [name, node] : nodes_) {
    copy->nodes_.emplace(name, std::make_unique<NodeDef>(*node));
  }
  copy->FindConsumers();
  return copy;
}

std::vector<NodeDef*> ScorerGraph::Sorted() const {
  std::vector<NodeDef*> nodes;
  for (const auto& [name, node] : nodes_) nodes.push_back(node.get());
  // The order does not depend on the hash map, so that equal graphs are rewritten alike.
  std::sort(nodes.begin(), nodes.end(),
            [](const NodeDef* a, const NodeDef* b) { return a->name() < b->name(); });
  return InputsFirst(nodes, [](const NodeDef&) { return false; });
}

std::vector<const NodeDef*> ScorerGraph::Nodes() const {
  const std::vector<NodeDef*> nodes = Sorted();
  return {nodes.begin(), nodes.end()};
}

std::vector<const NodeDef*> ScorerGraph::NodesOf(absl::Span<const absl::string_view> ops) const {
  std::vector<const NodeDef*> found;
  for (const NodeDef* node : Nodes()) {
    if (std::find(ops.begin(), ops.end(), node->op()) != ops.end()) found.push_back(node);
  }
  return found;
}

const NodeDef& ScorerGraph::NodeOf(absl::string_view tensor) const {
  static const auto* const kNone = new NodeDef;
  const auto found = nodes_.find(NodeName(tensor));
  return found == nodes_.end() ? *kNone : *found->second;
}

const NodeDef& ScorerGraph::Items() const {
  static const auto* const kNone = new NodeDef;
  for (const NodeDef* node : NodesOf({"_Arg"})) {
    if (DependenceOf(node->name()) == kItem) return *node;
  }
  return *kNone;
}

std::vector<const NodeDef*> ScorerGraph::Consumers(absl::string_view tensor) const {
  const auto found = consumers_.find(tensor);
  if (found == consumers_.end()) return {};
  return {found->second.begin(), found->second.end()};
}

void ScorerGraph::FindConsumers() {
  consumers_.clear();
  for (NodeDef* node : Sorted()) {
    for (const std::string& input : node->input()) consumers_[input].push_back(node);
  }
}

const Shape& ScorerGraph::ShapeOf(absl::string_view tensor) const {
  static const auto* const kUnknown = new Shape;
  const auto found = tensors_.find(tensor);
  return found == tensors_.end() ? *kUnknown : found->second.shape;
}

std::string ScorerGraph::ShownShapeOf(absl::string_view tensor) const {
  const auto found = tensors_.find(tensor);
  return found == tensors_.end() ? "[?]" : found->second.shown;
}

DataType ScorerGraph::DtypeOf(absl::string_view tensor) const {
  const auto found = tensors_.find(tensor);
  return found == tensors_.end() ? DT_INVALID : found->second.dtype;
}

unsigned ScorerGraph::DependenceOf(absl::string_view tensor) const {
  constexpr unsigned kAll = kUser | kItem;  // Runs for every batch, as in the model.
  const auto start = nodes_.find(NodeName(tensor));
  if (start == nodes_.end()) return kAll;
  const auto known = [this](const std::string& name) {
    const auto found = dependence_.find(name);
    return found == dependence_.end() ? kAll : found->second;
  };
  NodeDef* const wanted = start->second.get();
  for (const NodeDef* node : InputsFirst(
           {wanted}, [this](const NodeDef& node) { return dependence_.contains(node.name()); })) {
    unsigned found = kModel;
    if (node->op() == "_Arg") {
      const size_t index = IntOf(*node, "index").value_or(0);
      found = index < arguments_.size() ? arguments_[index].dependence : kAll;
    } else if (HasEffect(*node) || node->op() == "Shape" || node->op() == "Size") {
      found = kAll;
    }
    for (const std::string& input : node->input()) found |= known(NodeName(input));
    dependence_[node->name()] = found;
  }
  return known(wanted->name());
}

std::optional<Tensor> ScorerGraph::Constant(absl::string_view tensor) const {
  const NodeDef& node = NodeOf(tensor);
  const auto held = node.attr().find("value");
  if (node.op() != "Const" || held == node.attr().end()) return std::nullopt;
  const TensorProto& proto = held->second.tensor();
  TensorShape shape;
  Tensor value;
  if (!TensorShape::BuildTensorShape(proto.tensor_shape(), &shape).ok() ||
      shape.num_elements() > kMaxConstant || !value.FromProto(proto)) {
    return std::nullopt;
  }
  return value;
}

std::optional<std::vector<int64_t>> ScorerGraph::Integers(absl::string_view tensor) const {
  if (const auto value = Constant(tensor); value.has_value()) return ReadIntegers(*value);
  const auto known = tensors_.find(tensor);
  return known == tensors_.end() ? std::nullopt : known->second.values;
}

std::optional<int64_t> ScorerGraph::Integer(absl::string_view tensor) const {
  const auto values = Integers(tensor);
  if (!values.has_value() || values->size() != 1) return std::nullopt;
  return values->front();
}

bool ScorerGraph::Free(const NodeDef& node) const {
  if (HasEffect(node) || NumInputs(node) != node.input_size()) return false;
  return Consumers(absl::StrCat("^", node.name())).empty();
}

void ScorerGraph::Replace(const std::string& old, const std::string& tensor) {
  if (old == tensor) return;
  const std::vector<NodeDef*> consumers = std::move(consumers_[old]);
  for (NodeDef* node : consumers) {  // A node that takes it twice is there twice.
    for (std::string& input : *node->mutable_input()) {
      if (input != old) continue;
      input = tensor;
      consumers_[tensor].push_back(node);
    }
  }
  consumers_.erase(old);
  const auto made = tensors_.find(tensor);
  if (made != tensors_.end() && !made->second.shape.known()) made->second.shape = ShapeOf(old);
  dependence_.clear();
}

void ScorerGraph::SetInput(const NodeDef& node, int input, const std::string& tensor) {
  std::vector<NodeDef*>& before = consumers_[node.input(input)];
  const auto once = std::find(before.begin(), before.end(), &node);
  if (once != before.end()) before.erase(once);
  NodeDef* const changed = nodes_.at(node.name()).get();
  changed->set_input(input, tensor);
  consumers_[tensor].push_back(changed);
  dependence_.clear();
}

void ScorerGraph::Prune() {
  std::vector<NodeDef*> wanted;
  for (const auto& [name, node] : nodes_) {
    if (node->op() == "_Retval" || node->op() == "_Arg" || HasEffect(*node)) {
      wanted.push_back(node.get());
    }
  }
  absl::flat_hash_set<const NodeDef*> live;
  for (const NodeDef* node : InputsFirst(wanted, [](const NodeDef&) { return false; })) {
    live.insert(node);
  }
  absl::erase_if(nodes_, [&live](const auto& entry) { return !live.contains(entry.second.get()); });
  dependence_.clear();
  FindConsumers();
}

std::vector<std::string> ScorerGraph::Results() const {
  std::vector<const NodeDef*> results;
  for (const auto& [name, node] : nodes_) {
    if (node->op() == "_Retval" && NumInputs(*node) == 1) results.push_back(node.get());
  }
  std::sort(results.begin(), results.end(), [](const NodeDef* a, const NodeDef* b) {
    return IntOf(*a, "index") < IntOf(*b, "index");
  });
  std::vector<std::string> tensors;
  for (const NodeDef* result : results) tensors.push_back(result->input(0));
  return tensors;
}

GraphDef ScorerGraph::ToGraphDef() const {
  GraphDef graph;
  *graph.mutable_versions() = versions_;
  for (const NodeDef* node : Nodes()) *graph.add_node() = *node;
  return graph;
}

}  // namespace nann_passes
}  // namespace tensorflow
