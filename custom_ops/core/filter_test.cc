// Tests of attributes and filters: what passes, what errors say, and that neither a damaged file nor a
// random text does harm. tests/ops/test_filters.py compares random filters with Polars.

#include "custom_ops/core/filter.h"

#include <cstring>
#include <initializer_list>
#include <string>
#include <thread>

#include "custom_ops/core/filter_cache.h"
#include "custom_ops/core/testing.h"

namespace nann {
namespace {

constexpr int kItems = 70;  // More than a word of bits.

// The file of a table, in the layout of docs/format.md.
class Table {
 public:
  explicit Table(int num_items, int num_columns) {
    std::memcpy(&words_.emplace_back(), "NANNATTR", 8);
    words_.push_back(num_items);
    words_.push_back(num_columns);
    words_.resize(3 + 13 * num_columns);
  }

  template <typename T>
  void Add(const std::string& name, AttributeType type, const std::vector<T>& values,
           const std::vector<uint64_t>& present = {}, const std::vector<int64_t>& row_splits = {},
           const std::vector<int64_t>& text_ends = {}, const std::string& text = "") {
    entry_ = 3 + 13 * column_++;
    words_[entry_++] = static_cast<int64_t>(type);
    AddPart(name.data(), name.size());
    AddPart(values.data(), values.size() * sizeof(T));
    AddPart(present.data(), present.size() * 8);
    AddPart(row_splits.data(), row_splits.size() * 8);
    AddPart(text_ends.data(), text_ends.size() * 8);
    AddPart(text.data(), text.size());
  }

  std::vector<int64_t>& words() { return words_; }
  IndexFile file() const { return FileOf(words_); }

 private:
  void AddPart(const void* bytes, size_t size) {
    words_[entry_++] = static_cast<int64_t>(words_.size() * 8);
    words_[entry_++] = static_cast<int64_t>(size);
    const size_t begin = words_.size();
    words_.resize(begin + (size + 7) / 8);
    if (size > 0) std::memcpy(&words_[begin], bytes, size);
  }

  std::vector<int64_t> words_;
  size_t column_ = 0, entry_ = 0;
};

// Item i has the number i, the price i / 4 unless i is a multiple of 3, one of three brands, a time at
// the i-th hour of 2024, is in stock if i is even, and has the tags below i % 4 and the sizes i and -i.
Table MakeTable() {
  Table table(kItems, 7);
  std::vector<int64_t> numbers, times, splits{0}, sizes, size_splits{0};
  std::vector<double> prices;
  std::vector<int32_t> brands, tags;
  std::vector<uint64_t> priced(2), stocked(2);
  for (int i = 0; i < kItems; ++i) {
    numbers.push_back(i);
    times.push_back(1704067200 + 3600 * i);
    prices.push_back(i % 3 == 0 ? 0 : i / 4.0);
    if (i % 3 != 0) priced[i / 64] |= uint64_t{1} << i % 64;
    if (i % 2 == 0) stocked[i / 64] |= uint64_t{1} << i % 64;
    brands.push_back(i % 3);
    for (int tag = 0; tag < i % 4; ++tag) tags.push_back(tag);
    splits.push_back(static_cast<int64_t>(tags.size()));
    sizes.insert(sizes.end(), {i, -i});
    size_splits.push_back(static_cast<int64_t>(sizes.size()));
  }
  table.Add("number", AttributeType::kInt, numbers);
  table.Add("price", AttributeType::kFloat, prices, priced);
  table.Add("brand", AttributeType::kString, brands, {}, {}, {1, 4, 7}, "ab'czoo");
  table.Add("since", AttributeType::kTimestamp, times);
  table.Add("stock", AttributeType::kBool, stocked);
  table.Add("the tags", AttributeType::kStrings, tags, {}, splits, {3, 6, 9}, "hotnewold");
  table.Add("sizes", AttributeType::kInts, sizes, {}, size_splits);
  return table;
}

std::vector<int32_t> Passing(const Attributes& attributes, absl::string_view text) {
  const auto filter = Filter::Parse(text, attributes);
  if (!filter.ok()) std::fprintf(stderr, "%s\n", std::string(filter.status().message()).c_str());
  CHECK_THAT(filter.ok());
  std::vector<int32_t> items;
  filter->Evaluate(attributes.num_items()).AppendTo(items);
  return items;
}

template <typename Wanted>
void CheckPasses(const Attributes& attributes, absl::string_view text, Wanted wanted) {
  std::vector<int32_t> items;
  for (int i = 0; i < kItems; ++i) {
    if (wanted(i)) items.push_back(i);
  }
  if (Passing(attributes, text) != items) std::fprintf(stderr, "%s\n", std::string(text).c_str());
  CHECK_THAT(Passing(attributes, text) == items);
}

void TestWhatPasses(const Attributes& all) {
  CheckPasses(all, "number = 7 or number>=65", [](int i) { return i == 7 || i >= 65; });
  CheckPasses(all, "number < 2.5", [](int i) { return i < 2.5; });
  CheckPasses(all, "number >= -.5e0 AND number <= 1e1", [](int i) { return i <= 10; });
  CheckPasses(all, "number > 66.5 OR number = 3.5", [](int i) { return i >= 67; });
  CheckPasses(all, "number < 1e300 AND number > -99999999999999999999", [](int) { return true; });
  CheckPasses(all, "number NOT IN (3, +5, 4.5)", [](int i) { return i != 3 && i != 5; });
  CheckPasses(all, "price < 2", [](int i) { return i % 3 != 0 && i < 8; });
  CheckPasses(all, "NOT price < 2", [](int i) { return i % 3 != 0 && i >= 8; });
  CheckPasses(all, "price <> 2 OR price IS NULL", [](int i) { return i % 3 == 0 || i != 8; });
  CheckPasses(all, "NOT (price != 2 AND price IS NOT NULL)",
              [](int i) { return i % 3 == 0 || i == 8; });
  CheckPasses(all, "\"brand\" IN ('b''c', 'unknown')", [](int i) { return i % 3 == 1; });
  CheckPasses(all, "brand > 'c'", [](int i) { return i % 3 == 2; });
  CheckPasses(all, "brand <= 'b''c' AND brand != 'a'", [](int i) { return i % 3 == 1; });
  CheckPasses(all, "since < '2024-01-01T05:00Z' OR since >= '2024-01-03 20:00:00+01:00'",
              [](int i) { return i < 5 || i >= 67; });
  CheckPasses(all, "since = 1704067200", [](int i) { return i == 0; });
  CheckPasses(all, "stock AND NOT stock = false", [](int i) { return i % 2 == 0; });
  CheckPasses(all, "stock != TRUE", [](int i) { return i % 2 == 1; });
  CheckPasses(all, "\"the tags\" has 'new'", [](int i) { return i % 4 > 1; });
  CheckPasses(all, "NOT \"the tags\" HAS ANY ('hot', 'cold')", [](int i) { return i % 4 == 0; });
  CheckPasses(all, "sizes HAS -3 OR sizes HAS ANY (5, -7)",
              [](int i) { return i == 3 || i == 5 || i == 7; });
}

void CheckError(const Attributes& attributes, const std::string& text, absl::string_view wanted) {
  const auto filter = Filter::Parse(text, attributes);
  CHECK_THAT(absl::IsInvalidArgument(filter.status()));
  const absl::string_view message = filter.status().message();
  if (message.find(wanted) == absl::string_view::npos) {
    std::fprintf(stderr, "%s\ndoes not say\n%s\n", std::string(message).c_str(),
                 std::string(wanted).c_str());
  }
  CHECK_THAT(message.find(wanted) != absl::string_view::npos);
}

std::string Repeated(absl::string_view text, int times) {
  std::string repeated;
  for (; times > 0; --times) repeated += text;
  return repeated;
}

void TestErrors(const Attributes& all) {
  CheckError(all, "prize < 3",
             "filter, character 1: there is no column prize; the columns are number, price, brand, "
             "since, stock, the tags, sizes");
  CheckError(all, "brand = 'ä' AND price = 'x'",
             "filter, character 25: expected a number, got 'x'; price is a float");
  CheckError(all, "brand = 3", "expected a string in single quotes, got 3; brand is a string");
  CheckError(all, "stock < true", "expected =, !=, IN");
  CheckError(all, "since > '2024-02-30'", "expected a time such as '2024-05-31'");
  CheckError(all, "price = NULL",
             "expected a number (for nulls there is IS NULL), got NULL; price");
  CheckError(all, "number 3", "character 8: expected =, !=, <,");
  CheckError(all, "number = 3 4", "expected AND, OR or the end of the filter, got 4");
  CheckError(all, "(number = 3", "expected AND, OR or ), got the end of the filter");
  CheckError(all, "sizes = 3",
             "expected HAS, IS NULL or IS NOT NULL, got =; sizes is a list of ints");
  CheckError(all, "number IN (3,)", "expected a number, got )");
  CheckError(all, "number = 0x10", "0x10 is not a finite number");
  CheckError(all, "number = 1e999", "1e999 is not a finite number");
  CheckError(all, "brand = 'x", "character 9: the quote ' has no end");
  CheckError(all, "number = 3; DROP", "character 11: ';' is not a part of the language");
  CheckError(all, "number = \xff", "character 10: the text is not UTF-8");
  CheckError(all, "AND", "expected a column, NOT or (");
  CheckError(all, "", "expected a column, NOT or ( ");
  CheckError(all, std::string((1 << 16) + 1, ' '), "the filter has 65537 bytes, allowed are 65536");
  CheckPasses(all, Repeated("(", 64) + "number = 1" + Repeated(")", 64),
              [](int i) { return i == 1; });
  CheckError(all, Repeated("NOT ", 65) + "stock",
             "character 257: there are more than 64 parentheses");
  CheckError(all, Repeated("(", 60000), "there are more than 64 parentheses");
  CheckPasses(all, Repeated("stock OR ", 255) + "stock", [](int i) { return i % 2 == 0; });
  CheckError(all, Repeated("stock OR ", 256) + "stock", "there are more than 256 comparisons");
  CheckPasses(all, "number IN (" + Repeated("1, ", 20000) + "2)",
              [](int i) { return i == 1 || i == 2; });
}

// Random texts of the language's words are refused, or an item passes a filter or its opposite.
void TestRandomTexts(const Attributes& all) {
  const std::vector<std::string> words{"number < 3",
                                       "price >= 1.5",
                                       "brand IN ('a', 'x')",
                                       "since IS NULL",
                                       "sizes HAS -3",
                                       "stock",
                                       "number",
                                       "price",
                                       "brand",
                                       "\"the tags\" HAS ANY ('hot', 'new')",
                                       "AND",
                                       "AND",
                                       "or",
                                       "OR",
                                       "NOT",
                                       "NOT",
                                       "(",
                                       ")",
                                       "IN",
                                       "HAS",
                                       "ANY",
                                       "IS",
                                       "NULL",
                                       "TRUE",
                                       "=",
                                       "!=",
                                       "<=",
                                       ",",
                                       "3",
                                       "-2.5",
                                       "'a'",
                                       "'",
                                       "'2024-01-01'",
                                       "\xc3\xa4",
                                       "1e18"};
  Random random(7);
  int parsed = 0;
  for (int round = 0; round < 100000; ++round) {
    std::string text;
    for (int i = Draw(random, 1, 8); i > 0; --i) {
      text += words[Draw(random, 0, static_cast<int>(words.size()) - 1)] + " ";
    }
    if (round % 4 == 0)
      text[Draw(random, 0, static_cast<int>(text.size()) - 1)] = Draw(random, 0, 255);
    const auto filter = Filter::Parse(text, all);
    if (!filter.ok()) {
      CHECK_THAT(absl::IsInvalidArgument(filter.status()));
      continue;
    }
    ++parsed;
    const auto opposite = Filter::Parse("NOT (" + text + ")", all);
    CHECK_THAT(opposite.ok());
    const PassingItems yes = filter->Evaluate(kItems), no = opposite->Evaluate(kItems);
    for (int item = 0; item < kItems; ++item) CHECK_THAT(!(yes.Has(item) && no.Has(item)));
    CHECK_THAT(yes.count() + no.count() <= kItems);
  }
  CHECK_THAT(parsed > 500);
}

// A damaged file is refused, or every filter can be evaluated on it.
void TestDamagedFiles() {
  const Table whole = MakeTable();
  Random random(11);
  int refused = 0;
  for (int round = 0; round < 20000; ++round) {
    Table table = whole;
    const bool head = Draw(random, 0, 1) == 0;
    const int last = head ? 3 + 13 * 7 : static_cast<int>(table.words().size());
    for (int i = Draw(random, 1, 3); i > 0; --i) {
      int64_t& word = table.words()[Draw(random, 0, last - 1)];
      const int kind = Draw(random, 0, 2);
      if (kind == 0) word ^= int64_t{1} << Draw(random, 0, 63);
      if (kind == 1) word += Draw(random, -9, 9);
      if (kind == 2) word = Draw(random, -1, 600);
    }
    if (Draw(random, 0, 9) == 0) table.words().resize(Draw(random, 0, last));
    table.words().shrink_to_fit();
    const auto attributes = Attributes::Create(table.file(), kItems);
    if (!attributes.ok()) {
      ++refused;
      CHECK_THAT(absl::IsInvalidArgument(attributes.status()));
      continue;
    }
    for (const char* text :
         {"number = 7 OR number IN (1, 2)", "NOT price < 2", "brand > 'b' OR brand IN ('a', 'b')",
          "since > '2024-01-01'", "NOT stock", "\"the tags\" HAS 'new'", "sizes HAS ANY (3, -4)"}) {
      const auto filter = Filter::Parse(text, *attributes);
      if (filter.ok()) CHECK_THAT(filter->Evaluate(kItems).count() <= kItems);
    }
  }
  CHECK_THAT(refused > 5000);
  CHECK_THAT(!Attributes::Create(whole.file(), kItems + 1).ok());
  CHECK_THAT(Attributes::Create(Table(0, 0).file(), 0).ok());
}

void TestTheCacheKeepsWhatWasUsedLast(const Attributes& all) {
  FilterCache cache(1000);
  const auto first = cache.Passing("number = 1", all);
  CHECK_THAT(first.ok() && *cache.Passing("number = 1", all) == *first && cache.bytes() < 1000);
  for (int i = 0; i < 100; ++i) {
    const auto other = cache.Passing("number = " + std::to_string(i + 2), all);
    CHECK_THAT(other.ok() && cache.bytes() <= 1000);
    CHECK_THAT(*cache.Passing("number = 1", all) == *first);  // Used after each of the others.
  }
  CHECK_THAT(cache.bytes() > 500);
  const std::string large = "number = 1" + std::string(1000, ' ');
  const auto kept = cache.Passing(large, all);
  CHECK_THAT(kept.ok() && (*kept)->count() == 1 && *cache.Passing(large, all) != *kept);
  CHECK_THAT(!cache.Passing("number = ", all).ok());

  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&cache, &all] {
      for (int i = 0; i < 2000; ++i) {
        const auto passing = cache.Passing("number < " + std::to_string(i % 20), all);
        CHECK_THAT(passing.ok() && (*passing)->count() == i % 20);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

void TestTimes() {
  CHECK_THAT(ParseTime("1970-01-01") == 0 && ParseTime("1969-12-31T23:59:59") == -1);
  CHECK_THAT(ParseTime("2000-02-29") == 951782400 && !ParseTime("1900-02-29"));
  CHECK_THAT(ParseTime("9999-12-31T23:59:59Z") == 253402300799 &&
             ParseTime("0001-01-01") == -62135596800);
  for (const char* wrong : {"", "2024", "2024-13-01", "2024-1-1", "2024-01-01T", "2024-01-01T25:00",
                            "2024-01-01 10:00:00.5", "2024-01-01T10:00+1", "2024-01-01Z"}) {
    CHECK_THAT(!ParseTime(wrong));
  }
}

}  // namespace
}  // namespace nann

int main() {
  const nann::Table table = nann::MakeTable();
  const auto attributes = nann::Attributes::Create(table.file(), nann::kItems);
  CHECK_THAT(attributes.ok());
  nann::TestWhatPasses(*attributes);
  nann::TestErrors(*attributes);
  nann::TestRandomTexts(*attributes);
  nann::TestDamagedFiles();
  nann::TestTheCacheKeepsWhatWasUsedLast(*attributes);
  nann::TestTimes();
}
