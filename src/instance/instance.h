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
  /// The same from the control loop; what is passed outlives the call.
  [[nodiscard]] static Task<Result<std::unique_ptr<Instance>>> OpenAsync(
      World& world, const Options& options, const CopyEngine& copy,
      const TransportFactory& add_transports);
  ~Instance();  ///< Ends everything. Not from a loop, unless CloseAsync() has returned.
  [[nodiscard]] Endpoint endpoint() const;
  [[nodiscard]] std::string label() const;
  [[nodiscard]] bool encrypted() const;  ///< Its port speaks TLS.
  /// Takes no more requests, finishes those that are here within `timeout`, leaves the directory.
  /// Not from a loop.
  void Drain(Duration timeout);
  /// The same from the control loop.
  [[nodiscard]] Task<void> DrainAsync(Duration timeout);
  /// Ends everything, from the control loop: afterwards the instance may be destroyed there.
  [[nodiscard]] Task<void> CloseAsync();

 private:
  struct Parts;
  struct ListenPlan;
  static Task<Result<ListenPlan>> PlanListening(World& world, const Options& options);
  [[nodiscard]] static Result<std::unique_ptr<Instance>> Prepare(World& world,
                                                                 const Options& options,
                                                                 const ListenPlan& plan,
                                                                 const CopyEngine& copy);
  explicit Instance(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace mooncake
