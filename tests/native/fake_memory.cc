#include "tests/native/fake_memory.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"

namespace tensorflow {
namespace nann_ops {
namespace {

constexpr size_t kBytes = size_t{1} << 32;  // Pages that nobody writes take no memory.
constexpr size_t kSmallest = 64;            // Tensors are aligned to 64 bytes.
constexpr char kTouched[] = "the host touched memory of the fake accelerator\n";

class Arena : public Allocator {
 public:
  Arena() {
    const int file = memfd_create("fake_accelerator", 0);
    if (file < 0 || ftruncate(file, kBytes) != 0) std::abort();
    forbidden_ = Map(file, PROT_NONE);
    actual_ = Map(file, PROT_READ | PROT_WRITE);
    close(file);
  }

  std::string Name() override { return "fake_accelerator"; }
  AllocatorMemoryType GetMemoryType() const override { return AllocatorMemoryType::kDevice; }

  // Blocks of one size, a power of two, are used again; the arena is far larger than any test.
  void* AllocateRaw(size_t alignment, size_t bytes) override {
    size_t size = kSmallest;
    while (size < std::max(bytes, alignment)) size *= 2;
    absl::MutexLock lock(&mu_);
    std::vector<char*>& free = free_[size];
    char* block;
    if (free.empty()) {
      // As sizes are powers of two, a larger block that comes after smaller ones is aligned first.
      used_ = (used_ + size - 1) / size * size;
      if (used_ + size > kBytes) return nullptr;
      block = forbidden_ + used_;
      used_ += size;
    } else {
      block = free.back();
      free.pop_back();
    }
    sizes_[block] = size;
    return block;
  }

  void DeallocateRaw(void* block) override {
    absl::MutexLock lock(&mu_);
    const auto found = sizes_.find(static_cast<char*>(block));
    if (found == sizes_.end()) std::abort();
    free_[found->second].push_back(found->first);
    sizes_.erase(found);
  }

  bool Holds(const void* address) const {
    const char* place = static_cast<const char*>(address);
    return place >= forbidden_ && place < forbidden_ + kBytes;
  }

  void* Actual(const void* address) const {
    if (!Holds(address)) std::abort();
    return actual_ + (static_cast<const char*>(address) - forbidden_);
  }

 private:
  static char* Map(int file, int protection) {
    void* mapped = mmap(nullptr, kBytes, protection, MAP_SHARED | MAP_NORESERVE, file, 0);
    if (mapped == MAP_FAILED) std::abort();
    return static_cast<char*>(mapped);
  }

  char *forbidden_, *actual_;
  absl::Mutex mu_;
  size_t used_ = 0;
  std::map<size_t, std::vector<char*>> free_;
  std::map<char*, size_t> sizes_;
};

Arena& TheArena();

void TellAndEnd(int signal, siginfo_t* info, void*) {
  if (TheArena().Holds(info->si_addr)) {
    const ssize_t written = write(STDERR_FILENO, kTouched, sizeof(kTouched) - 1);
    static_cast<void>(written);
  }
  struct sigaction standard = {};
  standard.sa_handler = SIG_DFL;
  sigaction(signal, &standard, nullptr);  // The instruction runs again, and ends the process.
}

Arena& TheArena() {
  static Arena* const arena = [] {
    struct sigaction action = {};
    action.sa_sigaction = TellAndEnd;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, nullptr);
    return new Arena;
  }();
  return *arena;
}

}  // namespace

Allocator* FakeMemory() { return &TheArena(); }

void* OnAccelerator(const Tensor& tensor) {
  const void* const place = tensor.tensor_data().data();
  return tensor.TotalBytes() == 0 ? nullptr : TheArena().Actual(place);
}

}  // namespace nann_ops
}  // namespace tensorflow
