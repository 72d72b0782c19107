// Tests VisitedSet where its epochs wrap around, with epochs of 16 bits in place of 32: the code is
// the same, and they wrap around soon.

#include "custom_ops/core/visited_set.h"

#include "custom_ops/core/testing.h"

namespace nann {
namespace {

// Items marked in the first epochs must not count as known when the epochs start again.
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
    // Item 0 must be unknown in every epoch after the wrap, as this is its first visit.
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
