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

// Fills in the defaults of attributes that are left out. InvalidArgument if the node then lacks an
// attribute or an input of its op: passes read both without a check.
absl::Status Complete(NodeDef* node);

// Whether a node does more than compute its outputs. Ops that only read do not, because nothing in
// a scorer writes.
bool HasEffect(const NodeDef& node);
// Whether a node works on one element at a time: its result has the broadcast shape of its
// operands.
bool IsUnary(const NodeDef& node);
bool IsBinary(const NodeDef& node);
// Whether both nodes have the same attributes with the same values.
bool SameAttributes(const NodeDef& a, const NodeDef& b);

// Read an attribute of a node: false, std::nullopt, DT_INVALID and "" if it has none of that name.
bool BoolOf(const NodeDef& node, absl::string_view attribute);
std::optional<int64_t> IntOf(const NodeDef& node, absl::string_view attribute);
DataType TypeOf(const NodeDef& node, absl::string_view attribute);
std::string StringOf(const NodeDef& node, absl::string_view attribute);
// Make an AttrValue.
AttrValue BoolAttr(bool value);
AttrValue TypeAttr(DataType value);
AttrValue IntAttr(int64_t value);

// Returns "node" for "node", "node:0" and "^node".
std::string NodeName(absl::string_view input);
// Returns "node" for "node:0", and other names unchanged.
std::string Canonical(absl::string_view tensor);
inline bool IsControl(absl::string_view input) { return !input.empty() && input[0] == '^'; }
// The number of data inputs, without the control edges that follow them.
int NumInputs(const NodeDef& node);
// Whether `tensors` are the first outputs of `node`, in order.
bool AreOutputs(const NodeDef& node, const std::vector<std::string>& tensors);

// Returns the elements of an int32 or int64 tensor.
std::optional<std::vector<int64_t>> ReadIntegers(const Tensor& tensor);

}  // namespace nann_passes
}  // namespace tensorflow

#endif  // GRAPPLER_PASSES_NODES_H_
