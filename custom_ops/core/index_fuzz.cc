// A libFuzzer target. For any bytes in the files of an index and in a request, either Create or
// Validate refuses the files, or every search keeps its promises; and no memory outside them is
// touched. `make sanitize` runs it under the sanitizers. index_fuzz_test.cc runs it without libFuzzer
// and writes the corpus from which it starts, fuzz_corpus/.

#include <algorithm>
#include <chrono>
#include <cstring>
#include <iterator>
#include <memory>
#include <string>
#include <utility>

#include "custom_ops/core/best_first_search.h"
#include "custom_ops/core/deployed_search.h"
#include "custom_ops/core/item_lookup.h"
#include "custom_ops/core/metric_scorer.h"
#include "custom_ops/core/rounds_search.h"
#include "custom_ops/core/surrogate_search.h"
#include "custom_ops/core/testing.h"

namespace nann {
namespace {

// How the files are made: as a valid index, as one with some bytes damaged, or from any bytes.
enum Mode { kValid, kDamaged, kFree, kModes };

// Reads the fuzzer's bytes one after the other, and zeros after the last.
class Input {
 public:
  explicit Input(std::vector<uint8_t> bytes) : bytes_(std::move(bytes)) {}

  uint8_t Byte() { return next_ == bytes_.size() ? 0 : bytes_[next_++]; }
  int Below(int n) { return Byte() % n; }

  // Returns in most cases a small number or one just below 0, which often fits; any other number
  // takes more bytes.
  template <typename T>
  T Number() {
    const int byte = Byte();
    if (byte < 250) return static_cast<T>(byte);
    if (byte < 255) return static_cast<T>(byte - 255);
    T value;
    char bytes[sizeof(T)];
    for (char& b : bytes) b = Byte();
    std::memcpy(&value, bytes, sizeof(T));
    return value;
  }

 private:
  const std::vector<uint8_t> bytes_;
  size_t next_ = 0;
};

// The bytes of one file, in its own memory.
struct Bytes : std::vector<char> {
  template <typename T>
  void Append(T value) {
    const char* begin = reinterpret_cast<const char*>(&value);
    insert(end(), begin, begin + sizeof(T));
  }
};

struct World {
  TableType type;
  int num_items, dim, feature_width;  // A width of 0 is that of an index without features.
  Bytes item_ids, item_embeddings, item_scales, entry_points;
  std::vector<std::pair<Bytes, Bytes>> layers;  // Row splits and neighbours of each layer.
  Bytes item_features, edge_distances;

  IndexFiles Files() const {
    IndexFiles files{FileOf(item_ids),   FileOf(item_embeddings), FileOf(entry_points), {}, type,
                     FileOf(item_scales)};
    for (const auto& [row_splits, neighbors] : layers) {
      files.layers.push_back({FileOf(row_splits), FileOf(neighbors)});
    }
    if (feature_width > 0) {
      files.item_features = FileOf(item_features);
      files.edge_distances = FileOf(edge_distances);
    }
    return files;
  }

  int CoordinateSize() const {
    return type == TableType::kFloat32 ? 4 : type == TableType::kFloat16 ? 2 : 1;
  }
};

void MakeValid(Input& input, World& world) {
  const int n = world.num_items;
  for (int i = 0; i < n; ++i) world.item_ids.Append<int64_t>(input.Byte());
  if (n > 0) {
    for (int i = input.Below(6); i >= 0; --i) world.entry_points.Append<int32_t>(input.Below(n));
  }
  for (auto& [row_splits, neighbors] : world.layers) {
    int64_t end = 0;
    row_splits.Append(end);
    for (int i = 0; i < n; ++i) {
      const int degree = input.Below(6);
      for (int j = 0; j < degree; ++j) neighbors.Append<int32_t>(input.Below(n));
      row_splits.Append(end += degree);
    }
  }
  // Any bits make valid coordinates. Repeating 13 bytes is enough, as every one of them then begins
  // some coordinate.
  char bits[13];
  for (char& b : bits) b = static_cast<char>(input.Byte());
  for (int i = 0; i < n * world.dim * world.CoordinateSize(); ++i) {
    world.item_embeddings.Append(bits[i % std::size(bits)]);
  }
  for (int i = 0; i < n * world.feature_width; ++i) {
    world.item_features.Append(bits[i % std::size(bits)]);
  }
  const size_t edges = world.layers[0].second.size() / sizeof(int32_t);
  for (size_t i = 0; i < edges; ++i) world.edge_distances.Append(input.Byte());
  if (world.type == TableType::kInt8) {
    for (int i = 0; i < n; ++i) world.item_scales.Append<float>((input.Byte() + 1) / 64.0f);
  }
}

// Makes a file one byte or one entry longer or shorter.
void ChangeSize(Input& input, Bytes& file) {
  const int changes[] = {1, 4, 8, -1, -4, -8};
  const int size = static_cast<int>(file.size()) + changes[input.Below(std::size(changes))];
  file.resize(std::max(size, 0));
}

void Damage(Input& input, World& world) {
  for (int i = input.Below(4); i >= 0; --i) {
    auto& [row_splits, neighbors] = world.layers[input.Below(world.layers.size())];
    Bytes* const files[] = {&world.item_ids,      &world.item_embeddings,
                            &world.item_scales,   &world.entry_points,
                            &row_splits,          &neighbors,
                            &world.item_features, &world.edge_distances};
    Bytes& file = *files[input.Below(std::size(files))];
    const bool size = input.Byte() < 32;
    if (size) ChangeSize(input, file);
    if (size || file.empty()) continue;
    const size_t place = input.Byte() | input.Byte() << 8;
    file[place % file.size()] = static_cast<char>(input.Byte());
  }
}

// Fills a file with arbitrary numbers, nearly always as many as there should be.
template <typename T>
void MakeFreely(Input& input, int64_t count, Bytes& file) {
  for (; count > 0; --count) file.Append(input.Number<T>());
  if (input.Byte() > 250) ChangeSize(input, file);
}

void MakeFreely(Input& input, World& world) {
  const int n = world.num_items;
  MakeFreely<int64_t>(input, n, world.item_ids);
  MakeFreely<int32_t>(input, input.Below(6), world.entry_points);
  for (auto& [row_splits, neighbors] : world.layers) {
    MakeFreely<int64_t>(input, n + 1, row_splits);
    int64_t last = 0;
    if (row_splits.size() >= sizeof(last)) {
      std::memcpy(&last, &row_splits[row_splits.size() - sizeof(last)], sizeof(last));
    }
    MakeFreely<int32_t>(input, last >= 0 && last < 250 ? last : input.Byte(), neighbors);
  }
  if (world.type == TableType::kInt8) MakeFreely<float>(input, n, world.item_scales);
  MakeFreely<int8_t>(input, n * world.dim * world.CoordinateSize(), world.item_embeddings);
  const size_t edges = world.layers[0].second.size() / sizeof(int32_t);
  if (world.feature_width > 0) MakeFreely<uint8_t>(input, edges, world.edge_distances);
  MakeFreely<int8_t>(input, n * world.feature_width, world.item_features);
}

float OddScore(uint8_t byte) {
  using Limits = std::numeric_limits<float>;
  const float odd[] = {Limits::quiet_NaN(),
                       Limits::infinity(),
                       -Limits::infinity(),
                       Limits::max(),
                       Limits::lowest(),
                       Limits::denorm_min(),
                       0.0f,
                       -0.0f};
  return byte < std::size(odd) ? odd[byte] : static_cast<float>(byte % 32) - 16;
}

std::vector<int32_t> Widths(Input& input, int count, int limit) {
  std::vector<int32_t> widths;
  for (; count > 0; --count) widths.push_back(1 + input.Below(limit));
  return widths;
}

std::vector<std::unique_ptr<Search>> Searches(Input& input, int num_layers) {
  const auto ef = Widths(input, num_layers + 1, 20);
  auto rounds = Widths(input, num_layers + 1, 5);
  rounds[0] = 1;
  auto level_topn = Widths(input, num_layers + 1 + input.Below(4), 20);
  level_topn.push_back(10);
  const int max_steps = input.Below(10);
  const SurrogateSearch::Parameters surrogate{1 + input.Below(20), 1 + input.Below(20),
                                              (1 + input.Below(99)) / 100.0f};
  absl::StatusOr<std::unique_ptr<Search>> searches[] = {
      RoundsSearch::Create(ef, rounds, num_layers), DeployedSearch::Create(level_topn, num_layers),
      BestFirstSearch::Create(ef[0], ef[1], max_steps),
      SurrogateSearch::Create(surrogate, ef[0], ef[1], max_steps)};
  std::vector<std::unique_ptr<Search>> made;
  for (auto& search : searches) {
    CHECK_THAT(search.ok());
    made.push_back(*std::move(search));
  }
  return made;
}

// Checks that a valid index gives back all of `world`.
void CheckIndex(const World& world, const IndexView& view) {
  const ItemLookup lookup(view.item_ids());
  for (int64_t id : view.item_ids()) {
    const int32_t item = lookup.Find(id);
    CHECK_THAT(item >= 0 && item < view.num_items() && view.item_ids()[item] == id);
  }
  for (int layer = 0; layer < view.num_layers(); ++layer) {
    size_t edges = 0;
    for (int32_t item = 0; item < view.num_items(); ++item) {
      edges += view.Neighbors(layer, item).size();
      for (int32_t neighbor : view.Neighbors(layer, item)) {
        CHECK_THAT(neighbor >= 0 && neighbor < view.num_items());
      }
    }
    CHECK_THAT(edges * sizeof(int32_t) == world.layers[layer].second.size());
  }
  if (view.num_items() == 0 || world.feature_width == 0) return;
  size_t place = 0;
  for (int32_t item = 0; item < view.num_items(); ++item) {
    CHECK_THAT(view.features(item)[0] == world.item_features[item * view.feature_width()]);
    for (uint8_t distance : view.EdgeDistances(view.Neighbors(0, item))) {
      CHECK_THAT(distance == static_cast<uint8_t>(world.edge_distances[place++]));
    }
  }
  CHECK_THAT(place == world.edge_distances.size());
}

// Runs every search for one request. In an index that is not valid, a search may end with DataLoss; one
// without features is refused by the surrogate search, the last one.
void RunSearches(Input& input, const IndexView& view, bool valid) {
  const int n = static_cast<int>(view.num_items());
  std::vector<int32_t> seeds;
  for (int i = n > 0 ? input.Below(6) : 0; i > 0; --i) seeds.push_back(input.Below(n));
  SearchRequest request;
  request.seeds = seeds;
  const int limit = input.Byte();
  if (limit > 192) request.budget = limit - 193;
  if (limit == 1) request.deadline = std::chrono::steady_clock::time_point::min();

  const auto searches = Searches(input, view.num_layers());
  std::vector<int32_t> excluded;
  for (int i = n > 0 ? input.Below(9) : 0; i > 0; --i) excluded.push_back(input.Below(n));
  std::sort(excluded.begin(), excluded.end());
  request.excluded = excluded;
  const RowKernelsList& kernels = SupportedRowKernels();
  const int scorer = input.Below(kMetrics + 1);
  std::vector<float> odd_scores(n), query(view.dim());
  if (scorer == kMetrics) {
    for (float& s : odd_scores) s = OddScore(input.Byte());
  }
  for (float& q : query) q = OddScore(input.Byte());
  const MetricScorer metric(view, static_cast<Metric>(scorer % kMetrics), query,
                            *kernels.sets[input.Below(kernels.count)]);
  Workspace workspace;
  for (const auto& search : searches) {
    ScoreLog log(n);
    SearchStatistics statistics;
    const auto score = [&](absl::Span<const int32_t> items, absl::Span<float> scores) {
      if (scorer < kMetrics) {
        std::vector<float> rows(items.size() * view.dim());
        ItemRows(view).Gather(items, rows.data());
        metric.Score(items, scores);
      } else {
        for (size_t i = 0; i < items.size(); ++i) scores[i] = odd_scores[items[i]];
      }
      log.Add(items, scores);
      return absl::OkStatus();
    };
    const absl::Status status = search->Run(view, request, score, workspace, statistics);
    const bool unfit = n > 0 && view.feature_width() == 0 && search == searches.back();
    CHECK_THAT(unfit ? absl::IsInvalidArgument(status)
                     : status.ok() || (!valid && absl::IsDataLoss(status)));
    if (status.ok()) log.CheckAnswer(request, statistics, workspace.results);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // The index is made from the front of the bytes, the request from the back, so that neither depends
  // on how many bytes the other takes.
  Input input({data, data + size});
  Input request({std::reverse_iterator(data + size), std::reverse_iterator(data)});
  const int mode = input.Below(kModes);
  World world;
  world.type = static_cast<TableType>(input.Below(kTableTypes));
  world.num_items = input.Below(41);
  world.feature_width = static_cast<int>(kFeatureLanes) * input.Below(3);
  world.dim = 1 + input.Below(20);
  world.layers.resize(1 + input.Below(4));
  if (mode == kFree) {
    MakeFreely(input, world);
  } else {
    MakeValid(input, world);
    if (mode == kDamaged) Damage(input, world);
  }
  const auto view = IndexView::Create(world.Files(), world.dim);
  CHECK_THAT(view.ok() || mode != kValid);
  if (!view.ok()) return 0;
  const bool valid = view->Validate().ok();
  CHECK_THAT(valid || mode != kValid);
  if (valid) CheckIndex(world, *view);
  RunSearches(input, *view, valid);
  return 0;
}

}  // namespace nann
