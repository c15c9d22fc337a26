// A fixed number of pages with reference counts: which are free, which are in use, and by how many.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace mooncake {

/// A page of an instance's KV memory: room for page_tokens tokens in all layers. Counts from 0
/// without gaps; where its bytes lie is the memory owner's business.
enum class PageNumber : std::uint32_t {};

/// For arithmetic on addresses.
[[nodiscard]] constexpr std::uint32_t IndexOf(PageNumber page) noexcept {
  return static_cast<std::uint32_t>(page);
}

/// Every operation is O(1). A page is free, or taken with any number of references; one without
/// references stays taken until Free(), so that a cache can keep it. One thread at a time.
class PagePool {
 public:
  explicit PagePool(std::uint32_t pages);

  /// A free page, now with one reference; nothing if none is free. The one freed last comes first:
  /// it is warm.
  [[nodiscard]] std::optional<PageNumber> Take();
  void AddReference(PageNumber page);
  /// Returns how many are left. The page has at least one.
  std::uint32_t DropReference(PageNumber page);
  /// Ends the use of a taken page that has no references.
  void Free(PageNumber page);

  [[nodiscard]] std::uint32_t references(PageNumber page) const;
  [[nodiscard]] std::uint32_t pages() const noexcept {
    return static_cast<std::uint32_t>(references_.size());
  }
  [[nodiscard]] std::uint32_t free_pages() const noexcept {
    return static_cast<std::uint32_t>(free_.size());
  }
  /// Pages with at least one reference.
  [[nodiscard]] std::uint32_t referenced_pages() const noexcept { return referenced_pages_; }

 private:
  std::vector<std::uint32_t> references_;  // by page; kFree for one that is free
  std::vector<PageNumber> free_;           // a stack
  std::uint32_t referenced_pages_ = 0;
};

}  // namespace mooncake
