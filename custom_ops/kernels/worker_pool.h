#ifndef CUSTOM_OPS_KERNELS_WORKER_POOL_H_
#define CUSTOM_OPS_KERNELS_WORKER_POOL_H_

#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "custom_ops/core/search.h"
#include "tensorflow/core/framework/tensor.h"

namespace tensorflow {
namespace nann_ops {

// The padded inputs of the scorer, one tensor per batch size, kept between rounds and requests.
using BatchTensors = std::map<int64_t, Tensor>;

// The memory that one search at a time writes to, kept so that a search allocates nothing.
struct Worker {
  nann::Workspace workspace;
  BatchTensors batches;
};

// The workers that no request uses at the moment. At most as many are ever made as searches of one
// index run at the same time, which is at most the number of inter-op threads. Thread-safe.
class WorkerPool {
 public:
  std::unique_ptr<Worker> Take() {
    absl::MutexLock lock(&mu_);
    if (idle_.empty()) return std::make_unique<Worker>();
    std::unique_ptr<Worker> worker = std::move(idle_.back());
    idle_.pop_back();
    return worker;
  }

  void Return(std::unique_ptr<Worker> worker) {
    absl::MutexLock lock(&mu_);
    idle_.push_back(std::move(worker));
  }

 private:
  absl::Mutex mu_;
  std::vector<std::unique_ptr<Worker>> idle_ ABSL_GUARDED_BY(mu_);
};

}  // namespace nann_ops
}  // namespace tensorflow

#endif  // CUSTOM_OPS_KERNELS_WORKER_POOL_H_
