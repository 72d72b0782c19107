#ifndef CUSTOM_OPS_CORE_DELTA_FOLLOWER_H_
#define CUSTOM_OPS_CORE_DELTA_FOLLOWER_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "custom_ops/core/catalogue.h"
#include "custom_ops/core/segment.h"

namespace nann {

// Returns where the segments of an index are in a folder of deltas.
std::string SegmentFolder(absl::string_view deltas, uint64_t key);
// Returns the path of a segment.
std::string SegmentPath(absl::string_view folder, int64_t sequence);

// Keeps the catalogue of an index up to date with a folder of segments, which it looks at a few times a
// second in a thread of its own. A segment that is damaged, missing or foreign ends the updates before
// it: what was read stays, and the segment is tried again. Thread-safe.
class DeltaFollower {
 public:
  static constexpr std::chrono::milliseconds kInterval{200};
  // Called with a line of text where following stops and where it goes on.
  using Log = std::function<void(const std::string& line)>;

  // Reads the segments that are there, then starts to follow. What `first` is based on must outlive this.
  DeltaFollower(const SegmentTarget& target, std::shared_ptr<const Catalogue> first,
                std::string folder, Log log, std::chrono::milliseconds interval = kInterval);
  ~DeltaFollower();
  DeltaFollower(const DeltaFollower&) = delete;
  DeltaFollower& operator=(const DeltaFollower&) = delete;

  // Returns the catalogue after the last update that was read.
  std::shared_ptr<const Catalogue> catalogue() const {
    std::lock_guard lock(mu_);
    return catalogue_;
  }
  // Returns a line for each follower of the process, for metrics: folder, number of the last update,
  // number of fresh items, and whether following has stopped, 1 or 0, with tabs between them.
  static std::string States();
  // Returns why following has stopped; OK if it has not.
  absl::Status problem() const {
    std::lock_guard lock(mu_);
    return problem_;
  }

 private:
  void Follow();
  // Reads all segments that are new.
  void CatchUp();
  // Applies the next segments, of a bounded size in memory. Returns how many.
  absl::StatusOr<int> ApplySome();
  absl::Status CheckNoneIsMissing(int64_t next);
  void Report(const absl::Status& status);

  const SegmentTarget target_;
  const std::string folder_;
  const Log log_;
  const std::chrono::milliseconds interval_;
  std::chrono::steady_clock::time_point next_listing_{};  // Of the thread alone.
  absl::Status missing_;                                  // Of the thread alone.

  // Not of Abseil, because the thread sanitizer does not see into those of TensorFlow's library.
  mutable std::mutex mu_;
  std::shared_ptr<const Catalogue> catalogue_;
  absl::Status problem_;
  bool ends_ = false;
  std::condition_variable ending_;
  std::thread thread_;  // The last member: it uses all others.
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_DELTA_FOLLOWER_H_
