// The one port of a process: control, data and HTTP on it, plain or within TLS, told apart by the
// first bytes.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/metrics.h"
#include "base/world.h"
#include "wire/handshake.h"
#include "wire/http.h"
#include "wire/rpc.h"

namespace mooncake {

struct PortServerOptions {
  std::size_t connections_max = 4096;  ///< Of every kind, those of transports among them.
  Duration handshake_timeout =
      std::chrono::seconds(5);  ///< From the connection to the end of the first frame.
  HttpLimits http;
  RpcLimits rpc;
};

/// Everything happens on the control loop. Fill `router`, set the handlers, then Start().
class PortServer : public std::enable_shared_from_this<PortServer> {
 public:
  PortServer(World& world, Metrics& metrics, PortServerOptions options);

  RpcRouter router;
  HttpHandler on_http;
  /// A connection with a purpose other than RPC: a transport's data connection.
  std::function<void(Handshake)> on_data;
  std::function<void(std::shared_ptr<RpcConnection>)> on_rpc;
  /// Asked for at every connection: labels and transports may change before the first peer comes.
  /// Its credentials are asked of callers: TLS of all, the secret of frames, its token of HTTP.
  std::function<Introduction()> introduce = [] { return Introduction{}; };

  /// Takes over the bound listener and accepts until Close(). Several listeners may be served.
  void Serve(std::shared_ptr<Listener> listener);
  /// Ends the listeners and every connection, with `cause`.
  void Close(const Error& cause);
  [[nodiscard]] std::size_t connections() const noexcept { return connections_; }

 private:
  Task<void> AcceptLoop(std::shared_ptr<Listener> listener);
  [[nodiscard]] bool IsFull();
  Task<void> Handle(std::shared_ptr<Stream> stream);
  Task<void> HandleFrames(std::unique_ptr<BufferedReader> reader, bool encrypted,
                          std::shared_ptr<StreamDeadline> limit);
  Task<void> HandleHttp(std::unique_ptr<BufferedReader> reader, bool encrypted);

  World& world_;
  PortServerOptions options_;
  bool closed_ = false;
  std::size_t connections_ = 0;
  std::vector<std::shared_ptr<Listener>> listeners_;
  std::map<std::uint64_t, std::shared_ptr<Stream>> streams_;  // by number, in order of their coming
  std::map<std::uint64_t, std::shared_ptr<RpcConnection>> rpc_;
  std::vector<std::weak_ptr<Stream>> data_;  // handed over to transports
  std::uint64_t next_number_ = 1;
  Counter& accepted_;
  Counter& refused_;
  Counter& garbage_;
};

}  // namespace mooncake
