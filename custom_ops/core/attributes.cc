#include "custom_ops/core/attributes.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "custom_ops/core/passing_items.h"

namespace nann {
namespace {

// The file begins with these 8 bytes, the number of items and the number of columns. An entry of the
// directory for each column follows: its type, and the place and size in bytes of six parts.
constexpr char kMagic[] = "NANNATTR";
constexpr int64_t kHeadWords = 3, kEntryWords = 13;
constexpr int64_t kMaxColumns = 1024;
constexpr int64_t kAlignment = 8;
// An error shows so many columns, and so many bytes of each one's name.
constexpr size_t kMaxNamed = 50, kMaxNameShown = 256;
enum Part { kName, kValues, kPresent, kRowSplits, kTextEnds, kText };

constexpr absl::string_view kTypeNames[] = {"a bool",           "an int",      "a float",
                                            "a string",         "a timestamp", "a list of ints",
                                            "a list of strings"};

absl::Status Broken(const IndexFile& file, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat(file.name, ": ", what, "; the file is damaged or belongs to another index"));
}

// Reads one column from its entry in the directory, and checks it.
class ColumnReader {
 public:
  ColumnReader(const IndexFile& file, int64_t num_items, const int64_t* entry)
      : file_(file), num_items_(num_items), entry_(entry) {}

  absl::StatusOr<Attribute> Read() {
    column_.name = Bytes(kName);
    if (status_.ok() && column_.name.empty()) Fail("a column has no name");
    if (entry_[0] < 0 || entry_[0] >= static_cast<int64_t>(std::size(kTypeNames))) {
      Fail(absl::StrCat("the type is ", entry_[0], ", allowed are 0 to ",
                        std::size(kTypeNames) - 1));
    }
    if (!status_.ok()) return status_;
    column_.type = static_cast<AttributeType>(entry_[0]);
    const int64_t words = PassingItems::NumWords(num_items_);
    column_.present = Array<uint64_t>(kPresent);
    if (!column_.present.empty()) CheckLength("present", column_.present.size(), words);
    int64_t num_values = num_items_;
    if (column_.IsList()) num_values = ReadRowSplits();
    switch (column_.type) {
      case AttributeType::kBool:
        column_.bits = Values<uint64_t>(words);
        break;
      case AttributeType::kFloat:
        column_.floats = Values<double>(num_values);
        break;
      case AttributeType::kInt:
      case AttributeType::kTimestamp:
      case AttributeType::kInts:
        column_.integers = Values<int64_t>(num_values);
        break;
      case AttributeType::kString:
      case AttributeType::kStrings:
        column_.codes = Values<int32_t>(num_values);
        ReadDictionary();
        break;
    }
    if (!status_.ok()) return status_;
    return column_;
  }

 private:
  void Fail(absl::string_view what) {
    const std::string column =
        column_.name.empty() ? "" : absl::StrCat("column ", column_.name, ": ");
    status_.Update(Broken(file_, absl::StrCat(column, what)));
  }

  void CheckLength(absl::string_view part, int64_t length, int64_t wanted) {
    if (length == wanted) return;
    Fail(absl::StrCat("there are ", length, " ", part, ", expected ", wanted));
  }

  // Returns the bytes of a part, none if they are not in the file.
  absl::string_view Bytes(Part part) {
    const int64_t begin = entry_[1 + 2 * part], size = entry_[2 + 2 * part];
    const int64_t end = static_cast<int64_t>(file_.bytes.size());
    if (begin >= 0 && begin <= end && size >= 0 && size <= end - begin) {
      return file_.bytes.substr(begin, size);
    }
    Fail(absl::StrCat("a part begins at byte ", begin, " and has ", size, " of the file's ", end));
    return {};
  }

  template <typename T>
  absl::Span<const T> Array(Part part) {
    const absl::string_view bytes = Bytes(part);
    if (entry_[1 + 2 * part] % kAlignment == 0 && bytes.size() % sizeof(T) == 0) {
      return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
    }
    Fail(absl::StrCat("a part of ", bytes.size(), " bytes begins at byte ", entry_[1 + 2 * part],
                      ", not at a multiple of ", kAlignment, ", or its size is none of ", sizeof(T),
                      "-byte numbers"));
    return {};
  }

  template <typename T>
  absl::Span<const T> Values(int64_t wanted) {
    const absl::Span<const T> values = Array<T>(kValues);
    CheckLength("values", values.size(), wanted);
    return values;
  }

  // Returns the number of values in all lists.
  int64_t ReadRowSplits() {
    column_.row_splits = Array<int64_t>(kRowSplits);
    CheckLength("row splits", column_.row_splits.size(), num_items_ + 1);
    if (!status_.ok()) return 0;
    if (column_.row_splits[0] != 0) Fail("the first row split is not 0");
    CheckAscending("row split", column_.row_splits);
    return column_.row_splits.back();
  }

  void CheckAscending(absl::string_view name, absl::Span<const int64_t> ends) {
    const auto falls = std::is_sorted_until(ends.begin(), ends.end());
    if (falls == ends.end()) return;
    Fail(absl::StrCat(name, " ", falls - ends.begin(), " is ", *falls,
                      ", below the one before it, ", *(falls - 1)));
  }

  void ReadDictionary() {
    column_.text = Bytes(kText);
    column_.text_ends = Array<int64_t>(kTextEnds);
    const absl::Span<const int64_t> ends = column_.text_ends;
    CheckAscending("the end of string", ends);
    const int64_t last = ends.empty() ? 0 : ends.back();
    if ((!ends.empty() && ends[0] < 0) || last != static_cast<int64_t>(column_.text.size())) {
      Fail(absl::StrCat("the strings end at byte ", last, " of ", column_.text.size()));
    }
    if (!status_.ok()) return;
    for (size_t code = 1; code < ends.size(); ++code) {
      if (column_.Text(code - 1) < column_.Text(code)) continue;
      return Fail(absl::StrCat("string ", code, " is not above the one before it"));
    }
    // A null has the code 0, even if there are no strings.
    const int32_t most = std::max<int64_t>(static_cast<int64_t>(ends.size()) - 1, 0);
    for (size_t i = 0; i < column_.codes.size(); ++i) {
      if (column_.codes[i] >= 0 && column_.codes[i] <= most) continue;
      return Fail(
          absl::StrCat("value ", i, " is string ", column_.codes[i], ", allowed are 0 to ", most));
    }
  }

  const IndexFile& file_;
  const int64_t num_items_;
  const int64_t* const entry_;
  Attribute column_;
  absl::Status status_;
};

}  // namespace

absl::string_view TypeName(AttributeType type) { return kTypeNames[static_cast<int>(type)]; }

absl::StatusOr<Attributes> Attributes::Create(const IndexFile& file, int64_t num_items) {
  const absl::string_view bytes = file.bytes;
  if (bytes.size() < kHeadWords * sizeof(int64_t) || bytes.substr(0, 8) != kMagic) {
    return Broken(file, absl::StrCat("it does not begin with ", kMagic));
  }
  if (reinterpret_cast<uintptr_t>(bytes.data()) % kAlignment != 0) {
    return absl::InvalidArgumentError(absl::StrCat(file.name, " is not aligned in memory"));
  }
  const int64_t* const words = reinterpret_cast<const int64_t*>(bytes.data());
  if (words[1] != num_items) {
    return Broken(file, absl::StrCat("it has ", words[1], " items, the index has ", num_items));
  }
  const int64_t columns = words[2];
  const int64_t entries = (bytes.size() / sizeof(int64_t) - kHeadWords) / kEntryWords;
  if (columns < 0 || columns > kMaxColumns || columns > entries) {
    return Broken(file, absl::StrCat("it has ", columns, " columns, allowed are 0 to ",
                                     std::min(kMaxColumns, entries)));
  }
  Attributes attributes;
  attributes.num_items_ = num_items;
  for (int64_t i = 0; i < columns; ++i) {
    auto column = ColumnReader(file, num_items, words + kHeadWords + i * kEntryWords).Read();
    if (!column.ok()) return column.status();
    if (attributes.Find(column->name) != nullptr) {
      return Broken(file, absl::StrCat("two columns have the name ", column->name));
    }
    attributes.columns_.push_back(*column);
  }
  return attributes;
}

Attributes Attributes::Of(int64_t num_items, std::vector<Attribute> columns) {
  Attributes attributes;
  attributes.num_items_ = num_items;
  attributes.columns_ = std::move(columns);
  return attributes;
}

const Attribute* Attributes::Find(absl::string_view name) const {
  const auto found = std::find_if(columns_.begin(), columns_.end(),
                                  [name](const Attribute& column) { return column.name == name; });
  return found == columns_.end() ? nullptr : &*found;
}

std::string Attributes::Names() const {
  std::string names;
  const size_t count = columns_.size();
  for (size_t i = 0; i < std::min(count, kMaxNamed); ++i) {
    names += absl::StrCat(i == 0 ? "" : ", ", columns_[i].name.substr(0, kMaxNameShown));
  }
  if (count > kMaxNamed) names += absl::StrCat(" and ", count - kMaxNamed, " more");
  return names.empty() ? "none" : names;
}

}  // namespace nann
