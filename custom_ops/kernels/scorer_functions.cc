#include "custom_ops/kernels/scorer_functions.h"

#include <string>
#include <utility>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/kernels/scorer_arguments.h"
#include "custom_ops/kernels/scorer_devices.h"
#include "grappler_passes/rewrite_scorer.h"
#include "grappler_passes/scorer_function.h"

namespace tensorflow {
namespace nann_ops {
namespace {

absl::Status CheckOne(absl::string_view name, const std::vector<NameAttrList>& functions) {
  if (functions.size() <= 1) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " holds ", functions.size(), " functions, allowed are 0 and 1"));
}

// Returns a function that calls `function` so that XLA compiles it. XLA compiles a marked function
// where a node calls it, but not if an op instantiates it directly, as one named by an attribute.
absl::StatusOr<FunctionDef> ForXla(const FunctionDef& function, const std::string& name) {
  GraphDef graph;
  NodeDef call;
  call.set_name("call");
  call.set_op("StatefulPartitionedCall");
  (*call.mutable_attr())["f"].mutable_func()->set_name(function.signature().name());
  (*call.mutable_attr())["_XlaMustCompile"].set_b(true);
  AttrValue inputs, outputs;
  for (int i = 0; i < function.signature().input_arg_size(); ++i) {
    NodeDef& node = *graph.add_node();
    node.set_name(absl::StrCat("argument_", i));
    node.set_op("_Arg");
    const DataType dtype = function.signature().input_arg(i).type();
    (*node.mutable_attr())["T"].set_type(dtype);
    (*node.mutable_attr())["index"].set_i(i);
    call.add_input(node.name());
    inputs.mutable_list()->add_type(dtype);
  }
  outputs.mutable_list()->add_type(DT_FLOAT);
  (*call.mutable_attr())["Tin"] = inputs;
  (*call.mutable_attr())["Tout"] = outputs;
  *graph.add_node() = call;
  NodeDef& result = *graph.add_node();
  result.set_name("result");
  result.set_op("_Retval");
  result.add_input("call");
  (*result.mutable_attr())["T"].set_type(DT_FLOAT);
  (*result.mutable_attr())["index"].set_i(0);
  return nann_passes::ToFunction(graph, name);
}

// Returns the shape with which argument `index` of a function was traced. The shapes of a call's
// tensors cannot be used, because those of the next call may differ.
PartialTensorShape TracedShape(const FunctionDef& function, int index) {
  const auto attributes = function.arg_attr().find(index);
  if (attributes == function.arg_attr().end()) return {};
  const auto shapes = attributes->second.attr().find("_output_shapes");
  if (shapes == attributes->second.attr().end() || shapes->second.list().shape_size() != 1) {
    return {};
  }
  return PartialTensorShape(shapes->second.list().shape(0));
}

absl::StatusOr<std::vector<nann_passes::Argument>> Arguments(OpKernelContext* ctx,
                                                             const std::string& scorer) {
  OpInputList user, captured;
  TF_RETURN_IF_ERROR(ctx->input_list("user", &user));
  TF_RETURN_IF_ERROR(ctx->input_list("captured", &captured));
  const auto index = IndexOf(ctx);
  TF_RETURN_IF_ERROR(index.status());
  const auto record = ctx->function_library()->GetFunctionLibraryDefinition()->FindRecord(scorer);
  if (record == nullptr) return absl::NotFoundError(absl::StrCat("no function is called ", scorer));
  std::vector<std::pair<DataType, PartialTensorShape>> shapes;
  for (int i = 0; i < user.size(); ++i) {
    shapes.emplace_back(user[i].dtype(), TracedShape(record->fdef(), i));
  }
  return ScorerArguments(ctx, shapes, (*index)->view().dim(), captured);
}

// Runs the passes over the scorer and instantiates the rewritten functions.
absl::Status Rewrite(OpKernelContext* ctx, const ScorerDefinition& definition,
                     const ScorerDevices& devices, ScorerFunctions* functions) {
  auto arguments = Arguments(ctx, definition.scorer.name());
  TF_RETURN_IF_ERROR(arguments.status());
  const FunctionLibraryDefinition& known = *functions->library->GetFunctionLibraryDefinition();
  auto rewritten = nann_passes::RewriteScorer(definition.scorer, known, *arguments, {});
  TF_RETURN_IF_ERROR(rewritten.status());
  auto definitions = std::make_unique<FunctionLibraryDefinition>(known);
  const auto instantiate = [&](ScorerDevices::Part part, const FunctionDef& function,
                               FunctionLibraryRuntime::Handle* handle) -> absl::Status {
    TF_RETURN_IF_ERROR(definitions->AddFunctionDef(function));
    NameAttrList named;
    named.set_name(function.signature().name());
    return devices.Instantiate(part, named, definitions.get(), handle);
  };
  const std::string& name = definition.scorer.name();
  auto score = nann_passes::ToFunction(rewritten->score, absl::StrCat(name, "_nann_score"));
  TF_RETURN_IF_ERROR(score.status());
  FunctionLibraryRuntime::Handle prepared = kInvalidHandle, plain, by_xla = kInvalidHandle;
  if (!rewritten->prepared.empty()) {
    auto prepare = nann_passes::ToFunction(rewritten->prepare, absl::StrCat(name, "_nann_prepare"));
    TF_RETURN_IF_ERROR(prepare.status());
    TF_RETURN_IF_ERROR(instantiate(ScorerDevices::kPrepare, *prepare, &prepared));
  }
  TF_RETURN_IF_ERROR(instantiate(ScorerDevices::kScore, *score, &plain));
  if (!definition.compiled_scorer.empty()) {
    FunctionDef inner = *score;
    inner.mutable_signature()->set_name(absl::StrCat(name, "_nann_score_for_xla"));
    (*inner.mutable_attr())["_XlaMustCompile"].set_b(true);
    TF_RETURN_IF_ERROR(definitions->AddFunctionDef(inner));
    auto outer = ForXla(inner, absl::StrCat(name, "_nann_score_by_xla"));
    TF_RETURN_IF_ERROR(outer.status());
    TF_RETURN_IF_ERROR(instantiate(ScorerDevices::kScore, *outer, &by_xla));
  }
  functions->prepare = prepared;
  functions->plain = plain;
  functions->compiled = by_xla;
  functions->compiles = by_xla != kInvalidHandle;
  functions->rewritten = std::move(definitions);
  int rewrites = 0;
  for (const auto& report : rewritten->reports) rewrites += report.rewrites;
  const auto &first = rewritten->reports.front().before, &last = rewritten->reports.back().after;
  LOG(INFO) << absl::StrCat("Passes rewrote the scorer ", name, " ", rewrites,
                            " times; multiply-adds per item ", first.multiply_adds, " -> ",
                            last.multiply_adds);
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadScorerDefinition(OpKernelConstruction* ctx, ScorerDefinition* definition) {
  std::vector<NameAttrList> scorer;
  TF_RETURN_IF_ERROR(ctx->GetAttr("scorer", &scorer));
  if (scorer.size() != 1) {
    return absl::InvalidArgumentError(absl::StrCat("scorer holds ", scorer.size(),
                                                   " functions; without a metric it must hold 1"));
  }
  definition->scorer = scorer.front();
  TF_RETURN_IF_ERROR(ctx->GetAttr("compiled_scorer", &definition->compiled_scorer));
  TF_RETURN_IF_ERROR(ctx->GetAttr("prepare", &definition->prepare));
  TF_RETURN_IF_ERROR(ctx->GetAttr("rewrite", &definition->rewrite));
  TF_RETURN_IF_ERROR(CheckOne("compiled_scorer", definition->compiled_scorer));
  return CheckOne("prepare", definition->prepare);
}

absl::StatusOr<std::unique_ptr<ScorerFunctions>> InstantiateScorer(
    OpKernelContext* ctx, const ScorerDefinition& definition) {
  auto functions = std::make_unique<ScorerFunctions>();
  FunctionLibraryRuntime* const library = functions->library = ctx->function_library();
  OpInputList user, captured;
  TF_RETURN_IF_ERROR(ctx->input_list("user", &user));
  TF_RETURN_IF_ERROR(ctx->input_list("captured", &captured));
  const ScorerDevices devices(library, user.size(), captured);
  if (definition.rewrite && definition.prepare.empty()) {
    const absl::Status rewritten = Rewrite(ctx, definition, devices, functions.get());
    if (rewritten.ok()) return functions;
    LOG(WARNING) << "The scorer runs unchanged, without the passes: " << rewritten.message();
  }
  if (!definition.prepare.empty()) {
    LOG(INFO) << "The scorer " << definition.scorer.name() << " was rewritten by passes before.";
  }
  const auto instantiate = [&devices](ScorerDevices::Part part, const NameAttrList& function,
                                      FunctionLibraryRuntime::Handle* handle) {
    return devices.Instantiate(part, function, nullptr, handle);
  };
  TF_RETURN_IF_ERROR(instantiate(ScorerDevices::kScore, definition.scorer, &functions->plain));
  for (const NameAttrList& function : definition.prepare) {
    TF_RETURN_IF_ERROR(instantiate(ScorerDevices::kPrepare, function, &functions->prepare));
  }
  for (const NameAttrList& function : definition.compiled_scorer) {
    TF_RETURN_IF_ERROR(instantiate(ScorerDevices::kScore, function, &functions->compiled));
    functions->compiles = true;
  }
  return functions;
}

}  // namespace nann_ops
}  // namespace tensorflow
