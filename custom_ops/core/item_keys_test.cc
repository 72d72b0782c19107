// Tests that every key is found, and no other, and that a damaged file does no harm. The file is made by
// the words of docs/format.md; tests/index/test_item_keys.py opens those that Python writes.

#include "custom_ops/core/item_keys.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <string>

#include "custom_ops/core/testing.h"

namespace nann {
namespace {

constexpr uint64_t kSeed = 5;

uint64_t HashOf(std::string key) {
  uint64_t hash = kSeed ^ (key.size() * uint64_t{0x9E3779B97F4A7C15});
  key.resize((key.size() + 7) / 8 * 8);
  const auto mix = [](uint64_t mixed, int by) { return mixed ^ (mixed >> by); };
  for (size_t at = 0; at < key.size(); at += 8) {
    uint64_t word;
    std::memcpy(&word, &key[at], 8);
    hash = mix((hash ^ word) * uint64_t{0xFF51AFD7ED558CCD}, 32);
  }
  hash = mix(hash * uint64_t{0xC4CEB9FE1A85EC53}, 29);
  return mix(hash * uint64_t{0x94D049BB133111EB}, 32);
}

// The bytes of a file, in words so that they are aligned.
class File {
 public:
  File(const std::vector<std::string>& keys, const std::vector<int64_t>& others, int bits) {
    const int64_t m = keys.size();
    std::vector<uint32_t> order(m), ends, starts((1 << bits) + 1);
    std::vector<uint64_t> hashes;
    std::vector<uint8_t> tags;
    std::string text;
    for (const std::string& key : keys) {
      hashes.push_back(HashOf(key));
      ends.push_back((text += key).size());
    }
    const auto bucket = [&](uint32_t place) {
      return bits == 0 ? 0 : hashes[place] >> (64 - bits);
    };
    for (int64_t i = 0; i < m; ++i) order[i] = i;
    std::sort(order.begin(), order.end(),
              [&](uint32_t a, uint32_t b) { return bucket(a) < bucket(b); });
    for (uint32_t place : order) tags.push_back(static_cast<uint8_t>(hashes[place]));
    for (uint32_t place : order) ++starts[bucket(place) + 1];
    for (size_t i = 1; i < starts.size(); ++i) starts[i] += starts[i - 1];
    const int64_t n = m - static_cast<int64_t>(others.size());
    std::vector<int64_t> head{0, n, m, static_cast<int64_t>(text.size()), kSeed, bits};
    std::memcpy(head.data(), "NANNKEYS", 8);
    Add(head);
    Add(others);
    Add(std::vector<int64_t>(m > 0));
    Add(ends);
    Add(starts);
    Add(order);
    Add(tags);
    Add(std::vector<char>(text.begin(), text.end()));
  }

  std::vector<int64_t>& words() { return words_; }

 private:
  template <typename T>
  void Add(const std::vector<T>& part) {
    const size_t begin = words_.size(), size = part.size() * sizeof(T);
    words_.resize(begin + (size + 63) / 64 * 8);
    if (size > 0) std::memcpy(&words_[begin], part.data(), size);
  }

  std::vector<int64_t> words_;
};

std::string DrawKey(Random& random) {
  std::string key(Draw(random, 1, 20), 'k');
  for (int i = Draw(random, 0, 3); i > 0; --i) {
    key[Draw(random, 0, key.size() - 1)] = static_cast<char>(Draw(random, 0, 255));
  }
  return key;
}

void KeysAreFoundAndDamageDoesNoHarm() {
  Random random(7);
  int refused = 0;
  for (int example = 0; example < 2000; ++example) {
    std::map<std::string, int64_t> numbers;
    for (int i = Draw(random, 0, 40); i > 0; --i) numbers[DrawKey(random)] = Draw(random, 0, 999);
    std::vector<std::string> keys;
    std::vector<int64_t> ids, others;
    const int items = Draw(random, 0, numbers.size());
    for (const auto& [key, number] : numbers) {
      (static_cast<int>(keys.size()) < items ? ids : others).push_back(number);
      keys.push_back(key);
    }
    File file(keys, others, Draw(random, 0, 4));
    const bool damaged = example % 2 == 1;
    for (int i = damaged ? Draw(random, 1, 3) : 0; i > 0; --i) {
      std::vector<int64_t>& words = file.words();
      reinterpret_cast<uint8_t*>(words.data())[Draw(random, 8, words.size() * 8 - 1)] ^=
          1 << Draw(random, 0, 7);
    }
    const auto made = ItemKeys::Create(FileOf(file.words()), ids);
    CHECK_THAT(damaged || made.ok());
    refused += !made.ok();
    if (!made.ok()) continue;
    std::vector<std::string> asked = keys;
    for (int i = 0; i < 30; ++i) asked.push_back(i == 0 ? "" : DrawKey(random));
    std::vector<int64_t> found(asked.size());
    made->Numbers(absl::MakeConstSpan(asked), found.data());
    for (size_t i = 0; i < asked.size() && !damaged; ++i) {
      const auto known = numbers.find(asked[i]);
      CHECK_THAT(found[i] == (known == numbers.end() ? ItemKeys::kNoItem : known->second));
      CHECK_THAT(i >= keys.size() || made->Key(i) == keys[i]);
    }
  }
  CHECK_THAT(refused > 500);
}

}  // namespace
}  // namespace nann

int main() {
  nann::KeysAreFoundAndDamageDoesNoHarm();
  std::puts("passed");
}
