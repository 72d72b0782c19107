#include "custom_ops/core/item_keys.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"

namespace nann {
namespace {

// The file begins with these 8 bytes, then the numbers of items, of keys and of bytes of text, the seed
// of the hash and the number of its leading bits that choose a bucket. The parts follow in the order of
// `Parts`, each at a multiple of kAlignment.
constexpr char kMagic[] = "NANNKEYS";
constexpr int64_t kHeadWords = 6;
constexpr int64_t kAlignment = 64;
constexpr int64_t kMaxKeys = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxText = int64_t{1} << 47;
constexpr int64_t kMaxBits = 31;
// A key is looked for among so many others at most, whoever chose the keys.
constexpr int64_t kMaxBucket = 64;

absl::Status Broken(const IndexFile& file, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat(file.name, ": ", what, "; the file is damaged or belongs to another index"));
}

int64_t Aligned(int64_t place) { return (place + kAlignment - 1) / kAlignment * kAlignment; }

// Takes the parts of a file one after the other; `end` may pass the file's.
class Parts {
 public:
  explicit Parts(absl::string_view bytes) : bytes_(bytes), end_(kHeadWords * sizeof(int64_t)) {}

  template <typename T>
  absl::Span<const T> Next(int64_t length) {
    const int64_t begin = Aligned(end_);
    end_ = begin + length * static_cast<int64_t>(sizeof(T));
    if (end_ > static_cast<int64_t>(bytes_.size())) return {};
    return {reinterpret_cast<const T*>(bytes_.data() + begin), static_cast<size_t>(length)};
  }
  int64_t end() const { return end_; }

 private:
  const absl::string_view bytes_;
  int64_t end_;
};

}  // namespace

// tfserving_ext/index/item_keys.py has the same function.
uint64_t ItemKeys::Hash(absl::string_view key) const {
  uint64_t hash = seed_ ^ (key.size() * uint64_t{0x9E3779B97F4A7C15});
  for (size_t at = 0; at < key.size(); at += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, key.data() + at, std::min(sizeof(word), key.size() - at));
    hash = (hash ^ word) * uint64_t{0xFF51AFD7ED558CCD};
    hash ^= hash >> 32;
  }
  hash *= uint64_t{0xC4CEB9FE1A85EC53};
  hash ^= hash >> 29;
  hash *= uint64_t{0x94D049BB133111EB};
  return hash ^ (hash >> 32);
}

absl::StatusOr<ItemKeys> ItemKeys::Create(const IndexFile& file,
                                          absl::Span<const int64_t> item_ids) {
  const absl::string_view bytes = file.bytes;
  if (bytes.size() < kHeadWords * sizeof(int64_t) || bytes.substr(0, 8) != kMagic) {
    return Broken(file, absl::StrCat("it does not begin with ", kMagic));
  }
  if (reinterpret_cast<uintptr_t>(bytes.data()) % sizeof(int64_t) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(file.name, " is not aligned in memory"));
  }
  const int64_t* const head = reinterpret_cast<const int64_t*>(bytes.data());
  const int64_t items = head[1], keys = head[2], text = head[3], bits = head[5];
  if (items != static_cast<int64_t>(item_ids.size())) {
    return Broken(file, absl::StrCat("it has ", items, " items, the index has ", item_ids.size()));
  }
  if (keys < items || keys > kMaxKeys || text < 0 || text > kMaxText || bits < 0 ||
      bits > kMaxBits) {
    return Broken(file,
                  absl::StrCat("it has ", keys, " keys, ", text, " bytes of text and ", bits,
                               " bits for buckets, allowed are ", items, " to ", kMaxKeys,
                               " keys, up to ", kMaxText, " bytes and up to ", kMaxBits, " bits"));
  }
  ItemKeys made;
  made.item_ids_ = item_ids;
  made.seed_ = static_cast<uint64_t>(head[4]);
  made.bits_ = bits;
  Parts parts(bytes);
  made.numbers_ = parts.Next<int64_t>(keys - items);
  made.blocks_ = parts.Next<int64_t>((keys + kBlock - 1) / kBlock);
  made.ends_ = parts.Next<uint32_t>(keys);
  made.starts_ = parts.Next<uint32_t>((int64_t{1} << bits) + 1);
  made.order_ = parts.Next<uint32_t>(keys);
  made.tags_ = parts.Next<uint8_t>(keys);
  const absl::Span<const char> texts = parts.Next<char>(text);
  if (Aligned(parts.end()) != static_cast<int64_t>(bytes.size())) {
    return Broken(file, absl::StrCat("it has ", bytes.size(), " bytes, its beginning says ",
                                     Aligned(parts.end())));
  }
  made.text_ = absl::string_view(texts.data(), texts.size());
  made.others_ = std::make_shared<const ItemLookup>(made.numbers_);
  absl::Status status = made.CheckTexts(file);
  if (status.ok()) status = made.CheckBuckets(file);
  if (!status.ok()) return status;
  return made;
}

absl::Status ItemKeys::CheckTexts(const IndexFile& file) const {
  int64_t end = 0;  // Of the key before.
  for (int64_t place = 0; place < size(); ++place) {
    const int64_t base = blocks_[place / kBlock];
    if (place % kBlock == 0 && base != end) {
      return Broken(file, absl::StrCat("the block of key ", place, " begins at byte ", base,
                                       ", the key before it ends at ", end));
    }
    const int64_t own_end = base + ends_[place];
    if (own_end <= end || own_end > static_cast<int64_t>(text_.size())) {
      return Broken(file, absl::StrCat("key ", place, " is from byte ", end, " to ", own_end,
                                       " of ", text_.size(), "; a key has at least one byte"));
    }
    end = own_end;
  }
  if (end == static_cast<int64_t>(text_.size())) return absl::OkStatus();
  return Broken(file, absl::StrCat("the keys end at byte ", end, " of ", text_.size()));
}

absl::Status ItemKeys::CheckBuckets(const IndexFile& file) const {
  // Numbers in messages are signed: the server that the library is preloaded into cannot write others.
  const int64_t first = starts_.front(), last = starts_.back();
  if (first != 0 || last != size()) {
    return Broken(file, absl::StrCat("the buckets are from ", first, " to ", last, ", there are ",
                                     size(), " keys"));
  }
  for (size_t bucket = 0; bucket + 1 < starts_.size(); ++bucket) {
    const int64_t begin = starts_[bucket], end = starts_[bucket + 1];
    if (end < begin || end - begin > kMaxBucket || end > size()) {
      return Broken(file, absl::StrCat("bucket ", bucket, " is from ", begin, " to ", end,
                                       ", allowed are up to ", kMaxBucket, " keys of ", size()));
    }
    for (int64_t at = begin; at < end; ++at) {
      const int64_t place = order_[at];
      if (place >= size()) {
        return Broken(file, absl::StrCat("bucket ", bucket, " holds key ", place, " of ", size()));
      }
      const absl::string_view key = Key(place);
      const uint64_t hash = Hash(key);
      if (Bucket(hash) != static_cast<int64_t>(bucket) || tags_[at] != static_cast<uint8_t>(hash)) {
        return Broken(file, absl::StrCat("key ", place, " is in bucket ", bucket, " with tag ",
                                         tags_[at], ", its hash says bucket ", Bucket(hash),
                                         " and tag ", static_cast<uint8_t>(hash)));
      }
      // Equal keys have equal hashes, so they meet here; and so do two entries for one key.
      for (int64_t other = begin; other < at; ++other) {
        if (tags_[other] != tags_[at] || Key(order_[other]) != key) continue;
        return Broken(file,
                      absl::StrCat("keys ", int64_t{order_[other]}, " and ", place, " are equal"));
      }
    }
  }
  return absl::OkStatus();
}

void ItemKeys::NumbersOfSome(absl::Span<const absl::string_view> keys, int64_t* numbers) const {
  uint64_t hashes[kAtOnce];
  uint32_t
      places[kAtOnce];   // Of the first entry of the bucket from `at` on that has the hash's tag,
  uint32_t at[kAtOnce];  // and where it is in `order_`.
  for (size_t i = 0; i < keys.size(); ++i) {
    hashes[i] = Hash(keys[i]);
    __builtin_prefetch(&starts_[Bucket(hashes[i])]);
  }
  for (size_t i = 0; i < keys.size(); ++i) {
    at[i] = starts_[Bucket(hashes[i])];
    __builtin_prefetch(tags_.data() + at[i]);
    __builtin_prefetch(order_.data() + at[i]);
  }
  for (size_t i = 0; i < keys.size(); ++i) {
    at[i] = NextTagged(hashes[i], at[i]);
    if (at[i] == kNone) continue;
    places[i] = order_[at[i]];
    __builtin_prefetch(&ends_[places[i]]);
    if (places[i] < item_ids_.size()) __builtin_prefetch(&item_ids_[places[i]]);
  }
  for (size_t i = 0; i < keys.size(); ++i) {
    if (at[i] != kNone) __builtin_prefetch(Key(places[i]).data());
  }
  for (size_t i = 0; i < keys.size(); ++i) {
    // That another key of the bucket has the same tag is rare, and waits for itself.
    while (at[i] != kNone && Key(places[i]) != keys[i]) {
      at[i] = NextTagged(hashes[i], at[i] + 1);
      if (at[i] != kNone) places[i] = order_[at[i]];
    }
    numbers[i] = at[i] == kNone ? kNoItem : Number(places[i]);
  }
}

uint32_t ItemKeys::NextTagged(uint64_t hash, uint32_t from) const {
  const uint32_t end = starts_[Bucket(hash) + 1];
  for (uint32_t at = from; at < end; ++at) {
    if (tags_[at] == static_cast<uint8_t>(hash)) return at;
  }
  return kNone;
}

int64_t ItemKeys::Number(uint32_t place) const {
  return place < item_ids_.size() ? item_ids_[place] : numbers_[place - item_ids_.size()];
}

}  // namespace nann
