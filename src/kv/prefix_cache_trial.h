// PrefixCache beside a slow, obvious oracle: the same operations on both, compared after each. For
// the property test, which draws them, and the fuzzer, which is told them.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "kv/prefix_cache.h"

namespace mooncake::prefix_cache_trial {

using Path =
    std::vector<int>;  // a sequence of full pages: two paths share a beginning as two prompts do
using Pages = std::vector<PageNumber>;

inline constexpr int kDepthMax = 6;
inline constexpr int kBranches = 2;

inline std::vector<Chain> ChainsOf(const Path& path) {
  std::vector<Chain> chains;
  Chain chain{1};
  for (const int step : path) {
    chain = Advance(chain, static_cast<Token>(step), chains.size());
    chains.push_back(chain);
  }
  return chains;
}

inline bool StartsWith(const Path& path, const Path& beginning) {
  return beginning.size() <= path.size() &&
         std::equal(beginning.begin(), beginning.end(), path.begin());
}

inline Path Beginning(const Path& path, std::size_t length) {
  return {path.begin(), path.begin() + static_cast<long>(length)};
}

class Oracle {
 public:
  explicit Oracle(std::size_t pages) : owners_(pages, 0), free_(pages) {}

  std::size_t MatchLength(const Path& path) const {
    std::size_t length = 0;
    while (length < path.size() && cached_.contains(Beginning(path, length + 1))) ++length;
    return length;
  }
  Pages Match(const Path& path) {
    Pages pages;
    for (std::size_t i = 1; i <= MatchLength(path); ++i)
      pages.push_back(cached_.at(Beginning(path, i)).page);
    for (const PageNumber page : pages) ++owners_[IndexOf(page)];
    return pages;
  }
  std::size_t Evictable() const {
    return static_cast<std::size_t>(std::ranges::count_if(
        cached_, [&](const auto& entry) { return !OwnedBelow(entry.first); }));
  }
  bool Allocatable(std::size_t count) const { return count <= free_ + Evictable(); }
  void MakeRoom(std::size_t count) {
    while (free_ < count) EvictOne();
  }
  void Allocated(const Pages& pages) {
    free_ -= pages.size();
    for (const PageNumber page : pages) owners_[IndexOf(page)] = 1;
  }
  bool IsUsed(PageNumber page) const { return owners_[IndexOf(page)] > 0; }
  bool IsCached(PageNumber page) const {
    return std::ranges::any_of(cached_,
                               [&](const auto& entry) { return entry.second.page == page; });
  }
  void Insert(const Path& path, const Pages& pages) {
    for (std::size_t i = 0; i < path.size(); ++i)
      cached_.try_emplace(Beginning(path, i + 1), Entry{pages[i], 0});
  }
  void Release(const Pages& pages) {
    ++now_;
    for (const PageNumber page : pages) {
      const int left = --owners_[IndexOf(page)];
      if (!IsCached(page)) {
        if (left == 0) ++free_;
        continue;
      }
      for (auto& [path, entry] : cached_) {
        if (StartsWith(PathOf(page), path))
          entry.used = now_;  // the page itself and those before it
      }
    }
  }
  std::size_t free_pages() const { return free_; }
  std::size_t cached_pages() const { return cached_.size(); }
  std::size_t pinned_pages() const {
    return static_cast<std::size_t>(
        std::ranges::count_if(owners_, [](int owners) { return owners > 0; }));
  }

 private:
  struct Entry {
    PageNumber page;
    int used;  // the time of the last release of this page or of one that continues it
  };
  Path PathOf(PageNumber page) const {
    return std::ranges::find_if(cached_,
                                [&](const auto& entry) { return entry.second.page == page; })
        ->first;
  }
  bool OwnedBelow(const Path& beginning) const {
    return std::ranges::any_of(cached_, [&](const auto& entry) {
      return StartsWith(entry.first, beginning) && owners_[IndexOf(entry.second.page)] > 0;
    });
  }
  bool IsLeaf(const Path& path) const {
    return std::ranges::count_if(
               cached_, [&](const auto& entry) { return StartsWith(entry.first, path); }) == 1;
  }
  void EvictOne() {
    const Path* victim = nullptr;
    for (const auto& [path, entry] : cached_) {
      if (owners_[IndexOf(entry.page)] > 0 || !IsLeaf(path)) continue;
      if (victim == nullptr || Older(path, *victim)) victim = &path;
    }
    cached_.erase(Path(*victim));
    ++free_;
  }
  // Pages released together went deepest first.
  bool Older(const Path& a, const Path& b) const {
    const int used_a = cached_.at(a).used, used_b = cached_.at(b).used;
    return used_a != used_b ? used_a < used_b : a.size() > b.size();
  }

  std::map<Path, Entry> cached_;
  std::vector<int> owners_;
  std::size_t free_;
  int now_ = 0;
};

/// Owners of sequences, on the cache and on the oracle.
class Trial {
 public:
  /// `below` decides: a number below its argument, which is above 0.
  explicit Trial(std::function<unsigned(unsigned)> below)
      : below_(std::move(below)), pages_(Below(40)), cache_(pages_), oracle_(pages_) {}

  /// What the two disagreed about first; empty as long as they agree.
  const std::string& wrong() const { return wrong_; }

  void Step() {
    const unsigned kind = Below(10);
    if (kind < 4) {
      Start();
    } else if (kind < 7) {
      InsertSome();
    } else {
      ReleaseSome();
    }
    Compare();
  }

 private:
  struct Owner {
    Path path;
    Pages pages;
    std::size_t inserted = 0;
    bool releasing = false;
  };

  unsigned Below(unsigned bound) { return below_(bound); }
  void Check(bool right, const char* what) {
    if (!right && wrong_.empty()) wrong_ = what;
  }

  Path RandomPath() {
    Path path(1 + Below(kDepthMax));
    for (int& step : path) step = static_cast<int>(Below(kBranches));
    return path;
  }

  // Reuses what is cached, or, as somebody would who computes the same at the same time, does not.
  void Start() {
    Owner owner{RandomPath(), {}};
    if (Below(3) > 0) {
      owner.pages = cache_.Match(ChainsOf(owner.path));
      Check(owner.pages == oracle_.Match(owner.path), "the pages of a match");
      owner.inserted = owner.pages.size();
    }
    const std::size_t missing = owner.path.size() - owner.pages.size();
    const bool allocatable = oracle_.Allocatable(missing);
    const Result<Pages> added = cache_.Allocate(missing);
    if (!allocatable) {
      Check(!added && added.error().id == ErrorId::kKvFull, "more pages than there are");
      cache_.Release(owner.pages);
      oracle_.Release(owner.pages);
      return;
    }
    Check(added.has_value() && added->size() == missing, "pages that there are");
    if (!wrong_.empty()) return;
    oracle_.MakeRoom(missing);
    for (const PageNumber page : *added) {
      Check(!oracle_.IsUsed(page), "a page with two owners");
      Check(!oracle_.IsCached(page), "a page that is still cached");
    }
    oracle_.Allocated(*added);
    owner.pages.insert(owner.pages.end(), added->begin(), added->end());
    owners_.push_back(owner);
  }

  void InsertSome() {
    if (owners_.empty()) return;
    Owner& owner = owners_[Below(static_cast<unsigned>(owners_.size()))];
    if (owner.releasing) return;
    const std::size_t count =
        owner.inserted + Below(static_cast<unsigned>(owner.path.size() - owner.inserted + 1));
    const Path path = Beginning(owner.path, count);
    const Pages pages(owner.pages.begin(), owner.pages.begin() + static_cast<long>(count));
    cache_.Insert(ChainsOf(path), pages, owner.inserted);
    oracle_.Insert(path, pages);
    owner.inserted = count;
  }

  // In any order, and sometimes not all of them at once.
  void ReleaseSome() {
    if (owners_.empty()) return;
    const unsigned chosen = Below(static_cast<unsigned>(owners_.size()));
    Owner& owner = owners_[chosen];
    for (std::size_t i = owner.pages.size(); i > 1; --i)
      std::swap(owner.pages[i - 1], owner.pages[Below(static_cast<unsigned>(i))]);
    const std::size_t kept =
        Below(3) > 0 ? 0 : Below(static_cast<unsigned>(owner.pages.size() + 1));
    const Pages released(owner.pages.begin() + static_cast<long>(kept), owner.pages.end());
    cache_.Release(released);
    oracle_.Release(released);
    owner.pages.resize(kept);
    owner.releasing = true;
    if (kept == 0) owners_.erase(owners_.begin() + chosen);
  }

  void Compare() {
    const PrefixCache::Statistics statistics = cache_.statistics();
    Check(statistics.free_pages == oracle_.free_pages(), "free pages");
    Check(statistics.cached_pages == oracle_.cached_pages(), "cached pages");
    Check(statistics.pinned_pages == oracle_.pinned_pages(), "pinned pages");
    Check(statistics.evictable_pages == oracle_.Evictable(), "evictable pages");
    for (int bits = 0; bits < 1 << kDepthMax; ++bits) {
      Path path(kDepthMax);
      for (int i = 0; i < kDepthMax; ++i) path[static_cast<std::size_t>(i)] = bits >> i & 1;
      Check(cache_.MatchLength(ChainsOf(path)) == oracle_.MatchLength(path),
            "the length of a match");
    }
  }

  std::function<unsigned(unsigned)> below_;
  std::string wrong_;
  unsigned pages_;
  PrefixCache cache_;
  Oracle oracle_;
  std::vector<Owner> owners_;
};

}  // namespace mooncake::prefix_cache_trial
