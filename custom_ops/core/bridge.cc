#include "custom_ops/core/bridge.h"

#include <algorithm>
#include <limits>

#include "absl/types/span.h"

namespace nann {

void Bridge::StartRequest(const IndexView& index, const PassingItems* passing) {
  index_ = &index;
  passing_ = passing;
  if (passing == nullptr) return;
  // Crossings are numbered on from request to request. No request comes near half of all numbers.
  const bool used_up = crossing_ > std::numeric_limits<uint32_t>::max() / 2;
  if (used_up || marks_.size() != static_cast<size_t>(index.num_items())) {
    marks_.assign(index.num_items(), 0);
    crossing_ = 0;
  }
  waiting_.clear();
  StartLayer(0);
}

void Bridge::StartLayer(int layer) {
  layer_ = layer;
  layer_begin_ = ++crossing_;
}

absl::Status Bridge::Cross(int32_t item, size_t wanted, Meet meet) {
  ++crossing_;
  near_.clear();
  near_.push_back(item);
  absl::Status status = CrossAll(near_, wanted, kMaxLists, meet);
  const size_t kept = std::min(near_.size(), kMaxWaiting - std::min(kMaxWaiting, waiting_.size()));
  waiting_.insert(waiting_.end(), near_.begin(), near_.begin() + kept);
  return status;
}

absl::Status Bridge::Wander(size_t wanted, Meet meet) {
  ++crossing_;
  return CrossAll(waiting_, wanted, kMaxWandered, meet);
}

absl::Status Bridge::CrossAll(std::vector<int32_t>& queue, size_t wanted, size_t max_lists,
                              Meet meet) {
  size_t at = 0;
  for (size_t lists = 0; at < queue.size() && wanted > 0 && lists < max_lists; ++at) {
    // The row of a list comes first, then the list itself.
    if (at + 3 < queue.size()) index_->PrefetchRow(layer_, queue[at + 3]);
    if (at + 1 < queue.size()) index_->PrefetchNeighbors(layer_, queue[at + 1]);
    const int32_t item = queue[at];
    const bool passes = Passes(item);  // Only the item where the crossing begins may pass.
    if (!passes && Crossed(item)) continue;
    ++lists;
    absl::Status status = Look(item, queue, wanted, meet);
    if (!status.ok()) return status;
    if (passes) continue;
    if (wanted == 0) break;  // Something may be left behind it.
    marks_[item] = crossing_;
  }
  queue.erase(queue.begin(), queue.begin() + at);
  return absl::OkStatus();
}

absl::Status Bridge::Look(int32_t item, std::vector<int32_t>& queue, size_t& wanted, Meet meet) {
  for (int32_t neighbor : index_->Neighbors(layer_, item)) {
    if (wanted == 0) break;
    if (!index_->Has(neighbor)) return OutsideIndex(*index_, layer_, item, neighbor);
    if (!Passes(neighbor)) {
      if (!Crossed(neighbor)) queue.push_back(neighbor);
    } else if (marks_[neighbor] != crossing_) {
      marks_[neighbor] = crossing_;
      wanted -= meet(neighbor);
    }
  }
  return absl::OkStatus();
}

}  // namespace nann
