#include "custom_ops/kernels/index_resource.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/log/log.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/platform/errors.h"

namespace tensorflow {
namespace nann_ops {
namespace {

// Lets the system drop pages that validation, which reads all edges once, has made resident. The
// region must be mapped from a local file, so that it starts on a page: on a heap copy, the call
// would lose data.
void DropPages(const void* begin, size_t length) {
  madvise(const_cast<void*>(begin), length, MADV_DONTNEED);
}

bool IsLocal(const std::string& path) {
  return path.find("://") == std::string::npos || absl::StartsWith(path, "file://");
}

constexpr size_t kAlignment = 64;        // Bytes; docs/format.md promises it for each array.
constexpr size_t kReadAtOnce = 1 << 26;  // Bytes per read from a remote file system.

// A copy in memory of a file from a file system that cannot map files, or maps them without
// alignment, such as s3:// and gs://.
class CopiedFile : public ReadOnlyMemoryRegion {
 public:
  // Reads the `size` bytes of `path`.
  static absl::StatusOr<std::unique_ptr<ReadOnlyMemoryRegion>> Read(Env* env,
                                                                    const std::string& path,
                                                                    size_t size) {
    const size_t room = (size + kAlignment - 1) / kAlignment * kAlignment;
    std::unique_ptr<CopiedFile> made(
        new CopiedFile(static_cast<char*>(std::aligned_alloc(kAlignment, room)), size));
    if (made->data_ == nullptr) {
      return absl::ResourceExhaustedError(
          absl::StrCat("no memory for a copy of ", path, ", ", size,
                       " bytes; files on a local file system are mapped and need no copy"));
    }
    std::unique_ptr<RandomAccessFile> file;
    TF_RETURN_IF_ERROR(env->NewRandomAccessFile(path, &file));
    for (size_t at = 0; at < size; at += kReadAtOnce) {
      const size_t length = std::min(kReadAtOnce, size - at);
      absl::string_view bytes;
      TF_RETURN_IF_ERROR(file->Read(at, bytes, absl::MakeSpan(made->data_ + at, length)));
      if (bytes.size() != length) {
        return absl::DataLossError(
            absl::StrCat(path, " ends after ", at + bytes.size(), " of ", size, " bytes"));
      }
      if (bytes.data() != made->data_ + at) std::memcpy(made->data_ + at, bytes.data(), length);
    }
    return made;
  }

  ~CopiedFile() override { std::free(data_); }
  const void* data() override { return data_; }
  uint64 length() override { return size_; }

 private:
  CopiedFile(char* data, size_t size) : data_(data), size_(size) {}

  char* const data_;
  const size_t size_;
};

// Maps a file, or copies it if it is not on a local file system.
absl::StatusOr<std::unique_ptr<ReadOnlyMemoryRegion>> Open(Env* env, const std::string& path,
                                                           size_t size) {
  if (!IsLocal(path)) return CopiedFile::Read(env, path, size);
  std::unique_ptr<ReadOnlyMemoryRegion> region;
  TF_RETURN_IF_ERROR(env->NewReadOnlyMemoryRegionFromFile(path, &region));
  return region;
}

// Adds the path, and a reason if there is none, to an error of a file system.
absl::Status Named(const absl::Status& status, const std::string& path) {
  if (status.ok()) return status;
  return absl::Status(
      status.code(),
      absl::StrCat("cannot open ", path, ": ",
                   status.message().empty() ? absl::StatusCodeToString(status.code())
                                            : std::string(status.message()),
                   IsLocal(path) ? "" : "; an index opens fastest from a local file system"));
}

}  // namespace

absl::StatusOr<std::shared_ptr<const OpenIndex>> OpenIndex::Map(
    Env* env, const std::vector<std::string>& files, int64_t dim, const Options& options) {
  const bool scaled = options.type == nann::TableType::kInt8;
  const size_t others = scaled + 2 * options.features + options.attributes + options.keys;
  const size_t plain = files.size() - others;
  if (files.size() < 5 + others || plain % 2 != 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "files has ", files.size(),
        " entries; it needs item_ids, item_embeddings, entry_points, "
        "row_splits and neighbors for each layer",
        scaled ? ", item_scales" : "", options.features ? ", item_features and edge_distances" : "",
        options.attributes ? ", attributes" : "", options.keys ? ", item_keys" : ""));
  }
  std::shared_ptr<OpenIndex> index(new OpenIndex);
  std::vector<nann::IndexFile> mapped;
  for (const std::string& path : files) {
    uint64_t size = 0;
    TF_RETURN_IF_ERROR(Named(env->GetFileSize(path, &size), path));
    absl::string_view bytes;
    if (size > 0) {  // An empty file cannot be mapped.
      auto region = Open(env, path, size);
      TF_RETURN_IF_ERROR(Named(region.status(), path));
      bytes = absl::string_view(static_cast<const char*>((*region)->data()), (*region)->length());
      index->regions_.push_back(*std::move(region));
    }
    mapped.push_back({path, bytes});
  }
  nann::IndexFiles parts{mapped[0], mapped[1], mapped[2], {}};
  parts.type = options.type;
  if (scaled) parts.item_scales = mapped[plain];
  if (options.features) {
    parts.item_features = mapped[plain + scaled];
    parts.edge_distances = mapped[plain + scaled + 1];
  }
  for (size_t i = 3; i < plain; i += 2) parts.layers.push_back({mapped[i], mapped[i + 1]});
  auto view = nann::IndexView::Create(parts, dim);
  TF_RETURN_IF_ERROR(view.status());
  if (options.attributes) {
    auto attributes =
        nann::Attributes::Create(mapped[mapped.size() - 1 - options.keys], view->num_items());
    TF_RETURN_IF_ERROR(attributes.status());
    index->attributes_.emplace(*std::move(attributes));
  }
  if (options.keys) {
    auto keys = nann::ItemKeys::Create(mapped.back(), view->item_ids());
    TF_RETURN_IF_ERROR(keys.status());
    index->keys_.emplace(*std::move(keys));
  }
  index->lookup_ = std::make_unique<const nann::ItemLookup>(view->item_ids());
  if (options.validate) TF_RETURN_IF_ERROR(view->Validate());
  index->view_ = std::make_unique<const nann::IndexView>(*std::move(view));
  index->as_built_ = nann::Catalogue::Of(
      {index->view_.get(), index->lookup_.get(),
       index->attributes_.has_value() ? &*index->attributes_ : nullptr, &index->filters_});
  if (!options.deltas.empty()) index->Follow(options.deltas, mapped);
  for (const nann::IndexFile& file : mapped) {
    const bool was_read = options.validate || !options.deltas.empty();
    if (was_read && !file.bytes.empty() && IsLocal(file.name)) {
      DropPages(file.bytes.data(), file.bytes.size());
    }
  }
  return index;
}

void OpenIndex::Follow(const std::string& deltas, const std::vector<nann::IndexFile>& files) {
  nann::SegmentTarget target;
  target.key = nann::IndexKey(files);
  target.dim = view_->dim();
  target.type = view_->table_type();
  target.attributes = attributes_.has_value() ? &*attributes_ : nullptr;
  target.keys = keys();
  target.lookup = lookup_.get();
  const std::string folder = nann::SegmentFolder(deltas, target.key);
  follower_.emplace(target, as_built_, folder,
                    [folder](const std::string& line) { LOG(WARNING) << folder << ": " << line; });
  LOG(INFO) << absl::StrCat("The index follows ", folder, ", from update ",
                            follower_->catalogue()->sequence(), " on");
}

std::string IndexResource::DebugString() const {
  absl::ReaderMutexLock lock(&mu_);
  if (!index_) return "NANN index, not open";
  const nann::IndexView& view = index_->view();
  return absl::StrCat("NANN index of ", view.num_items(), " items, dim ", view.dim(),
                      ", after update ", index_->catalogue()->sequence());
}

void IndexResource::Set(std::shared_ptr<const OpenIndex> index) {
  absl::MutexLock lock(&mu_);
  index_.swap(index);
}

absl::StatusOr<std::shared_ptr<const OpenIndex>> IndexResource::Get() const {
  absl::ReaderMutexLock lock(&mu_);
  if (!index_) return absl::FailedPreconditionError("the index is not open yet");
  return index_;
}

absl::StatusOr<std::shared_ptr<const OpenIndex>> IndexOf(OpKernelContext* ctx) {
  core::RefCountPtr<IndexResource> resource;
  TF_RETURN_IF_ERROR(LookupResource(ctx, HandleFromInput(ctx, 0), &resource));
  return resource->Get();
}

}  // namespace nann_ops
}  // namespace tensorflow

// Called by its name from Python, for the metrics of the local server: writes `DeltaFollower::States`, or its
// beginning, to `text`, which has room for `size` bytes. Returns how many bytes all of it has.
extern "C" __attribute__((visibility("default"))) int64_t nann_delta_states(char* text,
                                                                            int64_t size) {
  const std::string states = nann::DeltaFollower::States();
  states.copy(text, static_cast<size_t>(size));
  return static_cast<int64_t>(states.size());
}
