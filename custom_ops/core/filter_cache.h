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

// The items that pass the filters that were used last, by the filters' texts. Thread-safe.
class FilterCache {
 public:
  static constexpr size_t kBytes = size_t{64} << 20;

  // Keeps at most so many bytes of texts and bits. What is in use elsewhere is not counted.
  explicit FilterCache(size_t most_bytes = kBytes) : most_bytes_(most_bytes) {}

  // Returns the items that pass `text`. Parses and evaluates it if it is not kept; what is larger than
  // the cache is not kept either. Returns InvalidArgument if the text is not a filter.
  absl::StatusOr<std::shared_ptr<const PassingItems>> Passing(absl::string_view text,
                                                              const Attributes& attributes) {
    {
      std::lock_guard lock(mu_);
      const auto found = places_.find(text);
      if (found != places_.end()) {
        entries_.splice(entries_.begin(), entries_, found->second);
        return found->second->passing;
      }
    }
    auto filter = Filter::Parse(text, attributes);
    if (!filter.ok()) return filter.status();
    auto passing = std::make_shared<const PassingItems>(filter->Evaluate(attributes.num_items()));
    const size_t bits = PassingItems::NumWords(attributes.num_items()) * sizeof(uint64_t);
    Keep({std::string(text), passing, text.size() + bits + sizeof(Entry)});
    return passing;
  }

  size_t bytes() const {
    std::lock_guard lock(mu_);
    return bytes_;
  }

 private:
  struct Entry {
    std::string text;
    std::shared_ptr<const PassingItems> passing;
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
  std::unordered_map<absl::string_view, std::list<Entry>::iterator> places_;
  size_t bytes_ = 0;
};

}  // namespace nann

#endif  // CUSTOM_OPS_CORE_FILTER_CACHE_H_
