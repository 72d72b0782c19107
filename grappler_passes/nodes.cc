#include "grappler_passes/nodes.h"

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/node_def_util.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_def.pb.h"

namespace tensorflow {
namespace nann_passes {
namespace {

// Whether TensorFlow calls an op stateful only because it reads what others write; nothing in a
// scorer writes.
bool OnlyReads(absl::string_view op) {
  static const auto* const kReads = new absl::flat_hash_set<absl::string_view>(
      {"_Arg", "_Retval", "ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape",
       "LookupTableFindV2", "LookupTableSizeV2", "PartitionedCall"});
  return kReads->contains(op);
}

const AttrValue& AttrOf(const NodeDef& node, absl::string_view attribute) {
  static const auto* const kNone = new AttrValue;
  const auto found = node.attr().find(std::string(attribute));
  return found == node.attr().end() ? *kNone : found->second;
}

}  // namespace

absl::Status Complete(NodeDef* node) {
  const OpRegistrationData* op;
  // A node without a registered op calls a function, which no pass looks into.
  if (!OpRegistry::Global()->LookUp(node->op(), &op).ok()) return absl::OkStatus();
  AddDefaultsToNodeDef(op->op_def, node);
  for (const OpDef::AttrDef& attribute : op->op_def.attr()) {
    if (node->attr().contains(attribute.name())) continue;
    return absl::InvalidArgumentError(absl::StrCat("node ", node->name(), " has no attribute ",
                                                   attribute.name(), ", which a ", node->op(),
                                                   " needs"));
  }
  DataTypeVector inputs;
  TF_RETURN_IF_ERROR(InputTypesForNode(*node, op->op_def, &inputs));
  if (NumInputs(*node) == static_cast<int>(inputs.size())) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("node ", node->name(), " takes ", NumInputs(*node),
                                                 " tensors, a ", node->op(), " takes ",
                                                 inputs.size()));
}

bool HasEffect(const NodeDef& node) {
  if (OnlyReads(node.op())) return false;
  const OpRegistrationData* op;
  return !OpRegistry::Global()->LookUp(node.op(), &op).ok() || op->op_def.is_stateful();
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

bool SameAttributes(const NodeDef& a, const NodeDef& b) {
  if (a.attr_size() != b.attr_size()) return false;
  for (const auto& [key, value] : a.attr()) {
    const auto other = b.attr().find(key);
    if (other == b.attr().end() || !AreAttrValuesEqual(value, other->second)) return false;
  }
  return true;
}

bool BoolOf(const NodeDef& node, absl::string_view attribute) {
  return AttrOf(node, attribute).b();
}

std::optional<int64_t> IntOf(const NodeDef& node, absl::string_view attribute) {
  const AttrValue& value = AttrOf(node, attribute);
  if (value.value_case() != AttrValue::kI) return std::nullopt;
  return value.i();
}

DataType TypeOf(const NodeDef& node, absl::string_view attribute) {
  return AttrOf(node, attribute).type();
}

std::string StringOf(const NodeDef& node, absl::string_view attribute) {
  return AttrOf(node, attribute).s();
}

AttrValue BoolAttr(bool value) {
  AttrValue attribute;
  attribute.set_b(value);
  return attribute;
}

AttrValue TypeAttr(DataType value) {
  AttrValue attribute;
  attribute.set_type(value);
  return attribute;
}

AttrValue IntAttr(int64_t value) {
  AttrValue attribute;
  attribute.set_i(value);
  return attribute;
}

std::string NodeName(absl::string_view input) {
  if (IsControl(input)) input.remove_prefix(1);
  return std::string(input.substr(0, input.find(':')));
}

std::string Canonical(absl::string_view tensor) {
  if (tensor.size() > 2 && tensor.substr(tensor.size() - 2) == ":0") tensor.remove_suffix(2);
  return std::string(tensor);
}

int NumInputs(const NodeDef& node) {
  int count = 0;
  while (count < node.input_size() && !IsControl(node.input(count))) ++count;
  return count;
}

bool AreOutputs(const NodeDef& node, const std::vector<std::string>& tensors) {
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i] != (i == 0 ? node.name() : absl::StrCat(node.name(), ":", i))) return false;
  }
  return true;
}

std::optional<std::vector<int64_t>> ReadIntegers(const Tensor& tensor) {
  std::vector<int64_t> values;
  for (int64_t i = 0; i < tensor.NumElements(); ++i) {
    if (tensor.dtype() == DT_INT32) {
      values.push_back(tensor.flat<int32_t>()(i));
    } else if (tensor.dtype() == DT_INT64) {
      values.push_back(tensor.flat<int64_t>()(i));
    } else {
      return std::nullopt;
    }
  }
  return values;
}

}  // namespace nann_passes
}  // namespace tensorflow
