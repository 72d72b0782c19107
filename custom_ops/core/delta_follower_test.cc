// Tests of segments as files and of following them: what is taken, what damage does, and searches beside
// updates, which the thread sanitizer watches. Prints the first check that fails and aborts.

#include "custom_ops/core/delta_follower.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "custom_ops/core/best_first_search.h"
#include "custom_ops/core/checksum.h"
#include "custom_ops/core/search.h"
#include "custom_ops/core/testing.h"
#include "custom_ops/core/world_testing.h"

namespace nann {
namespace {

using std::chrono::milliseconds;

constexpr uint64_t kKey = 0xfedcba9876543210;

// A folder that is removed in the end.
class Folder {
 public:
  Folder() {
    char name[] = "/tmp/nann_deltas_XXXXXX";
    CHECK_THAT(mkdtemp(name) != nullptr);
    path_ = name;
  }
  ~Folder() { (void)!std::system(absl::StrCat("rm -r ", path_).c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Returns the content of a segment of rows of one float, in the layout of docs/format.md.
std::string SegmentOf(int64_t sequence, const std::vector<int64_t>& upserted,
                      const std::vector<float>& rows, const std::vector<int64_t>& deleted) {
  std::vector<int64_t> head(16);
  std::memcpy(head.data(), "NANNDLTA", 8);
  head[1] = 1;
  head[2] = static_cast<int64_t>(kKey);
  head[3] = sequence;
  head[4] = static_cast<int64_t>(upserted.size());
  head[5] = static_cast<int64_t>(deleted.size());
  head[6] = 1;
  std::string content;
  const auto add = [&content](const void* bytes, size_t size) {
    if (size > 0) content.append(static_cast<const char*>(bytes), size);
    content.resize((content.size() + 63) / 64 * 64);
  };
  add(head.data(), head.size() * 8);
  add(upserted.data(), upserted.size() * 8);
  add(deleted.data(), deleted.size() * 8);
  add(rows.data(), rows.size() * 4);
  const uint64_t checksum = Checksum(content);
  content.append(reinterpret_cast<const char*>(&checksum), sizeof(checksum));
  return content;
}

void Write(const std::string& path, const std::string& content) {
  const std::string made = path + ".new";
  FILE* const file = std::fopen(made.c_str(), "wb");
  CHECK_THAT(file != nullptr &&
             std::fwrite(content.data(), 1, content.size(), file) == content.size());
  CHECK_THAT(std::fclose(file) == 0 && std::rename(made.c_str(), path.c_str()) == 0);
}

template <typename Condition>
void WaitFor(Condition condition) {
  for (int i = 0; i < 6000 && !condition(); ++i) std::this_thread::sleep_for(milliseconds(5));
  CHECK_THAT(condition());
}

struct Opened {
  explicit Opened(const World& world) : view(world.View()), lookup(view.item_ids()) {}
  std::shared_ptr<const Catalogue> Base() {
    return Catalogue::Of({&view, &lookup, nullptr, nullptr});
  }

  IndexView view;
  ItemLookup lookup;
};

SegmentTarget Target() { return {kKey, 1, TableType::kFloat32, nullptr}; }

void DamageIsFound() {
  const std::string whole = SegmentOf(7, {3, 5, 900}, {1, 2, 3}, {4, 6});
  std::vector<int64_t> aligned((whole.size() + 128) / 8);
  const auto read = [&](const std::string& content) {
    char* begin = reinterpret_cast<char*>(aligned.data());
    begin += -reinterpret_cast<uintptr_t>(begin) % 64;
    std::memcpy(begin, content.data(), content.size());
    return Segment::Read({"s", {begin, content.size()}}, Target(), 7);
  };
  const auto segment = read(whole);
  CHECK_THAT(segment.ok() && segment->upserted.size() == 3 && segment->deleted[1] == 6);
  CHECK_THAT(static_cast<const float*>(segment->rows.values)[2] == 3);
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string damaged = whole;
    damaged[at] ^= 1 << at % 8;
    CHECK_THAT(!read(damaged).ok());
    CHECK_THAT(!read(whole.substr(0, at)).ok());
  }
  // What no writer would write, with a checksum that is right.
  for (const auto& bad :
       {SegmentOf(7, {5, 3}, {1, 2}, {}), SegmentOf(7, {3}, {1}, {3}), SegmentOf(8, {3}, {1}, {}),
        SegmentOf(7, {-1}, {1}, {}), SegmentOf(7, {3}, {}, {})}) {
    CHECK_THAT(!read(bad).ok());
  }
  for (int word = 1; word < 11; ++word) {
    for (int64_t value : {int64_t{-1}, int64_t{1} << 20, int64_t{1} << 40, INT64_MAX}) {
      std::string bad = whole.substr(0, whole.size() - 8);
      std::memcpy(&bad[word * 8], &value, 8);
      const uint64_t checksum = Checksum(bad);
      bad.append(reinterpret_cast<const char*>(&checksum), 8);
      CHECK_THAT(!read(bad).ok());
    }
  }
}

void FollowingStopsAtDamageAndGoesOn() {
  Random random(41);
  const World world = RandomWorld(random, 30, 16, 4, 1);
  Opened opened(world);
  Folder folder;
  const std::string deltas = SegmentFolder(folder.path(), kKey);
  CHECK_THAT(deltas == absl::StrCat(folder.path(), "/fedcba9876543210"));
  const auto path = [&](int64_t sequence) { return SegmentPath(deltas, sequence); };
  std::vector<std::string> lines;  // Written by the follower's thread; read once that has ended.
  {
    std::atomic<int> logged{0};
    DeltaFollower follower(
        Target(), opened.Base(), deltas,
        [&](const std::string& line) {
          lines.push_back(line);
          ++logged;
        },
        milliseconds(1));
    CHECK_THAT(follower.catalogue()->sequence() == 0);
    CHECK_THAT(mkdir(deltas.c_str(), 0755) == 0);
    Write(path(1), SegmentOf(1, {5000}, {7}, {1000}));
    WaitFor([&] { return follower.catalogue()->sequence() == 1; });
    CHECK_THAT(follower.catalogue()->FindFresh(5000) == 30 && !follower.catalogue()->IsLive(0));
    const std::string second = SegmentOf(2, {5001}, {8}, {});
    Write(path(2), second.substr(0, second.size() - 3));
    Write(path(3), SegmentOf(3, {}, {}, {5000}));
    WaitFor([&] { return logged == 1; });
    CHECK_THAT(follower.catalogue()->sequence() == 1 && !follower.problem().ok());
    CHECK_THAT(DeltaFollower::States() == absl::StrCat(deltas, "\t1\t1\t1\n"));
    Write(path(2), second);
    WaitFor([&] { return logged == 2; });
    CHECK_THAT(follower.catalogue()->sequence() == 3 && follower.problem().ok());
    CHECK_THAT(follower.catalogue()->num_items() == 30);
    Write(path(5), SegmentOf(5, {}, {}, {1001}));
    WaitFor([&] { return logged == 3; });
    Write(path(4), SegmentOf(4, {}, {}, {1002}));
    WaitFor([&] { return follower.catalogue()->sequence() == 5; });
    WaitFor([&] { return logged == 4; });
    Write(path(6), "something else");
    WaitFor([&] { return logged == 5; });
  }
  CHECK_THAT(absl::StrContains(lines[0], "beyond number 1"));
  CHECK_THAT(absl::StrContains(lines[1], "followed again; the last one is 3"));
  CHECK_THAT(absl::StrContains(lines[2], "000000000004.seg is missing"));
  CHECK_THAT(absl::StrContains(lines[4], "it is no segment"));
  // A restart replays what is good, before anything is searched.
  const DeltaFollower again(Target(), opened.Base(), deltas, [](const std::string&) {});
  CHECK_THAT(again.catalogue()->sequence() == 5 && again.catalogue()->num_items() == 28);
}

// Searches run while segments come. An item that is deleted is not answered by a search that begins later.
void SearchesRunBesideUpdates() {
  constexpr int kItems = 400, kUpdates = 300;
  Random random(43);
  const World world = RandomWorld(random, kItems, 16, 8, 1);
  Opened opened(world);
  Folder folder;
  const std::string deltas = SegmentFolder(folder.path(), kKey);
  CHECK_THAT(mkdir(deltas.c_str(), 0755) == 0);
  DeltaFollower follower(
      Target(), opened.Base(), deltas, [](const std::string&) { std::abort(); }, milliseconds(1));
  std::atomic<bool> ends{false};
  const auto search = [&](int seed) {
    Workspace workspace;
    const auto best_first = *BestFirstSearch::Create(8, 50, 0);
    while (!ends) {
      const auto now = follower.catalogue();
      const auto allowed = *now->Passing("");
      SearchRequest request;
      const std::vector<int32_t> seeds{seed};
      request.seeds = seeds;
      request.passing = allowed->indexed.get();
      request.only_deleted_fail = true;
      request.unindexed = allowed->fresh;
      SearchStatistics statistics;
      const auto score = [&](absl::Span<const int32_t> items, absl::Span<float> out) {
        now->rows().Gather(items, out.data());
        return absl::OkStatus();
      };
      CHECK_THAT(best_first->Run(now->index(), request, score, workspace, statistics).ok());
      const int64_t sequence = now->sequence();
      bool added = false;
      for (const Scored& one : workspace.results) {
        const int64_t id = now->IdOf(one.item);
        // Update i deletes item i and adds 5000 + i in place of 5000 + i - 1.
        CHECK_THAT(id >= 5000 ? id == 5000 + sequence : id >= 1000 + sequence);
        added |= id >= 5000;
      }
      CHECK_THAT(added == (sequence > 0));
    }
  };
  std::thread one([&] { search(3); }), other([&] { search(200); });
  for (int64_t i = 1; i <= kUpdates; ++i) {
    std::vector<int64_t> deleted{999 + i};
    if (i > 1) deleted.push_back(5000 + i - 1);
    Write(SegmentPath(deltas, i), SegmentOf(i, {5000 + i}, {1e6f}, deleted));
  }
  WaitFor([&] { return follower.catalogue()->sequence() == kUpdates; });
  ends = true;
  one.join();
  other.join();
  CHECK_THAT(follower.catalogue()->num_items() == kItems - kUpdates + 1);
}

}  // namespace
}  // namespace nann

int main() {
  nann::DamageIsFound();
  nann::FollowingStopsAtDamageAndGoesOn();
  nann::SearchesRunBesideUpdates();
  std::puts("passed");
}
