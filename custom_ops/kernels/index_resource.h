#ifndef CUSTOM_OPS_KERNELS_INDEX_RESOURCE_H_
#define CUSTOM_OPS_KERNELS_INDEX_RESOURCE_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "custom_ops/core/attributes.h"
#include "custom_ops/core/cap.h"
#include "custom_ops/core/filter_cache.h"
#include "custom_ops/core/index_view.h"
#include "custom_ops/core/item_lookup.h"
#include "custom_ops/kernels/worker_pool.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/platform/env.h"

namespace tensorflow {
namespace nann_ops {

// An open index with its mapped files and the workers that search it. Thread-safe; shared by the
// searches that use it.
class OpenIndex {
 public:
  struct Options {
    nann::TableType type = nann::TableType::kFloat32;
    bool features = false;    // Whether the files of the surrogate search are among them,
    bool attributes = false;  // and the file of the items' attributes.
    bool validate = true;
  };

  // Maps `files`, in the order that Nann>IndexOpen documents, read-only through `env`; reads those of
  // a remote file system into memory. Checks the index's sizes and, with `validate`, its contents.
  static absl::StatusOr<std::shared_ptr<const OpenIndex>> Map(Env* env,
                                                              const std::vector<std::string>& files,
                                                              int64_t dim, const Options& options);

  const nann::IndexView& view() const { return *view_; }
  const nann::ItemLookup& lookup() const { return *lookup_; }
  WorkerPool& workers() const { return workers_; }

  // Returns the items that pass a filter; null, which stands for all of them, if there is nothing in its
  // text. Returns InvalidArgument if it is not a filter of the index's attributes.
  absl::StatusOr<std::shared_ptr<const nann::PassingItems>> Passing(absl::string_view filter) const;
  // Returns the cap of `most` items with the same value of `column` among `answers`. Returns InvalidArgument
  // if the index has no such column, or it cannot be capped.
  absl::StatusOr<nann::Cap> CapBy(absl::string_view column, int32_t most, int32_t answers) const;

 private:
  OpenIndex() = default;

  std::vector<std::unique_ptr<ReadOnlyMemoryRegion>> regions_;
  std::unique_ptr<const nann::IndexView> view_;
  std::unique_ptr<const nann::ItemLookup> lookup_;
  std::optional<const nann::Attributes> attributes_;
  mutable nann::FilterCache filters_;
  mutable WorkerPool workers_;
};

// The resource behind Nann>IndexHandle, which is empty until Nann>IndexOpen. Thread-safe.
class IndexResource : public ResourceBase {
 public:
  std::string DebugString() const override;

  void Set(std::shared_ptr<const OpenIndex> index);
  // Returns FailedPrecondition if no index has been opened yet.
  absl::StatusOr<std::shared_ptr<const OpenIndex>> Get() const;

 private:
  mutable absl::Mutex mu_;
  std::shared_ptr<const OpenIndex> index_ ABSL_GUARDED_BY(mu_);
};

}  // namespace nann_ops
}  // namespace tensorflow

#endif  // CUSTOM_OPS_KERNELS_INDEX_RESOURCE_H_
