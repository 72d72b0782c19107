// Registers the passes with Grappler: `nann_scorer` runs all passes that need no new index, and
// `nann_<pass>` runs one of them. A ConfigProto names them in
// `graph_options.rewrite_options.custom_optimizers`. They rewrite the scorers of search nodes, in
// the graph and in the bodies of functions.
//
// The op does the same when it first runs a scorer, so only a choice of passes needs a
// configuration. The shape of a variable is read where its handle is made; a node of which a
// variable is not found is left to the op.
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/log/log.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/ops/search_interface.h"
#include "grappler_passes/rewrite_scorer.h"
#include "grappler_passes/scorer_function.h"
#include "tensorflow/core/framework/function.h"
#include "tensorflow/core/framework/node_def_util.h"
#include "tensorflow/core/grappler/grappler_item.h"
#include "tensorflow/core/grappler/optimizers/custom_graph_optimizer.h"
#include "tensorflow/core/grappler/optimizers/custom_graph_optimizer_registry.h"
#include "tensorflow/core/platform/statusor.h"

namespace tensorflow {
namespace nann_passes {
namespace {

constexpr int kMaxSteps = 64;  // From the use of a handle to the node that makes it.

// A tensor in the body of `function`, or in the graph itself if `function` is null.
struct Place {
  const FunctionDef* function;
  std::string input;
};

// Traces tensors back through identities and function calls.
class Origins {
 public:
  explicit Origins(const GraphDef& graph) : graph_(graph) {}

  // The VarHandleOp that makes `input`, or null.
  const NodeDef* Variable(Place place) const {
    for (int step = 0; step < kMaxSteps; ++step) {
      const NodeDef* node = NodeOf(place);
      if (node != nullptr) {
        if (node->op() == "VarHandleOp") return node;
        if (node->op() != "Identity" || NumInputs(*node) != 1) return nullptr;
        place.input = node->input(0);
      } else {
        const auto caller = Caller(place);
        if (!caller.has_value()) return nullptr;
        place = *caller;
      }
    }
    return nullptr;
  }

 private:
  const NodeDef* NodeOf(const Place& place) const {
    const std::string name = NodeName(place.input);
    const auto& nodes = place.function == nullptr ? graph_.node() : place.function->node_def();
    for (const NodeDef& node : nodes) {
      if (node.name() == name) return &node;
    }
    return nullptr;
  }

  // Returns what the first call that is found passes for an argument of the function.
  std::optional<Place> Caller(const Place& place) const {
    if (place.function == nullptr) return std::nullopt;
    const OpDef& signature = place.function->signature();
    int index = 0;
    while (index < signature.input_arg_size() &&
           signature.input_arg(index).name() != NodeName(place.input)) {
      ++index;
    }
    if (index == signature.input_arg_size()) return std::nullopt;
    const auto calls = [&](const NodeDef& node) {
      const auto called = node.attr().find("f");
      const bool by_name = called != node.attr().end() && called->second.has_func() &&
                           called->second.func().name() == signature.name();
      return (by_name || node.op() == signature.name()) && index < NumInputs(node);
    };
    for (const NodeDef& node : graph_.node()) {
      if (calls(node)) return Place{nullptr, node.input(index)};
    }
    for (const FunctionDef& function : graph_.library().function()) {
      for (const NodeDef& node : function.node_def()) {
        if (calls(node)) return Place{&function, node.input(index)};
      }
    }
    return std::nullopt;
  }

  const GraphDef& graph_;
};

// Returns the interface of the search op that a node runs, or null.
const nann_ops::SearchInterface* FindSearch(const NodeDef& node) {
  for (const nann_ops::SearchInterface* search : nann_ops::kSearches) {
    if (node.op() == search->op) return search;
  }
  return nullptr;
}

// Sets the shape that an argument was traced with, for one user and, if `many` is positive, that
// many items. Returns false if the function does not have the shape.
bool TracedShape(const FunctionDef& function, int index, int64_t many, Argument* argument) {
  const auto attributes = function.arg_attr().find(index);
  if (attributes == function.arg_attr().end()) return false;
  const auto shapes = attributes->second.attr().find("_output_shapes");
  if (shapes == attributes->second.attr().end() || shapes->second.list().shape_size() != 1) {
    return false;
  }
  const TensorShapeProto& shape = shapes->second.list().shape(0);
  if (shape.unknown_rank() || shape.dim_size() == 0) return false;
  argument->shape = {1};
  for (int i = 1; i < shape.dim_size(); ++i) argument->shape.push_back(shape.dim(i).size());
  if (many > 0) {
    if (argument->shape.size() != 3 || argument->shape[2] < 0) return false;
    argument->shape[1] = many;
  }
  return true;
}

class SearchRewriter : public grappler::CustomGraphOptimizer {
 public:
  SearchRewriter(std::string name, std::vector<std::string> passes)
      : name_(std::move(name)), passes_(std::move(passes)) {}

  absl::Status Init(const RewriterConfig_CustomGraphOptimizer* config) override {
    LOG(INFO) << "The graph optimizer " << name_ << " is active.";
    return absl::OkStatus();
  }
  std::string name() const override { return name_; }
  bool UsesFunctionLibrary() const override { return true; }

  absl::Status Optimize(grappler::Cluster* cluster, const grappler::GrapplerItem& item,
                        GraphDef* optimized) override {
    *optimized = item.graph;
    FunctionLibraryDefinition library(OpRegistry::Global(), item.graph.library());
    std::vector<FunctionDef> made;
    const Origins origins(item.graph);
    const auto rewrite = [&](const FunctionDef* function, NodeDef* node) {
      const absl::Status status = Rewrite(origins, function, node, &library, &made);
      if (!status.ok()) {
        LOG(INFO) << name_ << " leaves the scorer of " << node->name()
                  << " to the op: " << status.message();
      }
    };
    for (NodeDef& node : *optimized->mutable_node()) rewrite(nullptr, &node);
    for (int i = 0; i < optimized->library().function_size(); ++i) {
      FunctionDef* const function = optimized->mutable_library()->mutable_function(i);
      for (NodeDef& node : *function->mutable_node_def()) {
        rewrite(&item.graph.library().function(i), &node);
      }
    }
    for (FunctionDef& function : made) {
      *optimized->mutable_library()->add_function() = std::move(function);
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Rewrite(const Origins& origins, const FunctionDef* place, NodeDef* node,
                       FunctionLibraryDefinition* library, std::vector<FunctionDef>* made) const {
    if (FindSearch(*node) == nullptr) return absl::OkStatus();
    const auto functions = [node](const std::string& attribute) {
      const auto found = node->attr().find(attribute);  // Saved graphs leave defaults out.
      return found == node->attr().end() ? 0 : found->second.list().func_size();
    };
    if (functions("scorer") != 1) return absl::OkStatus();  // A metric scores.
    if (functions("prepare") > 0) return absl::OkStatus();  // It was rewritten before.
    if (functions("compiled_scorer") > 0) return absl::UnimplementedError("XLA compiles it");
    auto& attributes = *node->mutable_attr();
    const NameAttrList& scorer = attributes["scorer"].list().func(0);
    const FunctionDef* function = library->Find(scorer.name());
    if (function == nullptr) return absl::NotFoundError("its function is not in the library");
    std::vector<Argument> arguments;
    TF_RETURN_IF_ERROR(Arguments(origins, place, *node, *function, &arguments));
    TF_ASSIGN_OR_RETURN(const auto rewritten,
                        RewriteScorer(scorer, *library, arguments, {passes_, false}));
    int rewrites = 0;
    for (const PassReport& report : rewritten.reports) rewrites += report.rewrites;
    if (rewrites == 0) return absl::OkStatus();
    // Returns the name of the function that it adds.
    const auto add = [&](const GraphDef& graph,
                         absl::string_view kind) -> absl::StatusOr<std::string> {
      const std::string prefix = absl::StrCat(scorer.name(), "_nann_", kind, "_");
      TF_ASSIGN_OR_RETURN(FunctionDef added,
                          ToFunction(graph, library->UniqueFunctionName(prefix)));
      // With the same arguments the traced shapes still hold; the next pass reads them.
      if (added.signature().input_arg_size() == function->signature().input_arg_size()) {
        *added.mutable_arg_attr() = function->arg_attr();
      }
      TF_RETURN_IF_ERROR(library->AddFunctionDef(added));
      made->push_back(added);
      return added.signature().name();
    };
    if (!rewritten.prepared.empty()) {
      TF_ASSIGN_OR_RETURN(const std::string prepare, add(rewritten.prepare, "prepare"));
      attributes["prepare"].mutable_list()->add_func()->set_name(prepare);
    }
    NameAttrList replaced;
    TF_ASSIGN_OR_RETURN(*replaced.mutable_name(), add(rewritten.score, "score"));
    *attributes["scorer"].mutable_list()->mutable_func(0) = replaced;
    return absl::OkStatus();
  }

  absl::Status Arguments(const Origins& origins, const FunctionDef* place, const NodeDef& node,
                         const FunctionDef& function, std::vector<Argument>* arguments) const {
    std::vector<DataType> users, captured;
    TF_RETURN_IF_ERROR(GetNodeAttr(node, "Tuser", &users));
    TF_RETURN_IF_ERROR(GetNodeAttr(node, "Tcaptured", &captured));
    const int items = users.size(), first_user = FindSearch(node)->first_list_input();
    if (function.signature().input_arg_size() != items + 1 + captured.size() ||
        // The lists that may be empty come last.
        NumInputs(node) < first_user + users.size() + captured.size()) {
      return absl::InvalidArgumentError("it takes another number of arguments than the search has");
    }
    for (int i = 0; i < items; ++i) {
      Argument argument{kUser, users[i], {}};
      argument.shaped = TracedShape(function, i, 0, &argument);
      arguments->push_back(std::move(argument));
    }
    Argument rows{kItem, DT_FLOAT, {}};
    if (!TracedShape(function, items, kItems, &rows)) {
      return absl::FailedPreconditionError("the shape of its items is not known");
    }
    arguments->push_back(std::move(rows));
    for (size_t i = 0; i < captured.size(); ++i) {
      Argument argument{kModel, captured[i], {}};
      argument.shaped = false;
      if (captured[i] == DT_RESOURCE) {
        const NodeDef* variable = origins.Variable({place, node.input(first_user + items + i)});
        TensorShapeProto shape;
        if (variable == nullptr || !GetNodeAttr(*variable, "shape", &shape).ok() ||
            shape.unknown_rank()) {
          return absl::FailedPreconditionError("the shape of a variable is not known");
        }
        argument.variable_dtype = TypeOf(*variable, "dtype");
        argument.shaped = true;
        for (const auto& dim : shape.dim()) argument.shape.push_back(dim.size());
      }
      arguments->push_back(std::move(argument));
    }
    return absl::OkStatus();
  }

  const std::string name_;
  const std::vector<std::string> passes_;  // Empty: all.
};

// Registers the optimizers when the library is loaded.
const bool kRegistered = [] {
  const auto add = [](const std::string& name, std::vector<std::string> passes) {
    grappler::CustomGraphOptimizerRegistry::RegisterOptimizerOrDie(
        [name, passes]() -> grappler::CustomGraphOptimizer* {
          return new SearchRewriter(name, passes);
        },
        name);
  };
  add("nann_scorer", {});
  for (const Pass& pass : Passes()) add(absl::StrCat("nann_", pass.name), {pass.name});
  add("nann_user_hoist", {"user_hoist"});
  return true;
}();

}  // namespace
}  // namespace nann_passes
}  // namespace tensorflow
