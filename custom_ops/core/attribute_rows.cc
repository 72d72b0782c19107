#include "custom_ops/core/attribute_rows.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/string_view.h"
#include "custom_ops/core/passing_items.h"

namespace nann {
namespace {

bool Bit(absl::Span<const uint64_t> words, int64_t item) {
  return words[item / PassingItems::kBits] >> (item % PassingItems::kBits) & 1;
}

void SetBit(std::vector<uint64_t>& words, size_t item) {
  words[item / PassingItems::kBits] |= uint64_t{1} << (item % PassingItems::kBits);
}

// Writes the dictionary of `texts`, and the place of each in it.
void Encode(const std::vector<absl::string_view>& texts, std::vector<int32_t>& codes,
            std::vector<int64_t>& text_ends, std::string& text) {
  std::vector<absl::string_view> known = texts;
  std::sort(known.begin(), known.end());
  known.erase(std::unique(known.begin(), known.end()), known.end());
  for (absl::string_view one : known) {
    text.append(one.data(), one.size());
    text_ends.push_back(static_cast<int64_t>(text.size()));
  }
  for (absl::string_view one : texts) {
    const auto place = std::lower_bound(known.begin(), known.end(), one) - known.begin();
    codes.push_back(static_cast<int32_t>(place));
  }
}

}  // namespace

AttributeRows::AttributeRows(const Attributes& like, absl::Span<const AttributeRow> rows) {
  std::vector<Attribute> views;
  for (size_t place = 0; place < like.columns().size(); ++place) {
    columns_.emplace_back();
    views.push_back(Fill(place, like.columns()[place], rows, columns_.back()));
  }
  view_ = std::make_unique<const Attributes>(
      Attributes::Of(static_cast<int64_t>(rows.size()), std::move(views)));
}

Attribute AttributeRows::Fill(size_t place, const Attribute& like,
                              absl::Span<const AttributeRow> rows, Column& column) {
  const size_t words = PassingItems::NumWords(static_cast<int64_t>(rows.size()));
  column.name = std::string(like.name);
  column.present.resize(words);
  std::vector<absl::string_view> texts;
  if (like.IsList()) column.row_splits.push_back(0);
  if (like.type == AttributeType::kBool) column.bits.resize(words);
  for (size_t i = 0; i < rows.size(); ++i) {
    const Attribute& from = rows[i].of->columns()[place];
    const int64_t item = rows[i].item;
    if (from.present.empty() || Bit(from.present, item)) SetBit(column.present, i);
    const int64_t begin = like.IsList() ? from.row_splits[item] : item;
    const int64_t end = like.IsList() ? from.row_splits[item + 1] : item + 1;
    for (int64_t value = begin; value < end; ++value) {
      switch (like.type) {
        case AttributeType::kBool:
          if (Bit(from.bits, value)) SetBit(column.bits, i);
          break;
        case AttributeType::kFloat:
          column.floats.push_back(from.floats[value]);
          break;
        case AttributeType::kInt:
        case AttributeType::kTimestamp:
        case AttributeType::kInts:
          column.integers.push_back(from.integers[value]);
          break;
        case AttributeType::kString:
        case AttributeType::kStrings: {
          const int32_t code = from.codes[value];  // That of a null may be of no string.
          const bool known = code < static_cast<int64_t>(from.text_ends.size());
          texts.push_back(known ? from.Text(code) : absl::string_view());
          break;
        }
      }
    }
    if (like.IsList()) column.row_splits.push_back(column.row_splits.back() + end - begin);
  }
  Encode(texts, column.codes, column.text_ends, column.text);
  Attribute view;
  view.name = column.name;
  view.type = like.type;
  view.present = column.present;
  view.row_splits = column.row_splits;
  view.bits = column.bits;
  view.integers = column.integers;
  view.floats = column.floats;
  view.codes = column.codes;
  view.text_ends = column.text_ends;
  view.text = column.text;
  return view;
}

}  // namespace nann
