#include "grappler_passes/rewrite_scorer.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "grappler_passes/item_fold.h"
#include "grappler_passes/scorer_function.h"

namespace tensorflow {
namespace nann_passes {
namespace {

bool Wanted(const RewriteOptions& options, const std::string& pass) {
  return options.passes.empty() ||
         std::find(options.passes.begin(), options.passes.end(), pass) != options.passes.end();
}

// Folds, and leaves the scorer of rows in `scorer`; where that is refused, leaves it as it was.
absl::Status Fold(std::unique_ptr<ScorerGraph>& scorer, RewrittenScorer* rewritten) {
  PassReport report{"item_fold", 0, CostsOf(*scorer), CostsOf(*scorer), ""};
  auto copy = ScorerGraph::Create(scorer->ToGraphDef(), scorer->arguments());
  TF_RETURN_IF_ERROR(copy.status());
  (*copy)->set_pass(report.pass);
  FoldCosts costs;
  const auto rows = FoldItems(**copy, &costs);
  if (rows.ok()) {
    FoldedScorer folded = SplitByItem(**copy, *rows);
    std::vector<Argument> arguments = scorer->arguments();
    for (Argument& argument : arguments) {
      if (argument.dependence == kItem) argument.shape = (*copy)->ShapeOf(*rows).extents();
    }
    auto made = ScorerGraph::Create(folded.score, std::move(arguments));
    TF_RETURN_IF_ERROR(made.status());
    scorer = *std::move(made);
    rewritten->fold = std::move(folded.fold);
    report.rewrites = 1;
    report.after = CostsOf(*scorer);
  } else if (absl::IsFailedPrecondition(rows.status())) {
    report.reason = std::string(rows.status().message());
  } else {
    return rows.status();
  }
  rewritten->reports.push_back(std::move(report));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<RewrittenScorer> RewriteScorer(const NameAttrList& function,
                                              const FunctionLibraryDefinition& library,
                                              const std::vector<Argument>& arguments,
                                              const RewriteOptions& options) {
  auto flat = FlatGraph(function, library);
  TF_RETURN_IF_ERROR(flat.status());
  return RewriteScorer(*std::move(flat), arguments, options);
}

absl::StatusOr<RewrittenScorer> RewriteScorer(GraphDef flat, const std::vector<Argument>& arguments,
                                              const RewriteOptions& options) {
  auto scorer = ScorerGraph::Create(std::move(flat), arguments);
  TF_RETURN_IF_ERROR(scorer.status());
  RewrittenScorer rewritten;
  auto reports = RunPasses(*scorer, options.passes);
  TF_RETURN_IF_ERROR(reports.status());
  rewritten.reports = *std::move(reports);
  if (options.fold_items && Wanted(options, "item_fold")) {
    TF_RETURN_IF_ERROR(Fold(*scorer, &rewritten));
  }
  PassReport hoist{"user_hoist", 0, CostsOf(**scorer), CostsOf(**scorer), ""};
  if (Wanted(options, "user_hoist")) {
    SplitScorer split = SplitByUser(**scorer);
    hoist.rewrites = split.prepared.size();
    if (!split.prepared.empty()) rewritten.prepare = std::move(split.prepare);
    rewritten.score = std::move(split.score);
    rewritten.prepared = std::move(split.prepared);
  } else {
    rewritten.score = (*scorer)->ToGraphDef();
  }
  rewritten.reports.push_back(std::move(hoist));
  return rewritten;
}

}  // namespace nann_passes
}  // namespace tensorflow
