#include "grappler_passes/shape.h"

#include <algorithm>
#include <limits>

namespace tensorflow {
namespace nann_passes {

Shape::Shape(Extents extents) {
  known_ = std::all_of(extents.begin(), extents.end(), [](int64_t extent) { return extent >= 0; });
  if (known_) extents_ = std::move(extents);
}

int64_t Shape::operator[](int64_t axis) const {
  const int64_t count = extents_.size();
  if (axis < 0) axis += count;
  return axis >= 0 && axis < count ? extents_[axis] : kNone;
}

int64_t Shape::Product(int axes) const {
  if (axes < 0 || axes > rank()) return kNone;
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  int64_t product = 1;
  bool beyond = false;
  for (int axis = 0; axis < axes; ++axis) {
    const int64_t extent = extents_[axis];
    if (extent == 0) return 0;
    beyond = beyond || product > kMax / extent;
    if (!beyond) product *= extent;
  }
  return beyond ? kMax : product;
}

Shape Shape::WithFirst(int64_t extent) const {
  if (!known_) return Shape();
  Extents extents = extents_;
  extents.insert(extents.begin(), extent);
  return Shape(std::move(extents));
}

Shape Shape::WithLast(int64_t extent) const {
  if (extents_.empty()) return Shape();
  Extents extents = extents_;
  extents.back() = extent;
  return Shape(std::move(extents));
}

Shape Shape::WithoutLast(int axes) const {
  if (axes < 0 || axes > rank()) return Shape();
  return Shape(Extents(extents_.begin(), extents_.end() - axes));
}

Shape Broadcast(const Shape& a, const Shape& b) {
  if (!a.known() || !b.known()) return Shape();
  Extents extents(std::max(a.rank(), b.rank()), 1);
  for (int i = 1; i <= static_cast<int>(extents.size()); ++i) {
    const int64_t left = i <= a.rank() ? a[-i] : 1;
    const int64_t right = i <= b.rank() ? b[-i] : 1;
    if (left != right && left != 1 && right != 1) return Shape();
    extents[extents.size() - i] = left == 1 ? right : left;
  }
  return Shape(std::move(extents));
}

}  // namespace nann_passes
}  // namespace tensorflow
