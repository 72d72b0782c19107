#ifndef GRAPPLER_PASSES_SCORER_GRAPH_H_
#define GRAPPLER_PASSES_SCORER_GRAPH_H_

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "tensorflow/core/framework/graph.pb.h"
#include "tensorflow/core/framework/node_def.pb.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/framework/types.h"

namespace tensorflow {
namespace nann_passes {

// What a tensor is computed from; a set of these bits. Constants and captured variables are none.
enum Dependence : unsigned { kModel = 0, kUser = 1, kItem = 2 };

// How many items a batch has is not known, but what is a multiple of it must be. Shapes are
// inferred with this many, a prime that no model is as wide as, so that all are static: an extent
// that it divides is `extent / kItems` per item.
inline constexpr int64_t kItems = 1'000'003;

using Shape = std::vector<int64_t>;

// One argument of a scorer, f(user..., items, captured...).
struct Argument {
  unsigned dependence;
  DataType dtype;
  // [1, ...] of a user's tensor, [1, kItems, d] of the items, that of the variable of a resource;
  // -1 for an extent that may be any.
  Shape shape;
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

  // Nodes, inputs first. The pointers stay valid until the node is removed.
  std::vector<NodeDef*> Nodes() const;
  std::vector<NodeDef*> NodesOf(std::initializer_list<absl::string_view> ops) const;
  // The node that computes `tensor`; never null for an input of a node.
  NodeDef* NodeOf(absl::string_view tensor) const;
  std::vector<NodeDef*> Consumers(absl::string_view tensor) const;
  bool HasOneConsumer(absl::string_view tensor) const { return Consumers(tensor).size() == 1; }

  // Null where it is not known.
  const Shape* ShapeOf(absl::string_view tensor) const;
  DataType DtypeOf(absl::string_view tensor) const;
  unsigned DependenceOf(absl::string_view tensor) const;
  bool OfItems(absl::string_view tensor) const { return DependenceOf(tensor) & kItem; }
  // Whether `tensor` is a constant, and which.
  bool Constant(absl::string_view tensor, Tensor* value) const;
  // The integers that `tensor` holds, whatever the arguments: of a constant, or computed of constants
  // and shapes.
  bool Integers(absl::string_view tensor, std::vector<int64_t>* values) const;

  // Whether a pass may replace `node`: no control edge, no side effect.
  bool Free(const NodeDef& node) const;

  // Adds a node with one output; returns its tensor. Its name starts as that of `like` does, and it
  // is placed where that is. `dtype` is that of the first input if none is given.
  using Attributes = std::initializer_list<std::pair<absl::string_view, AttrValue>>;
  std::string Add(absl::string_view op, absl::Span<const std::string> inputs, Shape shape,
                  const NodeDef& like, Attributes attributes = {}, DataType dtype = DT_INVALID);
  // Another node as `node` is, of other inputs; it has one output, of its type.
  std::string Clone(const NodeDef& node, absl::Span<const std::string> inputs, Shape shape);
  // Without a shape, which is known when the graph is read again: after the pass.
  std::string CloneUnshaped(const NodeDef& node, absl::Span<const std::string> inputs);
  std::string AddConstant(const Tensor& value, const NodeDef& like);
  std::string AddIntegers(absl::Span<const int64_t> values, const NodeDef& like);
  std::string AddInteger(int32_t value, const NodeDef& like);
  // The same values in another shape; `tensor` itself where it has it.
  std::string Reshape(const std::string& tensor, const Shape& shape, const NodeDef& like);
  // [n, k] by [k, m].
  std::string MatMul(const std::string& a, const std::string& b, bool transpose_a, bool transpose_b,
                     const NodeDef& like);
  // Broadcasting AddV2, Sub or Mul.
  std::string Binary(absl::string_view op, const std::string& a, const std::string& b,
                     const NodeDef& like);
  // `size` rows of the matrix `tensor`, from `begin` on.
  std::string Rows(const std::string& tensor, int64_t begin, int64_t size, const NodeDef& like);

  // Has all consumers of `old` take `tensor` instead.
  void Replace(const std::string& old, const std::string& tensor);
  // Replaces one input of a node.
  void SetInput(NodeDef* node, int input, const std::string& tensor);
  // Removes what no result and no side effect needs.
  void Prune();

  const std::vector<Argument>& arguments() const { return arguments_; }
  // The tensors that the results are, in order.
  std::vector<std::string> Results() const;
  GraphDef ToGraphDef() const;

 private:
  struct Known {
    DataType dtype;
    bool shaped;
    Shape shape;
    // Integers that do not depend on the arguments; empty where that is not so.
    std::vector<int64_t> values;
  };

  ScorerGraph() = default;
  absl::Status Infer(const GraphDef& graph);
  // Drops control edges that wait for nothing that could be noticed, and identities.
  void DropIdleEdges();
  std::string Name(absl::string_view op, const NodeDef& like);

  std::vector<Argument> arguments_;
  absl::flat_hash_map<std::string, std::unique_ptr<NodeDef>> nodes_;
  // Shapes stay where they are while nodes are added: passes hold pointers to them.
  std::map<std::string, Known, std::less<>> tensors_;
  mutable absl::flat_hash_map<std::string, unsigned> dependence_;
  VersionDef versions_;
  int added_ = 0;
};

// Whether running a node does more than to compute its outputs. What only reads does not: nothing in
// a scorer writes.
bool HasEffect(const NodeDef& node);
// Integers of any integral type; false where they are of another.
bool ReadIntegers(const Tensor& tensor, std::vector<int64_t>* values);
// "node" of "node", "node:0" and "^node".
std::string NodeName(absl::string_view input);
// AttrValues of one kind each.
AttrValue BoolAttr(bool value);
AttrValue TypeAttr(DataType value);
AttrValue IntAttr(int64_t value);

inline bool IsControl(absl::string_view input) { return !input.empty() && input[0] == '^'; }
// Data inputs, without the control edges behind them.
int NumInputs(const NodeDef& node);

// Whether an extent is that of a batch's items, or a multiple of it.
inline bool ManyItems(int64_t extent) { return extent > 0 && extent % kItems == 0; }
int64_t Elements(absl::Span<const int64_t> shape);
// All extents but the last, multiplied.
int64_t RowsOf(absl::Span<const int64_t> shape);
// The shape that an operation on two shapes broadcasts to; false where it cannot.
bool Broadcast(const Shape& a, const Shape& b, Shape* shape);
// Whether operations on one element at a time: the result has the broadcast shape of its operands.
bool IsUnary(const NodeDef& node);
bool IsBinary(const NodeDef& node);

}  // namespace nann_passes
}  // namespace tensorflow

#endif  // GRAPPLER_PASSES_SCORER_GRAPH_H_
