// Tests that nothing is left of a pass whose result cannot be right.

#include "grappler_passes/run_passes.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "custom_ops/core/testing.h"
#include "grappler_passes/nodes.h"

namespace tensorflow {
namespace nann_passes {
namespace {

constexpr int64_t kUsers = 3, kWidth = 4;

NodeDef Node(const std::string& name, const std::string& op, std::vector<std::string> inputs,
             std::vector<std::pair<std::string, AttrValue>> attributes) {
  NodeDef node;
  node.set_name(name);
  node.set_op(op);
  for (const std::string& input : inputs) node.add_input(input);
  for (const auto& [key, value] : attributes) (*node.mutable_attr())[key] = value;
  return node;
}

// user [3, 4] * weights [4, 4], and its rectified value as the result.
std::unique_ptr<ScorerGraph> MakeScorer() {
  GraphDef graph;
  const std::pair<std::string, AttrValue> of_floats = {"T", TypeAttr(DT_FLOAT)};
  *graph.add_node() = Node("user", "_Arg", {}, {of_floats, {"index", IntAttr(0)}});
  *graph.add_node() = Node("weights", "_Arg", {}, {of_floats, {"index", IntAttr(1)}});
  *graph.add_node() = Node("product", "MatMul", {"user", "weights"}, {of_floats});
  *graph.add_node() = Node("score", "Relu", {"product"}, {of_floats});
  *graph.add_node() = Node("result", "_Retval", {"score"}, {of_floats, {"index", IntAttr(0)}});
  auto scorer = ScorerGraph::Create(std::move(graph), {{kUser, DT_FLOAT, {kUsers, kWidth}},
                                                       {kModel, DT_FLOAT, {kWidth, kWidth}}});
  CHECK_THAT(scorer.ok());
  return *std::move(scorer);
}

std::string Text(const ScorerGraph& scorer) { return scorer.ToGraphDef().DebugString(); }

using Rewrite = absl::FunctionRef<absl::StatusOr<int>(std::unique_ptr<ScorerGraph>& copy)>;

// Whether `rewrite` is undone, for a reason that contains `reason`.
bool Undone(absl::string_view reason, Rewrite rewrite) {
  auto scorer = MakeScorer();
  const std::string before = Text(*scorer);
  const PassReport report = RunPass("wrong", rewrite, scorer);
  if (report.rewrites != 0 || !absl::StrContains(report.reason, reason)) {
    std::fprintf(stderr, "%d rewrites, because of %s\n", report.rewrites, report.reason.c_str());
    return false;
  }
  return Text(*scorer) == before && scorer->arguments().size() == 2 &&
         report.after.multiply_adds == report.before.multiply_adds;
}

// Puts what `made` adds beside the node "score" in its place.
int ReplaceScore(ScorerGraph& scorer, const std::string& made) {
  scorer.Replace("score", made);
  scorer.Prune();
  return 1;
}

void AResultOfAnotherShapeIsUndone() {
  CHECK_THAT(Undone("result 0 has another shape or type", [](auto& copy) -> absl::StatusOr<int> {
    const NodeDef& score = copy->NodeOf("score");
    return ReplaceScore(*copy, copy->Slice("product", {0, 0}, {2, -1}, {2, kWidth}, score));
  }));
}

void AResultOfAnotherTypeIsUndone() {
  CHECK_THAT(Undone("incompatible with expected float", [](auto& copy) -> absl::StatusOr<int> {
    const NodeDef& score = copy->NodeOf("score");
    const std::string wide =
        copy->Add("Cast", {"product"}, copy->ShapeOf("product"), score,
                  {{"SrcT", TypeAttr(DT_FLOAT)}, {"DstT", TypeAttr(DT_HALF)}}, DT_HALF);
    return ReplaceScore(*copy, wide);
  }));
}

void ShapesThatContradictEachOtherAreUndone() {
  CHECK_THAT(Undone("Dimensions must be equal", [](auto& copy) -> absl::StatusOr<int> {
    const NodeDef& score = copy->NodeOf("score");
    return ReplaceScore(*copy, copy->MatMul("weights", "user", false, false, score));
  }));
}

void AShapeThatIsNotWhatThePassSaysIsUndone() {
  CHECK_THAT(Undone("has the shape [3, 4]", [](auto& copy) -> absl::StatusOr<int> {
    const NodeDef& score = copy->NodeOf("score");
    return ReplaceScore(*copy, copy->Clone(score, {"product"}, {kWidth, kUsers}));
  }));
}

void AnErrorAfterAChangeIsUndone() {
  CHECK_THAT(Undone("gave up", [](auto& copy) -> absl::StatusOr<int> {
    ReplaceScore(*copy, "product");
    return absl::FailedPreconditionError("gave up");
  }));
}

// As item_fold does, which makes another graph with other arguments.
void AnotherGraphThatDoesNotFitIsUndone() {
  CHECK_THAT(Undone("result 0 has another shape or type", [](auto& copy) -> absl::StatusOr<int> {
    GraphDef graph;
    *graph.add_node() =
        Node("user", "_Arg", {}, {{"T", TypeAttr(DT_FLOAT)}, {"index", IntAttr(0)}});
    *graph.add_node() =
        Node("result", "_Retval", {"user"}, {{"T", TypeAttr(DT_FLOAT)}, {"index", IntAttr(0)}});
    auto made = ScorerGraph::Create(std::move(graph), {{kUser, DT_FLOAT, {kUsers, 1}}});
    CHECK_THAT(made.ok());
    copy = *std::move(made);
    return 1;
  }));
}

std::optional<Plan> MatchRelu(const ScorerGraph& scorer, const NodeDef& node) {
  return Existing(node.input(0));
}

std::optional<Plan> MatchProduct(const ScorerGraph& scorer, const NodeDef& node) {
  return [&node](ScorerGraph& graph) {
    return graph.MatMul(node.input(1), node.input(0), false, false, node);
  };
}

void TheOtherPassesHoldWhereOneIsUndone() {
  auto scorer = MakeScorer();
  const Pass wrong{"wrong", {{{"MatMul"}, MatchProduct}}}, right{"right", {{{"Relu"}, MatchRelu}}};
  const auto reports = RunPasses({wrong, right, wrong}, scorer);
  CHECK_THAT(reports.size() == 3);
  CHECK_THAT(reports[0].rewrites == 0 && reports[2].rewrites == 0 && !reports[2].reason.empty());
  CHECK_THAT(reports[1].rewrites == 1 && reports[1].reason.empty());
  CHECK_THAT(scorer->Results() == std::vector<std::string>{"product"});
  CHECK_THAT(scorer->NodeOf("product").input(0) == "user");
}

}  // namespace
}  // namespace nann_passes
}  // namespace tensorflow

int main() {
  tensorflow::nann_passes::AResultOfAnotherShapeIsUndone();
  tensorflow::nann_passes::AResultOfAnotherTypeIsUndone();
  tensorflow::nann_passes::ShapesThatContradictEachOtherAreUndone();
  tensorflow::nann_passes::AShapeThatIsNotWhatThePassSaysIsUndone();
  tensorflow::nann_passes::AnErrorAfterAChangeIsUndone();
  tensorflow::nann_passes::AnotherGraphThatDoesNotFitIsUndone();
  tensorflow::nann_passes::TheOtherPassesHoldWhereOneIsUndone();
}
