// This process's regions, and which of them are a GPU's.
#pragma once

#include <map>
#include <shared_mutex>
#include <unordered_map>

#include "memory/region_table.h"

namespace mooncake::cuda {

/// Any thread. A region is here as long as anybody may copy for it, which is longer than it is in
/// the engine's table.
class LocalMemory {
 public:
  struct Around {
    std::uint64_t base = 0;
    std::uint64_t length_bytes = 0;
    bool on_gpu = false;
    [[nodiscard]] bool Holds(const std::byte* at) const noexcept {
      return reinterpret_cast<std::uint64_t>(at) - base < length_bytes;
    }
  };
  void Add(const RegionInfo& region);
  void Remove(RegionId id);
  /// The region around `at`. kNotRegistered: it was unregistered under a transfer; whose it is,
  /// nobody knows any more.
  [[nodiscard]] Result<Around> Find(std::byte* at) const;

 private:
  mutable std::shared_mutex mutex_;
  std::map<std::uint64_t, Around> by_base_;              // guarded by mutex_
  std::unordered_map<RegionId, std::uint64_t> base_of_;  // guarded by mutex_
};

}  // namespace mooncake::cuda
