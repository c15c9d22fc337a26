// The files of a simulated host: shared by its processes, and kept when they end. What is written
// is read back at once; on the disk it is only some time later, so that a loss of power tears it.
#pragma once

#include <map>
#include <string>

#include "base/world.h"
#include "sim/sim_loop.h"
#include "sim/sim_random.h"

namespace mooncake {

class SimDisk {
 public:
  SimDisk(const SimLoop& loop, std::uint64_t seed) : loop_(loop), random_(seed) {}

  [[nodiscard]] Result<std::string> Read(const std::string& path, std::uint64_t bytes_max) const;
  void Write(const std::string& path, std::string_view content);
  /// What was not on the disk yet is what it was before, or a beginning of the new content, or all
  /// of it.
  void LosePower();

 private:
  struct File {
    std::string content;
    std::string before;    // on the disk until `written`
    bool existed = false;  // before
    Instant written{};     // when `content` is on the disk
  };
  const SimLoop& loop_;
  SimRandom random_;
  std::map<std::string, File> files_;
};

/// One process's view of its host's disk.
class SimFiles final : public Files {
 public:
  explicit SimFiles(SimDisk& disk) : disk_(disk) {}
  Result<std::string> Read(const std::string& path, std::uint64_t bytes_max) override {
    return disk_.Read(path, bytes_max);
  }
  Status Write(const std::string& path, std::string_view content) override {
    disk_.Write(path, content);
    return {};
  }

 private:
  SimDisk& disk_;
};

}  // namespace mooncake
