#ifndef CUSTOM_OPS_CORE_CHECKSUM_H_
#define CUSTOM_OPS_CORE_CHECKSUM_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "absl/strings/string_view.h"

namespace nann {

// A checksum of bytes, by which damaged and foreign files are told (docs/format.md): the sum, over all
// 64-bit words, of a word mixed with its place, mixed with the length. It is no protection against forgery.
// It is a sum, which does not depend on the order of its terms, so that NumPy can compute it as well.
inline uint64_t Checksum(absl::string_view bytes) {
  const auto mix = [](uint64_t x) {  // The last steps of SplitMix64.
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
  };
  uint64_t sum = 0, place = 0;
  for (size_t at = 0; at < bytes.size(); at += sizeof(uint64_t)) {
    uint64_t word = 0;  // The last one is filled up with zeros.
    const size_t left = bytes.size() - at;
    std::memcpy(&word, bytes.data() + at, left < sizeof(word) ? left : sizeof(word));
    sum += mix(word + (place += 0x9e3779b97f4a7c15));
  }
  return mix(sum ^ bytes.size());
}

// Returns a checksum or key as 16 hexadecimal digits.
inline std::string HexDigits(uint64_t value) {
  std::string digits(16, '0');
  for (size_t at = digits.size(); value != 0; value >>= 4)
    digits[--at] = "0123456789abcdef"[value & 15];
  return digits;
}

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_CHECKSUM_H_
