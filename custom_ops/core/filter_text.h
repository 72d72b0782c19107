#ifndef CUSTOM_OPS_CORE_FILTER_TEXT_H_
#define CUSTOM_OPS_CORE_FILTER_TEXT_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace nann {

// A number in a filter. `integer` is the number if it is `whole`, which also 1e3 and 2.0 are.
struct FilterNumber {
  double value = 0;
  int64_t integer = 0;
  bool whole = false;
};

// A part of a filter's text. Names may be in double quotes and strings are in single quotes; a quote
// inside is doubled. Everything else is a symbol: a parenthesis, a comma, an operator.
struct FilterToken {
  enum class Kind { kEnd, kName, kQuotedName, kString, kNumber, kSymbol };
  Kind kind = Kind::kEnd;
  absl::string_view text;  // The word as the filter has it.
  std::string value;       // A name or string without its quotes; a plain name in upper case.
  FilterNumber number;

  // Whether this is the keyword or symbol, which must be given in upper case.
  bool Is(absl::string_view word) const {
    return kind == Kind::kSymbol ? text == word : kind == Kind::kName && value == word;
  }
};

// The text of a filter as tokens, which are views of it.
class FilterText {
 public:
  static constexpr size_t kMaxBytes = size_t{1} << 16;

  // Returns InvalidArgument if the text is too long, is not UTF-8 or holds something that is no token.
  static absl::StatusOr<FilterText> Create(absl::string_view text);

  // The last token is the end.
  const std::vector<FilterToken>& tokens() const { return tokens_; }

  // Returns an InvalidArgument error for a place in the text, in characters from 1.
  absl::Status ErrorAt(absl::string_view place, absl::string_view what) const;
  // Returns what stands in a token, cut if it is long, or that the filter ends there.
  static std::string Shown(const FilterToken& token);

 private:
  explicit FilterText(absl::string_view text) : text_(text) {}
  absl::Status CheckUtf8() const;
  absl::StatusOr<FilterToken> Next(size_t at) const;
  absl::StatusOr<FilterToken> Quoted(size_t at) const;
  absl::StatusOr<FilterToken> Number(size_t at) const;

  absl::string_view text_;
  std::vector<FilterToken> tokens_;
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_FILTER_TEXT_H_
