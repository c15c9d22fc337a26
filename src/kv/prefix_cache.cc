#include "kv/prefix_cache.h"

#include <fmt/format.h>

#include "base/assert.h"

namespace mooncake {

std::size_t PrefixCache::KeyHash::operator()(const Key& key) const noexcept {
  return static_cast<std::size_t>(Mix(static_cast<std::uint64_t>(key.chain) + key.page_index));
}

PrefixCache::PrefixCache(std::uint32_t pages) : pool_(pages), entries_(pages) {
  by_key_.reserve(pages);
}

Result<std::vector<PageNumber>> PrefixCache::Allocate(std::size_t count) {
  if (count > std::size_t{pool_.free_pages()} + evictable_pages_) {
    return Fail(ErrorId::kKvFull,
                fmt::format("{} pages needed, {} free or evictable of {}, {} pinned by requests",
                            count, pool_.free_pages() + evictable_pages_, pool_.pages(),
                            pool_.referenced_pages()));
  }
  while (pool_.free_pages() < count) EvictOldest();
  std::vector<PageNumber> pages(count);
  for (PageNumber& page : pages) page = pool_.Take().value();
  return pages;
}

std::vector<PageNumber> PrefixCache::Match(std::span<const Chain> page_end_chains) {
  std::vector<PageNumber> pages(MatchLength(page_end_chains));
  for (std::size_t i = 0; i < pages.size(); ++i) {
    const std::uint32_t page = Find(page_end_chains[i], i);
    AddOwner(page);
    pages[i] = PageNumber{page};
  }
  hit_pages_ += pages.size();
  missed_pages_ += page_end_chains.size() - pages.size();
  return pages;
}

std::size_t PrefixCache::MatchLength(std::span<const Chain> page_end_chains) const {
  std::size_t length = 0;
  while (length < page_end_chains.size() && Find(page_end_chains[length], length) != kNone)
    ++length;
  return length;
}

// A page of the caller that stayed private, because the cache had another for its chain, does not
// keep that other one from being evicted. So the place to go on from is looked for, and the
// caller's own pages fill the gap.
void PrefixCache::Insert(std::span<const Chain> page_end_chains, std::span<const PageNumber> pages,
                         std::size_t first) {
  MC_ASSERT(page_end_chains.size() == pages.size());
  MC_ASSERT(first <= pages.size());
  while (first > 0 && Find(page_end_chains[first - 1], first - 1) == kNone) --first;
  std::uint32_t parent = first == 0 ? kNone : Find(page_end_chains[first - 1], first - 1);
  for (std::size_t i = first; i < pages.size(); ++i) {
    std::uint32_t page = Find(page_end_chains[i], i);
    if (page == kNone) {
      page = IndexOf(pages[i]);
      Add(page, {page_end_chains[i], static_cast<std::uint32_t>(i)}, parent);
    }
    parent = page;
  }
}

void PrefixCache::Release(std::span<const PageNumber> pages) {
  for (const PageNumber page : pages) DropOwner(IndexOf(page));
}

PrefixCache::Statistics PrefixCache::statistics() const noexcept {
  return {.hit_pages = hit_pages_,
          .missed_pages = missed_pages_,
          .evicted_pages = evicted_pages_,
          .pages = pool_.pages(),
          .free_pages = pool_.free_pages(),
          .cached_pages = static_cast<std::uint32_t>(by_key_.size()),
          .pinned_pages = pool_.referenced_pages(),
          .evictable_pages = evictable_pages_};
}

std::uint32_t PrefixCache::Find(Chain chain, std::size_t page_index) const {
  const auto found = by_key_.find(Key{chain, static_cast<std::uint32_t>(page_index)});
  return found == by_key_.end() ? kNone : found->second;
}

bool PrefixCache::Held(std::uint32_t page) const {
  return entries_[page].held_children > 0 || pool_.references(PageNumber{page}) > 0;
}

void PrefixCache::AddOwner(std::uint32_t page) {
  const bool was_held = Held(page);
  pool_.AddReference(PageNumber{page});
  if (!was_held) Hold(page);
}

void PrefixCache::DropOwner(std::uint32_t page) {
  pool_.DropReference(PageNumber{page});
  if (!entries_[page].cached) {
    if (pool_.references(PageNumber{page}) == 0) pool_.Free(PageNumber{page});
  } else if (!Held(page)) {
    Unhold(page);
  }
}

// `page` has become held: it leaves the list, and so do the pages before it in its sequence.
void PrefixCache::Hold(std::uint32_t page) {
  for (;;) {
    Unlink(page);
    const std::uint32_t parent = entries_[page].parent;
    if (parent == kNone) return;
    const bool was_held = Held(parent);
    ++entries_[parent].held_children;
    if (was_held) return;
    page = parent;
  }
}

// `page` is no longer held: it enters the list, and after it each page before it that only it had
// held.
void PrefixCache::Unhold(std::uint32_t page) {
  for (;;) {
    LinkNewest(page);
    const std::uint32_t parent = entries_[page].parent;
    if (parent == kNone) return;
    MC_ASSERT(entries_[parent].held_children > 0);
    --entries_[parent].held_children;
    if (Held(parent)) return;
    page = parent;
  }
}

void PrefixCache::Add(std::uint32_t page, Key key, std::uint32_t parent) {
  MC_ASSERT(pool_.references(PageNumber{page}) > 0);  // an owner inserts, so the new entry is held
  MC_ASSERT(!entries_[page].cached);
  entries_[page] = Entry{.key = key, .parent = parent, .cached = true};
  by_key_.emplace(key, page);
  if (parent == kNone) return;
  const bool was_held = Held(parent);
  ++entries_[parent].held_children;
  if (!was_held) Hold(parent);
}

void PrefixCache::EvictOldest() {
  const std::uint32_t page = oldest_;
  MC_ASSERT(page != kNone);
  MC_ASSERT(!Held(page));
  Unlink(page);
  by_key_.erase(entries_[page].key);
  entries_[page] = Entry{};
  pool_.Free(PageNumber{page});
  ++evicted_pages_;
}

void PrefixCache::LinkNewest(std::uint32_t page) {
  entries_[page].older = newest_;
  entries_[page].newer = kNone;
  (newest_ == kNone ? oldest_ : entries_[newest_].newer) = page;
  newest_ = page;
  ++evictable_pages_;
}

void PrefixCache::Unlink(std::uint32_t page) {
  const Entry& entry = entries_[page];
  (entry.older == kNone ? oldest_ : entries_[entry.older].newer) = entry.newer;
  (entry.newer == kNone ? newest_ : entries_[entry.newer].older) = entry.older;
  --evictable_pages_;
}

}  // namespace mooncake
