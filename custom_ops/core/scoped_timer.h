#ifndef CUSTOM_OPS_CORE_SCOPED_TIMER_H_
#define CUSTOM_OPS_CORE_SCOPED_TIMER_H_

#include <chrono>

namespace nann {

// Adds its lifetime to a total. It reads the clock twice, so time a round with it, not an item.
class ScopedTimer {
 public:
  explicit ScopedTimer(std::chrono::nanoseconds& total)
      : total_(total), begin_(std::chrono::steady_clock::now()) {}
  ~ScopedTimer() { total_ += std::chrono::steady_clock::now() - begin_; }

  ScopedTimer(const ScopedTimer&) = delete;
  ScopedTimer& operator=(const ScopedTimer&) = delete;

 private:
  std::chrono::nanoseconds& total_;
  const std::chrono::steady_clock::time_point begin_;
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_SCOPED_TIMER_H_
