#ifndef GRAPPLER_PASSES_NODES_H_
#define GRAPPLER_PASSES_NODES_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "tensorflow/core/framework/attr_value.pb.h"
#include "tensorflow/core/framework/node_def.pb.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/types.h"

namespace tensorflow {
namespace nann_passes {

// Fills in the attributes that are left out and have defaults. InvalidArgument where the node then
// lacks an attribute or an input of its op: passes read both without asking again.
absl::Status Complete(NodeDef* node);

// Whether running a node does more than to compute its outputs. What only reads does not: nothing in
// a scorer writes.
bool HasEffect(const NodeDef& node);
// Whether operations on one element at a time: the result has the broadcast shape of its operands.
bool IsUnary(const NodeDef& node);
bool IsBinary(const NodeDef& node);
// Whether both have the same attributes, of the same values.
bool SameAttributes(const NodeDef& a, const NodeDef& b);

// Attributes of a node; false, nothing, DT_INVALID and "" where it has none of that name.
bool BoolOf(const NodeDef& node, absl::string_view attribute);
std::optional<int64_t> IntOf(const NodeDef& node, absl::string_view attribute);
DataType TypeOf(const NodeDef& node, absl::string_view attribute);
std::string StringOf(const NodeDef& node, absl::string_view attribute);
// AttrValues of one kind each.
AttrValue BoolAttr(bool value);
AttrValue TypeAttr(DataType value);
AttrValue IntAttr(int64_t value);

// "node" of "node", "node:0" and "^node".
std::string NodeName(absl::string_view input);
// "node" of "node:0"; other names as they are.
std::string Canonical(absl::string_view tensor);
inline bool IsControl(absl::string_view input) { return !input.empty() && input[0] == '^'; }
// Data inputs, without the control edges behind them.
int NumInputs(const NodeDef& node);
// Whether `tensors` are the first outputs of `node`, in order.
bool AreOutputs(const NodeDef& node, const std::vector<std::string>& tensors);

// Returns the elements of an int32 or int64 tensor.
std::optional<std::vector<int64_t>> ReadIntegers(const Tensor& tensor);

}  // namespace nann_passes
}  // namespace tensorflow

#endif  // GRAPPLER_PASSES_NODES_H_
