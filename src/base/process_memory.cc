#include "base/process_memory.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <cerrno>
#include <filesystem>

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

Result<UniqueFd> OpenMemfdOf(std::int64_t process, const std::string& name) {
  std::error_code ignored;
  const std::string wanted = fmt::format("/memfd:{} (deleted)", name);
  for (const auto& entry :
       std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", process), ignored)) {
    if (std::filesystem::read_symlink(entry.path(), ignored) != wanted) continue;
    UniqueFd fd(::open(entry.path().c_str(), O_RDWR | O_CLOEXEC));
    if (fd) return fd;
  }
  return Fail(ErrorId::kNotFound, fmt::format("a memfd \"{}\" of process {}", name, process));
}

}  // namespace mooncake
