// The HTTP metadata service, as clients of the public project expect it, with an end of life and a
// listing added. docs/wire.md is its specification.
#pragma once

#include <memory>

#include "directory/http/metadata_table.h"
#include "wire/http.h"

namespace mooncake {

class MetadataServer : public std::enable_shared_from_this<MetadataServer> {
 public:
  explicit MetadataServer(World& world)
      : world_(world), timer_(world.clock.MakeTimer(world.control)) {}
  /// Whether a request is for this service: any path that ends in "/metadata".
  [[nodiscard]] static bool Serves(const HttpRequest& request);
  [[nodiscard]] Task<void> Handle(HttpExchange& exchange);

 private:
  struct Answer {
    int status = 200;
    std::string body;
    bool json = false;
  };
  Answer Decide(const HttpRequest& request);
  Answer Get(const HttpRequest& request);
  Answer Put(const HttpRequest& request, const std::string& key);
  void ExpireAt(Instant when);

  World& world_;
  MetadataTable table_;
  Instant next_sweep_ = kNever;
  std::unique_ptr<Timer> timer_;
};

}  // namespace mooncake
