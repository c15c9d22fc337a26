// One instance: the port, the engine, the services, put together from options, run until it is told
// to stop.
#pragma once

#include <functional>
#include <memory>

#include "base/options.h"
#include "base/world.h"
#include "engine/engine.h"

namespace mooncake {

class Instance {
 public:
  /// Binds the port, allocates the KV memory, waits for the directory and publishes itself: when
  /// this returns, requests are served. Not from a loop. Errors: bad options (E002, E004), E005,
  /// E006, E017, E305, and the directory's.
  [[nodiscard]] static Result<std::unique_ptr<Instance>> Open(
      World& world, const Options& options, const CopyEngine& copy,
      const TransportFactory& add_transports);
  ~Instance();
  [[nodiscard]] Endpoint endpoint() const;
  [[nodiscard]] std::string label() const;
  [[nodiscard]] bool encrypted() const;  ///< Its port speaks TLS.
  /// Takes no more requests, finishes those that are here within `timeout`, leaves the directory.
  /// Not from a loop.
  void Drain(Duration timeout);

 private:
  struct Parts;
  explicit Instance(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace mooncake
