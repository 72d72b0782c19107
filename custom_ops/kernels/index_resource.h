#ifndef CUSTOM_OPS_KERNELS_INDEX_RESOURCE_H_
#define CUSTOM_OPS_KERNELS_INDEX_RESOURCE_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "custom_ops/core/attributes.h"
#include "custom_ops/core/catalogue.h"
#include "custom_ops/core/delta_follower.h"
#include "custom_ops/core/filter_cache.h"
#include "custom_ops/core/index_view.h"
#include "custom_ops/core/item_keys.h"
#include "custom_ops/core/item_lookup.h"
#include "custom_ops/kernels/worker_pool.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/platform/env.h"

namespace tensorflow {

class OpKernelContext;

namespace nann_ops {

// An open index with its mapped files and the workers that search it. Thread-safe; shared by the
// searches that use it.
class OpenIndex {
 public:
  struct Options {
    nann::TableType type = nann::TableType::kFloat32;
    bool features = false;    // Whether the files of the surrogate search are among them,
    bool attributes = false;  // the file of the items' attributes,
    bool keys = false;        // and that of the texts that stand for the items' ids.
    bool validate = true;
    std::string deltas = {};  // The folder of deltas to follow, if any.
  };

  // Maps `files`, in the order that Nann>IndexOpen documents, read-only through `env`; reads those of
  // a remote file system into memory. Checks the index's sizes and, with `validate`, its contents.
  static absl::StatusOr<std::shared_ptr<const OpenIndex>> Map(Env* env,
                                                              const std::vector<std::string>& files,
                                                              int64_t dim, const Options& options);

  const nann::IndexView& view() const { return *view_; }
  // Returns null if requests and answers have the items' ids as numbers.
  const nann::ItemKeys* keys() const { return keys_.has_value() ? &*keys_ : nullptr; }
  // Returns the text of the index that stands for an id, or an empty one if there is none; only for an index
  // with keys.
  absl::string_view KeyOf(int64_t id) const {
    const int32_t item = lookup_->Find(id);
    return item < 0 ? keys_->OtherKey(id) : keys_->Key(item);
  }
  WorkerPool& workers() const { return workers_; }
  // Returns the items of the index as it was built, and after the last update. They may be used while
  // this is open.
  const std::shared_ptr<const nann::Catalogue>& AsBuilt() const { return as_built_; }
  std::shared_ptr<const nann::Catalogue> catalogue() const {
    return follower_.has_value() ? follower_->catalogue() : as_built_;
  }

 private:
  OpenIndex() = default;
  void Follow(const std::string& deltas, const std::vector<nann::IndexFile>& files);

  std::vector<std::unique_ptr<ReadOnlyMemoryRegion>> regions_;
  std::unique_ptr<const nann::IndexView> view_;
  std::unique_ptr<const nann::ItemLookup> lookup_;
  std::optional<const nann::Attributes> attributes_;
  std::optional<const nann::ItemKeys> keys_;
  nann::FilterCache filters_;
  mutable WorkerPool workers_;
  std::shared_ptr<const nann::Catalogue> as_built_;
  std::optional<nann::DeltaFollower> follower_;  // The last member: its thread uses the others.
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

// Returns the open index that the first input of an op is a handle to. Returns an error if that is no handle
// to an index, or the index is not open yet.
absl::StatusOr<std::shared_ptr<const OpenIndex>> IndexOf(OpKernelContext* ctx);

}  // namespace nann_ops
}  // namespace tensorflow

#endif  // CUSTOM_OPS_KERNELS_INDEX_RESOURCE_H_
