#include "base/process_memory.h"

#include <fmt/format.h>

#include <cerrno>

#include "base/assert.h"

namespace mooncake {
namespace {

Result<std::size_t> Check(ssize_t count, std::int64_t process, const char* call) {
  if (count >= 0) return static_cast<std::size_t>(count);
  const int cause = errno;
  const ErrorId id = cause == ESRCH    ? ErrorId::kPeerGone
                     : cause == EPERM  ? ErrorId::kPathUnusable
                     : cause == EFAULT ? ErrorId::kOutOfRegion
                                       : ErrorId::kPathFailed;
  return Fail(id, fmt::format("{} of process {}", call, process), cause);
}

}  // namespace

Result<std::size_t> ReadProcessMemory(std::int64_t process, std::span<const iovec> local,
                                      std::span<const iovec> remote) {
  MC_ASSERT(local.size() <= kProcessRangesMax && remote.size() <= kProcessRangesMax);
  return Check(::process_vm_readv(static_cast<pid_t>(process), local.data(), local.size(),
                                  remote.data(), remote.size(), 0),
               process, "process_vm_readv");
}

Result<std::size_t> WriteProcessMemory(std::int64_t process, std::span<const iovec> local,
                                       std::span<const iovec> remote) {
  MC_ASSERT(local.size() <= kProcessRangesMax && remote.size() <= kProcessRangesMax);
  return Check(::process_vm_writev(static_cast<pid_t>(process), local.data(), local.size(),
                                   remote.data(), remote.size(), 0),
               process, "process_vm_writev");
}

}  // namespace mooncake
