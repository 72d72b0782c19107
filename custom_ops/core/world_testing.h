// Random indexes for the core's tests. Not a part of the op library.

#ifndef CUSTOM_OPS_CORE_WORLD_TESTING_H_
#define CUSTOM_OPS_CORE_WORLD_TESTING_H_

#include <algorithm>
#include <cstddef>
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

inline int SquaredDistance(const int8_t* a, const int8_t* b, int width) {
  int sum = 0;
  for (int j = 0; j < width; ++j) sum += (a[j] - b[j]) * (a[j] - b[j]);
  return sum;
}

// Returns an index of `n` items in whose ground layer each item is linked to those with the nearest
// features, as in a graph of embeddings. Only the first `dim` coordinates of the features differ.
inline World NearWorld(Random& random, int n, int width, int degree, int dim) {
  World world = RandomWorld(random, n, width, degree, 2);
  for (size_t i = 0; i < world.item_features.size(); ++i) {
    if (static_cast<int>(i) % width >= dim) world.item_features[i] = 0;
  }
  auto& [row_splits, neighbors] = world.layers[0];
  row_splits = {0};
  neighbors.clear();
  std::vector<int> distances;
  for (int item = 0; item < n; ++item) {
    std::vector<std::pair<int, int32_t>> near;
    const int8_t* const features = world.item_features.data();
    for (int other = 0; other < n; ++other) {
      if (other == item) continue;
      near.emplace_back(SquaredDistance(features + item * width, features + other * width, width),
                        other);
    }
    std::partial_sort(near.begin(), near.begin() + degree, near.end());
    for (int i = 0; i < degree; ++i) {
      distances.push_back(near[i].first);
      neighbors.push_back(near[i].second);
    }
    row_splits.push_back(neighbors.size());
  }
  std::vector<int> order = distances;
  std::nth_element(order.begin(), order.begin() + order.size() / 2, order.end());
  world.edge_distances.clear();
  for (int distance : distances) {
    const int steps = IndexView::kDistanceSteps * distance / order[order.size() / 2];
    world.edge_distances.push_back(std::min(steps, 255));
  }
  return world;
}

// Returns the scores of all items by a random linear function of their features.
inline std::vector<float> LinearScores(const World& world, int width, Random& random) {
  std::vector<float> weights(width), scores(world.item_ids.size());
  for (float& weight : weights) weight = Draw(random, -9, 9) / 256.0f;
  for (size_t i = 0; i < world.item_features.size(); ++i) {
    scores[i / width] += weights[i % width] * world.item_features[i];
  }
  return scores;
}

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_WORLD_TESTING_H_
