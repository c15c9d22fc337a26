// Another process's memory, read and written by the kernel (process_vm_readv, process_vm_writev),
// without its help.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace mooncake {

/// Ranges of one call, on each side (the kernel's IOV_MAX).
inline constexpr std::size_t kProcessRangesMax = 1024;

/// Copies from `remote`, addresses in `process`, to `local`; each list in order, their borders need
/// not match. Returns the bytes copied, which may be fewer: up to the first remote range that is
/// not mapped. No allocation unless it fails. Errors: kPeerGone (no such process), kPathUnusable
/// (not allowed, EPERM), kOutOfRegion (nothing mapped there), kPathFailed.
[[nodiscard]] Result<std::size_t> ReadProcessMemory(std::int64_t process,
                                                    std::span<const iovec> local,
                                                    std::span<const iovec> remote);
/// From `local` to `remote`; otherwise the same.
[[nodiscard]] Result<std::size_t> WriteProcessMemory(std::int64_t process,
                                                     std::span<const iovec> local,
                                                     std::span<const iovec> remote);

/// The memfd that `process` has made under `name`, opened for reading and writing. kNotFound, also
/// where the kernel does not let this process see.
[[nodiscard]] Result<UniqueFd> OpenMemfdOf(std::int64_t process, const std::string& name);

}  // namespace mooncake
