#include "custom_ops/core/catalogue.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace nann {
namespace {

constexpr int kBits = PassingItems::kBits;
constexpr size_t kMaxShown = 100;  // Bytes of a wrong name that an error repeats.

std::vector<uint64_t> AllBits(int64_t count) {
  std::vector<uint64_t> words(PassingItems::NumWords(count), ~uint64_t{0});
  if (count % kBits != 0) words.back() = (uint64_t{1} << count % kBits) - 1;
  return words;
}

void SetBit(std::vector<uint64_t>& words, int32_t item, bool value) {
  const uint64_t bit = uint64_t{1} << item % kBits;
  uint64_t& word = words[item / kBits];
  word = value ? word | bit : word & ~bit;
}

int64_t RowBytes(TableType type, int64_t dim) {
  return dim * (type == TableType::kFloat32 ? 4 : type == TableType::kFloat16 ? 2 : 1);
}

const char* RowOf(const RowTable& table, int64_t row, int64_t bytes) {
  return static_cast<const char*>(table.values) + row * bytes;
}

}  // namespace

// How the last segment that names an item changes it.
struct Catalogue::Change {
  int64_t id, sequence;  // A segment names an item at most once.
  bool deleted;
  Source source;
};

Catalogue::Catalogue(const CatalogueBase& base) : base_(base), rows_(*base.view) {}

std::shared_ptr<const Catalogue> Catalogue::Of(const CatalogueBase& base) {
  std::shared_ptr<Catalogue> made(new Catalogue(base));
  made->all_ = std::make_shared<const Allowed>();
  return made;
}

int32_t Catalogue::FindFresh(int64_t id) const {
  const auto found = std::lower_bound(fresh_ids_.begin(), fresh_ids_.end(), id);
  if (found == fresh_ids_.end() || *found != id) return -1;
  return static_cast<int32_t>(index().num_items() + (found - fresh_ids_.begin()));
}

bool Catalogue::HasRowOfIndex(int32_t item, const Source& source) const {
  const RowTable& table = rows_.indexed;
  const int64_t bytes = RowBytes(rows_.type, table.dim);
  if (table.scales != nullptr && table.scales[item] != source.rows->scales[source.row])
    return false;
  return std::memcmp(RowOf(table, item, bytes), RowOf(*source.rows, source.row, bytes), bytes) == 0;
}

absl::StatusOr<std::shared_ptr<const Catalogue>> Catalogue::After(
    absl::Span<const Segment> segments) const {
  std::vector<Change> changes;
  for (const Segment& segment : segments) {
    const Attributes* const attributes =
        segment.attributes.has_value() ? &*segment.attributes : nullptr;
    for (int64_t id : segment.deleted) changes.push_back({id, segment.sequence, true, {}});
    for (size_t row = 0; row < segment.upserted.size(); ++row) {
      const int64_t id = segment.upserted[row];
      changes.push_back({id,
                         segment.sequence,
                         false,
                         {id, &segment.rows, attributes, static_cast<int64_t>(row)}});
    }
  }
  std::sort(changes.begin(), changes.end(), [](const Change& a, const Change& b) {
    return a.id < b.id || (a.id == b.id && a.sequence < b.sequence);
  });
  const auto changed = [&](int64_t id) {
    const auto found = std::lower_bound(changes.begin(), changes.end(), id,
                                        [](const Change& a, int64_t b) { return a.id < b; });
    return found != changes.end() && found->id == id;
  };
  // The items that were fresh before, or had other attributes than the index, and that no segment changed.
  std::vector<Source> fresh, touched;
  const Attributes* const known = attributes_ == nullptr ? nullptr : &attributes_->view();
  for (int64_t i = 0; i < num_fresh(); ++i) {
    if (!changed(fresh_ids_[i])) fresh.push_back({fresh_ids_[i], &rows_.fresh, known, i});
  }
  for (size_t i = 0; i < touched_.size(); ++i) {
    const int64_t place = num_fresh() + static_cast<int64_t>(i);
    if (!changed(index().item_ids()[touched_[i]])) {
      touched.push_back({touched_[i], nullptr, known, place});
    }
  }
  std::vector<uint64_t> live = live_ == nullptr ? AllBits(index().num_items()) : live_->words();
  for (size_t i = 0; i < changes.size(); ++i) {
    const Change& change = changes[i];
    if (i + 1 < changes.size() && changes[i + 1].id == change.id) continue;  // Not the last one.
    const int32_t item = FindIndexed(change.id);
    const bool stays = !change.deleted && item >= 0 && HasRowOfIndex(item, change.source);
    if (item >= 0) SetBit(live, item, stays);
    if (stays) {
      touched.push_back({item, nullptr, change.source.attributes, change.source.row});
    } else if (!change.deleted) {
      fresh.push_back(change.source);
    }
  }
  if (static_cast<int64_t>(fresh.size()) > kMaxFresh ||
      index().num_items() + static_cast<int64_t>(fresh.size()) > INT32_MAX) {
    return absl::ResourceExhaustedError(
        absl::StrCat("there are ", fresh.size(), " new or replaced items, allowed are ", kMaxFresh,
                     "; make a new version of the model with `nann compact`"));
  }
  auto added = AddedKeys::After(added_keys_, segments);
  if (!added.ok()) return added.status();
  std::shared_ptr<Catalogue> made(new Catalogue(base_));
  made->added_keys_ = *std::move(added);
  made->sequence_ = segments.empty() ? sequence_ : segments.back().sequence;
  auto left = std::make_shared<const PassingItems>(std::move(live));
  if (left->count() < index().num_items()) made->live_ = std::move(left);
  const auto by_key = [](const Source& a, const Source& b) { return a.key < b.key; };
  std::sort(fresh.begin(), fresh.end(), by_key);
  std::sort(touched.begin(), touched.end(), by_key);
  made->Set(fresh, touched);
  return made;
}

// Copies what the sources point to.
void Catalogue::Set(const std::vector<Source>& fresh, const std::vector<Source>& touched) {
  const int64_t bytes = RowBytes(rows_.type, rows_.dim());
  row_bytes_.reserve(fresh.size() * bytes);
  for (const Source& source : fresh) {
    const char* const row = RowOf(*source.rows, source.row, bytes);
    fresh_ids_.push_back(source.key);
    row_bytes_.insert(row_bytes_.end(), row, row + bytes);
    if (rows_.indexed.scales != nullptr) scales_.push_back(source.rows->scales[source.row]);
  }
  rows_.fresh = {row_bytes_.data(), scales_.empty() ? nullptr : scales_.data(), rows_.dim()};
  std::vector<AttributeRow> attributes;
  for (const std::vector<Source>* sources : {&fresh, &touched}) {
    for (const Source& source : *sources) attributes.push_back({source.attributes, source.row});
  }
  for (const Source& source : touched) touched_.push_back(static_cast<int32_t>(source.key));
  if (base_.attributes != nullptr) {
    attributes_ = std::make_unique<const AttributeRows>(*base_.attributes, attributes);
  }
  auto all = std::make_shared<Allowed>();
  all->indexed = live_;
  const int64_t n = index().num_items();
  for (int64_t i = 0; i < num_fresh(); ++i) all->fresh.push_back(static_cast<int32_t>(n + i));
  all_ = std::move(all);
}

absl::StatusOr<std::shared_ptr<const Catalogue::Allowed>> Catalogue::Passing(
    absl::string_view filter) const {
  if (absl::StripAsciiWhitespace(filter).empty()) return all_;
  if (base_.attributes == nullptr) {
    return absl::InvalidArgumentError(
        "there is a filter, but the index has no attributes; build it with `nann index "
        "--attributes`");
  }
  return filters_.Get(filter, [&] { return Evaluate(filter); });
}

absl::StatusOr<TextCache<Catalogue::Allowed>::Made> Catalogue::Evaluate(
    absl::string_view filter) const {
  auto indexed = base_.filters->Passing(filter, *base_.attributes);
  if (!indexed.ok()) return indexed.status();
  auto allowed = std::make_shared<Allowed>();
  allowed->indexed = *std::move(indexed);
  allowed->only_deleted_fail = false;
  // The cache of the index holds its bits already.
  if (attributes_ == nullptr) return TextCache<Allowed>::Made{std::move(allowed), 0};
  const Attributes& attributes = attributes_->view();
  auto parsed = Filter::Parse(filter, attributes);
  if (!parsed.ok()) return parsed.status();
  const PassingItems changed = parsed->Evaluate(attributes.num_items());
  std::vector<uint64_t> words = allowed->indexed->words();
  for (size_t i = 0; live_ != nullptr && i < words.size(); ++i) words[i] &= live_->words()[i];
  for (size_t i = 0; i < touched_.size(); ++i) {
    SetBit(words, touched_[i], changed.Has(static_cast<int32_t>(num_fresh() + i)));
  }
  const int64_t n = index().num_items();
  for (int64_t i = changed.Next(0); i < num_fresh(); i = changed.Next(i + 1)) {
    allowed->fresh.push_back(static_cast<int32_t>(n + i));
  }
  const size_t bytes = words.size() * sizeof(uint64_t) + allowed->fresh.size() * sizeof(int32_t);
  allowed->indexed = std::make_shared<const PassingItems>(std::move(words));
  return TextCache<Allowed>::Made{std::move(allowed), bytes};
}

absl::StatusOr<Cap> Catalogue::CapBy(absl::string_view column, int32_t most,
                                     int32_t answers) const {
  if (base_.attributes == nullptr) {
    return absl::InvalidArgumentError(
        "there is a cap, but the index has no attributes; build it with `nann index --attributes`");
  }
  const Attribute* const found = base_.attributes->Find(column);
  if (found == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("cap_by is '", column.substr(0, kMaxShown),
                                                   "', the index has the columns ",
                                                   base_.attributes->Names()));
  }
  auto cap = Cap::Create(*found, most, answers);
  if (!cap.ok() || attributes_ == nullptr) return cap;
  auto changed = values_.Get(column, [&]() -> absl::StatusOr<TextCache<ChangedValues>::Made> {
    const Attribute& now = *attributes_->view().Find(column);
    auto values = std::make_shared<const ChangedValues>(
        ChangedValues::Of(*found, now, index().num_items(), num_fresh(), touched_));
    const size_t bytes = 32 * attributes_->view().num_items();
    return TextCache<ChangedValues>::Made{std::move(values), bytes};
  });
  if (!changed.ok()) return changed.status();
  cap->changed = *std::move(changed);
  return cap;
}

}  // namespace nann
