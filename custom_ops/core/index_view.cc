#include "custom_ops/core/index_view.h"

#include <cmath>
#include <cstddef>
#include <limits>

#include "absl/strings/str_cat.h"

namespace nann {
namespace {

absl::Status WrongSize(const IndexFile& file, absl::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat(file.name, " has ", file.bytes.size(), " bytes, expected ", wanted,
                   "; the file is truncated or belongs to another index"));
}

template <typename T>
absl::StatusOr<absl::Span<const T>> AsArray(const IndexFile& file) {
  if (file.bytes.size() % sizeof(T) != 0) {
    return WrongSize(file, absl::StrCat("a multiple of ", sizeof(T)));
  }
  if (reinterpret_cast<uintptr_t>(file.bytes.data()) % alignof(T) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(file.name, " is not aligned in memory"));
  }
  return absl::MakeConstSpan(reinterpret_cast<const T*>(file.bytes.data()),
                             file.bytes.size() / sizeof(T));
}

template <typename T>
absl::StatusOr<absl::Span<const T>> AsArray(const IndexFile& file, int64_t length) {
  if (file.bytes.size() != length * sizeof(T)) {
    return WrongSize(file, absl::StrCat(length, " x ", sizeof(T)));
  }
  return AsArray<T>(file);
}

// Sets the values of `table` to those of the file `values`, which must hold n x dim numbers of T.
template <typename T>
absl::Status AsTable(const IndexFile& values, int64_t n, RowTable& table) {
  auto array = AsArray<T>(values, n * table.dim);
  if (array.ok()) table.values = array->data();
  return array.status();
}

absl::Status CheckItems(absl::string_view name, absl::Span<const int32_t> items, int64_t n) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (items[i] < 0 || items[i] >= n) {
      return absl::InvalidArgumentError(absl::StrCat(
          name, "[", i, "] is ", items[i], ", allowed are the item indices 0 to ", n - 1));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<IndexView> IndexView::Create(const IndexFiles& files, int64_t dim) {
  if (dim < 1 || dim > kMaxDim) {
    return absl::InvalidArgumentError(absl::StrCat("dim is ", dim, ", allowed are 1 to ", kMaxDim));
  }
  if (files.layers.empty() || files.layers.size() > kMaxLayers) {
    return absl::InvalidArgumentError(absl::StrCat("the index has ", files.layers.size(),
                                                   " layers, allowed are 1 to ", kMaxLayers));
  }
  IndexView view;
  view.type_ = files.type;
  view.table_.dim = dim;
  auto ids = AsArray<int64_t>(files.item_ids);
  if (!ids.ok()) return ids.status();
  view.item_ids_ = *ids;
  const int64_t n = view.num_items();
  if (n > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError(
        absl::StrCat(files.item_ids.name, " holds ", n, " items, allowed are 2^31 - 1"));
  }
  absl::Status table;
  switch (files.type) {
    case TableType::kFloat32:
      table = AsTable<float>(files.item_embeddings, n, view.table_);
      break;
    case TableType::kFloat16:
      table = AsTable<uint16_t>(files.item_embeddings, n, view.table_);
      break;
    case TableType::kInt8: {
      table = AsTable<int8_t>(files.item_embeddings, n, view.table_);
      auto scales = AsArray<float>(files.item_scales, n);
      table.Update(scales.status());
      if (scales.ok()) view.table_.scales = scales->data();
      view.item_scales_name_ = files.item_scales.name;
      break;
    }
  }
  if (!table.ok()) return table;
  view.row_bytes_ = n > 0 ? static_cast<int64_t>(files.item_embeddings.bytes.size()) / n : 0;
  auto entry_points = AsArray<int32_t>(files.entry_points);
  if (!entry_points.ok()) return entry_points.status();
  view.entry_points_ = *entry_points;
  view.entry_points_name_ = files.entry_points.name;
  if (n > 0 && view.entry_points_.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(files.entry_points.name, " is empty"));
  }
  for (const IndexFiles::Layer& layer : files.layers) {
    auto row_splits = AsArray<int64_t>(layer.row_splits, n + 1);
    if (!row_splits.ok()) return row_splits.status();
    if (row_splits->back() < 0 || row_splits->back() > std::numeric_limits<int64_t>::max() / 8) {
      return absl::InvalidArgumentError(absl::StrCat(
          layer.row_splits.name, "[", n, "] is ", row_splits->back(), ", which is not a length"));
    }
    auto neighbors = AsArray<int32_t>(layer.neighbors, row_splits->back());
    if (!neighbors.ok()) return neighbors.status();
    view.layers_.push_back({*row_splits, *neighbors, layer.row_splits.name, layer.neighbors.name});
  }
  absl::Status features = view.SetFeatures(files);
  if (!features.ok()) return features;
  return view;
}

absl::Status IndexView::SetFeatures(const IndexFiles& files) {
  const int64_t n = num_items();
  if (n == 0 || files.item_features.name.empty()) return absl::OkStatus();
  const int64_t width = static_cast<int64_t>(files.item_features.bytes.size()) / n;
  if (width < kFeatureLanes || width > kMaxFeatures || width % kFeatureLanes != 0) {
    return WrongSize(
        files.item_features,
        absl::StrCat(n, " x ", kFeatureLanes, ", ", 2 * kFeatureLanes, ", ... or ", kMaxFeatures));
  }
  auto features = AsArray<int8_t>(files.item_features, n * width);
  if (!features.ok()) return features.status();
  auto distances = AsArray<uint8_t>(files.edge_distances, layers_[0].neighbors.size());
  if (!distances.ok()) return distances.status();
  feature_width_ = width;
  item_features_ = features->data();
  edge_distances_ = distances->data();
  return absl::OkStatus();
}

absl::Status IndexView::Validate() const {
  absl::Status status = CheckItems(entry_points_name_, entry_points_, num_items());
  if (!status.ok()) return status;
  for (int64_t i = 0; table_.scales != nullptr && i < num_items(); ++i) {
    if (!std::isfinite(table_.scales[i]) || table_.scales[i] <= 0) {
      return absl::InvalidArgumentError(absl::StrCat(item_scales_name_, "[", i, "] is ",
                                                     table_.scales[i],
                                                     ", a scale must be above 0 and finite"));
    }
  }
  for (const Layer& layer : layers_) {
    if (layer.row_splits[0] != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(layer.row_splits_name, "[0] is ", layer.row_splits[0], ", must be 0"));
    }
    for (size_t i = 1; i < layer.row_splits.size(); ++i) {
      if (layer.row_splits[i] < layer.row_splits[i - 1]) {
        return absl::InvalidArgumentError(
            absl::StrCat(layer.row_splits_name, "[", i, "] is ", layer.row_splits[i],
                         ", must not be below the entry before it, ", layer.row_splits[i - 1]));
      }
    }
    status = CheckItems(layer.neighbors_name, layer.neighbors, num_items());
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status OutsideIndex(const IndexView& index, int layer, int32_t item, int32_t neighbor) {
  return absl::DataLossError(absl::StrCat("item ", item, " has the neighbour ", neighbor,
                                          " in layer ", layer, " of an index of ",
                                          index.num_items(), " items"));
}

}  // namespace nann
