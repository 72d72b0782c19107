#include "grappler_passes/scorer_graph.h"

#include <algorithm>
#include <functional>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/attr_value.pb.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/tensor.pb.h"

namespace tensorflow {
namespace nann_passes {
namespace {

// Ops that TensorFlow calls stateful because they read what others write; nothing in a scorer
// writes.
bool OnlyReads(absl::string_view op) {
  static const auto* const kReads = new absl::flat_hash_set<absl::string_view>(
      {"_Arg", "_Retval", "ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape",
       "LookupTableFindV2", "LookupTableSizeV2", "PartitionedCall"});
  return kReads->contains(op);
}

}  // namespace

bool HasEffect(const NodeDef& node) {
  if (OnlyReads(node.op())) return false;
  const OpRegistrationData* op;
  return !OpRegistry::Global()->LookUp(node.op(), &op).ok() || op->op_def.is_stateful();
}

bool ReadIntegers(const Tensor& tensor, std::vector<int64_t>* values) {
  values->clear();
  for (int64_t i = 0; i < tensor.NumElements(); ++i) {
    if (tensor.dtype() == DT_INT32) {
      values->push_back(tensor.flat<int32_t>()(i));
    } else if (tensor.dtype() == DT_INT64) {
      values->push_back(tensor.flat<int64_t>()(i));
    } else {
      return false;
    }
  }
  return true;
}

std::string NodeName(absl::string_view input) {
  if (IsControl(input)) input.remove_prefix(1);
  return std::string(input.substr(0, input.find(':')));
}

int NumInputs(const NodeDef& node) {
  int count = 0;
  while (count < node.input_size() && !IsControl(node.input(count))) ++count;
  return count;
}

int64_t Elements(absl::Span<const int64_t> shape) {
  int64_t product = 1;
  for (const int64_t extent : shape) product *= extent;
  return product;
}

int64_t RowsOf(absl::Span<const int64_t> shape) {
  return shape.empty() ? 1 : Elements(shape.first(shape.size() - 1));
}

bool Broadcast(const Shape& a, const Shape& b, Shape* shape) {
  shape->assign(std::max(a.size(), b.size()), 1);
  for (size_t i = 0; i < shape->size(); ++i) {
    const int64_t left = i < a.size() ? a[a.size() - 1 - i] : 1;
    const int64_t right = i < b.size() ? b[b.size() - 1 - i] : 1;
    if (left != right && left != 1 && right != 1) return false;
    (*shape)[shape->size() - 1 - i] = left == 1 ? right : left;
  }
  return true;
}

bool IsUnary(const NodeDef& node) {
  static const auto* const kOps = new absl::flat_hash_set<absl::string_view>(
      {"Abs",  "Cast",    "Elu",  "Erf",        "Exp",       "Expm1", "Identity", "Inv",
       "Log",  "Log1p",   "Neg",  "Reciprocal", "LeakyRelu", "Relu",  "Relu6",    "Rsqrt",
       "Selu", "Sigmoid", "Sign", "Softplus",   "Softsign",  "Sqrt",  "Square",   "Tanh"});
  return kOps->contains(node.op());
}

bool IsBinary(const NodeDef& node) {
  static const auto* const kOps = new absl::flat_hash_set<absl::string_view>(
      {"Add", "AddV2", "Div", "DivNoNan", "Maximum", "Minimum", "Mul", "MulNoNan", "Pow", "RealDiv",
       "SquaredDifference", "Sub", "Greater", "GreaterEqual", "Less", "LessEqual", "Equal",
       "NotEqual"});
  return kOps->contains(node.op());
}

std::vector<NodeDef*> ScorerGraph::Nodes() const {
  std::vector<std::string> names;
  for (const auto& [name, node] : nodes_) names.push_back(name);
  std::sort(names.begin(), names.end());  // The same graph gives the same result, always.
  std::vector<NodeDef*> order;
  absl::flat_hash_set<std::string> seen;
  std::function<void(const std::string&)> visit = [&](const std::string& name) {
    if (!seen.insert(name).second) return;
    NodeDef* const node = nodes_.at(name).get();
    for (const std::string& input : node->input()) visit(NodeName(input));
    order.push_back(node);
  };
  for (const std::string& name : names) visit(name);
  return order;
}

std::vector<NodeDef*> ScorerGraph::NodesOf(std::initializer_list<absl::string_view> ops) const {
  std::vector<NodeDef*> found;
  for (NodeDef* node : Nodes()) {
    if (std::find(ops.begin(), ops.end(), node->op()) != ops.end()) found.push_back(node);
  }
  return found;
}

NodeDef* ScorerGraph::NodeOf(absl::string_view tensor) const {
  auto found = nodes_.find(NodeName(tensor));
  return found == nodes_.end() ? nullptr : found->second.get();
}

std::vector<NodeDef*> ScorerGraph::Consumers(absl::string_view tensor) const {
  std::vector<NodeDef*> found;
  for (const auto& [name, node] : nodes_) {
    for (const std::string& input : node->input()) {
      if (input == tensor) found.push_back(node.get());
    }
  }
  return found;
}

const Shape* ScorerGraph::ShapeOf(absl::string_view tensor) const {
  auto found = tensors_.find(tensor);
  return found == tensors_.end() || !found->second.shaped ? nullptr : &found->second.shape;
}

DataType ScorerGraph::DtypeOf(absl::string_view tensor) const {
  auto found = tensors_.find(tensor);
  return found == tensors_.end() ? DT_INVALID : found->second.dtype;
}

unsigned ScorerGraph::DependenceOf(absl::string_view tensor) const {
  const std::string name = NodeName(tensor);
  auto known = dependence_.find(name);
  if (known != dependence_.end()) return known->second;
  const NodeDef& node = *nodes_.at(name);
  unsigned found = kModel;
  if (node.op() == "_Arg") {
    found = arguments_[node.attr().at("index").i()].dependence;
  } else if (HasEffect(node) || node.op() == "Shape" || node.op() == "Size") {
    found = kUser | kItem;  // It must run as often as it did.
  }
  for (const std::string& input : node.input()) found |= DependenceOf(NodeName(input));
  dependence_[name] = found;
  return found;
}

bool ScorerGraph::Constant(absl::string_view tensor, Tensor* value) const {
  const NodeDef* node = NodeOf(tensor);
  return node != nullptr && node->op() == "Const" &&
         value->FromProto(node->attr().at("value").tensor());
}

bool ScorerGraph::Integers(absl::string_view tensor, std::vector<int64_t>* values) const {
  Tensor value;
  if (Constant(tensor, &value)) return ReadIntegers(value, values);
  const auto known = tensors_.find(tensor);
  if (known == tensors_.end() || known->second.values.empty()) return false;
  *values = known->second.values;
  return true;
}

bool ScorerGraph::Free(const NodeDef& node) const {
  if (HasEffect(node) || NumInputs(node) != node.input_size()) return false;
  return Consumers(absl::StrCat("^", node.name())).empty();
}

void ScorerGraph::Replace(const std::string& old, const std::string& tensor) {
  for (const auto& [name, node] : nodes_) {
    for (std::string& input : *node->mutable_input()) {
      if (input == old) input = tensor;
    }
  }
  dependence_.clear();
}

void ScorerGraph::SetInput(NodeDef* node, int input, const std::string& tensor) {
  node->set_input(input, tensor);
  dependence_.clear();
}

void ScorerGraph::Prune() {
  absl::flat_hash_set<std::string> live;
  std::function<void(const std::string&)> keep = [&](const std::string& name) {
    if (!live.insert(name).second) return;
    for (const std::string& input : nodes_.at(name)->input()) keep(NodeName(input));
  };
  for (const auto& [name, node] : nodes_) {
    if (node->op() == "_Retval" || node->op() == "_Arg" || HasEffect(*node)) keep(name);
  }
  absl::erase_if(nodes_, [&live](const auto& entry) { return !live.contains(entry.first); });
  dependence_.clear();
}

std::vector<std::string> ScorerGraph::Results() const {
  std::vector<const NodeDef*> results;
  for (const auto& [name, node] : nodes_) {
    if (node->op() == "_Retval") results.push_back(node.get());
  }
  std::sort(results.begin(), results.end(), [](const NodeDef* a, const NodeDef* b) {
    return a->attr().at("index").i() < b->attr().at("index").i();
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
