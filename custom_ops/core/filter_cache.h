#ifndef CUSTOM_OPS_CORE_FILTER_CACHE_H_
#define CUSTOM_OPS_CORE_FILTER_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "custom_ops/core/filter.h"

namespace nann {

// What was made from the texts that were used last. Thread-safe.
template <typename Value>
class TextCache {
 public:
  static constexpr size_t kBytes = size_t{64} << 20;
  struct Made {
    std::shared_ptr<const Value> value;
    size_t bytes;
  };

  // Keeps at most so many bytes of texts and values. What is in use elsewhere is not counted.
  explicit TextCache(size_t most_bytes = kBytes) : most_bytes_(most_bytes) {}

  // Returns what `make`, a function () -> absl::StatusOr<Made>, makes of `text`, or its error; calls it if
  // that is not kept. What is larger than the cache is not kept either.
  template <typename Make>
  absl::StatusOr<std::shared_ptr<const Value>> Get(absl::string_view text, Make make) {
    {
      std::lock_guard lock(mu_);
      const auto found = places_.find(text);
      if (found != places_.end()) {
        entries_.splice(entries_.begin(), entries_, found->second);
        return found->second->value;
      }
    }
    absl::StatusOr<Made> made = make();
    if (!made.ok()) return made.status();
    Keep({std::string(text), made->value, text.size() + made->bytes + sizeof(Entry)});
    return made->value;
  }

  size_t bytes() const {
    std::lock_guard lock(mu_);
    return bytes_;
  }

 private:
  struct Entry {
    std::string text;
    std::shared_ptr<const Value> value;
    size_t bytes;
  };

  void Keep(Entry entry) {
    if (entry.bytes > most_bytes_) return;
    std::lock_guard lock(mu_);
    if (places_.count(entry.text) > 0) return;  // Another thread was faster.
    for (; bytes_ + entry.bytes > most_bytes_; entries_.pop_back()) {
      bytes_ -= entries_.back().bytes;
      places_.erase(entries_.back().text);
    }
    bytes_ += entry.bytes;
    entries_.push_front(std::move(entry));
    places_.emplace(entries_.front().text, entries_.begin());
  }

  const size_t most_bytes_;
  // Guards what follows. It is none of Abseil, because the thread sanitizer does not see into those of
  // TensorFlow's library.
  mutable std::mutex mu_;
  std::list<Entry> entries_;  // The one used last is first.
  // The keys are views of the entries' texts.
  std::unordered_map<absl::string_view, typename std::list<Entry>::iterator> places_;
  size_t bytes_ = 0;
};

// The items that pass the filters that were used last, by the filters' texts. Thread-safe.
class FilterCache : public TextCache<PassingItems> {
 public:
  using TextCache::TextCache;

  // Returns the items that pass `text`. Returns InvalidArgument if the text is not a filter.
  absl::StatusOr<std::shared_ptr<const PassingItems>> Passing(absl::string_view text,
                                                              const Attributes& attributes) {
    return Get(text, [&]() -> absl::StatusOr<Made> {
      auto filter = Filter::Parse(text, attributes);
      if (!filter.ok()) return filter.status();
      const int64_t items = attributes.num_items();
      return Made{std::make_shared<const PassingItems>(filter->Evaluate(items)),
                  PassingItems::NumWords(items) * sizeof(uint64_t)};
    });
  }
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_FILTER_CACHE_H_
