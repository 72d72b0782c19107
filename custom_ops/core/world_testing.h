// Random indexes for the core's tests. Not a part of the op library.

#ifndef CUSTOM_OPS_CORE_WORLD_TESTING_H_
#define CUSTOM_OPS_CORE_WORLD_TESTING_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "custom_ops/core/index_view.h"
#include "custom_ops/core/testing.h"

namespace nann {

// The arrays of an index and the view of them.
struct World {
  std::vector<int64_t> item_ids;
  std::vector<float> embeddings;
  std::vector<int32_t> entry_points;
  std::vector<std::pair<std::vector<int64_t>, std::vector<int32_t>>> layers;
  std::vector<int8_t> item_features = {};  // Empty for an index without features.
  std::vector<uint8_t> edge_distances = {};

  IndexFiles Files() const {
    IndexFiles files{FileOf(item_ids), FileOf(embeddings), FileOf(entry_points), {}};
    for (const auto& [row_splits, neighbors] : layers) {
      files.layers.push_back({FileOf(row_splits), FileOf(neighbors)});
    }
    if (!item_features.empty()) {
      files.item_features = FileOf(item_features);
      files.edge_distances = FileOf(edge_distances);
    }
    return files;
  }

  IndexView View() const {
    auto view = IndexView::Create(Files(), 1);
    CHECK_THAT(view.ok());
    return *view;
  }
};

// Returns an index of `n` items with features of `width` coordinates, in which an item has up to
// `max_degree` neighbours in each layer.
inline World RandomWorld(Random& random, int n, int width, int max_degree, int num_layers) {
  World world;
  for (int i = 0; i < n; ++i) world.item_ids.push_back(1000 + i);
  world.embeddings.resize(n);
  for (int i = Draw(random, 1, 5); i > 0; --i) world.entry_points.push_back(Draw(random, 0, n - 1));
  for (int layer = 0; layer < num_layers; ++layer) {
    world.layers.push_back({{0}, {}});
    auto& [row_splits, neighbors] = world.layers.back();
    for (int i = 0; i < n; ++i) {
      for (int degree = Draw(random, 0, max_degree); degree > 0; --degree) {
        neighbors.push_back(Draw(random, 0, n - 1));
      }
      row_splits.push_back(neighbors.size());
    }
  }
  for (int i = n * width; i > 0; --i) world.item_features.push_back(Draw(random, -127, 127));
  for (size_t i = world.layers[0].second.size(); i > 0; --i) {
    world.edge_distances.push_back(Draw(random, 0, 255));
  }
  return world;
}

// Returns a small one.
inline World RandomWorld(Random& random) {
  const int n = Draw(random, 1, 60), width = 16 * Draw(random, 1, 2);
  return RandomWorld(random, n, width, 5, Draw(random, 1, 3));
}

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_WORLD_TESTING_H_
