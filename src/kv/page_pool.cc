#include "kv/page_pool.h"

#include <limits>

#include "base/assert.h"

namespace mooncake {
namespace {

constexpr std::uint32_t kFree = std::numeric_limits<std::uint32_t>::max();

}  // namespace

PagePool::PagePool(std::uint32_t pages) : references_(pages, kFree), free_(pages) {
  for (std::uint32_t i = 0; i < pages; ++i)
    free_[i] = PageNumber{pages - 1 - i};  // page 0 is taken first
}

std::optional<PageNumber> PagePool::Take() {
  if (free_.empty()) return std::nullopt;
  const PageNumber page = free_.back();
  free_.pop_back();
  references_[IndexOf(page)] = 1;
  ++referenced_pages_;
  return page;
}

void PagePool::AddReference(PageNumber page) {
  if (references(page) == 0) ++referenced_pages_;
  ++references_[IndexOf(page)];
}

std::uint32_t PagePool::DropReference(PageNumber page) {
  MC_ASSERT(references(page) > 0);
  const std::uint32_t left = --references_[IndexOf(page)];
  if (left == 0) --referenced_pages_;
  return left;
}

void PagePool::Free(PageNumber page) {
  MC_ASSERT(references(page) == 0);
  references_[IndexOf(page)] = kFree;
  free_.push_back(page);
}

std::uint32_t PagePool::references(PageNumber page) const {
  MC_ASSERT(IndexOf(page) < references_.size());
  MC_ASSERT(references_[IndexOf(page)] != kFree);
  return references_[IndexOf(page)];
}

}  // namespace mooncake
