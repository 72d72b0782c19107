#include "custom_ops/core/filter_values.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace nann {
namespace {

constexpr int64_t kLowest = std::numeric_limits<int64_t>::min();
constexpr int64_t kHighest = std::numeric_limits<int64_t>::max();

void AllowIntegers(Comparison comparison, int64_t value, Ranges& allowed) {
  switch (comparison) {
    case Comparison::kEqual:
      return allowed.emplace_back(value, value), void();
    case Comparison::kLess:
      if (value > kLowest) allowed.emplace_back(kLowest, value - 1);
      return;
    case Comparison::kAtMost:
      return allowed.emplace_back(kLowest, value), void();
    case Comparison::kGreater:
      if (value < kHighest) allowed.emplace_back(value + 1, kHighest);
      return;
    case Comparison::kAtLeast:
      return allowed.emplace_back(value, kHighest), void();
  }
}

// Compares integers with a number that may have a fraction, or lie beyond all of them.
void AllowIntegers(Comparison comparison, const FilterNumber& number, Ranges& allowed) {
  if (number.whole) return AllowIntegers(comparison, number.integer, allowed);
  if (comparison == Comparison::kEqual) return;
  const bool below = comparison == Comparison::kLess || comparison == Comparison::kAtMost;
  if (std::abs(number.value) >= 9.2e18) {  // No number with a fraction is as large.
    if (below == (number.value > 0)) allowed.emplace_back(kLowest, kHighest);
    return;
  }
  const int64_t floor = static_cast<int64_t>(std::floor(number.value));
  AllowIntegers(below ? Comparison::kAtMost : Comparison::kGreater, floor, allowed);
}

void AllowFloats(Comparison comparison, double value, Ranges& allowed) {
  const int64_t lowest = FloatOrder(-std::numeric_limits<double>::infinity());
  const int64_t highest = FloatOrder(std::numeric_limits<double>::infinity());
  const int64_t order = FloatOrder(value == 0 ? 0 : value);  // A literal may be -0.
  switch (comparison) {
    case Comparison::kEqual:
      return allowed.emplace_back(order, order), void();
    case Comparison::kLess:
      return allowed.emplace_back(lowest, order - 1), void();
    case Comparison::kAtMost:
      return allowed.emplace_back(lowest, order), void();
    case Comparison::kGreater:
      return allowed.emplace_back(order + 1, highest), void();
    case Comparison::kAtLeast:
      return allowed.emplace_back(order, highest), void();
  }
}

// Strings compare as their codes do, because the dictionary is sorted.
void AllowCodes(const Attribute& column, Comparison comparison, absl::string_view text,
                Ranges& allowed) {
  const int64_t size = column.text_ends.size();
  int64_t low = 0, high = size;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (column.Text(middle) < text) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  const int64_t first = low;  // The first string that is not below `text`.
  const int64_t above = first < size && column.Text(first) == text ? first + 1 : first;
  int64_t begin = 0, end = size;
  if (comparison == Comparison::kEqual || comparison == Comparison::kAtLeast) begin = first;
  if (comparison == Comparison::kGreater) begin = above;
  if (comparison == Comparison::kEqual || comparison == Comparison::kAtMost) end = above;
  if (comparison == Comparison::kLess) end = first;
  if (begin < end) allowed.emplace_back(begin, end - 1);
}

// Days from 1970-01-01 to a day of the Gregorian calendar; counts years from March on, so that a leap
// day is a year's last.
int64_t Days(int64_t year, int64_t month, int64_t day) {
  year -= month <= 2;
  const int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
  return year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719468;
}

// Reads the fields of a time.
class TimeText {
 public:
  explicit TimeText(absl::string_view text) : text_(text) {}

  bool done() const { return text_.empty(); }
  bool Take(char c) {
    if (text_.empty() || text_[0] != c) return false;
    text_.remove_prefix(1);
    return true;
  }
  // Takes a number of `digits` digits in low..high.
  bool Take(size_t digits, int64_t low, int64_t high, int64_t* value) {
    if (text_.size() < digits) return false;
    *value = 0;
    for (size_t i = 0; i < digits; ++i) {
      if (text_[i] < '0' || text_[i] > '9') return false;
      *value = 10 * *value + (text_[i] - '0');
    }
    text_.remove_prefix(digits);
    return *value >= low && *value <= high;
  }

 private:
  absl::string_view text_;
};

}  // namespace

bool Allow(const Attribute& column, Comparison comparison, const FilterToken& literal,
           Ranges& allowed) {
  using Kind = FilterToken::Kind;
  switch (column.type) {
    case AttributeType::kBool:
      if (comparison != Comparison::kEqual || !(literal.Is("TRUE") || literal.Is("FALSE")))
        return false;
      allowed.emplace_back(literal.Is("TRUE"), literal.Is("TRUE"));
      return true;
    case AttributeType::kTimestamp:
      if (literal.kind == Kind::kString) {
        const auto time = ParseTime(literal.value);
        if (time.has_value()) AllowIntegers(comparison, *time, allowed);
        return time.has_value();
      }
      [[fallthrough]];
    case AttributeType::kInt:
    case AttributeType::kInts:
      if (literal.kind != Kind::kNumber) return false;
      AllowIntegers(comparison, literal.number, allowed);
      return true;
    case AttributeType::kFloat:
      if (literal.kind != Kind::kNumber) return false;
      AllowFloats(comparison, literal.number.value, allowed);
      return true;
    case AttributeType::kString:
    case AttributeType::kStrings:
      if (literal.kind != Kind::kString) return false;
      AllowCodes(column, comparison, literal.value, allowed);
      return true;
  }
  return false;
}

absl::string_view LiteralFor(AttributeType type) {
  switch (type) {
    case AttributeType::kBool:
      return "true or false";
    case AttributeType::kTimestamp:
      return "a time such as '2024-05-31' or '2024-05-31T18:00:00Z', or seconds since 1970";
    case AttributeType::kString:
    case AttributeType::kStrings:
      return "a string in single quotes";
    default:
      return "a number";
  }
}

std::optional<int64_t> ParseTime(absl::string_view text) {
  TimeText from(text);
  int64_t year, month, day;
  if (!from.Take(4, 1, 9999, &year) || !from.Take('-') || !from.Take(2, 1, 12, &month) ||
      !from.Take('-') || !from.Take(2, 1, 31, &day)) {
    return std::nullopt;
  }
  if (day > Days(month == 12 ? year + 1 : year, month % 12 + 1, 1) - Days(year, month, 1)) {
    return std::nullopt;
  }
  int64_t seconds = Days(year, month, day) * 86400;
  if (from.done()) return seconds;
  int64_t hour, minute, second = 0;
  if (!(from.Take('T') || from.Take(' ')) || !from.Take(2, 0, 23, &hour) || !from.Take(':') ||
      !from.Take(2, 0, 59, &minute)) {
    return std::nullopt;
  }
  if (from.Take(':') && !from.Take(2, 0, 59, &second)) return std::nullopt;
  seconds += hour * 3600 + minute * 60 + second;
  const bool east = from.Take('+');
  if (east || from.Take('-')) {
    if (!from.Take(2, 0, 23, &hour) || !from.Take(':') || !from.Take(2, 0, 59, &minute)) {
      return std::nullopt;
    }
    seconds += (east ? -1 : 1) * (hour * 3600 + minute * 60);
  } else {
    from.Take('Z');
  }
  if (!from.done()) return std::nullopt;
  return seconds;
}

}  // namespace nann
