#include "custom_ops/core/filter_text.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"

namespace nann {
namespace {

constexpr size_t kMaxShown = 40;  // Bytes of a token that an error repeats.

bool IsSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
// Letters of other alphabets are bytes from 0x80.
bool IsLetter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (c & 0x80) != 0;
}
bool ContinuesCharacter(char c) { return (c & 0xc0) == 0x80; }

// Returns the number of bytes of the character of UTF-8 with which `text` begins, or 0 if none does.
size_t CharacterSize(absl::string_view text) {
  const auto byte = [text](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char c = byte(0);
  const size_t size = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;
  if (size > text.size()) return 0;
  for (size_t i = 1; i < size; ++i) {
    if (!ContinuesCharacter(text[i])) return 0;
  }
  // Overlong forms, surrogates and numbers above U+10FFFF are not UTF-8.
  if ((c == 0xe0 && byte(1) < 0xa0) || (c == 0xed && byte(1) >= 0xa0)) return 0;
  if ((c == 0xf0 && byte(1) < 0x90) || (c == 0xf4 && byte(1) >= 0x90)) return 0;
  return size;
}

std::string UpperCase(absl::string_view text) {
  std::string upper(text);
  for (char& c : upper) {
    if (c >= 'a' && c <= 'z') c += 'A' - 'a';
  }
  return upper;
}

}  // namespace

absl::StatusOr<FilterText> FilterText::Create(absl::string_view text) {
  if (text.size() > kMaxBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the filter has ", text.size(), " bytes, allowed are ", kMaxBytes));
  }
  FilterText made(text);
  absl::Status status = made.CheckUtf8();
  if (!status.ok()) return status;
  size_t at = 0;
  do {
    while (at < text.size() && IsSpace(text[at])) ++at;
    auto token = made.Next(at);
    if (!token.ok()) return token.status();
    at += token->text.size();
    made.tokens_.push_back(*std::move(token));
  } while (made.tokens_.back().kind != FilterToken::Kind::kEnd);
  return made;
}

absl::Status FilterText::CheckUtf8() const {
  for (size_t at = 0; at < text_.size();) {
    const size_t size = CharacterSize(text_.substr(at));
    if (size == 0) return ErrorAt(text_.substr(at), "the text is not UTF-8");
    at += size;
  }
  return absl::OkStatus();
}

absl::StatusOr<FilterToken> FilterText::Next(size_t at) const {
  FilterToken token;
  if (at == text_.size()) {
    token.text = text_.substr(at);
    return token;
  }
  const char c = text_[at];
  const char next = at + 1 < text_.size() ? text_[at + 1] : ' ';
  if (c == '\'' || c == '"') return Quoted(at);
  if (IsDigit(c) || c == '.' || ((c == '-' || c == '+') && (IsDigit(next) || next == '.'))) {
    return Number(at);
  }
  size_t end = at + 1;
  if (IsLetter(c)) {
    while (end < text_.size() && (IsLetter(text_[end]) || IsDigit(text_[end]))) ++end;
    token.kind = FilterToken::Kind::kName;
    token.text = text_.substr(at, end - at);
    token.value = UpperCase(token.text);
    return token;
  }
  const absl::string_view two = text_.substr(at, 2);
  if (two == "<=" || two == ">=" || two == "!=" || two == "<>") ++end;
  token.kind = FilterToken::Kind::kSymbol;
  token.text = text_.substr(at, end - at);
  constexpr absl::string_view kSymbols = "()<>=,";
  if (token.text.size() == 2 || kSymbols.find(c) != absl::string_view::npos) return token;
  return ErrorAt(token.text, absl::StrCat("'", token.text, "' is not a part of the language"));
}

absl::StatusOr<FilterToken> FilterText::Quoted(size_t at) const {
  const char quote = text_[at];
  FilterToken token;
  token.kind = quote == '"' ? FilterToken::Kind::kQuotedName : FilterToken::Kind::kString;
  for (size_t end = at + 1; end < text_.size(); ++end) {
    if (text_[end] == quote) {
      if (end + 1 == text_.size() || text_[end + 1] != quote) {
        token.text = text_.substr(at, end + 1 - at);
        return token;
      }
      ++end;
    }
    token.value += text_[end];
  }
  return ErrorAt(text_.substr(at),
                 absl::StrCat("the quote ", std::string(1, quote), " has no end"));
}

absl::StatusOr<FilterToken> FilterText::Number(size_t at) const {
  size_t end = at + 1;
  for (; end < text_.size(); ++end) {
    const char c = text_[end], before = text_[end - 1];
    const bool sign = (c == '-' || c == '+') && (before == 'e' || before == 'E');
    if (!IsLetter(c) && !IsDigit(c) && c != '.' && !sign) break;
  }
  FilterToken token;
  token.kind = FilterToken::Kind::kNumber;
  token.text = text_.substr(at, end - at);
  const std::string digits(token.text.substr(text_[at] == '+'));
  // Besides numbers, strtod takes hexadecimal ones, infinities and NaN.
  const bool decimal = digits.find_first_not_of("0123456789.eE+-") == std::string::npos;
  char* stop = nullptr;
  token.number.value = std::strtod(digits.c_str(), &stop);
  if (!decimal || stop != digits.c_str() + digits.size() || !std::isfinite(token.number.value)) {
    return ErrorAt(token.text, absl::StrCat(Shown(token), " is not a finite number"));
  }
  const auto parsed =
      std::from_chars(digits.data(), digits.data() + digits.size(), token.number.integer);
  token.number.whole = parsed.ec == std::errc() && parsed.ptr == digits.data() + digits.size();
  constexpr double kTwoTo63 = 9223372036854775808.0;
  const double value = token.number.value;
  if (!token.number.whole && value == std::trunc(value) && value >= -kTwoTo63 && value < kTwoTo63) {
    token.number.integer = static_cast<int64_t>(value);
    token.number.whole = true;
  }
  return token;
}

absl::Status FilterText::ErrorAt(absl::string_view place, absl::string_view what) const {
  const char* const begin = text_.data();
  const size_t character =
      1 + std::count_if(begin, place.data(), [](char c) { return !ContinuesCharacter(c); });
  return absl::InvalidArgumentError(absl::StrCat("filter, character ", character, ": ", what));
}

std::string FilterText::Shown(const FilterToken& token) {
  if (token.kind == FilterToken::Kind::kEnd) return "the end of the filter";
  size_t size = std::min(token.text.size(), kMaxShown);
  if (size == token.text.size()) return std::string(token.text);
  while (ContinuesCharacter(token.text[size])) --size;
  return absl::StrCat(token.text.substr(0, size), "...");
}

}  // namespace nann
