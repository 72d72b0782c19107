// The methods of ScorerGraph that add nodes.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "grappler_passes/scorer_graph.h"
#include "tensorflow/core/framework/attr_value.pb.h"
#include "tensorflow/core/framework/tensor.pb.h"

namespace tensorflow {
namespace nann_passes {

namespace {

// Names are scope/nann_<pass>.<op>_<number>. Profilers and logs show them, and PassOf() reads them.
constexpr absl::string_view kOwn = "nann_";

size_t EndOfScope(absl::string_view name) {
  const size_t scope = name.rfind('/');
  return scope == absl::string_view::npos ? 0 : scope + 1;
}

}  // namespace

std::string PassOf(const NodeDef& node) {
  absl::string_view own = absl::string_view(node.name()).substr(EndOfScope(node.name()));
  const size_t end = own.find('.');
  if (!absl::ConsumePrefix(&own, kOwn) || end == absl::string_view::npos) return "";
  return std::string(own.substr(0, end - kOwn.size()));
}

std::string ScorerGraph::Insert(NodeDef node, absl::Span<const std::string> inputs, DataType dtype,
                                const Shape& shape, const NodeDef& like) {
  const std::string prefix = like.name().substr(0, EndOfScope(like.name()));
  std::string name;
  do {
    name = absl::StrCat(prefix, kOwn, pass_, ".", node.op(), "_", added_++);
  } while (nodes_.contains(name));
  node.set_name(name);
  node.set_device(like.device());
  node.clear_input();
  tensors_[name] = {dtype, shape, {}};
  NodeDef* const added = (nodes_[name] = std::make_unique<NodeDef>(std::move(node))).get();
  for (const std::string& input : inputs) {
    added->add_input(input);
    consumers_[input].push_back(added);
  }
  return name;
}

std::string ScorerGraph::Add(absl::string_view op, absl::Span<const std::string> inputs,
                             const Shape& shape, const NodeDef& like, Attributes attributes,
                             DataType dtype) {
  NodeDef node;
  node.set_op(std::string(op));
  const DataType first = inputs.empty() ? DT_INVALID : DtypeOf(inputs[0]);
  (*node.mutable_attr())["T"] = TypeAttr(first);
  for (const auto& [key, value] : attributes) (*node.mutable_attr())[std::string(key)] = value;
  return Insert(std::move(node), inputs, dtype == DT_INVALID ? first : dtype, shape, like);
}

std::string ScorerGraph::Clone(const NodeDef& node, absl::Span<const std::string> inputs,
                               const Shape& shape) {
  return Insert(node, inputs, DtypeOf(node.name()), shape, node);
}

std::string ScorerGraph::AddConstant(const Tensor& value, const NodeDef& like) {
  NodeDef node;
  node.set_op("Const");
  (*node.mutable_attr())["dtype"] = TypeAttr(value.dtype());
  value.AsProtoTensorContent((*node.mutable_attr())["value"].mutable_tensor());
  const auto extents = value.shape().dim_sizes();
  const Shape shape(Extents(extents.begin(), extents.end()));
  return Insert(std::move(node), {}, value.dtype(), shape, like);
}

std::string ScorerGraph::AddIntegers(absl::Span<const int64_t> values, const NodeDef& like) {
  Tensor tensor(DT_INT32, TensorShape({static_cast<int64_t>(values.size())}));
  std::copy(values.begin(), values.end(), tensor.flat<int32_t>().data());
  return AddConstant(tensor, like);
}

std::string ScorerGraph::AddInteger(int32_t value, const NodeDef& like) {
  Tensor tensor(DT_INT32, TensorShape());
  tensor.scalar<int32_t>()() = value;
  return AddConstant(tensor, like);
}

std::string ScorerGraph::Reshape(const std::string& tensor, const Shape& shape,
                                 const NodeDef& like) {
  std::string source = tensor;
  while (ShapeOf(source) != shape) {
    // Reshapes of reshapes are one.
    const NodeDef& node = NodeOf(source);
    if (node.op() != "Reshape" || !Free(node) || !ShapeOf(node.input(0)).known()) break;
    source = node.input(0);
  }
  if (ShapeOf(source) == shape) return source;
  Extents target = shape.extents();
  for (int64_t& extent : target) {
    if (ManyItems(extent)) extent = -1;
  }
  return Add("Reshape", {source, AddIntegers(target, like)}, shape, like,
             {{"Tshape", TypeAttr(DT_INT32)}});
}

std::string ScorerGraph::MatMul(const std::string& a, const std::string& b, bool transpose_a,
                                bool transpose_b, const NodeDef& like) {
  const Shape &left = ShapeOf(a), &right = ShapeOf(b);
  return Add("MatMul", {a, b}, {left[transpose_a ? 1 : 0], right[transpose_b ? 0 : 1]}, like,
             {{"transpose_a", BoolAttr(transpose_a)}, {"transpose_b", BoolAttr(transpose_b)}});
}

std::string ScorerGraph::Binary(absl::string_view op, const std::string& a, const std::string& b,
                                const NodeDef& like) {
  return Add(op, {a, b}, Broadcast(ShapeOf(a), ShapeOf(b)), like);
}

std::string ScorerGraph::Concat(std::vector<std::string> tensors, int axis, const Shape& shape,
                                const NodeDef& like) {
  const AttrValue count = IntAttr(tensors.size());
  tensors.push_back(AddInteger(axis, like));
  return Add("ConcatV2", tensors, shape, like, {{"N", count}, {"Tidx", TypeAttr(DT_INT32)}});
}

std::string ScorerGraph::Slice(const std::string& tensor, absl::Span<const int64_t> begin,
                               absl::Span<const int64_t> size, const Shape& shape,
                               const NodeDef& like) {
  return Add("Slice", {tensor, AddIntegers(begin, like), AddIntegers(size, like)}, shape, like,
             {{"Index", TypeAttr(DT_INT32)}});
}

}  // namespace nann_passes
}  // namespace tensorflow
