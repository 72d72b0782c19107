// The loops of row_kernels.h, over an instruction set `Isa` that the including file defines in an
// anonymous namespace. Included once by each of row_kernels_{plain,avx2,avx512}.cc and nowhere
// else.
//
// Isa must have a type Vec of kWidth floats and Zero(), Set(float), Load(const T*),
// LoadPart(const T*, n), which gives zeros after the first n, Store(float*, Vec),
// StorePart(float*, n, Vec), Add, Sub, Mul, MulAdd(a, b, c) = a * b + c, and Sum(Vec), where T is
// float, Half or int8_t. feature_kernels_impl.h must be included before.

namespace nann {
namespace {

// How many rows to prefetch ahead of the current one: enough to hide a cache miss.
constexpr int64_t kAhead = 6;

template <typename T>
inline void Prefetch(const T* row, int64_t dim) {
  const char* begin = reinterpret_cast<const char*>(row);
  const char* const end = reinterpret_cast<const char*>(row + dim);
  for (; begin < end; begin += 64) __builtin_prefetch(begin);
}

// Calls visit(i, row, scale) for each items[i], prefetching rows ahead.
template <typename T, typename Visit>
inline void ForEachRow(const RowTable& table, const int32_t* items, int64_t count, Visit visit) {
  const T* values = static_cast<const T*>(table.values);
  const int64_t dim = table.dim;
  for (int64_t i = 0; i < count && i < kAhead; ++i) Prefetch(values + items[i] * dim, dim);
  for (int64_t i = 0; i < count; ++i) {
    if (i + kAhead < count) Prefetch(values + items[i + kAhead] * dim, dim);
    const float scale = table.scales == nullptr ? 1.0f : table.scales[items[i]];
    visit(i, values + items[i] * dim, scale);
  }
}

template <typename T>
void Gather(const RowTable& table, const int32_t* items, int64_t count, float* rows) {
  const int64_t dim = table.dim;
  ForEachRow<T>(table, items, count, [=](int64_t i, const T* row, float scale) {
    float* out = rows + i * dim;
    const Isa::Vec factor = Isa::Set(scale);
    int64_t d = 0;
    for (; d + Isa::kWidth <= dim; d += Isa::kWidth) {
      Isa::Store(out + d, Isa::Mul(Isa::Load(row + d), factor));
    }
    if (d < dim)
      Isa::StorePart(out + d, dim - d, Isa::Mul(Isa::LoadPart(row + d, dim - d), factor));
  });
}

// Accumulates step(q, x, sum) over the coordinates in two independent sums, so that additions need
// not wait for each other.
template <typename T, typename Step>
inline float Accumulate(const float* query, const T* row, int64_t dim, Step step) {
  Isa::Vec even = Isa::Zero(), odd = Isa::Zero();
  int64_t d = 0;
  for (; d + 2 * Isa::kWidth <= dim; d += 2 * Isa::kWidth) {
    even = step(Isa::Load(query + d), Isa::Load(row + d), even);
    odd = step(Isa::Load(query + d + Isa::kWidth), Isa::Load(row + d + Isa::kWidth), odd);
  }
  if (d + Isa::kWidth <= dim) {
    even = step(Isa::Load(query + d), Isa::Load(row + d), even);
    d += Isa::kWidth;
  }
  if (d < dim) {
    odd = step(Isa::LoadPart(query + d, dim - d), Isa::LoadPart(row + d, dim - d), odd);
  }
  return Isa::Sum(Isa::Add(even, odd));
}

template <typename T>
inline float Dot(const float* query, const T* row, int64_t dim) {
  return Accumulate(query, row, dim,
                    [](Isa::Vec q, Isa::Vec x, Isa::Vec sum) { return Isa::MulAdd(q, x, sum); });
}

template <typename T>
void ScoreDot(const RowTable& table, const float* query, const int32_t* items, int64_t count,
              float* scores) {
  ForEachRow<T>(table, items, count, [&](int64_t i, const T* row, float scale) {
    scores[i] = scale * Dot(query, row, table.dim);
  });
}

template <typename T>
void ScoreL2(const RowTable& table, const float* query, const int32_t* items, int64_t count,
             float* scores) {
  ForEachRow<T>(table, items, count, [&](int64_t i, const T* row, float scale) {
    const Isa::Vec factor = Isa::Set(scale);
    scores[i] = -Accumulate(query, row, table.dim, [=](Isa::Vec q, Isa::Vec x, Isa::Vec sum) {
      const Isa::Vec apart = Isa::Sub(q, Isa::Mul(x, factor));
      return Isa::MulAdd(apart, apart, sum);
    });
  });
}

template <typename T>
void ScoreCosine(const RowTable& table, const float* query, const int32_t* items, int64_t count,
                 float* scores) {
  // The cosine does not depend on the scale, which is positive.
  ForEachRow<T>(table, items, count, [&](int64_t i, const T* row, float) {
    const float square = Accumulate(query, row, table.dim, [](Isa::Vec, Isa::Vec x, Isa::Vec sum) {
      return Isa::MulAdd(x, x, sum);
    });
    // A square of NaN is not 0, so that the score is NaN, as with the other metrics.
    scores[i] = square != 0 ? Dot(query, row, table.dim) / __builtin_sqrtf(square) : 0.0f;
  });
}

constexpr RowKernels MakeKernels(const char* name) {
  return {name,
          {Gather<float>, Gather<Half>, Gather<int8_t>},
          {{ScoreDot<float>, ScoreDot<Half>, ScoreDot<int8_t>},
           {ScoreL2<float>, ScoreL2<Half>, ScoreL2<int8_t>},
           {ScoreCosine<float>, ScoreCosine<Half>, ScoreCosine<int8_t>}},
          {FeatureProducts, FeatureWeightedSum, FeatureDots, FeatureMakeBlock, FeatureBlockDots,
           FeatureCorrect, FeatureChances, FeatureCountAbove, FeatureLastAbove, Solve}};
}

}  // namespace
}  // namespace nann
