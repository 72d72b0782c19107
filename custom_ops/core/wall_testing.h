// What the tests of kernels share. Not a part of the op library.

#ifndef CUSTOM_OPS_CORE_WALL_TESTING_H_
#define CUSTOM_OPS_CORE_WALL_TESTING_H_

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "custom_ops/core/testing.h"

namespace nann {

// Memory that ends before a protected page, for one array at a time.
class MemoryBeforeAWall {
 public:
  explicit MemoryBeforeAWall(size_t bytes) {
    const size_t page = sysconf(_SC_PAGESIZE);
    const size_t usable = (bytes + page - 1) / page * page;
    size_ = usable + page;
    begin_ = static_cast<char*>(
        mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    CHECK_THAT(begin_ != MAP_FAILED);
    wall_ = begin_ + usable;
    CHECK_THAT(mprotect(wall_, page, PROT_NONE) == 0);
  }
  ~MemoryBeforeAWall() { munmap(begin_, size_); }
  MemoryBeforeAWall(const MemoryBeforeAWall&) = delete;

  // Returns the last `n` values before the protected page.
  template <typename T>
  T* Last(int64_t n) {
    CHECK_THAT(n * static_cast<int64_t>(sizeof(T)) <= wall_ - begin_);
    return reinterpret_cast<T*>(wall_) - n;
  }

 private:
  size_t size_;
  char *begin_, *wall_;
};

// Compares floats; any two NaNs are the same, but 0 and -0 are not.
inline bool SameFloat(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) || std::memcmp(&a, &b, sizeof(a)) == 0;
}

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_WALL_TESTING_H_
