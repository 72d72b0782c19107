// Tests of the catalogue against a plain map of the corpus, and of what searches promise in it: deleted
// items are neither scored nor answered, fresh ones are found. Prints the first check that fails and
// aborts.

#include "custom_ops/core/catalogue.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "custom_ops/core/best_first_search.h"
#include "custom_ops/core/deployed_search.h"
#include "custom_ops/core/rounds_search.h"
#include "custom_ops/core/search.h"
#include "custom_ops/core/surrogate_search.h"
#include "custom_ops/core/testing.h"
#include "custom_ops/core/world_testing.h"

namespace nann {
namespace {

// An item as a test knows it: its row, of one coordinate, and its attributes, a number and a tag.
struct Known {
  float row;
  int64_t number;
  std::string tag;
};

// Attributes in memory: the columns "number" and "tag".
class KnownAttributes {
 public:
  explicit KnownAttributes(const std::vector<Known>& items) {
    std::set<std::string> tags;
    for (const Known& item : items) tags.insert(item.tag);
    for (const std::string& tag : tags) {
      text_ += tag;
      ends_.push_back(static_cast<int64_t>(text_.size()));
    }
    for (const Known& item : items) {
      numbers_.push_back(item.number);
      codes_.push_back(static_cast<int32_t>(std::distance(tags.begin(), tags.find(item.tag))));
    }
  }
  KnownAttributes(const KnownAttributes&) = delete;

  Attributes View() const {
    Attribute number, tag;
    number.name = "number";
    number.integers = numbers_;
    tag.name = "tag";
    tag.type = AttributeType::kString;
    tag.codes = codes_;
    tag.text_ends = ends_;
    tag.text = text_;
    return Attributes::Of(static_cast<int64_t>(numbers_.size()), {number, tag});
  }

 private:
  std::vector<int64_t> numbers_, ends_;
  std::vector<int32_t> codes_;
  std::string text_;
};

// An update with what it points to.
struct Update {
  std::vector<int64_t> upserted, deleted;
  std::vector<float> rows;
  std::unique_ptr<KnownAttributes> attributes;

  Segment View(int64_t sequence) const {
    Segment segment;
    segment.sequence = sequence;
    segment.upserted = upserted;
    segment.deleted = deleted;
    segment.rows = {rows.data(), nullptr, 1};
    segment.attributes.emplace(attributes->View());
    return segment;
  }
};

// An index, what it is based on, and the corpus after the updates so far.
class Corpus {
 public:
  explicit Corpus(const World& world)
      : world_(world), view_(world.View()), lookup_(view_.item_ids()) {
    std::vector<Known> items;
    for (size_t i = 0; i < world.item_ids.size(); ++i) {
      items.push_back({world.embeddings[i], static_cast<int64_t>(i % 5), absl::StrCat("t", i % 3)});
      known_[world.item_ids[i]] = items.back();
    }
    columns_ = std::make_unique<KnownAttributes>(items);
    attributes_ = std::make_unique<Attributes>(columns_->View());
    catalogue_ = Catalogue::Of({&view_, &lookup_, attributes_.get(), &filters_});
  }

  const Catalogue& now() const { return *catalogue_; }
  const std::map<int64_t, Known>& known() const { return known_; }

  // Draws updates of up to `most` ids each, and applies them in one step.
  void Draws(Random& random, int updates, int most) {
    std::deque<Update> drawn;
    std::vector<Segment> segments;
    for (int i = 0; i < updates; ++i) {
      drawn.push_back(DrawUpdate(random, most));
      segments.push_back(drawn.back().View(catalogue_->sequence() + 1 + i));
    }
    auto after = catalogue_->After(segments);
    CHECK_THAT(after.ok());
    catalogue_ = *std::move(after);
  }

  Update DrawUpdate(Random& random, int most) {
    std::set<int64_t> ids;
    for (int i = Draw(random, 0, most); i > 0; --i) {
      // Some ids are new; those of the index begin at 1000.
      ids.insert(990 + Draw(random, 0, static_cast<int>(world_.item_ids.size()) + 30));
    }
    Update update;
    std::vector<Known> items;
    for (int64_t id : ids) {
      if (Draw(random, 0, 2) == 0) {
        update.deleted.push_back(id);
        known_.erase(id);
        continue;
      }
      Known item{static_cast<float>(Draw(random, -99, 99)), Draw(random, 0, 4),
                 absl::StrCat("u", Draw(random, 0, 2))};
      const int32_t indexed = lookup_.Find(id);
      if (indexed >= 0 && Draw(random, 0, 1) == 0) item.row = world_.embeddings[indexed];
      update.upserted.push_back(id);
      update.rows.push_back(item.row);
      items.push_back(item);
      known_[id] = item;
    }
    update.attributes = std::make_unique<KnownAttributes>(items);
    return update;
  }

  // Returns the ids of allowed items.
  std::set<int64_t> Ids(const Catalogue::Allowed& allowed) const {
    std::vector<int32_t> items = allowed.fresh;
    if (allowed.indexed != nullptr) {
      allowed.indexed->AppendTo(items);
    } else {
      for (int32_t item = 0; item < view_.num_items(); ++item) items.push_back(item);
    }
    std::set<int64_t> ids;
    for (int32_t item : items) CHECK_THAT(ids.insert(catalogue_->IdOf(item)).second);
    return ids;
  }

 private:
  const World& world_;
  const IndexView view_;
  const ItemLookup lookup_;
  FilterCache filters_;
  std::unique_ptr<KnownAttributes> columns_;
  std::unique_ptr<Attributes> attributes_;
  std::shared_ptr<const Catalogue> catalogue_;
  std::map<int64_t, Known> known_;
};

// Equal values are equal numbers, in the index and behind it, and items without a value pass.
void CapsSeeTheValues(const Corpus& corpus) {
  const Catalogue& now = corpus.now();
  std::map<std::string, int64_t> codes;
  std::set<int64_t> seen;
  for (const char* column : {"number", "tag"}) {
    const auto cap = now.CapBy(column, 1, 1);
    CHECK_THAT(cap.ok());
    const PassingItems without = cap->Without({1}, now.index().num_items());
    for (const auto& [id, item] : corpus.known()) {
      const int32_t indexed = now.FindIndexed(id);
      const bool live = indexed >= 0 && now.IsLive(indexed);
      const std::optional<int64_t> value = cap->Value(live ? indexed : now.FindFresh(id));
      CHECK_THAT(value.has_value());
      if (live) CHECK_THAT(without.Has(indexed) == (*value != 1));
      if (column[0] == 'n') {
        CHECK_THAT(*value == item.number);
      } else if (codes.count(item.tag) > 0) {
        CHECK_THAT(codes[item.tag] == *value);
      } else {
        CHECK_THAT(seen.insert(*value).second);
        codes[item.tag] = *value;
      }
    }
  }
  CHECK_THAT(!now.CapBy("price", 1, 1).ok());
}

void ACatalogueIsTheCorpusAfterItsUpdates() {
  Random random(31);
  for (int example = 0; example < 300; ++example) {
    World world = RandomWorld(random, Draw(random, 1, 150), 16, 3, 1);
    for (float& row : world.embeddings) row = static_cast<float>(Draw(random, -99, 99));
    Corpus corpus(world);
    for (int step = Draw(random, 0, 6); step >= 0; --step) {
      const Catalogue& now = corpus.now();
      CHECK_THAT(now.num_items() == static_cast<int64_t>(corpus.known().size()));
      const int32_t n = static_cast<int32_t>(world.item_ids.size());
      for (int64_t id = 985; id < 1000 + n + 35; ++id) {
        const auto known = corpus.known().find(id);
        const int32_t indexed = now.FindIndexed(id), fresh = now.FindFresh(id);
        const bool live = indexed >= 0 && now.IsLive(indexed);
        CHECK_THAT(live + (fresh >= 0) == (known != corpus.known().end()));
        if (known == corpus.known().end()) continue;
        const int32_t item = live ? indexed : fresh;
        float row = 0;
        now.rows().Gather({&item, 1}, &row);
        CHECK_THAT(row == known->second.row && now.IdOf(item) == id);
      }
      const int64_t least = Draw(random, 0, 5);
      const std::string tag = absl::StrCat(Draw(random, 0, 1) == 0 ? "t" : "u", Draw(random, 0, 2));
      std::set<int64_t> all, wanted;
      for (const auto& [id, item] : corpus.known()) {
        all.insert(id);
        if (item.number >= least || item.tag == tag) wanted.insert(id);
      }
      const std::string filter = absl::StrCat("number >= ", least, " OR tag = '", tag, "'");
      for (int again = 0; again < 2; ++again) {  // From the cache, too.
        CHECK_THAT(corpus.Ids(**now.Passing(filter)) == wanted);
        CHECK_THAT(corpus.Ids(**now.Passing(" ")) == all);
      }
      CHECK_THAT(!now.Passing("price < 3").ok());
      CapsSeeTheValues(corpus);
      corpus.Draws(random, Draw(random, 1, 4), Draw(random, 0, 40));
    }
  }
}

std::vector<std::unique_ptr<Search>> AllSearches(int k) {
  std::vector<std::unique_ptr<Search>> made;
  made.push_back(*BestFirstSearch::Create(8, 4 * k, 0));
  made.push_back(*RoundsSearch::Create({20, 20, 8 * k}, {1, 1, 4}, 2));
  made.push_back(*DeployedSearch::Create({20, 20, 4 * k, 4 * k, 4 * k, k}, 2));
  made.push_back(*SurrogateSearch::Create({k, 16, 0.9f}, 8, 4 * k, 0));
  return made;
}

// A fifth of the items is deleted and as many are added; the answer is that of the corpus as it is.
void TheBestItemsOfTheCorpusAreFound() {
  constexpr int kItems = 3000, kWidth = 16, kK = 20;
  Random random(33);
  Workspace workspace;
  World world = NearWorld(random, kItems, kWidth, 16, 6);
  const IndexView view = world.View();
  const ItemLookup lookup(view.item_ids());
  for (const auto& search : AllSearches(kK)) {
    int64_t found = 0, wanted = 0;
    for (int example = 0; example < 8; ++example) {
      Segment segment;
      segment.sequence = 1;
      std::vector<int64_t> deleted, added;
      std::vector<float> rows(kItems / 5);
      for (int64_t id : world.item_ids) {
        if (Draw(random, 0, 4) == 0) deleted.push_back(id);
      }
      for (int i = 0; i < kItems / 5; ++i) added.push_back(100000 + i);
      segment.deleted = deleted;
      segment.upserted = added;
      segment.rows = {rows.data(), nullptr, 1};
      const auto after = Catalogue::Of({&view, &lookup, nullptr, nullptr})
                             ->After(absl::MakeConstSpan(&segment, 1));
      CHECK_THAT(after.ok());
      const Catalogue& now = **after;
      std::vector<float> scores = LinearScores(world, kWidth, random);
      const auto [low, high] = std::minmax_element(scores.begin(), scores.end());
      const float lowest = *low, range = *high - *low;
      for (size_t i = 0; i < added.size(); ++i) {
        scores.push_back(lowest + range * Draw(random, 0, 1000) / 1000);
      }
      std::vector<Scored> best;
      for (int32_t item = 0; item < static_cast<int32_t>(scores.size()); ++item) {
        if (item >= kItems || now.IsLive(item)) best.push_back({scores[item], item});
      }
      KeepBest(kK, best);
      std::vector<int32_t> seeds(20), excluded{Draw(random, 0, kItems - 1), kItems + 3};
      for (int32_t& seed : seeds) seed = Draw(random, 0, kItems - 1);
      const auto allowed = *now.Passing("");
      SearchRequest request;
      request.seeds = seeds;
      request.excluded = excluded;
      request.passing = allowed->indexed.get();
      request.only_deleted_fail = true;
      request.unindexed = allowed->fresh;
      if (example == 7) request.budget = 100;
      ScoreLog log(static_cast<int64_t>(scores.size()));
      const auto score = [&](absl::Span<const int32_t> batch, absl::Span<float> out) {
        const bool indexed = batch[0] < kItems;
        for (size_t i = 0; i < batch.size(); ++i) {
          CHECK_THAT((batch[i] < kItems) == indexed);
          CHECK_THAT(!indexed || now.IsLive(batch[i]));
          out[i] = scores[batch[i]];
        }
        log.Add(batch, out);
        return absl::OkStatus();
      };
      SearchStatistics statistics;
      CHECK_THAT(search->Run(view, request, score, workspace, statistics).ok());
      log.CheckAnswer(request, statistics, workspace.results);
      CHECK_THAT((statistics.stopped == Stopped::kBudget) == (example == 7));
      if (example == 7) continue;
      CHECK_THAT(workspace.results.size() >= kK);
      for (int i = 0; i < kK; ++i) {
        if (std::binary_search(excluded.begin(), excluded.end(), best[i].item)) continue;
        ++wanted;
        found += std::any_of(workspace.results.begin(), workspace.results.end(),
                             [&](const Scored& one) { return one.item == best[i].item; });
      }
    }
    std::printf("coverage %.4f\n", static_cast<double>(found) / static_cast<double>(wanted));
    CHECK_THAT(100 * found >= 97 * wanted);
  }
}

void ADeadlineEndsIt() {
  Random random(34);
  const World world = RandomWorld(random, 50, 16, 4, 1);
  const IndexView view = world.View();
  std::vector<int32_t> unindexed{50, 51, 52};
  SearchRequest request;
  request.unindexed = unindexed;
  request.deadline = std::chrono::steady_clock::now();
  Workspace workspace;
  SearchStatistics statistics;
  const auto search = *BestFirstSearch::Create(4, 10, 0);
  const auto score = [](absl::Span<const int32_t>, absl::Span<float>) {
    return absl::InternalError("nothing may be scored");
  };
  CHECK_THAT(search->Run(view, request, score, workspace, statistics).ok());
  CHECK_THAT(statistics.stopped == Stopped::kDeadline && workspace.results.empty());
}

}  // namespace
}  // namespace nann

int main() {
  nann::ACatalogueIsTheCorpusAfterItsUpdates();
  nann::TheBestItemsOfTheCorpusAreFound();
  nann::ADeadlineEndsIt();
  std::puts("passed");
}
