#include "grappler_passes/run_passes.h"

#include <utility>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "tensorflow/core/platform/statusor.h"

namespace tensorflow {
namespace nann_passes {
namespace {

// Passes prepare each other's patterns; four sweeps were enough for every model that we have.
constexpr int kMaxSweeps = 10;

// Reads the graph of `after` anew, and checks that its shapes are what the pass said of them, and its
// results like those of `before`.
absl::StatusOr<std::unique_ptr<ScorerGraph>> Verified(const ScorerGraph& before,
                                                      const ScorerGraph& after) {
  TF_ASSIGN_OR_RETURN(auto read, ScorerGraph::Create(after.ToGraphDef(), after.arguments()));
  for (const NodeDef* node : after.Nodes()) {
    const Shape &said = after.ShapeOf(node->name()), &is = read->ShapeOf(node->name());
    if (said.known() && is.known() && said != is) {
      return absl::InternalError(absl::StrCat("node ", node->name(), " has the shape ",
                                              read->ShownShapeOf(node->name()),
                                              ", which is not what the pass says"));
    }
  }
  const auto old = before.Results(), made = read->Results();
  if (old.size() != made.size()) return absl::InternalError("another number of results");
  for (size_t i = 0; i < old.size(); ++i) {
    const Shape &was = before.ShapeOf(old[i]), &is = read->ShapeOf(made[i]);
    if ((was.known() && is.known() && was != is) ||
        before.DtypeOf(old[i]) != read->DtypeOf(made[i])) {
      return absl::InternalError(absl::StrCat("result ", i, " has another shape or type"));
    }
  }
  return read;
}

}  // namespace

int ApplyRule(const Rule& rule, ScorerGraph& scorer) {
  int rewrites = 0;
  for (int before = -1, sweep = 0; before != rewrites && sweep < rule.sweeps; ++sweep) {
    before = rewrites;
    for (const NodeDef* node : rule.ops.empty() ? scorer.Nodes() : scorer.NodesOf(rule.ops)) {
      // Nothing consumes a node that was replaced.
      if (!scorer.Free(*node) || scorer.Consumers(node->name()).empty()) continue;
      const std::optional<Plan> plan = rule.match(scorer, *node);
      if (!plan.has_value()) continue;
      scorer.Replace(node->name(), (*plan)(scorer));
      ++rewrites;
    }
    scorer.Prune();
  }
  return rewrites;
}

PassReport RunPass(
    const std::string& name,
    absl::FunctionRef<absl::StatusOr<int>(std::unique_ptr<ScorerGraph>& copy)> rewrite,
    std::unique_ptr<ScorerGraph>& scorer) {
  PassReport report{name, 0, CostsOf(*scorer), {}, ""};
  auto copy = scorer->Copy();
  copy->set_pass(name);
  const auto run = [&]() -> absl::Status {
    TF_ASSIGN_OR_RETURN(const int rewrites, rewrite(copy));
    if (rewrites == 0) return absl::OkStatus();
    TF_ASSIGN_OR_RETURN(scorer, Verified(*scorer, *copy));
    report.rewrites = rewrites;
    return absl::OkStatus();
  };
  const absl::Status status = run();
  report.after = CostsOf(*scorer);
  report.reason = std::string(status.message());
  if (!status.ok() && !absl::IsFailedPrecondition(status)) {
    LOG(WARNING) << "The pass " << name << " left the scorer as it was: " << status;
  }
  return report;
}

std::vector<PassReport> RunPasses(absl::Span<const Pass> passes,
                                  std::unique_ptr<ScorerGraph>& scorer) {
  std::vector<PassReport> reports;
  bool changed = true;
  for (int sweep = 0; changed && sweep < kMaxSweeps; ++sweep) {
    changed = false;
    for (const Pass& pass : passes) {
      const auto apply = [&pass](std::unique_ptr<ScorerGraph>& copy) -> absl::StatusOr<int> {
        int rewrites = 0;
        for (const Rule& rule : pass.rules) rewrites += ApplyRule(rule, *copy);
        return rewrites;
      };
      PassReport report = RunPass(pass.name, apply, scorer);
      changed = changed || report.rewrites > 0;
      if (sweep == 0 || report.rewrites > 0) reports.push_back(std::move(report));
    }
  }
  return reports;
}

}  // namespace nann_passes
}  // namespace tensorflow
