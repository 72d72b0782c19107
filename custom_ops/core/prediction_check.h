#ifndef CUSTOM_OPS_CORE_PREDICTION_CHECK_H_
#define CUSTOM_OPS_CORE_PREDICTION_CHECK_H_

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"

namespace nann {

// Compares the predictions of a SurrogateSearch with what came of them.
class PredictionCheck {
 public:
  // Adds a batch; `targets` are what `predictions` should have been. `expected` of its items were
  // expected to be among the best k, and `found` are.
  void Add(absl::Span<const float> predictions, absl::Span<const double> targets, double expected,
           double found) {
    const double n = targets.size();
    double prediction = 0, target = 0, errors = 0;  // Means, and a sum of squares.
    for (size_t i = 0; i < targets.size(); ++i) {
      prediction += predictions[i] / n;
      target += targets[i] / n;
      errors += (targets[i] - predictions[i]) * (targets[i] - predictions[i]);
    }
    for (size_t i = 0; i < targets.size(); ++i) {
      const double p = predictions[i] - prediction, t = targets[i] - target;
      covariance_ += p * t;
      prediction_variance_ += p * p;
      target_variance_ += t * t;
    }
    mean_square_ = count_ == 0 ? errors / n : (mean_square_ + errors / n) / 2;
    expected_ = expected_ / 2 + expected;
    found_ = found_ / 2 + found;
    count_ += targets.size();
  }

  bool any() const { return count_ > 0; }
  // Returns the standard error of predictions. A batch counts half as much as the next one.
  double error() const { return std::sqrt(mean_square_); }
  // Returns how many items are found for each that is expected. Half an item that was expected and
  // found keeps it from jumping.
  double found_per_expected() const { return (found_ + 0.5) / (expected_ + 0.5); }
  // Returns whether predictions tell nothing about the order of the scores. Batches consist of the
  // best candidates only, so that a low correlation within them is already a good sign.
  bool failed() const {
    return count_ >= kEnough &&
           covariance_ < kLeastCorrelation * std::sqrt(prediction_variance_ * target_variance_);
  }

 private:
  static constexpr int kEnough = 192;
  static constexpr double kLeastCorrelation = 0.06;

  double covariance_ = 0, prediction_variance_ = 0, target_variance_ = 0, mean_square_ = 0;
  double expected_ = 0, found_ = 0;
  int64_t count_ = 0;
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_PREDICTION_CHECK_H_
