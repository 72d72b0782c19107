#ifndef CUSTOM_OPS_CORE_INDEX_VIEW_H_
#define CUSTOM_OPS_CORE_INDEX_VIEW_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "custom_ops/core/row_kernels.h"

namespace nann {

// Limits far above any real model and graph, so that sizes in bytes computed from them cannot
// overflow.
inline constexpr int64_t kMaxDim = int64_t{1} << 20;
inline constexpr int kMaxLayers = 32;

// The bytes of one file of an index, usually memory-mapped; `name` is used in error messages.
struct IndexFile {
  std::string name;
  absl::string_view bytes;
};

// The files of an index as docs/format.md describes them. layers[0] is the ground layer.
struct IndexFiles {
  struct Layer {
    IndexFile row_splits;  // int64 [n + 1]
    IndexFile neighbors;   // int32 [row_splits[n]]
  };
  IndexFile item_ids;         // int64 [n]
  IndexFile item_embeddings;  // [n, dim] of `type`
  IndexFile entry_points;     // int32 [e], the items of the start layer
  std::vector<Layer> layers;
  TableType type = TableType::kFloat32;
  IndexFile item_scales = {};  // float32 [n], read for kInt8 only
  // Read by the surrogate search alone; an index has either both files or none of them.
  IndexFile item_features = {};   // int8 [n, width]
  IndexFile edge_distances = {};  // uint8 [row_splits[n]] of the ground layer
};

// A read-only view of an index: the item table and, per layer, the graph's edges as CSR rows.
// The view does not own the bytes of the files, which must outlive it. Thread-safe.
class IndexView {
 public:
  // Checks that the sizes of all files agree. O(layers).
  // Returns InvalidArgument otherwise, with the file, its size and the size expected.
  static absl::StatusOr<IndexView> Create(const IndexFiles& files, int64_t dim);

  // Checks every offset, neighbour, entry point and scale against its bounds. O(edges).
  // Returns InvalidArgument, with the file and the position, if one is out of bounds.
  absl::Status Validate() const;

  int64_t num_items() const { return static_cast<int64_t>(item_ids_.size()); }
  bool Has(int32_t item) const { return item >= 0 && item < num_items(); }
  int64_t dim() const { return table_.dim; }
  // Returns the number of layers with edges. The start layer above them consists of the entry points.
  int num_layers() const { return static_cast<int>(layers_.size()); }
  absl::Span<const int64_t> item_ids() const { return item_ids_; }
  TableType table_type() const { return type_; }
  const RowTable& table() const { return table_; }
  absl::Span<const int32_t> entry_points() const { return entry_points_; }

  // Returns the neighbours of `item`, which must be in the index, in `layer`. Returns none if the row
  // lies outside the file, which cannot happen in a validated index.
  absl::Span<const int32_t> Neighbors(int layer, int32_t item) const {
    const Layer& l = layers_[layer];
    const int64_t begin = l.row_splits[item], end = l.row_splits[item + 1];
    if (begin < 0 || begin > end || end > static_cast<int64_t>(l.neighbors.size())) return {};
    return l.neighbors.subspan(begin, end - begin);
  }

  // Features of the items: their embeddings along the main directions of all embeddings, in steps of
  // a 16th of the root mean square. An index without features has a width of 0.
  int64_t feature_width() const { return feature_width_; }
  const int8_t* features(int32_t item) const { return item_features_ + item * feature_width_; }
  // Returns the squared distance from an item to each of `neighbors`, which `Neighbors(0, item)`
  // returned, in steps of 1 / kDistanceSteps of the median over the layer's edges. Only for an index
  // with features.
  absl::Span<const uint8_t> EdgeDistances(absl::Span<const int32_t> neighbors) const {
    if (neighbors.empty()) return {};  // It may be a row outside the file, which has no address.
    return {edge_distances_ + (neighbors.data() - layers_[0].neighbors.data()), neighbors.size()};
  }
  static constexpr int kDistanceSteps = 64;

  // Prefetches the offsets that `Neighbors` reads first.
  void PrefetchRow(int layer, int32_t item) const {
    __builtin_prefetch(&layers_[layer].row_splits[item]);
  }
  // Prefetches the neighbours themselves.
  void PrefetchNeighbors(int layer, int32_t item) const {
    const absl::Span<const int32_t> neighbors = Neighbors(layer, item);
    for (size_t i = 0; i < neighbors.size(); i += kCacheLine / sizeof(int32_t)) {
      __builtin_prefetch(&neighbors[i]);
    }
  }
  // Prefetches the embedding of `item`, which must be in the index; of a long one, only the first
  // kMaxPrefetch bytes.
  void PrefetchEmbedding(int32_t item) const {
    const char* const row = static_cast<const char*>(table_.values) + item * row_bytes_;
    for (int64_t at = 0; at < row_bytes_ && at < kMaxPrefetch; at += kCacheLine) {
      __builtin_prefetch(row + at);
    }
  }

 private:
  absl::Status SetFeatures(const IndexFiles& files);

  struct Layer {
    absl::Span<const int64_t> row_splits;
    absl::Span<const int32_t> neighbors;
    std::string row_splits_name, neighbors_name;
  };

  static constexpr int64_t kCacheLine = 64;
  static constexpr int64_t kMaxPrefetch = 8 * kCacheLine;

  IndexView() = default;

  absl::Span<const int64_t> item_ids_;
  TableType type_ = TableType::kFloat32;
  RowTable table_{};
  int64_t row_bytes_ = 0;
  std::string item_scales_name_;
  absl::Span<const int32_t> entry_points_;
  std::string entry_points_name_;
  std::vector<Layer> layers_;
  int64_t feature_width_ = 0;
  const int8_t* item_features_ = nullptr;
  const uint8_t* edge_distances_ = nullptr;
};

// Returns the error for a neighbour of `item` in `layer` that is outside the index.
absl::Status OutsideIndex(const IndexView& index, int layer, int32_t item, int32_t neighbor);

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_INDEX_VIEW_H_
