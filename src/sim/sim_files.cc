#include "sim/sim_files.h"

#include <fmt/format.h>

namespace mooncake {

Result<std::string> SimDisk::Read(const std::string& path, std::uint64_t bytes_max) const {
  const auto found = files_.find(path);
  if (found == files_.end()) return Fail(ErrorId::kFileAccess, "cannot open " + path, ENOENT);
  const std::string& content = found->second.content;
  if (content.size() > bytes_max) {
    return Fail(ErrorId::kFileAccess, fmt::format("{} is larger than {} bytes", path, bytes_max));
  }
  return content;
}

void SimDisk::Write(const std::string& path, std::string_view content) {
  constexpr Duration kWriteBackMax = std::chrono::seconds(30);
  const auto [found, made] = files_.try_emplace(path);
  File& file = found->second;
  if (!made && file.written <= loop_.Now()) {  // else what is on the disk is still older
    file.before = file.content;
    file.existed = true;
  }
  file.content = content;
  file.written = After(loop_.Now(), random_.Between(Duration(0), kWriteBackMax));
}

void SimDisk::LosePower() {
  for (auto at = files_.begin(); at != files_.end();) {
    File& file = at->second;
    const std::uint64_t fate = random_.Below(3);
    if (file.written > loop_.Now() && fate == 0) {
      if (!file.existed) {
        at = files_.erase(at);
        continue;
      }
      file.content = file.before;
    } else if (file.written > loop_.Now() && fate == 1) {
      file.content.resize(random_.Below(file.content.size() + 1));
    }
    file.written = loop_.Now();
    ++at;
  }
}

}  // namespace mooncake
