// The directory that one of our own processes carries: a client of it, and on a single host, with
// no configuration at all, also the process that carries it for the others.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "directory/directory.h"

namespace mooncake {

/// The directory of this host: whoever comes first carries it, under a local name that dies with
/// the process; when it dies, the others agree on the next one by trying to take the name, and
/// register again.
[[nodiscard]] std::unique_ptr<Directory> MakeHostDirectory(World& world, std::string cluster,
                                                           DirectoryUse use = DirectoryUse::kMember,
                                                           Credentials credentials = {});

/// The directory at one of `servers` (`mooncake directory`, or any instance).
[[nodiscard]] std::unique_ptr<Directory> MakeRemoteDirectory(World& world,
                                                             std::vector<HostPort> servers,
                                                             std::string cluster,
                                                             Credentials credentials = {});

}  // namespace mooncake
