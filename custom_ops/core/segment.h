#ifndef CUSTOM_OPS_CORE_SEGMENT_H_
#define CUSTOM_OPS_CORE_SEGMENT_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "custom_ops/core/attributes.h"
#include "custom_ops/core/index_view.h"
#include "custom_ops/core/item_keys.h"
#include "custom_ops/core/item_lookup.h"

namespace nann {

// Returns the key of an index, to which its segments belong: a checksum of all its files, in the order
// that Nann>IndexOpen documents. Reads all of them.
uint64_t IndexKey(absl::Span<const IndexFile> files);

// The index that segments are for.
struct SegmentTarget {
  uint64_t key = 0;
  int64_t dim = 0;
  TableType type = TableType::kFloat32;
  const Attributes* attributes = nullptr;  // Null for an index without attributes.
  const ItemKeys* keys = nullptr;          // Null for an index whose ids are numbers alone;
  const ItemLookup* lookup = nullptr;      // with keys, this finds its items.
};

// One numbered update of an index: items that are new or replaced, with their rows and attributes, and
// ids of items that are deleted. A view of a file's bytes (docs/format.md), which must outlive it.
struct Segment {
  // A segment may hold so many new or replaced items.
  static constexpr int64_t kMaxItems = int64_t{1} << 20;

  // Checks the whole file. Returns InvalidArgument, with its name and what is wrong, if it is damaged, of
  // another version, index or number, or an entry is out of bounds.
  static absl::StatusOr<Segment> Read(const IndexFile& file, const SegmentTarget& target,
                                      int64_t sequence);

  int64_t sequence = 0;
  absl::Span<const int64_t> upserted, deleted;  // Ascending; no id is in both.
  RowTable rows{};                              // A row for each of `upserted`.
  std::optional<Attributes> attributes;         // Of `upserted`, with the columns of the index.
  // Where the text of each of `upserted` ends in `key_text`, if the index has keys. It is empty for an id
  // that the index has a text for.
  absl::Span<const uint32_t> key_ends;
  absl::string_view key_text;

  absl::string_view Key(size_t row) const {
    const uint32_t begin = row == 0 ? 0 : key_ends[row - 1];
    return key_text.substr(begin, key_ends[row] - begin);
  }
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_SEGMENT_H_
