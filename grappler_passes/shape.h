#ifndef GRAPPLER_PASSES_SHAPE_H_
#define GRAPPLER_PASSES_SHAPE_H_

#include <cstdint>
#include <initializer_list>
#include <utility>
#include <vector>

namespace tensorflow {
namespace nann_passes {

using Extents = std::vector<int64_t>;

// How many items a batch has is not known, but what is a multiple of it must be. Shapes are
// inferred with this many, a prime that no model is as wide as, so that all are static: an extent
// that it divides is `extent / kItems` per item.
inline constexpr int64_t kItems = 1'000'003;

// Whether an extent is that of a batch's items, or a multiple of it.
inline bool ManyItems(int64_t extent) { return extent > 0 && extent % kItems == 0; }

// What is known of a tensor's shape: all of its extents, or nothing. Every question has an answer:
// of a shape that is not known, and of an axis that there is not, it is kNone or false, which no
// extent of a known shape is. Passes ask `known()` first wherever such an answer would mislead
// them; where they forget to, they read kNone, never memory that is not theirs.
class Shape {
 public:
  static constexpr int64_t kNone = -1;

  // Not known. A scalar's shape is Scalar().
  Shape() = default;
  // Not known where an extent is negative.
  explicit Shape(Extents extents);
  Shape(std::initializer_list<int64_t> extents) : Shape(Extents(extents)) {}
  static Shape Scalar() { return Shape(Extents()); }

  bool known() const { return known_; }
  int rank() const { return known_ ? static_cast<int>(extents_.size()) : kNone; }
  // The extent of an axis, which counts from the end where it is negative.
  int64_t operator[](int64_t axis) const;
  int64_t last() const { return (*this)[-1]; }
  // Empty where they are not known.
  const Extents& extents() const { return extents_; }

  // All extents multiplied, at most the largest number that there is.
  int64_t elements() const { return Product(rank()); }
  // All extents but the last, multiplied; 1 of a scalar.
  int64_t rows() const { return Product(rank() > 0 ? rank() - 1 : rank()); }
  // The first `axes` extents, multiplied.
  int64_t Product(int axes) const;

  // Whether both are known, and the same.
  friend bool operator==(const Shape& a, const Shape& b) {
    return a.known_ && b.known_ && a.extents_ == b.extents_;
  }
  friend bool operator!=(const Shape& a, const Shape& b) { return !(a == b); }

  // With one more axis at the front.
  Shape WithFirst(int64_t extent) const;
  // With another last extent; not known of a scalar.
  Shape WithLast(int64_t extent) const;
  // Without the last `axes` axes; not known where there are fewer.
  Shape WithoutLast(int axes) const;

 private:
  bool known_ = false;
  Extents extents_;
};

// The shape that an operation on two shapes broadcasts to; not known where one of them is not, or
// where they do not fit.
Shape Broadcast(const Shape& a, const Shape& b);

// Whether both have a last axis, of the same extent.
inline bool SameLast(const Shape& a, const Shape& b) {
  return a.rank() > 0 && b.rank() > 0 && a.last() == b.last();
}

}  // namespace nann_passes
}  // namespace tensorflow

#endif  // GRAPPLER_PASSES_SHAPE_H_
