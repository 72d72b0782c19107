// Runs the target of index_fuzz.cc without libFuzzer, as a test for every compiler: on the files of
// the folder given as its argument, fuzz_corpus/, and on random bytes. After a change of what the
// bytes mean, write the folder anew by
//   build/core_test/index_fuzz_test --write custom_ops/core/fuzz_corpus

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "custom_ops/core/testing.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

// Returns input number `i`. Together they combine each way to make the files with each type of table
// and with none or either width of features, for up to 40 items. The random numbers are the same with every compiler, so the corpus is too.
std::string Example(int i) {
  std::mt19937 random(i);
  const int way = i % 3, type = i / 3 % 3, items = (4 * i + 3) % 41, features = i / 9 % 3;
  std::string bytes{static_cast<char>(way), static_cast<char>(type), static_cast<char>(items),
                    static_cast<char>(features)};
  while (bytes.size() < 100u + 14 * items) bytes.push_back(static_cast<char>(random()));
  // Files made from any bytes are hardly ever a valid index by chance, but all zeros are one.
  if (way == 2 && i % 2 == 0) std::fill(bytes.begin() + 4, bytes.end() - 60, '\0');
  return bytes;
}

void Run(const std::string& bytes) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

}  // namespace

int main(int argc, char** argv) {
  const std::string folder = argv[argc - 1];
  if (argc == 3 && std::string(argv[1]) == "--write") {
    for (int i = 0; i < 27; ++i) {
      std::ofstream file(folder + "/" + std::to_string(i), std::ios::binary);
      file << Example(i);
      CHECK_THAT(file.flush());
    }
    return 0;
  }
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::ifstream file(entry.path(), std::ios::binary);
    Run({std::istreambuf_iterator<char>(file), {}});
    ++files;
  }
  CHECK_THAT(files > 0);
  for (int i = 0; i < 20000; ++i) Run(Example(i));
  std::puts("passed");
}
