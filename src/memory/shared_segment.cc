#include "memory/shared_segment.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "base/units.h"

namespace mooncake {
namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

std::uint64_t PageBytes() { return static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)); }

// MemAvailable of /proc/meminfo; UINT64_MAX if it cannot be read.
std::uint64_t AvailableBytes() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  std::uint64_t kibibytes = 0;
  std::string unit;
  while (file >> key >> kibibytes) {
    if (key == "MemAvailable:") return kibibytes * 1024;
    std::getline(file, unit);
  }
  return UINT64_MAX;
}

}  // namespace

Result<std::unique_ptr<SharedSegment>> SharedSegment::Create(const std::string& name,
                                                             std::uint64_t length_bytes) {
  if (length_bytes == 0) return Fail(ErrorId::kBadRange, "a segment of 0 bytes");
  const std::uint64_t page = PageBytes();
  if (const std::uint64_t available = AvailableBytes(); length_bytes > available) {
    return Fail(ErrorId::kMemoryShortage,
                fmt::format("{} asked for, {} available on this host", FormatBytes(length_bytes),
                            FormatBytes(available)));
  }
  const std::uint64_t rounded = (length_bytes + page - 1) / page * page;
  // Beyond it, the kernel ends the process instead of failing the call.
  rlimit file_size{};
  if (::getrlimit(RLIMIT_FSIZE, &file_size) == 0 && rounded > file_size.rlim_cur) {
    return Fail(ErrorId::kMemoryShortage,
                fmt::format("{} asked for, files of this process may have {} (ulimit -f)",
                            FormatBytes(rounded), FormatBytes(file_size.rlim_cur)));
  }
  UniqueFd writable(::memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!writable) return Fail(ErrorId::kMapFailed, "memfd_create", errno);
  if (::ftruncate(writable.get(), static_cast<off_t>(rounded)) != 0) {
    return Fail(ErrorId::kMemoryShortage, "memfd of " + FormatBytes(rounded), errno);
  }
  if (::fcntl(writable.get(), F_ADD_SEALS, kSeals) != 0)
    return Fail(ErrorId::kMapFailed, "sealing a memfd", errno);
  // A descriptor opened read-only through /proc cannot be mapped writable; a duplicate of the first
  // one could.
  UniqueFd read_only(
      ::open(fmt::format("/proc/self/fd/{}", writable.get()).c_str(), O_RDONLY | O_CLOEXEC));
  if (!read_only) return Fail(ErrorId::kMapFailed, "opening a memfd read-only", errno);
  void* const base =
      ::mmap(nullptr, rounded, PROT_READ | PROT_WRITE, MAP_SHARED, writable.get(), 0);
  if (base == MAP_FAILED)
    return Fail(ErrorId::kMapFailed, "mmap of " + FormatBytes(rounded), errno);
  return std::unique_ptr<SharedSegment>(
      new SharedSegment(std::move(writable), std::move(read_only),
                        MutableBytes(static_cast<std::byte*>(base), rounded)));
}

SharedSegment::~SharedSegment() { ::munmap(bytes_.data(), bytes_.size()); }

Result<UniqueFd> SharedSegment::Duplicate(bool writable) const {
  UniqueFd duplicate(::fcntl(fd(writable), F_DUPFD_CLOEXEC, 0));
  if (!duplicate) return Fail(ErrorId::kMapFailed, "duplicating a descriptor", errno);
  return duplicate;
}

void SharedSegment::Populate() const noexcept {
  // A tenth of a millisecond: on a busy machine this thread gets a hundredth of a processor, and
  // somebody may wait for the end of a chunk.
  constexpr std::uint64_t kChunkBytes = 64 << 10;
  for (std::uint64_t offset = 0; offset < bytes_.size(); offset += kChunkBytes) {
    if (stop_populating_.load(std::memory_order_relaxed)) return;
    const std::uint64_t length = std::min<std::uint64_t>(kChunkBytes, bytes_.size() - offset);
    if (::madvise(bytes_.data() + offset, length, MADV_POPULATE_WRITE) != 0)
      return;  // old kernel: pages come on touch
  }
}

Result<std::unique_ptr<MappedView>> MappedView::Map(UniqueFd fd, std::uint64_t length_bytes,
                                                    bool writable) {
  struct stat facts{};
  if (::fstat(fd.get(), &facts) != 0)
    return Fail(ErrorId::kMapFailed, "a peer's descriptor", errno);
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
    return Fail(ErrorId::kMapFailed,
                "the peer's descriptor is not a memfd sealed against shrinking");
  }
  if (length_bytes == 0 || length_bytes > static_cast<std::uint64_t>(facts.st_size)) {
    return Fail(ErrorId::kMapFailed, fmt::format("the peer's segment has {} bytes, its region {}",
                                                 facts.st_size, length_bytes));
  }
  const int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
  void* const base = ::mmap(nullptr, length_bytes, protection, MAP_SHARED, fd.get(), 0);
  if (base == MAP_FAILED)
    return Fail(ErrorId::kMapFailed, "mmap of " + FormatBytes(length_bytes), errno);
  return std::unique_ptr<MappedView>(
      new MappedView(MutableBytes(static_cast<std::byte*>(base), length_bytes), writable));
}

MappedView::~MappedView() { ::munmap(bytes_.data(), bytes_.size()); }

}  // namespace mooncake
