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

// What a tensor is computed from; a set of these bits. Constants and captured variables are none.
enum Dependence : unsigned { kModel = 0, kUser = 1, kItem = 2 };

// One argument of a scorer, f(user..., items, captured...).
struct Argument {
  unsigned dependence;
  DataType dtype;
  // [1, ...] of a user's tensor, [1, kItems, d] of the items, that of the variable of a resource;
  // -1 for an extent that may be any.
  Extents shape;
  bool shaped = true;                    // Whether the rank is known.
  DataType variable_dtype = DT_INVALID;  // Of a variable.
};

// The graph of a scorer, without function calls: what passes look at and rewrite. A tensor is named
// as NodeDef does it: "node", or "node:1". Not thread-safe.
class ScorerGraph {
 public:
  // Takes a graph whose arguments are `_Arg` nodes and whose results are `_Retval` nodes.
  // InvalidArgument where it is none, or its shapes contradict each other.
  static absl::StatusOr<std::unique_ptr<ScorerGraph>> Create(GraphDef graph,
                                                             std::vector<Argument> arguments);

  // What is not applied to the copy is as it was.
  std::unique_ptr<ScorerGraph> Copy() const;

  // Nodes, inputs first. The pointers stay valid until the node is removed.
  std::vector<const NodeDef*> Nodes() const;
  std::vector<const NodeDef*> NodesOf(absl::Span<const absl::string_view> ops) const;
  // The node that computes `tensor`; one without an op where none does.
  const NodeDef& NodeOf(absl::string_view tensor) const;
  // The argument that the items are; a node without an op where there is none.
  const NodeDef& Items() const;
  std::vector<const NodeDef*> Consumers(absl::string_view tensor) const;
  bool HasOneConsumer(absl::string_view tensor) const { return Consumers(tensor).size() == 1; }

  // The reference stays valid while nodes are added.
  const Shape& ShapeOf(absl::string_view tensor) const;
  // A shape for people, as it was when the graph was read: n is the number of items, ? an extent
  // that is not known, as in "[1, ?, 2n]"; "[?]" where the rank is not.
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

  // Whether a pass may replace `node`: no control edge, no side effect.
  bool Free(const NodeDef& node) const;

  // What follows adds nodes, whatever is known of their inputs: where the shape of one is not, that
  // of the result is not, until the graph is read again after the pass. What does not fit together is
  // then found, and all that the pass did is undone.

  // Adds a node with one output; returns its tensor. Its name starts as that of `like` does and says
  // which pass added it, and it is placed where `like` is. `dtype` is that of the first input if none is given.
  using Attributes = std::initializer_list<std::pair<absl::string_view, AttrValue>>;
  std::string Add(absl::string_view op, absl::Span<const std::string> inputs, const Shape& shape,
                  const NodeDef& like, Attributes attributes = {}, DataType dtype = DT_INVALID);
  // Another node as `node` is, of other inputs; it has one output, of its type.
  std::string Clone(const NodeDef& node, absl::Span<const std::string> inputs, const Shape& shape);
  std::string AddConstant(const Tensor& value, const NodeDef& like);
  std::string AddIntegers(absl::Span<const int64_t> values, const NodeDef& like);
  std::string AddInteger(int32_t value, const NodeDef& like);
  // The same values in another shape, which must be known; `tensor` itself where it has it.
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

  // Has all consumers of `old` take `tensor` instead, which is the same, and so has its shape.
  void Replace(const std::string& old, const std::string& tensor);
  // Replaces one input of a node.
  void SetInput(const NodeDef& node, int input, const std::string& tensor);
  // The pass that adds nodes from now on.
  void set_pass(absl::string_view pass) { pass_ = std::string(pass); }
  // Removes what no result and no side effect needs.
  void Prune();

  const std::vector<Argument>& arguments() const { return arguments_; }
  // The tensors that the results are, in order.
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
  // Drops control edges that wait for nothing that could be noticed, and identities.
  void DropIdleEdges();
  // Adds `node` under a new name and with these inputs, beside `like`.
  std::string Insert(NodeDef node, absl::Span<const std::string> inputs, DataType dtype,
                     const Shape& shape, const NodeDef& like);
  // `from` and all nodes that they need and `skip` does not hold of, inputs first. A graph's depth
  // may be beyond what the stack of a thread can hold: it is walked without one.
  std::vector<NodeDef*> InputsFirst(absl::Span<NodeDef* const> from,
                                    absl::FunctionRef<bool(const NodeDef&)> skip) const;

  std::vector<Argument> arguments_;
  absl::flat_hash_map<std::string, std::unique_ptr<NodeDef>> nodes_;
  // Shapes stay where they are while nodes are added: passes hold references to them.
  std::map<std::string, Known, std::less<>> tensors_;
  mutable absl::flat_hash_map<std::string, unsigned> dependence_;
  // Who takes a tensor, once for each time that it does.
  absl::flat_hash_map<std::string, std::vector<NodeDef*>> consumers_;
  VersionDef versions_;
  std::string pass_;
  int added_ = 0;
};

// The pass that added a node; "" where it is the model's own.
std::string PassOf(const NodeDef& node);

}  // namespace nann_passes
}  // namespace tensorflow

#endif  // GRAPPLER_PASSES_SCORER_GRAPH_H_
