// TF_CPP_MIN_LOG_LEVEL for the messages of Abseil.
//
// TensorFlow 2.20 obeys the variable in its own LOG only; what its files, and ours, log through Abseil is told whatever
// it says. Warnings stay: that a scorer runs without XLA or without the passes is why a search is slow.

#include <cstdlib>

#include "absl/base/log_severity.h"
#include "absl/log/globals.h"
#include "absl/strings/numbers.h"

namespace nann {
namespace {

const bool kQuiet = [] {
  const char* level = std::getenv("TF_CPP_MIN_LOG_LEVEL");
  int least = 0;
  if (level == nullptr || !absl::SimpleAtoi(level, &least) || least < 1) return false;
  if (absl::MinLogLevel() < absl::LogSeverityAtLeast::kWarning) {
    absl::SetMinLogLevel(absl::LogSeverityAtLeast::kWarning);
  }
  return true;
}();

}  // namespace
}  // namespace nann
