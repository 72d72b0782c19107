#ifndef CUSTOM_OPS_CORE_SURROGATE_H_
#define CUSTOM_OPS_CORE_SURROGATE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "custom_ops/core/index_view.h"
#include "custom_ops/core/passing_items.h"
#include "custom_ops/core/row_kernels.h"
#include "custom_ops/core/scored.h"

namespace nann {

// Predicts, during one request, the scores of items from those of items that the model has evaluated,
// at a small part of the model's cost (docs/surrogate.md). A prediction is a linear function of the
// item's features, fitted by ridge regression, plus the mean of the errors of that function at the
// item's evaluated neighbours in the ground layer, weighted by how close these are.
//
// What it predicts are `targets` that the caller derives from the scores. Used by one thread; the
// buffers are kept between requests.
class Surrogate {
 public:
  // A candidate is an item that was not evaluated yet and has an expanded neighbour. It is known by
  // its slot, which stays the same for the request.
  struct Choice {
    float prediction;
    int32_t slot;
  };

  // Forgets the request before. The index must have features and outlive the request. If
  // `passing` is not null, only the items that it has can be candidates. The others are stepping stones:
  // their scores are predicted as well, to learn which of them to cross on the way to others.
  void Start(const IndexView& index, const PassingItems* passing = nullptr);
  // Makes items candidates or stepping stones.
  void Add(absl::Span<const int32_t> items);

  // Hints that the items from `place` on will be observed one after the other.
  void Prefetch(absl::Span<const Scored> items, size_t place) const;
  // Adds an evaluated item, which is no candidate any more. If `expand`, its neighbours become
  // candidates. Returns DataLoss if a neighbour is outside the index.
  absl::Status Observe(int32_t item, bool expand);
  // Removes an evaluated item from the candidates without learning from it.
  void Ignore(int32_t item);

  // Fits to one target for each observed item, in the order of `Observe`, and predicts the target of
  // every candidate.
  void Fit(absl::Span<const double> targets);

  bool has_stones() const { return !stones_.empty(); }
  // Crosses the `most` stepping stones with the highest predictions that are at least `least`: their
  // neighbours become candidates. Returns how many were crossed. Until the next `Fit` or `Predict`,
  // nothing else may be called. Returns DataLoss if a neighbour is outside the index.
  absl::StatusOr<size_t> Cross(size_t most, float least);
  // Predicts the target of every candidate anew, for the targets of the last `Fit`.
  void Predict(absl::Span<const double> targets);

  // Returns how many candidates are expected to have a target above `bound`, if the errors of the
  // predictions are normal with the standard deviation `error`. Sets `chance` of each of them.
  double ExpectAbove(float bound, float error);

  // Returns the `count` candidates with the highest predictions above `least`, or all if there are
  // fewer, best first. Of equal predictions, the lower slot is first.
  absl::Span<const Choice> Best(size_t count, float least);

  int32_t item(int32_t slot) const { return items_[slot]; }
  float chance(int32_t slot) const { return chances_[slot]; }
  // Returns how many items have been candidates or were evaluated.
  int64_t num_slots() const { return num_slots_; }

 private:
  int32_t SlotOf(int32_t item);
  int32_t MakeSlot(int32_t item);
  void MakeRoom(size_t slots);
  void AddNewProducts();
  void FitLinear(absl::Span<const double> targets);
  void AddCorrections(absl::Span<const double> targets);

  const IndexView* index_ = nullptr;
  const PassingItems* passing_ = nullptr;
  const FeatureKernels* kernels_ = nullptr;
  int64_t width_ = 0;

  // By slot. The vectors have room for more slots than there are.
  int32_t num_slots_ = 0;
  std::vector<int32_t> items_;
  std::vector<char> evaluated_;
  std::vector<float> weights_, corrections_;
  std::vector<float> predictions_;  // Minus infinity for an evaluated item.
  std::vector<float> chances_;
  // Features as `block_dots` takes them; those of the last slots, which do not fill a block yet, are
  // in `last_rows_`, [kFeatureLanes, width_].
  std::vector<int8_t> blocks_, last_rows_;
  std::vector<int32_t> slots_;  // The slot of each item of the index, or -1.

  // The stepping stones that are not crossed, with their predictions.
  std::vector<Choice> stones_;
  std::vector<int32_t> crossed_;

  // By observed item.
  std::vector<int8_t> observed_rows_;
  std::vector<size_t> edge_ends_;  // Where its edges to candidates end in `edges_`.
  std::vector<uint32_t> edges_;    // The slot and, in the last eight bits, the distance.

  // The sums over observed items of which the regression consists; the first `fitted_` are in them.
  size_t fitted_ = 0;
  std::vector<double> products_, row_sums_;  // [width_, width_], [width_]
  std::vector<float> new_products_;
  std::vector<double> matrix_, solution_;
  std::vector<float> linear_;  // [width_ + 1], the constant last.
  std::vector<float> fits_;
  std::vector<Choice> best_;
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_SURROGATE_H_
