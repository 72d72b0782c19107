#include "custom_ops/core/surrogate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "custom_ops/core/walk.h"

namespace nann {
namespace {

// The constant coordinate of every row, in the steps of the features: 1, as their mean square is.
constexpr double kOne = 16;
// The ridge, in these steps.
constexpr double kRidge = 0.3 * kOne * kOne;
// The weight of the assumption that an item's error is 0, against 1 for an evaluated copy of it.
constexpr float kPrior = 0.1f;
// The squared distance, relative to the median over the layer's edges, at which a weight is 1 / e.
constexpr double kWidth = 0.3;

// So many candidates are kept, which take some 150 MB. It also lets a slot fit into an edge.
constexpr int32_t kMaxSlots = 1 << 22;

// Edges of this stored distance and above are left out: their weight is below a hundredth.
constexpr uint8_t kFarthest = 89;

// Predictions are nearly always between this and its negative.
constexpr float kUsual = 32;

// The weight of an edge by its stored distance.
const std::array<float, 256>& EdgeWeights() {
  static const std::array<float, 256> weights = [] {
    std::array<float, 256> made;
    for (int i = 0; i < 256; ++i) {
      made[i] = static_cast<float>(std::exp(-i / (IndexView::kDistanceSteps * kWidth)));
    }
    return made;
  }();
  return weights;
}

// Orders choices best first.
constexpr auto BetterChoice = [](const Surrogate::Choice& a, const Surrogate::Choice& b) {
  return a.prediction != b.prediction ? a.prediction > b.prediction : a.slot < b.slot;
};

int32_t BitsOf(float value) {
  int32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

float FloatOf(int32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

}  // namespace

void Surrogate::Start(const IndexView& index, const PassingItems* passing) {
  index_ = &index;
  passing_ = passing;
  stones_.clear();
  kernels_ = &SupportedRowKernels().sets[0]->features;
  width_ = index.feature_width();
  if (slots_.size() == static_cast<size_t>(index.num_items())) {
    for (int32_t slot = 0; slot < num_slots_; ++slot) slots_[items_[slot]] = -1;
  } else {
    slots_.assign(index.num_items(), -1);
  }
  num_slots_ = 0;
  observed_rows_.clear();
  edge_ends_.clear();
  edges_.clear();
  last_rows_.resize(width_ * kFeatureLanes);
  blocks_.resize(items_.size() * width_);  // The width may be that of another index.
  fitted_ = 0;
  products_.assign(width_ * width_, 0);
  row_sums_.assign(width_, 0);
}

// Makes room for so many more slots.
void Surrogate::MakeRoom(size_t slots) {
  const size_t wanted = num_slots_ + slots;
  if (wanted <= items_.size()) return;
  const size_t size = std::max(wanted, 2 * items_.size()) / kFeatureLanes * kFeatureLanes +
                      static_cast<size_t>(kFeatureLanes);
  items_.resize(size);
  evaluated_.resize(size);
  weights_.resize(size);
  corrections_.resize(size);
  predictions_.resize(size);
  chances_.resize(size);
  blocks_.resize(size * width_);
}

// There must be room for it.
int32_t Surrogate::MakeSlot(int32_t item) {
  const int32_t slot = num_slots_++;
  slots_[item] = slot;
  items_[slot] = item;
  evaluated_[slot] = false;
  weights_[slot] = 0;
  if (passing_ != nullptr && !passing_->Has(item)) stones_.push_back({0, slot});
  const int32_t lane = slot % kFeatureLanes;
  std::memcpy(last_rows_.data() + lane * width_, index_->features(item), width_);
  if (lane == kFeatureLanes - 1) {
    kernels_->make_block(last_rows_.data(), width_, blocks_.data() + (slot - lane) * width_);
  }
  return slot;
}

int32_t Surrogate::SlotOf(int32_t item) {
  if (slots_[item] >= 0) return slots_[item];
  MakeRoom(1);
  return MakeSlot(item);
}

void Surrogate::Add(absl::Span<const int32_t> items) {
  MakeRoom(items.size());
  for (int32_t item : items) SlotOf(item);
}

void Surrogate::Ignore(int32_t item) { evaluated_[SlotOf(item)] = true; }

void Surrogate::Prefetch(absl::Span<const Scored> items, size_t place) const {
  // The rows of links come first, then the links, then what belongs to the items that they lead to.
  constexpr size_t kRows = 6, kLinks = 4, kItems = 2;
  if (place + kRows < items.size()) {
    const int32_t item = items[place + kRows].item;
    index_->PrefetchRow(0, item);
    __builtin_prefetch(index_->features(item));
  }
  if (place + kLinks < items.size()) {
    const int32_t item = items[place + kLinks].item;
    index_->PrefetchNeighbors(0, item);
    __builtin_prefetch(index_->EdgeDistances(index_->Neighbors(0, item)).data());
  }
  if (place + kItems < items.size()) {
    for (int32_t neighbor : index_->Neighbors(0, items[place + kItems].item)) {
      if (!index_->Has(neighbor)) continue;
      __builtin_prefetch(slots_.data() + neighbor);
      __builtin_prefetch(index_->features(neighbor));
    }
  }
}

absl::Status Surrogate::Observe(int32_t item, bool expand) {
  const std::array<float, 256>& weights = EdgeWeights();
  evaluated_[SlotOf(item)] = true;
  const int8_t* const row = index_->features(item);
  observed_rows_.insert(observed_rows_.end(), row, row + width_);

  const absl::Span<const int32_t> neighbors = index_->Neighbors(0, item);
  const absl::Span<const uint8_t> distances = index_->EdgeDistances(neighbors);
  MakeRoom(neighbors.size());
  expand &= num_slots_ + neighbors.size() <= kMaxSlots;
  const size_t begin = edges_.size();
  edges_.resize(begin + neighbors.size());
  uint32_t* edge = edges_.data() + begin;
  // Locals, because the compiler must assume that a write to `evaluated_` changes any member.
  const int32_t* const slots = slots_.data();
  const char* const evaluated = evaluated_.data();
  float* const sums = weights_.data();
  for (size_t i = 0; i < neighbors.size(); ++i) {
    const int32_t neighbor = neighbors[i];  // Read once: a mapped file may change after a check.
    if (!index_->Has(neighbor)) return OutsideIndex(*index_, 0, item, neighbor);
    int32_t slot = slots[neighbor];
    if (slot < 0) {
      if (!expand) continue;
      slot = MakeSlot(neighbor);
    }
    // Without a branch, which the processor could not foresee.
    const bool wanted = !evaluated[slot] & (distances[i] < kFarthest) & (slot < kMaxSlots);
    *edge = static_cast<uint32_t>(slot) << 8 | distances[i];
    sums[slot] += weights[distances[i]] * static_cast<float>(wanted);
    edge += wanted;
  }
  edges_.resize(edge - edges_.data());
  edge_ends_.push_back(edges_.size());
  return absl::OkStatus();
}

void Surrogate::Fit(absl::Span<const double> targets) {
  AddNewProducts();
  FitLinear(targets);
  Predict(targets);
}

void Surrogate::Predict(absl::Span<const double> targets) {
  const int64_t rest = num_slots_ % kFeatureLanes;
  if (rest > 0) {  // Predictions beyond the last slot are made but never read.
    kernels_->make_block(last_rows_.data(), width_, blocks_.data() + (num_slots_ - rest) * width_);
  }
  const int64_t blocks = (num_slots_ + kFeatureLanes - 1) / kFeatureLanes;
  kernels_->block_dots(blocks_.data(), linear_.data(), blocks, width_, predictions_.data());
  AddCorrections(targets);
  for (Choice& stone : stones_) {
    stone.prediction = predictions_[stone.slot];
    predictions_[stone.slot] = -std::numeric_limits<float>::infinity();
  }
}

absl::StatusOr<size_t> Surrogate::Cross(size_t most, float least) {
  const auto end = std::partition(stones_.begin(), stones_.end(),
                                  [=](const Choice& stone) { return stone.prediction >= least; });
  const size_t crossed = std::min<size_t>(most, end - stones_.begin());
  std::nth_element(stones_.begin(), stones_.begin() + crossed, end, BetterChoice);
  std::sort(stones_.begin(), stones_.begin() + crossed, BetterChoice);
  crossed_.clear();
  for (size_t i = 0; i < crossed; ++i) crossed_.push_back(stones_[i].slot);
  stones_.erase(stones_.begin(), stones_.begin() + crossed);
  for (int32_t slot : crossed_) {
    evaluated_[slot] = true;
    const int32_t item = items_[slot];
    for (int32_t neighbor : index_->Neighbors(0, item)) {
      if (!index_->Has(neighbor)) return OutsideIndex(*index_, 0, item, neighbor);
      if (num_slots_ < kMaxSlots) SlotOf(neighbor);
    }
  }
  return crossed;
}

// In pieces, whose sums are exact.
void Surrogate::AddNewProducts() {
  for (size_t end = edge_ends_.size(); fitted_ < end;) {
    const size_t count = std::min<size_t>(end - fitted_, kExactRows);
    const int8_t* const rows = observed_rows_.data() + fitted_ * width_;
    new_products_.assign(width_ * width_, 0);
    kernels_->products(rows, count, width_, new_products_.data());
    for (size_t i = 0; i < products_.size(); ++i) products_[i] += new_products_[i];
    const std::vector<double> ones(count, 1);
    kernels_->weighted_sum(rows, ones.data(), count, width_, row_sums_.data());
    fitted_ += count;
  }
}

void Surrogate::FitLinear(absl::Span<const double> targets) {
  const int64_t n = width_ + 1;
  matrix_.resize(n * n);
  solution_.assign(n, 0);
  for (int64_t i = 0; i < width_; ++i) {
    std::copy_n(products_.data() + i * width_, width_, matrix_.data() + i * n);
    matrix_[i * n + width_] = kOne * row_sums_[i];
    matrix_[i * n + i] += kRidge;
  }
  matrix_[n * n - 1] = kOne * kOne * targets.size() + kRidge;
  kernels_->weighted_sum(observed_rows_.data(), targets.data(), targets.size(), width_,
                         solution_.data());
  for (double target : targets) solution_[width_] += kOne * target;
  kernels_->solve(matrix_.data(), solution_.data(), n);
  linear_.assign(solution_.begin(), solution_.end());
  linear_[width_] = static_cast<float>(kOne * solution_[width_]);
}

void Surrogate::AddCorrections(absl::Span<const double> targets) {
  fits_.resize(targets.size());
  kernels_->dots(observed_rows_.data(), linear_.data(), targets.size(), width_, fits_.data());
  std::fill_n(corrections_.begin(), num_slots_, 0.0f);
  const std::array<float, 256>& weights = EdgeWeights();
  size_t edge = 0;
  for (size_t i = 0; i < targets.size(); ++i) {
    const float error = static_cast<float>(targets[i]) - (fits_[i] + linear_[width_]);
    for (; edge < edge_ends_[i]; ++edge) {
      corrections_[edges_[edge] >> 8] += weights[edges_[edge] & 255] * error;
    }
  }
  for (int32_t slot = 0; slot < num_slots_; ++slot) {
    if (evaluated_[slot]) corrections_[slot] = -std::numeric_limits<float>::infinity();
  }
  kernels_->correct(corrections_.data(), weights_.data(), linear_[width_], kPrior, num_slots_,
                    predictions_.data());
}

double Surrogate::ExpectAbove(float bound, float error) {
  return kernels_->chances(predictions_.data(), bound, 1 / error, num_slots_, chances_.data());
}

absl::Span<const Surrogate::Choice> Surrogate::Best(size_t count, float least) {
  const float* const values = predictions_.data();
  // Halves the range of a bound until not many more than `count` are above it. The bits of floats are
  // in the order of the floats, once those of negative ones are turned around.
  const auto ordered = [](int32_t bits) { return bits ^ (bits >> 31 & 0x7fffffff); };
  // Log-odds of a rank are far within the first range that is tried.
  const auto above_all = [&](float value) {
    return kernels_->count_above(values, num_slots_, value) < static_cast<int64_t>(count);
  };
  const float widest = std::numeric_limits<float>::max();
  int64_t low = ordered(BitsOf(std::max(least, above_all(-kUsual) ? -widest : -kUsual)));
  int64_t high = ordered(BitsOf(above_all(kUsual) ? kUsual : widest));
  float bound = least;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    const float tried = FloatOf(ordered(static_cast<int32_t>(middle)));
    const int64_t above = kernels_->count_above(values, num_slots_, tried);
    if (above < static_cast<int64_t>(count)) {
      high = middle;
      continue;
    }
    low = middle;
    bound = tried;
    if (above <= static_cast<int64_t>(count + count / 4)) break;
  }
  best_.clear();
  for (int64_t slot = kernels_->last_above(values, num_slots_, bound); slot >= 0;
       slot = kernels_->last_above(values, slot, bound)) {
    best_.push_back({values[slot], static_cast<int32_t>(slot)});
  }
  std::sort(best_.begin(), best_.end(), BetterChoice);
  if (best_.size() > count) best_.resize(count);
  return best_;
}

}  // namespace nann
