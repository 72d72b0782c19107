// Tests VisitedSet where its epochs end and start again, with epochs of 16 bits instead of 32: the
// code is the same and the end is near.

#include "custom_ops/core/visited_set.h"

#include "custom_ops/core/testing.h"

namespace nann {
namespace {

// Items of the first epochs must not count as known when these come again.
void EpochsMayWrapAround() {
  using Visited = BasicVisitedSet<uint16_t>;
  Visited visited;
  float score = 0;
  visited.StartRequest(2);
  visited.Visit(0, &score);
  visited.SetScore(0, 5);
  for (int request = 0; request < 200000; ++request) {
    visited.StartRequest(2);
    CHECK_THAT(visited.Visit(1, &score) == Visited::State::kNew);
    visited.SetScore(1, 3);
    CHECK_THAT(visited.Visit(1, &score) == Visited::State::kVisited);
    for (int layer = request % Visited::kMaxLayers; layer > 0; --layer) {
      visited.StartLayer();
      score = 0;
      CHECK_THAT(visited.Visit(1, &score) == Visited::State::kScored && score == 3);
      CHECK_THAT(visited.Visit(1, &score) == Visited::State::kVisited);
    }
    // Every epoch after the wrap must find item 0 unknown, and it is the first one to visit it.
    if (request % 1000 == 999) CHECK_THAT(visited.Visit(0, &score) == Visited::State::kNew);
  }
}

void AnotherNumberOfItemsForgetsAll() {
  VisitedSet visited;
  float score = 0;
  for (int32_t items : {3, 0, 5, 4}) {
    visited.StartRequest(items);
    for (int32_t item = 0; item < items; ++item) {
      CHECK_THAT(visited.Visit(item, &score) == VisitedSet::State::kNew);
    }
  }
}

}  // namespace
}  // namespace nann

int main() {
  nann::EpochsMayWrapAround();
  nann::AnotherNumberOfItemsForgetsAll();
  std::puts("passed");
}
