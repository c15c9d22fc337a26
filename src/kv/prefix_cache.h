// The pages of one instance, and which of them hold the beginning of a sequence that may come
// again. Bookkeeping only: page numbers, never bytes.
#pragma once

#include <boost/unordered/unordered_flat_map.hpp>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "kv/page_pool.h"
#include "model/synthetic_model.h"

namespace mooncake {

/// Hands out pages and remembers full ones by the chain at their end. Every page is
///   free;
///   private: one owner writes to it;
///   cached: full and found by Match(), read by any number of owners or by none, never written
///   again.
/// A page is pinned while it has an owner. A cached page without owner stays until its room is
/// needed; then the least recently used goes first, and no page goes before the cached pages that
/// continue it, since they could not be matched without it. To use a page is to use those before
/// it.
///
/// All operations cost O(1) per page of their argument, amortised. One thread at a time.
class PrefixCache {
 public:
  explicit PrefixCache(std::uint32_t pages);
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  /// `count` private pages, each with the caller as its one owner. Evicts what it must and nothing
  /// more. kKvFull, with nothing evicted: the pages that are free or cached without owner do not
  /// suffice.
  [[nodiscard]] Result<std::vector<PageNumber>> Allocate(std::size_t count);

  /// The cached pages of the longest beginning of a sequence, whose chains at the ends of its full
  /// pages are given from its first page on (PageEndChains()). The caller becomes an owner of each
  /// and may only read them.
  [[nodiscard]] std::vector<PageNumber> Match(std::span<const Chain> page_end_chains);

  /// How many pages Match() would return; changes nothing, not even what is recent.
  [[nodiscard]] std::size_t MatchLength(std::span<const Chain> page_end_chains) const;

  /// Makes full pages of a sequence findable. Both spans describe it from its first page on; the
  /// caller owns all the pages and inserted those below `first` before. Where the cache has another
  /// page for the same chain, that one stays, and the caller's remains private.
  void Insert(std::span<const Chain> page_end_chains, std::span<const PageNumber> pages,
              std::size_t first = 0);

  /// The caller is no longer an owner of these pages, each of which it got from Allocate() or
  /// Match(): private pages are free at once, cached ones without another owner become the most
  /// recently used. In any order.
  void Release(std::span<const PageNumber> pages);

  struct Statistics {
    std::uint64_t hit_pages = 0;      ///< Returned by Match() so far.
    std::uint64_t missed_pages = 0;   ///< Asked of Match() and not returned.
    std::uint64_t evicted_pages = 0;  ///< So far.
    std::uint32_t pages = 0;          ///< All there are.
    std::uint32_t free_pages = 0;
    std::uint32_t cached_pages = 0;
    std::uint32_t pinned_pages = 0;  ///< With an owner, cached or private.
    std::uint32_t evictable_pages =
        0;  ///< Cached, and neither they nor any that continue them have an owner.
  };
  [[nodiscard]] Statistics statistics() const noexcept;

 private:
  static constexpr std::uint32_t kNone = 0xFFFFFFFF;

  struct Key {
    Chain chain;
    std::uint32_t page_index;  // in the sequence
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    using is_avalanching = void;
    std::size_t operator()(const Key& key) const noexcept;
  };
  // What the cache knows of a page, by page number. A cached page is *held* while it has an owner
  // or a held child; the others are in one list, the least recently used first. A page can only
  // enter the list after all its cached children did, so the first in the list never has one.
  struct Entry {
    Key key{};
    std::uint32_t parent =
        kNone;  // the cached page before it in the sequence; kNone for the first of a sequence
    std::uint32_t held_children = 0;
    std::uint32_t older = kNone;  // neighbours in the list
    std::uint32_t newer = kNone;
    bool cached = false;
  };

  [[nodiscard]] std::uint32_t Find(Chain chain, std::size_t page_index) const;
  [[nodiscard]] bool Held(std::uint32_t page) const;
  void AddOwner(std::uint32_t page);
  void DropOwner(std::uint32_t page);
  void Hold(std::uint32_t page);
  void Unhold(std::uint32_t page);
  void Add(std::uint32_t page, Key key, std::uint32_t parent);
  void EvictOldest();
  void LinkNewest(std::uint32_t page);
  void Unlink(std::uint32_t page);

  PagePool pool_;
  std::vector<Entry> entries_;  // by page
  boost::unordered_flat_map<Key, std::uint32_t, KeyHash> by_key_;
  std::uint32_t oldest_ = kNone;
  std::uint32_t newest_ = kNone;
  std::uint32_t evictable_pages_ = 0;
  std::uint64_t hit_pages_ = 0;
  std::uint64_t missed_pages_ = 0;
  std::uint64_t evicted_pages_ = 0;
};

}  // namespace mooncake
