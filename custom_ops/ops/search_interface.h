#ifndef CUSTOM_OPS_OPS_SEARCH_INTERFACE_H_
#define CUSTOM_OPS_OPS_SEARCH_INTERFACE_H_

#include "absl/types/span.h"

// The interface of the search ops, version 1: their inputs and outputs, in order. The ops are
// registered from these lists, and the kernels read inputs by the positions in the enums beside
// them. SavedModels hold this interface for good; docs/compatibility.md says what may still be added.

namespace tensorflow {
namespace nann_ops {

// One input or output tensor of a search op.
struct SearchArg {
  const char* name;
  const char* type;
  int rank;
};

// All searches begin with these inputs. Those of rank 2 have one row per user.
enum SharedInput { kIndex, kExclude, kSeeds, kBudget, kDeadlineMs, kFirstOwnInput };
inline constexpr SearchArg kSharedInputs[kFirstOwnInput] = {
    {"index", "resource", 0}, {"exclude", "int64", 2},     {"seeds", "int64", 2},
    {"budget", "int64", 0},   {"deadline_ms", "int32", 0},
};

// The parameters of the search itself come next. The first of them is k, or has k as its last entry.
enum BestFirstInput { kBestFirstK = kFirstOwnInput, kFrontier, kPool, kMaxSteps };
inline constexpr SearchArg kBestFirstInputs[] = {
    {"k", "int32", 0}, {"frontier", "int32", 0}, {"pool", "int32", 0}, {"max_steps", "int32", 0}};

enum RoundsInput { kRoundsK = kFirstOwnInput, kEf, kRounds };
inline constexpr SearchArg kRoundsInputs[] = {
    {"k", "int32", 0}, {"ef", "int32", 1}, {"rounds", "int32", 1}};

enum DeployedInput { kLevelTopn = kFirstOwnInput };
inline constexpr SearchArg kDeployedInputs[] = {{"level_topn", "int32", 1}};

enum SurrogateInput { kSurrogateBatch = kMaxSteps + 1, kExpectedCoverage };
inline constexpr SearchArg kSurrogateInputs[] = {
    {"k", "int32", 0},         {"frontier", "int32", 0}, {"pool", "int32", 0},
    {"max_steps", "int32", 0}, {"batch", "int32", 0},    {"expected_coverage", "float", 0}};

// The last inputs are lists of any number of tensors. A later version may add lists that can be
// empty.
inline constexpr const char* kListInputs[] = {"user: Tuser", "captured: Tcaptured",
                                              "filters: Tfilters", "caps: Tcaps"};

// All searches have these outputs, with one row per user: rank 2 is [B, k], rank 1 is [B]. A later
// version may add lists of outputs, which are empty unless an attribute asks for them.
enum SearchOutput {
  kItemIds,
  kScores,
  kItemsScored,
  kRoundsRun,
  kNanScores,
  kUnknownIds,
  kStopped,
  kSearchUs,
  kScorerUs,
  kGatherUs,
  kMergeUs,
  kIndexSequence,
  kNumSearchOutputs
};
inline constexpr SearchArg kSearchOutputs[kNumSearchOutputs] = {
    {"item_ids", "int64", 2},   {"scores", "float", 2},     {"items_scored", "int64", 1},
    {"rounds_run", "int32", 1}, {"nan_scores", "int64", 1}, {"unknown_ids", "int64", 1},
    {"stopped", "int32", 1},    {"search_us", "int64", 1},  {"scorer_us", "int64", 1},
    {"gather_us", "int64", 1},  {"merge_us", "int64", 1},   {"index_sequence", "int64", 1},
};

// A search may have outputs of its own after these, of the same kinds.
enum SurrogateOutput { kCandidates, kPredictionError, kEstimatedCoverage, kFellBack };
inline constexpr SearchArg kSurrogateOutputs[] = {{"candidates", "int64", 1},
                                                  {"prediction_error", "float", 1},
                                                  {"estimated_coverage", "float", 1},
                                                  {"fell_back", "bool", 1}};

// The last outputs are lists, which are empty unless an attribute asks for them, as graphs do that
// filter.
inline constexpr const char* kListOutputs[] = {"exact: Texact"};
inline constexpr SearchArg kExactOutput[] = {{"exact", "bool", 1}};

struct SearchInterface {
  const char* op;
  absl::Span<const SearchArg> own_inputs;
  absl::Span<const SearchArg> own_outputs = {};

  constexpr int first_list_input() const {
    return kFirstOwnInput + static_cast<int>(own_inputs.size());
  }
};
inline constexpr SearchInterface kBestFirstSearch{"Nann>BestFirstSearch", kBestFirstInputs};
inline constexpr SearchInterface kRoundsSearch{"Nann>RoundsSearch", kRoundsInputs};
inline constexpr SearchInterface kDeployedSearch{"Nann>DeployedSearch", kDeployedInputs};
inline constexpr SearchInterface kSurrogateSearch{"Nann>SurrogateSearch", kSurrogateInputs,
                                                  kSurrogateOutputs};
inline constexpr const SearchInterface* kSearches[] = {&kBestFirstSearch, &kRoundsSearch,
                                                       &kDeployedSearch, &kSurrogateSearch};

}  // namespace nann_ops
}  // namespace tensorflow

#endif  // CUSTOM_OPS_OPS_SEARCH_INTERFACE_H_
