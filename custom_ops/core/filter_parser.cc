// A parser by recursive descent for the grammar of docs/filters.md, one function for each of its rules.

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "custom_ops/core/filter.h"
#include "custom_ops/core/filter_text.h"

namespace nann {
namespace {

constexpr absl::string_view kKeywords[] = {"AND", "OR", "NOT",  "IN",   "HAS",
                                           "ANY", "IS", "NULL", "TRUE", "FALSE"};

class Parser {
 public:
  Parser(const FilterText& text, const Attributes& attributes)
      : text_(text), attributes_(attributes), next_(text.tokens().data()) {}

  absl::StatusOr<Filter> Whole() {
    auto filter = AnyOf();
    if (filter.ok() && next_->kind != FilterToken::Kind::kEnd) {
      return Expected("AND, OR or the end of the filter");
    }
    return filter;
  }

 private:
  absl::StatusOr<Filter> AnyOf() { return Joined("OR", Filter::Kind::kOr, &Parser::AllOf); }
  absl::StatusOr<Filter> AllOf() { return Joined("AND", Filter::Kind::kAnd, &Parser::Negated); }

  absl::StatusOr<Filter> Joined(absl::string_view keyword, Filter::Kind kind,
                                absl::StatusOr<Filter> (Parser::*part)()) {
    Filter joined{kind};
    do {
      auto one = (this->*part)();
      if (!one.ok()) return one;
      joined.parts.push_back(*std::move(one));
    } while (Take(keyword));
    if (joined.parts.size() > 1) return joined;
    Filter alone = std::move(joined.parts[0]);
    return alone;
  }

  absl::StatusOr<Filter> Negated() {
    const FilterToken& begin = *next_;
    const bool negated = Take("NOT");
    if (!negated && !Take("(")) return Compared();
    if (++depth_ > Filter::kMaxDepth) {
      return text_.ErrorAt(begin.text, absl::StrCat("there are more than ", Filter::kMaxDepth,
                                                    " parentheses and NOTs inside each other"));
    }
    auto inner = negated ? Negated() : AnyOf();
    --depth_;
    if (!inner.ok()) return inner;
    if (negated) return Not(*std::move(inner));
    if (!Take(")")) return Expected("AND, OR or )");
    return inner;
  }

  absl::StatusOr<Filter> Compared() {
    auto column = Column();
    if (!column.ok()) return column.status();
    Filter filter{Filter::Kind::kAllows, {}, *column};
    if (Take("IS")) {
      const bool negated = Take("NOT");
      if (!Take("NULL")) return Expected("NULL");
      filter.kind = Filter::Kind::kIsNull;
      return negated ? Not(std::move(filter)) : std::move(filter);
    }
    if ((*column)->IsList()) {
      if (!Take("HAS")) return Expected("HAS, IS NULL or IS NOT NULL", *column);
      absl::Status status = Take("ANY") ? List(filter) : Literal(Comparison::kEqual, filter);
      if (!status.ok()) return status;
      return filter;
    }
    const bool not_in = next_->Is("NOT") && next_[1].Is("IN");
    if (not_in) ++next_;
    if (Take("IN")) {
      absl::Status status = List(filter);
      if (!status.ok()) return status;
      return not_in ? Not(std::move(filter)) : std::move(filter);
    }
    return CompareTo(std::move(filter));
  }

  // Parses an operator and a value, of which a column of bools may have none.
  absl::StatusOr<Filter> CompareTo(Filter filter) {
    constexpr std::pair<absl::string_view, Comparison> kOperators[] = {
        {"=", Comparison::kEqual},   {"!=", Comparison::kEqual},  {"<>", Comparison::kEqual},
        {"<", Comparison::kLess},    {"<=", Comparison::kAtMost}, {">", Comparison::kGreater},
        {">=", Comparison::kAtLeast}};
    const bool bare = filter.column->type == AttributeType::kBool;
    for (const auto& [symbol, comparison] : kOperators) {
      if (bare && comparison != Comparison::kEqual) continue;
      if (!Take(symbol)) continue;
      absl::Status status = Literal(comparison, filter);
      if (!status.ok()) return status;
      return symbol == "!=" || symbol == "<>" ? Not(std::move(filter)) : std::move(filter);
    }
    if (!bare) {
      return Expected("=, !=, <, <=, >, >=, IN, NOT IN, IS NULL or IS NOT NULL", filter.column);
    }
    if (next_->kind != FilterToken::Kind::kEnd && !next_->Is("AND") && !next_->Is("OR") &&
        !next_->Is(")")) {
      return Expected("=, !=, IN, NOT IN, IS NULL, IS NOT NULL, AND, OR or the end of the filter",
                      filter.column);
    }
    filter.allowed.emplace_back(1, 1);
    return filter;
  }

  absl::StatusOr<const Attribute*> Column() {
    const FilterToken& token = *next_;
    const bool quoted = token.kind == FilterToken::Kind::kQuotedName;
    const bool keyword = !quoted && std::find(std::begin(kKeywords), std::end(kKeywords),
                                              token.value) != std::end(kKeywords);
    if ((!quoted && token.kind != FilterToken::Kind::kName) || keyword) {
      return Expected(
          "a column, NOT or ( (a column that has the name of a keyword stands in double "
          "quotes)");
    }
    const Attribute* column = attributes_.Find(quoted ? token.value : token.text);
    if (column == nullptr) {
      return text_.ErrorAt(token.text, absl::StrCat("there is no column ", FilterText::Shown(token),
                                                    "; the columns are ", attributes_.Names()));
    }
    if (++comparisons_ > Filter::kMaxComparisons) {
      return text_.ErrorAt(token.text,
                           absl::StrCat("there are more than ", Filter::kMaxComparisons,
                                        " comparisons; IN and HAS ANY take lists of any length"));
    }
    ++next_;
    return column;
  }

  absl::Status List(Filter& filter) {
    if (!Take("(")) return Expected("(");
    do {
      absl::Status status = Literal(Comparison::kEqual, filter);
      if (!status.ok()) return status;
    } while (Take(","));
    if (!Take(")")) return Expected(", or )");
    std::sort(filter.allowed.begin(), filter.allowed.end());
    return absl::OkStatus();
  }

  absl::Status Literal(Comparison comparison, Filter& filter) {
    if (!Allow(*filter.column, comparison, *next_, filter.allowed)) {
      const absl::string_view null = next_->Is("NULL") ? " (for nulls there is IS NULL)" : "";
      return Expected(absl::StrCat(LiteralFor(filter.column->type), null), filter.column);
    }
    ++next_;
    return absl::OkStatus();
  }

  static Filter Not(Filter filter) {
    Filter negated{Filter::Kind::kNot};
    negated.parts.push_back(std::move(filter));
    return negated;
  }

  bool Take(absl::string_view word) {
    const bool found = next_->Is(word);
    next_ += found;
    return found;
  }

  absl::Status Expected(absl::string_view what, const Attribute* column = nullptr) const {
    const std::string of =
        column == nullptr ? ""
                          : absl::StrCat("; ", ShortName(*column), " is ", TypeName(column->type));
    return text_.ErrorAt(next_->text,
                         absl::StrCat("expected ", what, ", got ", FilterText::Shown(*next_), of));
  }

  static absl::string_view ShortName(const Attribute& column) { return column.name.substr(0, 256); }

  const FilterText& text_;
  const Attributes& attributes_;
  const FilterToken* next_;
  int depth_ = 0, comparisons_ = 0;
};

}  // namespace

absl::StatusOr<Filter> Filter::Parse(absl::string_view text, const Attributes& attributes) {
  auto tokens = FilterText::Create(text);
  if (!tokens.ok()) return tokens.status();
  return Parser(*tokens, attributes).Whole();
}

}  // namespace nann
