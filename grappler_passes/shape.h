#ifndef GRAPPLER_PASSES_SHAPE_H_
#define GRAPPLER_PASSES_SHAPE_H_

#include <cstdint>
#include <initializer_list>
#include <utility>
#include <vector>

namespace tensorflow {
namespace nann_passes {

using Extents = std::vector<int64_t>;

// The number of items in a batch is not known, but which extents are its multiples must be. Shapes
// are inferred with this number, a prime larger than the width of any model, so that all are
// static: an extent that it divides is `extent / kItems` per item.
inline constexpr int64_t kItems = 1'000'003;

// Whether an extent is the number of items or a multiple of it.
inline bool ManyItems(int64_t extent) { return extent > 0 && extent % kItems == 0; }

// A tensor's shape: either all extents are known, or none. Every method may be called: for an
// unknown shape, and for an axis that does not exist, it returns kNone or false, which no extent of
// a known shape is. Passes check `known()` first wherever that would mislead them; where they
// forget to, they read kNone, never memory out of bounds.
class Shape {
 public:
  static constexpr int64_t kNone = -1;

  // An unknown shape. The shape of a scalar is Scalar().
  Shape() = default;
  // Unknown if an extent is negative.
  explicit Shape(Extents extents);
  Shape(std::initializer_list<int64_t> extents) : Shape(Extents(extents)) {}
  static Shape Scalar() { return Shape(Extents()); }

  bool known() const { return known_; }
  int rank() const { return known_ ? static_cast<int>(extents_.size()) : kNone; }
  // The extent of an axis; a negative axis counts from the end.
  int64_t operator[](int64_t axis) const;
  int64_t last() const { return (*this)[-1]; }
  // Empty if they are not known.
  const Extents& extents() const { return extents_; }

  // The product of all extents, at most the largest int64_t.
  int64_t elements() const { return Product(rank()); }
  // The product of all extents but the last; 1 for a scalar.
  int64_t rows() const { return Product(rank() > 0 ? rank() - 1 : rank()); }
  // The product of the first `axes` extents.
  int64_t Product(int axes) const;

  // Whether both shapes are known and equal.
  friend bool operator==(const Shape& a, const Shape& b) {
    return a.known_ && b.known_ && a.extents_ == b.extents_;
  }
  friend bool operator!=(const Shape& a, const Shape& b) { return !(a == b); }

  // This shape with one more axis at the front.
  Shape WithFirst(int64_t extent) const;
  // This shape with another last extent; unknown for a scalar.
  Shape WithLast(int64_t extent) const;
  // This shape without the last `axes` axes; unknown if there are fewer.
  Shape WithoutLast(int axes) const;

 private:
  bool known_ = false;
  Extents extents_;
};

// The shape that two shapes broadcast to; unknown if one of them is, or if they do not fit.
Shape Broadcast(const Shape& a, const Shape& b);

// Whether both have a last axis, with the same extent.
inline bool SameLast(const Shape& a, const Shape& b) {
  return a.rank() > 0 && b.rank() > 0 && a.last() == b.last();
}

}  // namespace nann_passes
}  // namespace tensorflow

#endif  // GRAPPLER_PASSES_SHAPE_H_
