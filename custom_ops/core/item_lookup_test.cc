// Tests that ItemLookup finds every id at its place, and no other id, whatever the order of ids.

#include "custom_ops/core/item_lookup.h"

#include <algorithm>
#include <set>

#include "custom_ops/core/testing.h"

namespace nann {
namespace {

void LookupsFindEveryIdAndNoOther() {
  Random random(4);
  for (int example = 0; example < 500; ++example) {
    std::set<int64_t> ids;
    for (int i = Draw(random, 0, 40); i > 0; --i) ids.insert(Draw(random, -60, 60));
    std::vector<int64_t> order(ids.begin(), ids.end());
    if (Draw(random, 0, 1) == 1) std::shuffle(order.begin(), order.end(), random);
    const ItemLookup lookup(order);
    for (int64_t id = -61; id <= 61; ++id) {
      const auto place = std::find(order.begin(), order.end(), id);
      CHECK_THAT(lookup.Find(id) == (place == order.end() ? -1 : place - order.begin()));
    }
  }
}

}  // namespace
}  // namespace nann

int main() {
  nann::LookupsFindEveryIdAndNoOther();
  std::puts("passed");
}
