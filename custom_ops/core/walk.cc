#include "custom_ops/core/walk.h"

#include <chrono>
#include <cmath>
#include <cstddef>

#include "absl/strings/str_cat.h"

namespace nann {

absl::Status OutsideIndex(const IndexView& index, int layer, int32_t item, int32_t neighbor) {
  return absl::DataLossError(absl::StrCat("item ", item, " has the neighbour ", neighbor,
                                          " in layer ", layer, " of an index of ",
                                          index.num_items(), " items"));
}

Walk::Walk(const IndexView& index, const SearchRequest& request, ScoreBatch score,
           Workspace& workspace, SearchStatistics& statistics)
    : index_(index),
      request_(request),
      score_(score),
      workspace_(workspace),
      statistics_(statistics) {
  workspace_.visited.StartRequest(index.num_items());
  workspace_.fresh.clear();
  workspace_.results.clear();
}

absl::Status Walk::Enter() {
  workspace_.fresh.clear();
  workspace_.batch.clear();
  for (int32_t item : index_.entry_points()) {
    if (!index_.Has(item)) {
      return absl::DataLossError(absl::StrCat("the entry point ", item, " is outside an index of ",
                                              index_.num_items(), " items"));
    }
    Meet(item);
  }
  return ScoreMet();
}

void Walk::EnterLayer(int layer, absl::Span<const Scored> entries) {
  layer_ = layer;
  workspace_.visited.StartLayer();
  float known;
  for (const Scored& entry : entries) workspace_.visited.Visit(entry.item, &known);
}

absl::Status Walk::Expand(absl::Span<const Scored> candidates) {
  workspace_.fresh.clear();
  workspace_.batch.clear();
  for (const Scored& candidate : candidates) index_.PrefetchNeighbors(layer_, candidate.item);
  for (const Scored& candidate : candidates) {
    const absl::Span<const int32_t> neighbors = index_.Neighbors(layer_, candidate.item);
    for (int32_t neighbor : neighbors) workspace_.visited.Prefetch(neighbor);
    for (int32_t neighbor : neighbors) {
      if (!index_.Has(neighbor)) return OutsideIndex(index_, layer_, candidate.item, neighbor);
      Meet(neighbor);
    }
  }
  return ScoreMet();
}

absl::Status Walk::Score(absl::Span<const int32_t> items) {
  workspace_.fresh.clear();
  workspace_.batch.clear();
  for (int32_t item : items) Meet(item);
  return ScoreMet();
}

void Walk::Meet(int32_t item) {
  float known;
  switch (workspace_.visited.Visit(item, &known)) {
    case VisitedSet::State::kVisited:
      break;
    case VisitedSet::State::kScored:
      workspace_.fresh.push_back({known, item});
      break;
    case VisitedSet::State::kNew:
      index_.PrefetchEmbedding(item);
      workspace_.batch.push_back(item);
      break;
  }
}

absl::Status Walk::ScoreMet() {
  std::vector<int32_t>& batch = workspace_.batch;
  const int64_t left = request_.budget - statistics_.items_scored;
  if (static_cast<int64_t>(batch.size()) > left) {
    batch.resize(left);
    statistics_.stopped = Stopped::kBudget;
  } else if (!batch.empty() && request_.deadline != SearchRequest::kNoDeadline &&
             std::chrono::steady_clock::now() >= request_.deadline) {
    batch.clear();
    statistics_.stopped = Stopped::kDeadline;
  }
  if (!batch.empty()) {
    std::vector<float>& scores = workspace_.batch_scores;
    scores.resize(batch.size());
    absl::Status status = score_(batch, absl::MakeSpan(scores));
    if (!status.ok()) return status;
    for (size_t i = 0; i < batch.size(); ++i) {
      statistics_.nan_scores += std::isnan(scores[i]);
      workspace_.visited.SetScore(batch[i], scores[i]);
      workspace_.fresh.push_back({scores[i], batch[i]});
    }
    statistics_.items_scored += static_cast<int64_t>(batch.size());
  }
  if (!workspace_.fresh.empty()) ++statistics_.rounds;
  return absl::OkStatus();
}

}  // namespace nann
