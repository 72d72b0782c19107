#include "grappler_passes/scorer_report.h"

#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grappler_passes/costs.h"
#include "grappler_passes/scorer_function.h"
#include "tensorflow/core/platform/statusor.h"

namespace tensorflow {
namespace nann_passes {
namespace {

Argument ArgumentOf(const NodeDef& node) {
  const std::string kind = StringOf(node, "_kind");
  const bool variable = node.op() == "VarHandleOp";
  const DataType dtype = TypeOf(node, "dtype");
  Argument argument{kind == "item"   ? kItem
                    : kind == "user" ? kUser
                                     : kModel,
                    variable ? DT_RESOURCE : dtype,
                    {}};
  if (variable) argument.variable_dtype = dtype;
  const auto shape = node.attr().find("shape");
  argument.shaped = shape != node.attr().end() && !shape->second.shape().unknown_rank();
  if (!argument.shaped) return argument;
  for (const auto& dim : shape->second.shape().dim()) {
    const bool many = argument.dependence == kItem && argument.shape.size() == 1 && dim.size() < 0;
    argument.shape.push_back(many ? kItems : dim.size());
  }
  return argument;
}

void SetArg(int index, DataType dtype, NodeDef* node) {
  node->set_op("_Arg");
  node->clear_attr();
  (*node->mutable_attr())["T"].set_type(dtype);
  (*node->mutable_attr())["index"].set_i(index);
}

struct FlatScorer {
  GraphDef graph;
  std::vector<Argument> arguments;
};

absl::StatusOr<FlatScorer> Flat(GraphDef calls) {
  FlatScorer flat;
  for (NodeDef& node : *calls.mutable_node()) {
    if (node.op() != "Placeholder" && node.op() != "VarHandleOp") continue;
    flat.arguments.push_back(ArgumentOf(node));
    SetArg(flat.arguments.size() - 1, flat.arguments.back().dtype, &node);
  }
  TF_ASSIGN_OR_RETURN(flat.graph, FlatGraph(calls));
  return flat;
}

// Joins the functions of a rewritten scorer in one graph of calls.
class Joined {
 public:
  // `flat` is the scorer before the passes; its parts take the same arguments.
  explicit Joined(const FlatScorer& flat) : arguments_(flat.arguments) {
    for (size_t i = 0; i < arguments_.size(); ++i) names_.emplace_back();
    for (const NodeDef& node : flat.graph.node()) {
      if (node.op() != "_Arg") continue;
      names_[IntOf(node, "index").value_or(0)] = node.name();
      *graph_.add_node() = node;
    }
  }

  // Calls `part` with all arguments except those that depend on `without`, if that is not kModel.
  // The prepared tensors come before the items, and `rows`, if given, in their place.
  absl::Status Call(const std::string& name, const GraphDef& part, unsigned without,
                    const std::vector<std::string>& prepared,
                    const std::optional<std::string>& rows) {
    TF_ASSIGN_OR_RETURN(FunctionDef function, ToFunction(part, absl::StrCat("nann_", name)));
    NodeDef* const call = graph_.add_node();
    call->set_name(name);
    call->set_op(function.signature().name());
    for (size_t i = 0; i < arguments_.size(); ++i) {
      const bool items = arguments_[i].dependence == kItem;
      if (items) {
        for (const std::string& tensor : prepared) call->add_input(tensor);
      }
      if (without != kModel && arguments_[i].dependence == without) continue;
      call->add_input(items && rows.has_value() ? *rows : names_[i]);
    }
    *graph_.mutable_library()->add_function() = std::move(function);
    return absl::OkStatus();
  }

  // Returns the graph; its results are those of the last call.
  GraphDef Finish() {
    const NodeDef call = graph_.node(graph_.node_size() - 1);
    const auto& function = graph_.library().function(graph_.library().function_size() - 1);
    for (int i = 0; i < function.signature().output_arg_size(); ++i) {
      NodeDef* const result = graph_.add_node();
      result->set_name(absl::StrCat("result_", i));
      result->set_op("_Retval");
      result->add_input(absl::StrCat(call.name(), ":", i));
      (*result->mutable_attr())["T"].set_type(function.signature().output_arg(i).type());
      (*result->mutable_attr())["index"].set_i(i);
    }
    return std::move(graph_);
  }

 private:
  const std::vector<Argument>& arguments_;
  std::vector<std::string> names_;
  GraphDef graph_;
};

absl::StatusOr<GraphDef> Join(const FlatScorer& flat, const RewrittenScorer& parts) {
  Joined joined(flat);
  std::optional<std::string> rows;
  if (parts.fold.node_size() > 0) {
    TF_RETURN_IF_ERROR(joined.Call("fold", parts.fold, kUser, {}, std::nullopt));
    rows = "fold";
  }
  std::vector<std::string> prepared;
  if (!parts.prepared.empty()) {
    TF_RETURN_IF_ERROR(joined.Call("prepare", parts.prepare, kItem, {}, std::nullopt));
    for (size_t i = 0; i < parts.prepared.size(); ++i) {
      prepared.push_back(absl::StrCat("prepare:", i));
    }
  }
  TF_RETURN_IF_ERROR(joined.Call("score", parts.score, kModel, prepared, rows));
  return joined.Finish();
}

// Whether a node is an argument that the scorer does not use.
bool Unused(const ScorerGraph& scorer, const NodeDef& node) {
  return node.op() == "_Arg" && scorer.Consumers(node.name()).empty();
}

ScorerReport Report(const ScorerGraph& scorer) {
  static constexpr const char* kDepends[] = {"weights", "user", "item", "both"};
  ScorerReport report;
  for (const NodeDef* node : scorer.Nodes()) {
    if (Unused(scorer, *node)) continue;
    const double runs = scorer.OfItems(node->name()) ? kItems : 1;
    NodeDef* const shown = report.nodes.add_node();
    shown->set_name(node->name());
    shown->set_op(node->op());
    *shown->mutable_input() = node->input();
    auto& attributes = *shown->mutable_attr();
    attributes["depends"].set_s(kDepends[scorer.DependenceOf(node->name())]);
    attributes["pass"].set_s(PassOf(*node));
    auto* const shapes = attributes["shapes"].mutable_list();
    double elements = 0;
    std::string tensor = node->name();
    for (int i = 0; scorer.DtypeOf(tensor) != DT_INVALID; ++i) {
      shapes->add_s(scorer.ShownShapeOf(tensor));
      const Shape& shape = scorer.ShapeOf(tensor);
      if (shape.known()) elements += static_cast<double>(shape.elements());
      tensor = absl::StrCat(node->name(), ":", i + 1);
    }
    const double unknown = std::numeric_limits<double>::quiet_NaN();
    report.multiply_adds.push_back(MultiplyAdds(scorer, *node).value_or(unknown) / runs);
    report.elements.push_back(elements / runs);
  }
  return report;
}

absl::StatusOr<ScorerReport> Report(FlatScorer flat) {
  TF_ASSIGN_OR_RETURN(const auto scorer,
                      ScorerGraph::Create(std::move(flat.graph), std::move(flat.arguments)));
  return Report(*scorer);
}

}  // namespace

absl::StatusOr<ScorerReport> DescribeScorer(const GraphDef& calls) {
  TF_ASSIGN_OR_RETURN(FlatScorer flat, Flat(calls));
  return Report(std::move(flat));
}

absl::StatusOr<ScorerReport> DescribeRewritten(const GraphDef& calls, const RewriteOptions& options,
                                               std::vector<PassReport>* passes) {
  TF_ASSIGN_OR_RETURN(FlatScorer flat, Flat(calls));
  TF_ASSIGN_OR_RETURN(const auto made, RewriteScorer(flat.graph, flat.arguments, options));
  *passes = made.reports;
  TF_ASSIGN_OR_RETURN(const GraphDef joined, Join(flat, made));
  TF_ASSIGN_OR_RETURN(flat.graph, FlatGraph(joined));
  return Report(std::move(flat));
}

}  // namespace nann_passes
}  // namespace tensorflow
