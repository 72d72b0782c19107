#ifndef CUSTOM_OPS_CORE_CATALOGUE_H_
#define CUSTOM_OPS_CORE_CATALOGUE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "custom_ops/core/added_keys.h"
#include "custom_ops/core/attribute_rows.h"
#include "custom_ops/core/attributes.h"
#include "custom_ops/core/cap.h"
#include "custom_ops/core/filter_cache.h"
#include "custom_ops/core/index_view.h"
#include "custom_ops/core/item_lookup.h"
#include "custom_ops/core/item_rows.h"
#include "custom_ops/core/passing_items.h"
#include "custom_ops/core/segment.h"

namespace nann {

// An open index that catalogues are based on. Everything must outlive them.
struct CatalogueBase {
  const IndexView* view = nullptr;
  const ItemLookup* lookup = nullptr;
  const Attributes* attributes = nullptr;  // Null for an index without attributes.
  FilterCache* filters = nullptr;          // The filters' results for the items of the index.
};

// The items of an index after a number of updates. Immutable, and so thread-safe: a search keeps the
// catalogue that it began with.
//
// Items 0..n-1 are those of the index, of which some are deleted. Items from n on are fresh: new ones, and
// those whose row has changed, by ascending id. They are in no graph. An item that was given the row that
// it has in the index stays where it is, with the attributes that it was given.
class Catalogue {
 public:
  // The fresh items that a catalogue may have; a search scores all of them.
  static constexpr int64_t kMaxFresh = Segment::kMaxItems;

  // The items that a request may answer.
  struct Allowed {
    std::shared_ptr<const PassingItems> indexed;  // Among those of the index; null if all.
    std::vector<int32_t> fresh;                   // Ascending.
    // Whether there is no filter, so that an item fails only because it is deleted.
    bool only_deleted_fail = true;
  };

  // The index as it was built.
  static std::shared_ptr<const Catalogue> Of(const CatalogueBase& base);
  // Returns this catalogue after updates, in their order; copies what it needs of them. Returns
  // ResourceExhausted if there are more fresh items than kMaxFresh, and DataLoss if the updates contradict
  // each other (`AddedKeys`). O(items / 64 + fresh items + updates).
  absl::StatusOr<std::shared_ptr<const Catalogue>> After(absl::Span<const Segment> segments) const;

  const IndexView& index() const { return *base_.view; }
  // The number of the last update; 0 for the index as it was built.
  int64_t sequence() const { return sequence_; }
  int64_t num_fresh() const { return static_cast<int64_t>(fresh_ids_.size()); }
  // The number of items that are not deleted.
  int64_t num_items() const {
    return (live_ == nullptr ? index().num_items() : live_->count()) + num_fresh();
  }
  const ItemRows& rows() const { return rows_; }
  // The texts that updates brought for ids; null if they brought none.
  const AddedKeys* added_keys() const { return added_keys_.get(); }
  int64_t IdOf(int32_t item) const {
    const int64_t n = index().num_items();
    return item < n ? index().item_ids()[item] : fresh_ids_[item - n];
  }
  // Returns the item of the index with an id, whether or not it is deleted; -1 if there is none.
  int32_t FindIndexed(int64_t id) const { return base_.lookup->Find(id); }
  // Returns the fresh item with an id; -1 if there is none.
  int32_t FindFresh(int64_t id) const;
  // `item` must be of the index.
  bool IsLive(int32_t item) const { return live_ == nullptr || live_->Has(item); }

  // Returns the items that pass a filter; all that are not deleted, if there is nothing in its text.
  // Returns InvalidArgument if it is not a filter of the index's attributes.
  absl::StatusOr<std::shared_ptr<const Allowed>> Passing(absl::string_view filter) const;
  // Returns the cap of `most` items with the same value of `column` among `answers`. Returns InvalidArgument
  // if the index has no such column, or it cannot be capped.
  absl::StatusOr<Cap> CapBy(absl::string_view column, int32_t most, int32_t answers) const;

 private:
  // Where the row and the attributes of an item are that an update brought.
  struct Source {
    int64_t key;  // The id of a fresh item; the place in the index of one with other attributes.
    const RowTable* rows;
    const Attributes* attributes;
    int64_t row;
  };
  struct Change;

  explicit Catalogue(const CatalogueBase& base);
  bool HasRowOfIndex(int32_t item, const Source& source) const;
  void Set(const std::vector<Source>& fresh, const std::vector<Source>& touched);
  absl::StatusOr<TextCache<Allowed>::Made> Evaluate(absl::string_view filter) const;

  CatalogueBase base_;
  int64_t sequence_ = 0;
  std::shared_ptr<const PassingItems> live_;  // Null if no item of the index is deleted.
  std::vector<int64_t> fresh_ids_;            // Ascending.
  std::vector<int32_t> touched_;  // Items of the index that have other attributes, ascending.
  std::vector<char> row_bytes_;
  std::vector<float> scales_;
  ItemRows rows_;
  std::shared_ptr<const AddedKeys> added_keys_;
  // The attributes of the fresh items, and behind them those of the items in `touched_`.
  std::unique_ptr<const AttributeRows> attributes_;
  std::shared_ptr<const Allowed> all_;
  mutable TextCache<Allowed> filters_;
  mutable TextCache<ChangedValues> values_;  // By the column's name.
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_CATALOGUE_H_
