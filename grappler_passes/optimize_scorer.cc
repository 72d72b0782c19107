#include "grappler_passes/optimize_scorer.h"

#include <algorithm>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "grappler_passes/pass.h"

namespace tensorflow {
namespace nann_passes {
namespace {

// Passes prepare each other's patterns; four times through was enough for every model that we have.
constexpr int kMaxSweeps = 10;

absl::Status Same(const ScorerGraph& before, const ScorerGraph& after) {
  const auto old = before.Results(), made = after.Results();
  if (old.size() != made.size()) return absl::InternalError("another number of results");
  for (size_t i = 0; i < old.size(); ++i) {
    const Shape &was = before.ShapeOf(old[i]), &is = after.ShapeOf(made[i]);
    if ((was.known() && is.known() && was != is) ||
        before.DtypeOf(old[i]) != after.DtypeOf(made[i])) {
      return absl::InternalError(absl::StrCat("result ", i, " has another shape or type"));
    }
  }
  return absl::OkStatus();
}

// Runs one pass on a copy, which takes the place of `scorer` where it is sound.
absl::StatusOr<int> RunOn(std::unique_ptr<ScorerGraph>& scorer, const NamedPass& pass) {
  auto copy = ScorerGraph::Create(scorer->ToGraphDef(), scorer->arguments());
  TF_RETURN_IF_ERROR(copy.status());
  (*copy)->set_pass(pass.name);
  auto rewrites = pass.run(**copy);
  if (!rewrites.ok() || *rewrites == 0) return rewrites;
  auto checked = ScorerGraph::Create((*copy)->ToGraphDef(), scorer->arguments());
  TF_RETURN_IF_ERROR(checked.status());
  TF_RETURN_IF_ERROR(Same(*scorer, **checked));
  scorer = *std::move(checked);
  return rewrites;
}

}  // namespace

const std::vector<NamedPass>& Passes() {
  static const auto* const kPasses = new std::vector<NamedPass>{
      {"branch_switch", BranchSwitch},
      {"flatten_rows", FlattenRows},
      {"broadcast_elimination", BroadcastElimination},
      {"concat_matmul_split", ConcatMatmulSplit},
      {"batch_norm_folding", BatchNormFolding},
      {"projection_absorption", ProjectionAbsorption},
      {"packed_gemm", PackedGemm},
      {"prelu_fusion", PreluFusion},
  };
  return *kPasses;
}

absl::StatusOr<std::vector<PassReport>> RunPasses(std::unique_ptr<ScorerGraph>& scorer,
                                                  absl::Span<const std::string> names) {
  std::vector<std::string> known;
  for (const NamedPass& pass : Passes()) known.push_back(pass.name);
  known.insert(known.end(), {"item_fold", "user_hoist"});  // Which RewriteScorer runs, after these.
  for (const std::string& name : names) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("no pass is called ", name, ", there are ", absl::StrJoin(known, ", ")));
    }
  }
  std::vector<PassReport> reports;
  bool changed = true;
  for (int sweep = 0; changed && sweep < kMaxSweeps; ++sweep) {
    changed = false;
    for (const NamedPass& pass : Passes()) {
      if (!names.empty() && std::find(names.begin(), names.end(), pass.name) == names.end()) {
        continue;
      }
      PassReport report{pass.name, 0, CostsOf(*scorer), {}, ""};
      const auto rewrites = RunOn(scorer, pass);
      report.after = CostsOf(*scorer);
      if (rewrites.ok()) {
        report.rewrites = *rewrites;
      } else {
        report.reason = std::string(rewrites.status().message());
        LOG(WARNING) << "The pass " << pass.name
                     << " left the scorer as it was: " << rewrites.status();
      }
      changed = changed || report.rewrites > 0;
      if (sweep == 0 || report.rewrites > 0) reports.push_back(std::move(report));
    }
  }
  return reports;
}

}  // namespace nann_passes
}  // namespace tensorflow
