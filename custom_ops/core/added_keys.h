#ifndef CUSTOM_OPS_CORE_ADDED_KEYS_H_
#define CUSTOM_OPS_CORE_ADDED_KEYS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "custom_ops/core/segment.h"

namespace nann {

// The texts that stand for ids of items that updates brought and the index has no text for. Immutable. A
// text stays when its item is deleted, because a search that began before may still answer that item.
class AddedKeys {
 public:
  // Returns those of `before`, which may be null, and of updates; `before` if no update has a text. Returns
  // DataLoss if a text gets a second number, or a number a second text.
  static absl::StatusOr<std::shared_ptr<const AddedKeys>> After(
      std::shared_ptr<const AddedKeys> before, absl::Span<const Segment> segments);

  // Returns the text of a number, or an empty one if there is none.
  absl::string_view Key(int64_t number) const;
  // Returns the number of a text, or ItemKeys::kNoItem.
  int64_t Number(absl::string_view key) const;

 private:
  absl::Status Add(absl::string_view key, int64_t number);

  std::map<std::string, int64_t, std::less<>> numbers_;
  std::map<int64_t, std::string> keys_;
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_ADDED_KEYS_H_
