// Applies TF_CPP_MIN_LOG_LEVEL to messages logged through Abseil.
//
// TensorFlow 2.20 obeys the variable only in its own LOG; messages that its files and ours log through Abseil are
// printed whatever its value. Warnings are always kept, because a scorer that runs without XLA or without the passes
// explains a slow search.

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
