#include "custom_ops/core/walk.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "custom_ops/core/excluded.h"
#include "custom_ops/core/scoped_timer.h"

namespace nann {

Walk::Walk(const IndexView& index, const SearchRequest& request, ScoreBatch score,
           Workspace& workspace, SearchStatistics& statistics)
    : index_(index),
      request_(request),
      score_(score),
      workspace_(workspace),
      statistics_(statistics) {
  workspace_.visited.StartRequest(index.num_items());
  if (!request.known.empty()) {
    float score;
    for (const Scored& known : request.known) {
      workspace_.visited.Visit(known.item, &score);
      workspace_.visited.SetScore(known.item, known.score);
    }
    workspace_.visited.StartLayer();
  }
  workspace_.bridge.StartRequest(index, request.passing);
  workspace_.fresh.clear();
  workspace_.results.clear();
}

void Walk::StartStep() {
  workspace_.fresh.clear();
  workspace_.batch.clear();
}

absl::Status Walk::Enter() {
  StartStep();
  for (int32_t item : index_.entry_points()) {
    if (!index_.Has(item)) {
      return absl::DataLossError(absl::StrCat("the entry point ", item, " is outside an index of ",
                                              index_.num_items(), " items"));
    }
  }
  if (filters()) workspace_.bridge.StartLayer(index_.num_layers() - 1);
  absl::Status status = MeetNear(index_.entry_points());
  return status.ok() ? ScoreMet() : status;
}

absl::Status Walk::MeetSeeds() {
  StartStep();
  absl::Status status = MeetNear(request_.seeds);
  return status.ok() ? ScoreMet() : status;
}

absl::Status Walk::MeetNear(absl::Span<const int32_t> items) {
  const auto passes = [&](int32_t item) { return !filters() || request_.passing->Has(item); };
  for (int32_t item : items) {
    if (passes(item)) Meet(item);
  }
  absl::Status status;
  for (auto item = items.begin(); item != items.end() && status.ok(); ++item) {
    if (passes(*item)) continue;
    status = workspace_.bridge.Cross(*item, 1, [this](int32_t behind) { return Meet(behind); });
  }
  return status;
}

void Walk::EnterLayer(int layer, absl::Span<const Scored> entries) {
  layer_ = layer;
  workspace_.visited.StartLayer();
  if (filters()) workspace_.bridge.StartLayer(layer);
  float known;
  for (const Scored& entry : entries) workspace_.visited.Visit(entry.item, &known);
}

absl::Status Walk::Expand(absl::Span<const Scored> candidates) {
  StartStep();
  for (const Scored& candidate : candidates) index_.PrefetchNeighbors(layer_, candidate.item);
  for (const Scored& candidate : candidates) {
    const absl::Span<const int32_t> neighbors = index_.Neighbors(layer_, candidate.item);
    // Where all of them pass, as nearly everywhere if few items are deleted, there is nothing to cross.
    if (filters() && !AllPass(neighbors)) {
      absl::Status status =
          workspace_.bridge.Cross(candidate.item, neighbors.size(), [this](int32_t item) {
            Meet(item);
            return true;
          });
      if (!status.ok()) return status;
      continue;
    }
    for (int32_t neighbor : neighbors) workspace_.visited.Prefetch(neighbor);
    for (int32_t neighbor : neighbors) {
      if (!index_.Has(neighbor)) return OutsideIndex(index_, layer_, candidate.item, neighbor);
      Meet(neighbor);
    }
  }
  return ScoreMet();
}

bool Walk::AllPass(absl::Span<const int32_t> items) const {
  return std::all_of(items.begin(), items.end(), [this](int32_t item) {
    return index_.Has(item) && request_.passing->Has(item);
  });
}

absl::Status Walk::Score(absl::Span<const int32_t> items) {
  StartStep();
  for (int32_t item : items) Meet(item);
  return ScoreMet();
}

absl::Status Walk::FindMore(size_t count) {
  StartStep();
  size_t found = 0;
  absl::Status status = workspace_.bridge.Wander(count, [&](int32_t item) {
    const bool first = Meet(item);
    found += first;
    return first;
  });
  if (!status.ok()) return status;
  if (found < count) MeetAnywhere(count - found);
  return ScoreMet();
}

absl::Status Walk::Fill(size_t width) {
  const Excluded excluded(request_.excluded);
  std::vector<Scored>& results = workspace_.results;
  size_t others = excluded.CountOthers(results);
  if (!filters() || stopped() || others >= width) return absl::OkStatus();
  EnterLayer(0, results);  // Items that found no room in the walk are met again.
  do {
    absl::Status status = FindMore(width - others);
    if (!status.ok() || fresh().empty()) return status;
    const ScopedTimer timer(statistics_.merging);
    Join(fresh(), results);
    others = excluded.CountOthers(results);
  } while (!stopped() && others < width);
  return absl::OkStatus();
}

// Meets passing items from all over the index: one of each of `count` ranges, then any.
void Walk::MeetAnywhere(size_t count) {
  const PassingItems& passing = *request_.passing;
  const int64_t size = index_.num_items();
  const auto meet_one = [&](int64_t begin, int64_t end) {
    for (begin = passing.Next(begin); begin < end; begin = passing.Next(begin + 1)) {
      if (Meet(begin)) return true;
    }
    return false;
  };
  size_t found = 0;
  for (size_t i = 0; i < count; ++i) found += meet_one(size * i / count, size * (i + 1) / count);
  for (int64_t item = passing.Next(0); item < size && found < count;
       item = passing.Next(item + 1)) {
    found += Meet(item);
  }
}

bool Walk::Meet(int32_t item) {
  float known;
  switch (workspace_.visited.Visit(item, &known)) {
    case VisitedSet::State::kVisited:
      return false;
    case VisitedSet::State::kScored:
      workspace_.fresh.push_back({known, item});
      break;
    case VisitedSet::State::kNew:
      index_.PrefetchEmbedding(item);
      workspace_.batch.push_back(item);
      break;
  }
  return true;
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
