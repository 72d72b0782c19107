#ifndef GRAPPLER_PASSES_SCORER_GRAPH_H_
#define GRAPPLER_PASSES_SCORER_GRAPH_H_

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "grappler_passes/nodes.h"
#include "grappler_passes/shape.h"
#include "tensorflow/core/framework/graph.pb.h"
#include "tensorflow/core/framework/node_def.pb.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/types.h"

namespace tensorflow {
namespace nann_passes {

// What a tensor is computed from, as a set of bits. Constants and captured variables set none.
enum Dependence : unsigned { kModel = 0, kUser = 1, kItem = 2 };

// One argument of a scorer, f(user..., items, captured...).
struct Argument {
  unsigned dependence;
  DataType dtype;
  // [1, ...] for a user's tensor, [1, kItems, d] for the items, and the variable's shape for a
  // resource. An extent of -1 may be any.
  Extents shape;
  bool shaped = true;                    // Whether the rank is known.
  DataType variable_dtype = DT_INVALID;  // For a resource, its variable's.
};

// The graph of a scorer, without function calls, as passes read and rewrite it. Tensors are named
// as in a NodeDef: "node", or "node:1". Not thread-safe.
class ScorerGraph {
 public:
  // Takes a graph whose arguments are `_Arg` nodes and whose results are `_Retval` nodes.
  // InvalidArgument if it is no such graph, or its shapes contradict each other.
  static absl::StatusOr<std::unique_ptr<ScorerGraph>> Create(GraphDef graph,
                                                             std::vector<Argument> arguments);

  // A copy with the same nodes, shapes and arguments.
  std::unique_ptr<ScorerGraph> Copy() const;

  // All nodes, inputs first. A pointer stays valid until its node is removed.
  std::vector<const NodeDef*> Nodes() const;
  std::vector<const NodeDef*> NodesOf(absl::Span<const absl::string_view> ops) const;
  // The node that computes `tensor`; a node without an op if none does.
  const NodeDef& NodeOf(absl::string_view tensor) const;
  // The argument that holds the items; a node without an op if there is none.
  const NodeDef& Items() const;
  std::vector<const NodeDef*> Consumers(absl::string_view tensor) const;
  bool HasOneConsumer(absl::string_view tensor) const { return Consumers(tensor).size() == 1; }

  // The reference stays valid while nodes are added.
  const Shape& ShapeOf(absl::string_view tensor) const;
  // The shape as text, as it was when the graph was read, such as "[1, ?, 2n]": n is the number of
  // items, and ? is an extent that is not known. "[?]" if the rank is not known.
  std::string ShownShapeOf(absl::string_view tensor) const;
  DataType DtypeOf(absl::string_view tensor) const;
  unsigned DependenceOf(absl::string_view tensor) const;
  bool OfItems(absl::string_view tensor) const { return DependenceOf(tensor) & kItem; }
  // The value of a constant with at most kMaxConstant elements.
  static constexpr int64_t kMaxConstant = 1 << 20;
  std::optional<Tensor> Constant(absl::string_view tensor) const;
  // The integers that `tensor` holds for all arguments: a constant, or computed from constants and
  // shapes.
  std::optional<std::vector<int64_t>> Integers(absl::string_view tensor) const;
  // The same of a tensor with one element.
  std::optional<int64_t> Integer(absl::string_view tensor) const;

  // Whether a pass may replace `node`: it has no control edge and no side effect.
  bool Free(const NodeDef& node) const;

  // The methods below add nodes and check nothing. If the shape of an input is not known, that of
  // the result is not either, until the graph is read again after the pass. What does not fit
  // together is found then, and all that the pass did is undone.

  // Adds a node with one output and returns its tensor. The node is on the device and in the name
  // scope of `like`, and its name says which pass added it. `dtype` is by default that of the first
  // input.
  using Attributes = std::initializer_list<std::pair<absl::string_view, AttrValue>>;
  std::string Add(absl::string_view op, absl::Span<const std::string> inputs, const Shape& shape,
                  const NodeDef& like, Attributes attributes = {}, DataType dtype = DT_INVALID);
  // Clones `node`, which has one output, with other inputs.
  std::string Clone(const NodeDef& node, absl::Span<const std::string> inputs, const Shape& shape);
  std::string AddConstant(const Tensor& value, const NodeDef& like);
  std::string AddIntegers(absl::Span<const int64_t> values, const NodeDef& like);
  std::string AddInteger(int32_t value, const NodeDef& like);
  // Reshapes `tensor` to a shape that must be known. Returns `tensor` itself if it has that shape.
  std::string Reshape(const std::string& tensor, const Shape& shape, const NodeDef& like);
  // [n, k] by [k, m].
  std::string MatMul(const std::string& a, const std::string& b, bool transpose_a, bool transpose_b,
                     const NodeDef& like);
  // Broadcasting AddV2, Sub or Mul.
  std::string Binary(absl::string_view op, const std::string& a, const std::string& b,
                     const NodeDef& like);
  std::string Concat(std::vector<std::string> tensors, int axis, const Shape& shape,
                     const NodeDef& like);
  // A size of -1 is all that follows `begin`. `shape` is the result's.
  std::string Slice(const std::string& tensor, absl::Span<const int64_t> begin,
                    absl::Span<const int64_t> size, const Shape& shape, const NodeDef& like);

  // Has all consumers of `old` take `tensor` instead, which has the same shape and values.
  void Replace(const std::string& old, const std::string& tensor);
  // Replaces one input of a node.
  void SetInput(const NodeDef& node, int input, const std::string& tensor);
  // Sets the pass that adds nodes from now on.
  void set_pass(absl::string_view pass) { pass_ = std::string(pass); }
  // Removes all nodes that no result and no side effect needs.
  void Prune();

  const std::vector<Argument>& arguments() const { return arguments_; }
  // The tensors that the scorer returns, in order.
  std::vector<std::string> Results() const;
  GraphDef ToGraphDef() const;

 private:
  struct Known {
    DataType dtype;
    Shape shape;
    std::optional<std::vector<int64_t>> values;  // Integers that do not depend on the arguments.
    std::string shown = "[?]";
  };

  ScorerGraph() = default;
  std::vector<NodeDef*> Sorted() const;  // All nodes, inputs first.
  absl::Status Infer(const GraphDef& graph);
  void FindConsumers();
  // Drops identities, and control edges that wait for no side effect.
  void DropIdleEdges();
  // Adds `node` under a new name and with these inputs, beside `like`.
  std::string Insert(NodeDef node, absl::Span<const std::string> inputs, DataType dtype,
                     const Shape& shape, const NodeDef& like);
  // `from` and all nodes that they need, inputs first, without those for which `skip` is true. A
  // graph may be deeper than a thread's stack, so the walk does not recurse.
  std::vector<NodeDef*> InputsFirst(absl::Span<NodeDef* const> from,
                                    absl::FunctionRef<bool(const NodeDef&)> skip) const;

  std::vector<Argument> arguments_;
  absl::flat_hash_map<std::string, std::unique_ptr<NodeDef>> nodes_;
  // A std::map keeps entries in place while nodes are added: passes hold references to shapes.
  std::map<std::string, Known, std::less<>> tensors_;
  mutable absl::flat_hash_map<std::string, unsigned> dependence_;
  // The consumers of a tensor; a node that takes it twice is there twice.
  absl::flat_hash_map<std::string, std::vector<NodeDef*>> consumers_;
  VersionDef versions_;
  std::string pass_;
  int added_ = 0;
};

// Returns the pass that added a node; "" for a node of the model.
std::string PassOf(const NodeDef& node);

}  // namespace nann_passes
}  // namespace tensorflow

#endif  // GRAPPLER_PASSES_SCORER_GRAPH_H_
