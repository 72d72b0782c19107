// Shared by the core's tests and its fuzzer: a check, random numbers, and the promises that every
// search keeps. Not a part of the op library.

#ifndef CUSTOM_OPS_CORE_TESTING_H_
#define CUSTOM_OPS_CORE_TESTING_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "absl/types/span.h"
#include "custom_ops/core/index_view.h"
#include "custom_ops/core/search.h"
#include "custom_ops/core/surrogate_search.h"

// Prints a condition that does not hold and aborts the program, in every kind of build. Aborting lets
// a sanitizer or a debugger show where.
//
// It is not GoogleTest, because the tests must build on a machine with nothing but Python, make and
// a C++17 compiler: neither TensorFlow's wheel nor PyPI has GoogleTest's headers. Debian's
// libgtest-dev could only be optional, and where it is missing the tests would not run.
#define CHECK_THAT(condition)                                              \
  do {                                                                     \
    if (!(condition)) {                                                    \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                        \
    }                                                                      \
  } while (false)

namespace nann {

using Random = std::mt19937;

inline int Draw(Random& random, int low, int high) {
  return std::uniform_int_distribution<int>(low, high)(random);
}

// Returns a file of the bytes of `values`, which must outlive it. CMakeLists.txt makes the address
// sanitizer watch the ends of vectors, so that a read beyond them is found.
template <typename T>
IndexFile FileOf(const std::vector<T>& values) {
  return {"file", {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)}};
}

// Records the scores that a search was given, one `Add` per batch, and compares the answer with them
// in the end.
class ScoreLog {
 public:
  explicit ScoreLog(int64_t num_items) : scored_(num_items), scores_(num_items) {}

  // Records a batch; checks that no item lies outside the index or was scored before.
  void Add(absl::Span<const int32_t> items, absl::Span<const float> scores) {
    CHECK_THAT(!items.empty() && items.size() == scores.size());
    ++batches_;
    for (size_t i = 0; i < items.size(); ++i) {
      CHECK_THAT(items[i] >= 0 && items[i] < static_cast<int64_t>(scored_.size()));
      CHECK_THAT(!scored_[items[i]]);
      scored_[items[i]] = true;
      scores_[items[i]] = scores[i];
      nans_ += std::isnan(scores[i]);
      ++items_;
    }
  }

  // Checks what must hold after every search that returned OK.
  void CheckAnswer(const SearchRequest& request, const SearchStatistics& statistics,
                   const std::vector<Scored>& results) const {
    CHECK_THAT(statistics.items_scored == items_ && statistics.nan_scores == nans_);
    CHECK_THAT(statistics.rounds >= batches_);
    CHECK_THAT(items_ <= request.budget);
    CHECK_THAT(statistics.stopped != Stopped::kBudget || items_ == request.budget);
    CHECK_THAT(statistics.stopped != Stopped::kDeadline ||
               request.deadline != SearchRequest::kNoDeadline);
    CHECK_THAT(statistics.estimated_coverage >= SurrogateSearch::kLeastExpectedCoverage &&
               statistics.estimated_coverage <= 1);
    CHECK_THAT(statistics.prediction_error >= 0 && std::isfinite(statistics.prediction_error));
    CHECK_THAT(!statistics.fell_back || statistics.estimated_coverage == 0);
    std::vector<bool> answered(scored_.size());
    for (size_t i = 0; i < results.size(); ++i) {
      const int32_t item = results[i].item;
      CHECK_THAT(item >= 0 && item < static_cast<int64_t>(scored_.size()) && scored_[item]);
      CHECK_THAT(!answered[item]);
      CHECK_THAT(!std::binary_search(request.excluded.begin(), request.excluded.end(), item));
      answered[item] = true;
      const float score = results[i].score;
      CHECK_THAT(std::isnan(score) ? std::isnan(scores_[item]) : score == scores_[item]);
      if (i == 0) continue;
      const Scored& before = results[i - 1];
      CHECK_THAT(!std::isnan(before.score) || std::isnan(score));
      CHECK_THAT(!(before.score < score));
      CHECK_THAT(before.score != score || before.item < item);
    }
  }

  int batches() const { return batches_; }

 private:
  std::vector<bool> scored_;
  std::vector<float> scores_;
  int64_t items_ = 0, nans_ = 0;
  int batches_ = 0;
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_TESTING_H_
