#include "custom_ops/core/added_keys.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "custom_ops/core/item_keys.h"

namespace nann {

absl::StatusOr<std::shared_ptr<const AddedKeys>> AddedKeys::After(
    std::shared_ptr<const AddedKeys> before, absl::Span<const Segment> segments) {
  const bool none = std::all_of(segments.begin(), segments.end(),
                                [](const Segment& one) { return one.key_text.empty(); });
  if (none) return before;
  auto made =
      before == nullptr ? std::make_shared<AddedKeys>() : std::make_shared<AddedKeys>(*before);
  for (const Segment& segment : segments) {
    for (size_t row = 0; row < segment.key_ends.size(); ++row) {
      const absl::string_view key = segment.Key(row);
      if (key.empty()) continue;
      const absl::Status status = made->Add(key, segment.upserted[row]);
      if (!status.ok()) {
        return absl::DataLossError(
            absl::StrCat("update ", segment.sequence, ": ", status.message()));
      }
    }
  }
  return std::shared_ptr<const AddedKeys>(std::move(made));
}

absl::Status AddedKeys::Add(absl::string_view key, int64_t number) {
  const auto text = keys_.emplace(number, key).first;
  const auto known = numbers_.emplace(key, number).first;
  if (text->second == key && known->second == number) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("'", key.substr(0, 100), "' is the text of item ", number,
                                          ", but an earlier update says so of another"));
}

absl::string_view AddedKeys::Key(int64_t number) const {
  const auto found = keys_.find(number);
  return found == keys_.end() ? absl::string_view() : absl::string_view(found->second);
}

int64_t AddedKeys::Number(absl::string_view key) const {
  const auto found = numbers_.find(key);
  return found == numbers_.end() ? ItemKeys::kNoItem : found->second;
}

}  // namespace nann
