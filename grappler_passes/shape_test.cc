// Tests of Shape: no call is out of bounds, not even for an unknown shape.

#include "grappler_passes/shape.h"

#include <limits>

#include "custom_ops/core/testing.h"

namespace tensorflow {
namespace nann_passes {
namespace {

void AnUnknownShapeAnswersEveryCall() {
  for (const Shape& shape :
       {Shape(), Shape{1, -1, 4}, Shape().WithFirst(3), Shape().WithLast(3),
        Shape::Scalar().WithLast(3), Shape{2}.WithoutLast(2), Broadcast(Shape(), {2}),
        Broadcast({2}, Shape()), Broadcast({2}, {3})}) {
    CHECK_THAT(!shape.known() && shape.rank() == Shape::kNone && shape.extents().empty());
    CHECK_THAT(shape.elements() == Shape::kNone && shape.rows() == Shape::kNone);
    for (int axis = -3; axis < 3; ++axis) CHECK_THAT(shape[axis] == Shape::kNone);
    CHECK_THAT(shape.last() == Shape::kNone);
    CHECK_THAT(shape != shape && shape != Shape::Scalar() && Shape::Scalar() != shape);
    CHECK_THAT(!SameLast(shape, shape));
  }
}

void AxesOutOfBoundsAreNone() {
  const Shape shape{5, 7};
  CHECK_THAT(shape[0] == 5 && shape[1] == 7 && shape[-1] == 7 && shape[-2] == 5);
  CHECK_THAT(shape[2] == Shape::kNone && shape[-3] == Shape::kNone);
  CHECK_THAT(shape.Product(-1) == Shape::kNone && shape.Product(3) == Shape::kNone);
  CHECK_THAT(shape.Product(0) == 1 && shape.Product(1) == 5 && shape.Product(2) == 35);
  CHECK_THAT(Shape::Scalar().last() == Shape::kNone && Shape::Scalar()[0] == Shape::kNone);
  CHECK_THAT(!SameLast(Shape::Scalar(), Shape::Scalar()) && SameLast(shape, {7}));
  CHECK_THAT(!SameLast(Shape::Scalar(), shape) && !SameLast(shape, Shape::Scalar()));
}

void ProductsDoNotOverflow() {
  constexpr int64_t kMany = std::numeric_limits<int64_t>::max();
  CHECK_THAT((Shape{kItems, 1 << 30, 1 << 30}).elements() == kMany);
  CHECK_THAT((Shape{kMany, kMany}).elements() == kMany && (Shape{kMany, 5}).rows() == kMany);
  CHECK_THAT((Shape{kMany, kMany, 0}).elements() == 0 && (Shape{0, kMany, kMany}).elements() == 0);
  CHECK_THAT((Shape{int64_t{1} << 62}).elements() == int64_t{1} << 62);
  CHECK_THAT(Shape::Scalar().elements() == 1 && Shape::Scalar().rows() == 1);
  CHECK_THAT((Shape{3, 4, 5}).elements() == 60 && (Shape{3, 4, 5}).rows() == 12);
}

void ShapesAreDerived() {
  CHECK_THAT((Shape{4}).WithFirst(3) == (Shape{3, 4}) && Shape::Scalar().WithFirst(3) == Shape{3});
  CHECK_THAT((Shape{3, 4}).WithLast(5) == (Shape{3, 5}));
  CHECK_THAT((Shape{3, 4}).WithoutLast(0) == (Shape{3, 4}));
  CHECK_THAT((Shape{3, 4}).WithoutLast(1) == Shape{3});
  CHECK_THAT((Shape{3, 4}).WithoutLast(2) == Shape::Scalar());
}

void ShapesBroadcast() {
  CHECK_THAT(Broadcast({2, 1, 4}, {3, 1}) == (Shape{2, 3, 4}));
  CHECK_THAT(Broadcast({4}, {3, 4}) == (Shape{3, 4}) && Broadcast({3, 4}, {1}) == (Shape{3, 4}));
  CHECK_THAT(Broadcast(Shape::Scalar(), {7}) == Shape{7});
  CHECK_THAT(Broadcast(Shape::Scalar(), Shape::Scalar()) == Shape::Scalar());
  CHECK_THAT(Broadcast({0, 1}, {1, 5}) == (Shape{0, 5}));
  CHECK_THAT(!Broadcast({0, 2}, {3, 2}).known());
}

}  // namespace
}  // namespace nann_passes
}  // namespace tensorflow

int main() {
  tensorflow::nann_passes::AnUnknownShapeAnswersEveryCall();
  tensorflow::nann_passes::AxesOutOfBoundsAreNone();
  tensorflow::nann_passes::ProductsDoNotOverflow();
  tensorflow::nann_passes::ShapesAreDerived();
  tensorflow::nann_passes::ShapesBroadcast();
}
