// The page table of one sequence: which page holds its n-th page_tokens tokens.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/result.h"
#include "kv/prefix_cache.h"

namespace mooncake {

/// Owns pages of a PrefixCache, which outlives it, and gives them back when it dies. Movable: the
/// pages go along, and what was moved from is empty. One thread at a time, the one that uses the
/// cache.
class KvSequence {
 public:
  explicit KvSequence(PrefixCache& cache) noexcept : cache_(&cache) {}
  ~KvSequence() { Clear(); }
  KvSequence(KvSequence&& other) noexcept;
  KvSequence& operator=(KvSequence&& other) noexcept;

  /// Begins an empty table with the pages that the cache already has for this sequence
  /// (PageEndChains() of its prompt), and returns how many. Those pages are shared: read only.
  std::size_t Reuse(std::span<const Chain> page_end_chains);

  /// Adds private pages until there are `pages` in all; fewer than there are changes nothing.
  /// kKvFull, with nothing added: more than the cache can free.
  [[nodiscard]] Status GrowTo(std::size_t pages);

  /// The first page_end_chains.size() pages are full, for good, and others may reuse them. Call it
  /// again with more when more are full; what was given before is given again.
  void Publish(std::span<const Chain> page_end_chains);

  /// Gives all pages back.
  void Clear() noexcept;

  /// In the order of the tokens.
  [[nodiscard]] std::span<const PageNumber> pages() const noexcept { return pages_; }
  /// How many of pages(), counted from the first, came from Reuse().
  [[nodiscard]] std::size_t reused_pages() const noexcept { return reused_pages_; }

 private:
  PrefixCache* cache_;
  std::vector<PageNumber> pages_;
  std::size_t reused_pages_ = 0;
  std::size_t published_pages_ = 0;
};

}  // namespace mooncake
