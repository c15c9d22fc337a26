#include "kv/sequence.h"

#include <utility>

#include "base/assert.h"

namespace mooncake {

KvSequence::KvSequence(KvSequence&& other) noexcept
    : cache_(other.cache_),
      pages_(std::exchange(other.pages_, {})),
      reused_pages_(std::exchange(other.reused_pages_, 0)),
      published_pages_(std::exchange(other.published_pages_, 0)) {}

KvSequence& KvSequence::operator=(KvSequence&& other) noexcept {
  if (this == &other) return *this;
  Clear();
  cache_ = other.cache_;
  pages_ = std::exchange(other.pages_, {});
  reused_pages_ = std::exchange(other.reused_pages_, 0);
  published_pages_ = std::exchange(other.published_pages_, 0);
  return *this;
}

std::size_t KvSequence::Reuse(std::span<const Chain> page_end_chains) {
  MC_ASSERT(pages_.empty());
  pages_ = cache_->Match(page_end_chains);
  reused_pages_ = pages_.size();
  published_pages_ = pages_.size();
  return reused_pages_;
}

Status KvSequence::GrowTo(std::size_t pages) {
  if (pages <= pages_.size()) return {};
  MC_TRY(const std::vector<PageNumber> added, cache_->Allocate(pages - pages_.size()));
  pages_.insert(pages_.end(), added.begin(), added.end());
  return {};
}

void KvSequence::Publish(std::span<const Chain> page_end_chains) {
  MC_ASSERT(page_end_chains.size() <= pages_.size());
  if (page_end_chains.size() <= published_pages_) return;
  cache_->Insert(page_end_chains, std::span(pages_).first(page_end_chains.size()),
                 published_pages_);
  published_pages_ = page_end_chains.size();
}

void KvSequence::Clear() noexcept {
  cache_->Release(pages_);
  pages_.clear();
  reused_pages_ = 0;
  published_pages_ = 0;
}

}  // namespace mooncake
