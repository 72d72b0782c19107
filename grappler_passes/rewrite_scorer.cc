#include "grappler_passes/rewrite_scorer.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "grappler_passes/item_fold.h"
#include "grappler_passes/scorer_function.h"
#include "tensorflow/core/platform/statusor.h"

namespace tensorflow {
namespace nann_passes {
namespace {

// These two passes split the scorer. They run once, after all others.
constexpr char kItemFold[] = "item_fold";
constexpr char kUserHoist[] = "user_hoist";

absl::Status CheckNames(const std::vector<std::string>& names) {
  std::vector<std::string> known;
  for (const Pass& pass : Passes()) known.push_back(pass.name);
  known.insert(known.end(), {kItemFold, kUserHoist});
  for (const std::string& name : names) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("no pass is called ", name, ", there are ", absl::StrJoin(known, ", ")));
    }
  }
  return absl::OkStatus();
}

bool Wanted(const RewriteOptions& options, const std::string& pass) {
  return options.passes.empty() ||
         std::find(options.passes.begin(), options.passes.end(), pass) != options.passes.end();
}

// Replaces `scorer` by one that takes rows in place of the items. `fold` computes the rows.
absl::StatusOr<int> Fold(std::unique_ptr<ScorerGraph>& scorer, GraphDef* fold) {
  TF_ASSIGN_OR_RETURN(const std::string rows, FoldItems(*scorer));
  FoldedScorer folded = SplitByItem(*scorer, rows);
  std::vector<Argument> arguments = scorer->arguments();
  for (Argument& argument : arguments) {
    if (argument.dependence == kItem) argument.shape = scorer->ShapeOf(rows).extents();
  }
  TF_ASSIGN_OR_RETURN(scorer, ScorerGraph::Create(std::move(folded.score), std::move(arguments)));
  *fold = std::move(folded.fold);
  return 1;
}

}  // namespace

const std::vector<Pass>& Passes() {
  static const auto* const kPasses = new std::vector<Pass>{
      BranchSwitch(),         FlattenRows(),       BroadcastElimination(),
      FactorAbsorption(),     ConcatMatmulSplit(), BatchNormFolding(),
      ProjectionAbsorption(), PackedGemm(),        PreluFusion(),
  };
  return *kPasses;
}

absl::StatusOr<RewrittenScorer> RewriteScorer(const NameAttrList& function,
                                              const FunctionLibraryDefinition& library,
                                              const std::vector<Argument>& arguments,
                                              const RewriteOptions& options) {
  TF_ASSIGN_OR_RETURN(GraphDef flat, FlatGraph(function, library));
  return RewriteScorer(std::move(flat), arguments, options);
}

absl::StatusOr<RewrittenScorer> RewriteScorer(GraphDef flat, const std::vector<Argument>& arguments,
                                              const RewriteOptions& options) {
  TF_ASSIGN_OR_RETURN(auto scorer, ScorerGraph::Create(std::move(flat), arguments));
  TF_RETURN_IF_ERROR(CheckNames(options.passes));
  std::vector<Pass> wanted;
  for (const Pass& pass : Passes()) {
    if (Wanted(options, pass.name)) wanted.push_back(pass);
  }
  RewrittenScorer rewritten;
  rewritten.reports = RunPasses(wanted, scorer);
  if (options.fold_items && Wanted(options, kItemFold)) {
    GraphDef fold;
    rewritten.reports.push_back(RunPass(
        kItemFold, [&fold](std::unique_ptr<ScorerGraph>& copy) { return Fold(copy, &fold); },
        scorer));
    if (rewritten.reports.back().rewrites > 0) rewritten.fold = std::move(fold);
  }
  PassReport hoist{kUserHoist, 0, CostsOf(*scorer), CostsOf(*scorer), ""};
  if (Wanted(options, kUserHoist)) {
    SplitScorer split = SplitByUser(*scorer);
    hoist.rewrites = split.prepared.size();
    if (!split.prepared.empty()) rewritten.prepare = std::move(split.prepare);
    rewritten.score = std::move(split.score);
    rewritten.prepared = std::move(split.prepared);
  } else {
    rewritten.score = scorer->ToGraphDef();
  }
  rewritten.reports.push_back(std::move(hoist));
  return rewritten;
}

}  // namespace nann_passes
}  // namespace tensorflow
