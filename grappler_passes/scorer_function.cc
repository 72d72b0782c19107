#include "grappler_passes/scorer_function.h"

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "tensorflow/core/common_runtime/function_body.h"
#include "tensorflow/core/common_runtime/function_def_utils.h"
#include "tensorflow/core/common_runtime/graph_constructor.h"
#include "tensorflow/core/common_runtime/inline_function_utils.h"
#include "tensorflow/core/framework/graph_to_functiondef.h"
#include "tensorflow/core/graph/graph.h"

namespace tensorflow {
namespace nann_passes {
namespace {

constexpr int kMaxDepth = 50;      // Of nested calls.
constexpr int kMaxNodes = 100000;  // Of the graph with all calls inlined.

// Returns the function that `node` calls, or null.
core::RefCountPtr<FunctionRecord> Callee(const Node& node, const FunctionLibraryDefinition& library,
                                         AttrSlice* attributes) {
  *attributes = node.attrs();
  if (!node.IsPartitionedCall()) return library.FindRecord(node.type_string());
  const AttrValue* function = node.attrs().Find("f");
  if (function == nullptr || !function->has_func()) return nullptr;
  *attributes = AttrSlice(&function->func().attr());
  return library.FindRecord(function->func().name());
}

bool ForXla(const Node& node, const FunctionDef& function) {
  bool compile = false;
  if (TryGetNodeAttr(node.attrs(), "_XlaMustCompile", &compile) && compile) return true;
  const auto found = function.attr().find("_XlaMustCompile");
  return found != function.attr().end() && found->second.b();
}

// Checks that every node is an op or a call that exists. TensorFlow's own error does not name the
// node.
absl::Status CheckCallees(const protobuf::RepeatedPtrField<NodeDef>& nodes,
                          const FunctionLibraryDefinition& library) {
  for (const NodeDef& node : nodes) {
    const bool call = node.op() == "PartitionedCall" || node.op() == "StatefulPartitionedCall";
    const auto callee = node.attr().find("f");
    const std::string name =
        call && callee != node.attr().end() ? callee->second.func().name() : node.op();
    const OpDef* op;
    if (!library.LookUpOpDef(name, &op).ok()) {
      return absl::NotFoundError(absl::StrCat("node ", node.name(), " calls ", name,
                                              ", which is neither an op nor a function"));
    }
  }
  return absl::OkStatus();
}

// Inlines all calls in `graph`, the scorer `name`.
absl::StatusOr<GraphDef> Inlined(const std::string& name, const FunctionLibraryDefinition& library,
                                 Graph* graph) {
  InlineFunctionBodyOptions options;
  options.output_control_src = InlineFunctionBodyOptions::OutputControlSource::kControlOutputs;
  std::vector<Node*> calls;
  absl::flat_hash_set<const Node*> kept;
  int depth = 0;
  do {
    calls.clear();
    // Functions may call themselves, or each call the next one twice.
    if (++depth > kMaxDepth || graph->num_op_nodes() > kMaxNodes) {
      return absl::InvalidArgumentError(
          absl::StrCat("the functions that ", name, " calls are nested more than ", kMaxDepth,
                       " deep, or make more than ", kMaxNodes, " nodes"));
    }
    for (Node* node : graph->op_nodes()) {
      AttrSlice attributes;
      if (kept.contains(node)) continue;
      auto callee = Callee(*node, library, &attributes);
      if (callee != nullptr && !ForXla(*node, callee->fdef())) calls.push_back(node);
    }
    for (Node* node : calls) {
      AttrSlice attributes;
      auto callee = Callee(*node, library, &attributes);
      TF_RETURN_IF_ERROR(CheckCallees(callee->fdef().node_def(), library));
      std::unique_ptr<FunctionBody> inlined;
      TF_RETURN_IF_ERROR(
          FunctionDefToBodyHelper(std::move(callee), attributes, &library, &inlined));
      if (!InlineFunctionBody(library, graph, node, inlined.get(), options).ok()) {
        kept.insert(node);  // The function is marked as not to be inlined.
      }
    }
  } while (!calls.empty());
  GraphDef flat;
  graph->ToGraphDef(&flat);
  flat.clear_library();
  return flat;
}

}  // namespace

absl::StatusOr<GraphDef> FlatGraph(const NameAttrList& function,
                                   const FunctionLibraryDefinition& library) {
  core::RefCountPtr<FunctionRecord> record = library.FindRecord(function.name());
  if (record == nullptr) {
    return absl::NotFoundError(absl::StrCat("no function is called ", function.name()));
  }
  TF_RETURN_IF_ERROR(CheckCallees(record->fdef().node_def(), library));
  std::unique_ptr<FunctionBody> body;
  TF_RETURN_IF_ERROR(
      FunctionDefToBodyHelper(std::move(record), AttrSlice(&function.attr()), &library, &body));
  return Inlined(function.name(), library, body->graph);
}

absl::StatusOr<GraphDef> FlatGraph(const GraphDef& graph) {
  const FunctionLibraryDefinition library(OpRegistry::Global(), graph.library());
  TF_RETURN_IF_ERROR(CheckCallees(graph.node(), library));
  Graph built(library);
  GraphConstructorOptions options;
  options.allow_internal_ops = true;
  TF_RETURN_IF_ERROR(ConvertGraphDefToGraph(options, graph, &built));
  return Inlined("the graph", library, &built);
}

absl::StatusOr<FunctionDef> ToFunction(const GraphDef& graph, const std::string& name) {
  FunctionLibraryDefinition none(OpRegistry::Global(), FunctionDefLibrary());
  Graph built(none);
  GraphConstructorOptions options;
  options.allow_internal_ops = true;
  TF_RETURN_IF_ERROR(ConvertGraphDefToGraph(options, graph, &built));
  FunctionDef function;
  TF_RETURN_IF_ERROR(GraphToFunctionDef(built, name, &function));
  return function;
}

namespace {

// Cuts a part out of a scorer: the nodes that compute the returned tensors from the taken ones.
class Part {
 public:
  explicit Part(const ScorerGraph& scorer) : scorer_(scorer) {}

  // Takes `tensor` as the next argument instead of computing it.
  void Take(const std::string& tensor, DataType dtype) {
    NodeDef node;
    node.set_name(absl::StrCat("nann_argument_", count_));
    node.set_op("_Arg");
    (*node.mutable_attr())["T"].set_type(dtype);
    (*node.mutable_attr())["index"].set_i(count_++);
    taken_[tensor] = node.name();
    *graph_.add_node() = std::move(node);
  }

  void Return(const std::string& tensor) {
    NodeDef node;
    node.set_name(absl::StrCat("nann_result_", results_));
    node.set_op("_Retval");
    (*node.mutable_attr())["T"].set_type(scorer_.DtypeOf(tensor));
    (*node.mutable_attr())["index"].set_i(results_++);
    node.add_input(Need(tensor));
    *graph_.add_node() = std::move(node);
  }

  // Adds `tensor` and all that it is computed from to the part. Returns its name there.
  std::string Need(const std::string& tensor) {
    std::vector<std::string> waiting;
    const auto need = [&](const std::string& needed) {
      const auto taken = taken_.find(needed);
      if (taken != taken_.end()) return taken->second;
      if (seen_.insert(NodeName(needed)).second) waiting.push_back(NodeName(needed));
      return needed;
    };
    const std::string stands = need(tensor);
    while (!waiting.empty()) {
      const NodeDef& node = scorer_.NodeOf(waiting.back());
      waiting.pop_back();
      NodeDef copy = node;
      copy.clear_input();
      for (const std::string& input : node.input()) {
        copy.add_input(IsControl(input) ? absl::StrCat("^", need(NodeName(input))) : need(input));
      }
      *graph_.add_node() = std::move(copy);
    }
    return stands;
  }

  GraphDef Finish() { return std::move(graph_); }

 private:
  const ScorerGraph& scorer_;
  GraphDef graph_;
  std::map<std::string, std::string> taken_;
  absl::flat_hash_set<std::string> seen_;
  int count_ = 0;
  int results_ = 0;
};

// Returns the names of the argument nodes, in order.
std::vector<std::string> ArgumentNodes(const ScorerGraph& scorer) {
  std::vector<std::string> names(scorer.arguments().size());
  for (const NodeDef* node : scorer.NodesOf({"_Arg"})) {
    names[IntOf(*node, "index").value_or(0)] = node->name();
  }
  return names;
}

bool IsSource(const NodeDef& node) { return node.op() == "Const" || node.op() == "_Arg"; }

// Returns the tensors of nodes for which `part` is true that are consumed by other nodes.
template <typename Predicate>
std::vector<std::string> Frontier(const ScorerGraph& scorer, Predicate part) {
  std::vector<std::string> found;
  for (const NodeDef* node : scorer.Nodes()) {
    if ((part(*node) && node->op() != "_Retval") || node->op() == "Shape") continue;
    for (const std::string& input : node->input()) {
      if (IsControl(input) || !part(scorer.NodeOf(input))) continue;
      if (std::find(found.begin(), found.end(), input) == found.end()) found.push_back(input);
    }
  }
  return found;
}

}  // namespace

SplitScorer SplitByUser(const ScorerGraph& scorer) {
  const auto once = [&scorer](const NodeDef& node) {
    return !IsSource(node) && !scorer.OfItems(node.name());
  };
  const std::vector<std::string> frontier = Frontier(scorer, once);
  const std::vector<std::string> names = ArgumentNodes(scorer);
  SplitScorer split;
  Part prepare(scorer), score(scorer);
  size_t index = 0;
  for (const Argument& argument : scorer.arguments()) {
    if (argument.dependence == kItem) {
      for (const std::string& tensor : frontier) {
        const Shape& shape = scorer.ShapeOf(tensor);
        score.Take(tensor, scorer.DtypeOf(tensor));
        split.prepared.push_back({kUser, scorer.DtypeOf(tensor), shape.extents(), shape.known()});
      }
    } else {
      prepare.Take(names[index], argument.dtype);
    }
    score.Take(names[index], argument.dtype);
    ++index;
  }
  for (const std::string& tensor : frontier) prepare.Return(tensor);
  for (const std::string& tensor : scorer.Results()) score.Return(tensor);
  split.prepare = prepare.Finish();
  split.score = score.Finish();
  return split;
}

std::vector<std::string> ItemFrontier(const ScorerGraph& scorer) {
  return Frontier(scorer, [&scorer](const NodeDef& node) {
    return node.op() != "Const" && scorer.DependenceOf(node.name()) == kItem;
  });
}

FoldedScorer SplitByItem(const ScorerGraph& scorer, const std::string& rows) {
  const std::vector<std::string> names = ArgumentNodes(scorer);
  Part fold(scorer), score(scorer);
  for (size_t i = 0; i < names.size(); ++i) {
    const Argument& argument = scorer.arguments()[i];
    if (argument.dependence != kUser) fold.Take(names[i], argument.dtype);
    score.Take(argument.dependence == kItem ? rows : names[i], argument.dtype);
  }
  fold.Return(rows);
  for (const std::string& tensor : scorer.Results()) score.Return(tensor);
  return {fold.Finish(), score.Finish()};
}

}  // namespace nann_passes
}  // namespace tensorflow
