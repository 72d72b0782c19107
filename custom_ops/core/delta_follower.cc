#include "custom_ops/core/delta_follower.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/checksum.h"

namespace nann {
namespace {

constexpr char kSuffix[] = ".seg";
// The name of a segment has its number in at least so many digits.
constexpr size_t kDigits = 12;
// A larger segment is refused.
constexpr int64_t kMaxBytes = int64_t{1} << 32;
// Segments that are read before the catalogue is made anew.
constexpr int64_t kBytesAtOnce = 64 << 20;
constexpr size_t kSegmentsAtOnce = 4096;
// A missing segment is looked for no more often than this, as folders may have many files.
constexpr std::chrono::seconds kListing{2};
// What making catalogues may take of the time.
constexpr int kShare = 20;

// Returns an error for the last system call; NotFound if there is no such file.
absl::Status Failed(absl::string_view what, absl::string_view path) {
  const int error = errno;
  const std::string message = absl::StrCat("cannot ", what, " ", path, ": ", std::strerror(error));
  return error == ENOENT ? absl::NotFoundError(message) : absl::InternalError(message);
}

// The bytes of a file, in memory: a mapped file that is cut short would end the process.
class FileBytes {
 public:
  // Returns NotFound if there is no such file.
  static absl::StatusOr<FileBytes> Read(const std::string& path) {
    // A pipe would otherwise be waited for.
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) return Failed("open", path);
    auto bytes = ReadOpen(file, path);
    close(file);
    return bytes;
  }

  absl::string_view view() const { return {data_.get(), size_}; }

 private:
  struct Free {
    void operator()(char* data) const { std::free(data); }
  };

  static absl::StatusOr<FileBytes> ReadOpen(int file, const std::string& path) {
    struct stat facts;
    if (fstat(file, &facts) != 0) {
      return Failed("read", path);
    }
    if (!S_ISREG(facts.st_mode) || facts.st_size > kMaxBytes) {
      return absl::InvalidArgumentError(absl::StrCat(path, " is no file, or has more than ",
                                                     kMaxBytes, " bytes: it has ", facts.st_size));
    }
    FileBytes bytes;
    bytes.size_ = facts.st_size;
    const size_t room = (bytes.size_ / 64 + 1) * 64;
    bytes.data_.reset(static_cast<char*>(std::aligned_alloc(64, room)));
    if (bytes.data_ == nullptr) {
      return absl::ResourceExhaustedError(absl::StrCat("no memory for ", path));
    }
    for (size_t at = 0; at < bytes.size_;) {
      const ssize_t got = read(file, bytes.data_.get() + at, bytes.size_ - at);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return Failed("read", path);
      if (got == 0) return absl::DataLossError(absl::StrCat(path, " was cut while it was read"));
      at += got;
    }
    return bytes;
  }

  std::unique_ptr<char, Free> data_;
  size_t size_ = 0;
};

// Returns the highest number of a segment in a folder; 0 if there is none.
int64_t LastSegment(const std::string& folder) {
  int64_t last = 0;
  DIR* const listed = opendir(folder.c_str());
  if (listed == nullptr) return last;
  while (const dirent* entry = readdir(listed)) {
    absl::string_view name = entry->d_name;
    if (!absl::EndsWith(name, kSuffix)) continue;
    name.remove_suffix(std::strlen(kSuffix));
    const bool is_number = name.size() >= kDigits && name.size() < 19 &&
                           name.find_first_not_of("0123456789") == absl::string_view::npos;
    if (!is_number) continue;
    int64_t number = 0;
    for (char digit : name) number = 10 * number + (digit - '0');
    last = std::max(last, number);
  }
  closedir(listed);
  return last;
}

// The followers of the process.
struct Followers {
  std::mutex mu;
  std::set<const DeltaFollower*> all;
};
Followers& AllFollowers() {
  static Followers* const followers = new Followers;  // Never destroyed: threads may end later.
  return *followers;
}

}  // namespace

std::string SegmentFolder(absl::string_view deltas, uint64_t key) {
  return absl::StrCat(deltas, "/", HexDigits(key));
}

std::string SegmentPath(absl::string_view folder, int64_t sequence) {
  std::string digits = absl::StrCat(sequence);
  digits.insert(0, kDigits - std::min(kDigits, digits.size()), '0');
  return absl::StrCat(folder, "/", digits, kSuffix);
}

DeltaFollower::DeltaFollower(const SegmentTarget& target, std::shared_ptr<const Catalogue> first,
                             std::string folder, Log log, std::chrono::milliseconds interval)
    : target_(target),
      folder_(std::move(folder)),
      log_(std::move(log)),
      interval_(interval),
      catalogue_(std::move(first)) {
  CatchUp();
  thread_ = std::thread([this] { Follow(); });
  std::lock_guard lock(AllFollowers().mu);
  AllFollowers().all.insert(this);
}

DeltaFollower::~DeltaFollower() {
  {
    std::lock_guard lock(AllFollowers().mu);
    AllFollowers().all.erase(this);
  }
  {
    std::lock_guard lock(mu_);
    ends_ = true;
  }
  ending_.notify_all();
  thread_.join();
}

std::string DeltaFollower::States() {
  std::string lines;
  std::lock_guard lock(AllFollowers().mu);
  for (const DeltaFollower* follower : AllFollowers().all) {
    const std::shared_ptr<const Catalogue> now = follower->catalogue();
    lines += absl::StrCat(follower->folder_, "\t", now->sequence(), "\t", now->num_fresh(), "\t",
                          follower->problem().ok() ? 0 : 1, "\n");
  }
  return lines;
}

void DeltaFollower::Follow() {
  std::chrono::steady_clock::duration pause = interval_;
  std::unique_lock lock(mu_);
  while (!ending_.wait_for(lock, pause, [this] { return ends_; })) {
    lock.unlock();
    const auto begin = std::chrono::steady_clock::now();
    CatchUp();
    pause = std::max<std::chrono::steady_clock::duration>(
        interval_, kShare * (std::chrono::steady_clock::now() - begin));
    lock.lock();
  }
}

void DeltaFollower::CatchUp() {
  while (true) {
    const auto applied = ApplySome();
    if (!applied.ok() || *applied == 0) return Report(applied.status());
  }
}

absl::StatusOr<int> DeltaFollower::ApplySome() {
  const std::shared_ptr<const Catalogue> before = catalogue();
  std::vector<FileBytes> files;
  std::vector<Segment> segments;
  absl::Status status;
  for (int64_t bytes = 0; bytes < kBytesAtOnce && segments.size() < kSegmentsAtOnce;) {
    const int64_t next = before->sequence() + static_cast<int64_t>(segments.size()) + 1;
    const std::string path = SegmentPath(folder_, next);
    auto file = FileBytes::Read(path);
    if (file.status().code() == absl::StatusCode::kNotFound) {
      if (segments.empty()) status = CheckNoneIsMissing(next);
      break;
    }
    status = file.status();
    if (!status.ok()) break;
    auto segment = Segment::Read({path, file->view()}, target_, next);
    status = segment.status();
    if (!status.ok()) break;
    bytes += static_cast<int64_t>(file->view().size());
    files.push_back(*std::move(file));
    segments.push_back(*std::move(segment));
  }
  if (segments.empty()) return status.ok() ? absl::StatusOr<int>(0) : status;
  auto after = before->After(segments);
  size_t applied = segments.size();
  if (!after.ok() && applied > 1) {
    // One of the segments is wrong: apply the first alone, so that all those before the wrong one count.
    applied = 1;
    after = before->After(absl::MakeConstSpan(segments).first(applied));
  }
  if (!after.ok()) return after.status();
  {
    std::lock_guard lock(mu_);
    catalogue_ = *std::move(after);
  }
  // What is wrong with the segment behind these is said by the next call.
  return static_cast<int>(applied);
}

absl::Status DeltaFollower::CheckNoneIsMissing(int64_t next) {
  const auto now = std::chrono::steady_clock::now();
  if (now < next_listing_) return missing_;
  next_listing_ = now + kListing;
  missing_ = absl::OkStatus();
  const int64_t last = LastSegment(folder_);
  // A segment may have come since it was looked for.
  if (last > next && access(SegmentPath(folder_, next).c_str(), F_OK) != 0) {
    missing_ = absl::NotFoundError(absl::StrCat(SegmentPath(folder_, next), " is missing, but ",
                                                SegmentPath(folder_, last), " is there"));
  }
  return missing_;
}

void DeltaFollower::Report(const absl::Status& status) {
  int64_t sequence;
  {
    std::lock_guard lock(mu_);
    if (status.code() == problem_.code() && status.message() == problem_.message()) return;
    problem_ = status;
    sequence = catalogue_->sequence();
  }
  log_(status.ok() ? absl::StrCat("updates are followed again; the last one is ", sequence)
                   : absl::StrCat("updates are not followed beyond number ", sequence,
                                  ", with which searches go on: ", status.message()));
}

}  // namespace nann
