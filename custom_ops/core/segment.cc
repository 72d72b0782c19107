#include "custom_ops/core/segment.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "custom_ops/core/checksum.h"

namespace nann {
namespace {

constexpr char kMagic[] = "NANNDLTA";
constexpr int64_t kVersion = 1;
constexpr int64_t kAlignment = 64;
constexpr int64_t kNoItem = ItemKeys::kNoItem;
constexpr int64_t kMaxKeyBytes = 65535;
// The words of the head. The parts follow it, each at the next multiple of kAlignment bytes, and the
// checksum of all before it ends the file.
enum Word {
  kMagicWord,
  kVersionWord,
  kKeyWord,
  kSequenceWord,
  kUpsertsWord,
  kDeletionsWord,
  kDimWord,
  kTypeWord,
  kAttributeBytesWord,
  kEmbeddingDimWord,
  kKeyBytesWord,
  kHeadWords = 16
};

int64_t ValueBytes(TableType type) {
  return type == TableType::kFloat32 ? 4 : type == TableType::kFloat16 ? 2 : 1;
}

// Reads the parts of a segment one after the other.
class SegmentReader {
 public:
  SegmentReader(const IndexFile& file, const SegmentTarget& target, int64_t sequence)
      : file_(file), target_(target), sequence_(sequence) {}

  absl::StatusOr<Segment> Read() {
    absl::Status status = CheckHead();
    if (!status.ok()) return status;
    const int64_t upserts = words_[kUpsertsWord], deletions = words_[kDeletionsWord];
    Segment segment;
    segment.sequence = sequence_;
    segment.upserted = Part<int64_t>(upserts);
    segment.deleted = Part<int64_t>(deletions);
    const int64_t row_bytes = target_.dim * ValueBytes(target_.type);
    segment.rows.values = Part<char>(upserts * row_bytes).data();
    segment.rows.dim = target_.dim;
    const bool scaled = target_.type == TableType::kInt8;
    const absl::Span<const float> scales = Part<float>(scaled ? upserts : 0);
    if (scaled) segment.rows.scales = scales.data();
    const absl::Span<const char> attributes = Part<char>(words_[kAttributeBytesWord]);
    Part<float>(upserts *
                words_[kEmbeddingDimWord]);  // For the next index; a search needs none of it.
    if (target_.keys != nullptr) segment.key_ends = Part<uint32_t>(upserts);
    const absl::Span<const char> text = Part<char>(words_[kKeyBytesWord]);
    segment.key_text = absl::string_view(text.data(), text.size());
    status = CheckIds("upserted", segment.upserted);
    status.Update(CheckIds("deleted", segment.deleted));
    status.Update(CheckApart(segment.upserted, segment.deleted));
    if (status.ok()) status = CheckKeys(segment);
    const auto wrong = std::find_if(scales.begin(), scales.end(), [](float scale) {
      return !std::isfinite(scale) || scale <= 0;
    });
    if (wrong != scales.end()) status.Update(Broken(absl::StrCat("it has the scale ", *wrong)));
    if (!status.ok()) return status;
    if (target_.attributes == nullptr || upserts == 0) return segment;
    auto read = Attributes::Create({file_.name, {attributes.data(), attributes.size()}}, upserts);
    if (!read.ok()) return read.status();
    status = CheckColumns(*read);
    if (!status.ok()) return status;
    segment.attributes.emplace(*std::move(read));
    return segment;
  }

 private:
  absl::Status Broken(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(file_.name, ": ", what));
  }

  absl::Status CheckWord(absl::string_view name, int64_t got, int64_t wanted) const {
    if (got == wanted) return absl::OkStatus();
    return Broken(absl::StrCat("its ", name, " is ", got, ", expected ", wanted,
                               "; the segment is for another index"));
  }

  absl::Status CheckHead() {
    const absl::string_view bytes = file_.bytes;
    const size_t head = kHeadWords * sizeof(int64_t);
    uint64_t checksum = 0;
    if (bytes.size() < head + sizeof(checksum) || bytes.substr(0, 8) != kMagic) {
      return Broken(absl::StrCat("it does not begin with ", kMagic, ": it is no segment"));
    }
    if (reinterpret_cast<uintptr_t>(bytes.data()) % kAlignment != 0) {
      return Broken("it is not aligned in memory");
    }
    words_ = reinterpret_cast<const int64_t*>(bytes.data());
    if (words_[kVersionWord] != kVersion) {
      return Broken(absl::StrCat("it has format version ", words_[kVersionWord],
                                 ", this version of nann reads ", kVersion));
    }
    const size_t end = bytes.size() - sizeof(checksum);
    std::memcpy(&checksum, bytes.data() + end, sizeof(checksum));
    if (checksum != Checksum(bytes.substr(0, end))) {
      return Broken("its checksum is wrong: the segment is damaged");
    }
    if (static_cast<uint64_t>(words_[kKeyWord]) != target_.key) {
      return Broken(absl::StrCat("it is for the index ", HexDigits(words_[kKeyWord]), ", not for ",
                                 HexDigits(target_.key)));
    }
    absl::Status status = CheckWord("number", words_[kSequenceWord], sequence_);
    status.Update(CheckWord("width", words_[kDimWord], target_.dim));
    status.Update(CheckWord("type", words_[kTypeWord], static_cast<int64_t>(target_.type)));
    if (!status.ok()) return status;
    return CheckSize(end);
  }

  // Checks that the file ends where its parts do. No size overflows, because all are bounded.
  absl::Status CheckSize(int64_t end) {
    const int64_t upserts = words_[kUpsertsWord], deletions = words_[kDeletionsWord];
    const int64_t attributes = words_[kAttributeBytesWord], width = words_[kEmbeddingDimWord];
    const int64_t text = words_[kKeyBytesWord];
    constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
    if (upserts < 0 || upserts > Segment::kMaxItems || deletions < 0 || deletions > kMost ||
        attributes < 0 || attributes > end || width < 0 || width > kMaxDim || text < 0 ||
        text > end || (target_.keys == nullptr && text > 0)) {
      return Broken(absl::StrCat("it has ", upserts, " items (allowed are 0 to ",
                                 Segment::kMaxItems, "), ", deletions, " deletions, ", attributes,
                                 " bytes of attributes, embeddings of width ", width, " and ", text,
                                 " bytes of texts of ids"));
    }
    const int64_t scales = target_.type == TableType::kInt8 ? upserts * 4 : 0;
    int64_t wanted = kHeadWords * sizeof(int64_t);
    for (int64_t part :
         {upserts * 8, deletions * 8, upserts * target_.dim * ValueBytes(target_.type), scales,
          attributes, upserts * width * 4, target_.keys == nullptr ? 0 : upserts * 4, text}) {
      wanted += (part + kAlignment - 1) / kAlignment * kAlignment;
    }
    if (wanted == end) return absl::OkStatus();
    return Broken(absl::StrCat("it has ", end + 8, " bytes, expected ", wanted + 8));
  }

  template <typename T>
  absl::Span<const T> Part(int64_t length) {
    const char* const begin = file_.bytes.data() + at_;
    const int64_t size = length * sizeof(T);
    at_ += (size + kAlignment - 1) / kAlignment * kAlignment;
    return {reinterpret_cast<const T*>(begin), static_cast<size_t>(length)};
  }

  absl::Status CheckIds(absl::string_view what, absl::Span<const int64_t> ids) const {
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] == kNoItem || (i > 0 && ids[i] <= ids[i - 1])) {
        return Broken(absl::StrCat(what, " id ", i, " is ", ids[i],
                                   "; ids must ascend, and none may be ", kNoItem));
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckApart(absl::Span<const int64_t> upserted,
                          absl::Span<const int64_t> deleted) const {
    for (int64_t id : deleted) {
      if (!std::binary_search(upserted.begin(), upserted.end(), id)) continue;
      return Broken(absl::StrCat("id ", id, " is both upserted and deleted"));
    }
    return absl::OkStatus();
  }

  // Checks that each item has a text: either the index's, or one of its own.
  absl::Status CheckKeys(const Segment& segment) const {
    if (target_.keys == nullptr) return absl::OkStatus();
    int64_t end = 0;
    const int64_t bytes = static_cast<int64_t>(segment.key_text.size());
    for (size_t row = 0; row < segment.key_ends.size(); ++row) {
      const int64_t own_end = segment.key_ends[row], id = segment.upserted[row];
      if (own_end < end || own_end > bytes || own_end - end > kMaxKeyBytes) {
        return Broken(absl::StrCat("the text of id ", row, " is from byte ", end, " to ", own_end,
                                   " of ", bytes, "; allowed are up to ", kMaxKeyBytes, " bytes"));
      }
      const bool known = target_.lookup->Find(id) >= 0 || !target_.keys->OtherKey(id).empty();
      if (known != (own_end == end)) {
        return Broken(absl::StrCat("id ", id,
                                   known ? " has a text, but the index has one for it"
                                         : " has no text, and the index has none for it"));
      }
      const absl::string_view key = segment.Key(row);
      int64_t number = kNoItem;
      if (!known) target_.keys->Numbers(absl::MakeConstSpan(&key, 1), &number);
      if (number != kNoItem) {
        return Broken(absl::StrCat("id ", id, " has the text of id ", number, " of the index"));
      }
      end = own_end;
    }
    if (end == bytes) return absl::OkStatus();
    return Broken(absl::StrCat("the texts of ids end at byte ", end, " of ", bytes));
  }

  absl::Status CheckColumns(const Attributes& found) const {
    const auto& wanted = target_.attributes->columns();
    if (std::equal(found.columns().begin(), found.columns().end(), wanted.begin(), wanted.end(),
                   [](const Attribute& a, const Attribute& b) {
                     return a.name == b.name && a.type == b.type;
                   })) {
      return absl::OkStatus();
    }
    return Broken("its attributes do not have the columns of the index, in their order");
  }

  const IndexFile& file_;
  const SegmentTarget& target_;
  const int64_t sequence_;
  const int64_t* words_ = nullptr;
  int64_t at_ = kHeadWords * sizeof(int64_t);
};

}  // namespace

uint64_t IndexKey(absl::Span<const IndexFile> files) {
  std::vector<uint64_t> words;
  for (const IndexFile& file : files) {
    words.push_back(file.bytes.size());
    words.push_back(Checksum(file.bytes));
  }
  return Checksum({reinterpret_cast<const char*>(words.data()), words.size() * sizeof(uint64_t)});
}

absl::StatusOr<Segment> Segment::Read(const IndexFile& file, const SegmentTarget& target,
                                      int64_t sequence) {
  return SegmentReader(file, target, sequence).Read();
}

}  // namespace nann
