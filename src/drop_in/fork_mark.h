// Tells a process from its forked children without a system call: a page that the kernel empties in
// the child.
#pragma once

#include <sys/mman.h>

#include <cstddef>

namespace mooncake::drop_in {

class ForkMark {
 public:
  ForkMark() noexcept {
    void* const page =
        ::mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return;
    if (::madvise(page, kPageBytes, MADV_WIPEONFORK) != 0) {
      ::munmap(page, kPageBytes);
      return;
    }
    mark_ = static_cast<volatile int*>(page);
    *mark_ = 1;
  }
  ~ForkMark() {
    if (mark_ != nullptr) ::munmap(const_cast<int*>(mark_), kPageBytes);
  }
  ForkMark(const ForkMark&) = delete;
  ForkMark& operator=(const ForkMark&) = delete;

  /// Whether this is a child of the process that made the mark. False where the kernel has no such
  /// page.
  [[nodiscard]] bool in_child() const noexcept { return mark_ != nullptr && *mark_ == 0; }

 private:
  static constexpr std::size_t kPageBytes = 4096;
  volatile int* mark_ = nullptr;
};

}  // namespace mooncake::drop_in
