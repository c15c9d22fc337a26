// A port for tests, on the loopback address.
#pragma once

#include "base/test_loop.h"
#include "base/test_support.h"
#include "wire/port_server.h"

namespace mooncake {

/// Serves on a free port, which it returns; not from a loop.
inline Endpoint ServeOnLoopback(World& world, const std::shared_ptr<PortServer>& server) {
  Result<std::unique_ptr<Listener>> listener =
      world.network.Listen(world.control, {IpAddress::LoopbackV4(), 0});
  EXPECT_TRUE(Succeeds(listener));
  if (!listener) return {};
  const Endpoint at = (*listener)->bound();
  std::shared_ptr<Listener> shared = std::move(*listener);
  RunOn(world, [&]() -> Task<void> {
    server->Serve(shared);
    co_return;
  });
  return at;
}

/// Returns when every connection has ended and what was posted before has run: a coroutine that its
/// loop leaves behind is a leak, and a directory that was not told to stop keeps its name.
inline void StopServing(World& world, const std::shared_ptr<PortServer>& server) {
  constexpr Duration kLook = std::chrono::milliseconds(1);
  RunOn(world, [&]() -> Task<void> {
    if (!server) co_return;
    server->Close(Error{ErrorId::kClosed, "the test ends"});
    while (server->connections() > 0) co_await world.clock.SleepFor(world.control, kLook);
  });
}

}  // namespace mooncake
