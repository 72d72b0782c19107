#include "custom_ops/kernels/index_resource.h"

#include <sys/mman.h>

#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tensorflow/core/platform/errors.h"

namespace tensorflow {
namespace nann_ops {
namespace {

// Validation reads all edges once; those pages need not stay resident. Mappings of a local file
// start on a page; for a region that a remote file system copied to the heap the call would drop
// data, so only page-aligned, file-backed regions of the POSIX file system come here.
void DropPages(const void* begin, size_t length) {
  madvise(const_cast<void*>(begin), length, MADV_DONTNEED);
}

bool IsLocal(const std::string& path) { return path.find("://") == std::string::npos; }

}  // namespace

absl::StatusOr<std::shared_ptr<const OpenIndex>> OpenIndex::Map(
    Env* env, const std::vector<std::string>& files, nann::TableType type, int64_t dim,
    bool validate) {
  const bool scaled = type == nann::TableType::kInt8;
  const size_t plain = files.size() - scaled;
  if (files.size() < 5 + scaled || plain % 2 != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("files has ", files.size(),
                     " entries; it needs item_ids, item_embeddings, entry_points, "
                     "row_splits and neighbors for each layer",
                     scaled ? ", and item_scales" : ""));
  }
  std::shared_ptr<OpenIndex> index(new OpenIndex);
  std::vector<nann::IndexFile> mapped;
  for (const std::string& path : files) {
    uint64_t size = 0;
    TF_RETURN_IF_ERROR(env->GetFileSize(path, &size));
    absl::string_view bytes;
    if (size > 0) {  // An empty file cannot be mapped.
      std::unique_ptr<ReadOnlyMemoryRegion> region;
      TF_RETURN_IF_ERROR(env->NewReadOnlyMemoryRegionFromFile(path, &region));
      bytes = absl::string_view(static_cast<const char*>(region->data()), region->length());
      index->regions_.push_back(std::move(region));
    }
    mapped.push_back({path, bytes});
  }
  nann::IndexFiles parts{mapped[0], mapped[1], mapped[2], {}};
  parts.type = type;
  if (scaled) parts.item_scales = mapped.back();
  for (size_t i = 3; i < plain; i += 2) parts.layers.push_back({mapped[i], mapped[i + 1]});
  auto view = nann::IndexView::Create(parts, dim);
  TF_RETURN_IF_ERROR(view.status());
  index->lookup_ = std::make_unique<const nann::ItemLookup>(view->item_ids());
  if (validate) {
    TF_RETURN_IF_ERROR(view->Validate());
    for (const nann::IndexFile& file : mapped) {
      if (!file.bytes.empty() && IsLocal(file.name))
        DropPages(file.bytes.data(), file.bytes.size());
    }
  }
  index->view_ = std::make_unique<const nann::IndexView>(*std::move(view));
  return index;
}

std::string IndexResource::DebugString() const {
  absl::ReaderMutexLock lock(&mu_);
  if (!index_) return "NANN index, not open";
  const nann::IndexView& view = index_->view();
  return absl::StrCat("NANN index of ", view.num_items(), " items, dim ", view.dim());
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

}  // namespace nann_ops
}  // namespace tensorflow
