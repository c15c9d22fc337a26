// HTTP/1.1, both sides, over any Stream: the server's half of the common port, and a client for
// etcd, replay and tools. Parsing is Boost.Beast's; nothing of Beast is visible here.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/world.h"
#include "security/tls.h"
#include "wire/frame.h"

namespace mooncake {

struct HttpRequest {
  std::string method;  ///< "GET".
  std::string target;  ///< "/v1/completions?x=1", as sent.
  std::string body;
  std::map<std::string, std::string> headers;  ///< Names in lower case.
  [[nodiscard]] std::string path() const { return target.substr(0, target.find('?')); }
};

struct HttpLimits {
  std::uint32_t header_bytes_max = 64 << 10;
  std::uint64_t body_bytes_max = 64 << 20;
  Duration header_timeout =
      std::chrono::seconds(10);  ///< From the first byte to the end of the headers.
  Duration body_timeout = std::chrono::seconds(60);
  Duration idle_timeout = std::chrono::seconds(120);  ///< Between requests of one connection.
};

/// One request and its answer, on the connection's loop. Exactly one of Respond() and BeginStream()
/// … EndStream().
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;
  [[nodiscard]] virtual const HttpRequest& request() const = 0;
  [[nodiscard]] virtual Task<Status> Respond(
      int status, std::string content_type, std::string body,
      std::vector<std::pair<std::string, std::string>> headers = {}) = 0;
  [[nodiscard]] virtual Task<Status> BeginStream(int status, std::string content_type) = 0;
  /// One chunk. Errors say that the client is gone.
  [[nodiscard]] virtual Task<Status> Write(std::string chunk) = 0;
  [[nodiscard]] virtual Task<Status> EndStream() = 0;
  [[nodiscard]] virtual bool responded() const = 0;
  /// Called once if the client goes away before the answer is complete.
  virtual void OnClientGone(std::function<void()> call) = 0;
};

using HttpHandler = std::function<Task<void>(HttpExchange&)>;

/// Serves the requests of one connection, one after another, until it ends. Bad input is answered
/// with 400, 413, 431.
[[nodiscard]] Task<void> ServeHttp(World& world, Executor executor,
                                   std::unique_ptr<BufferedReader> reader,
                                   const HttpHandler& handler, HttpLimits limits);

struct HttpResponse {
  int status = 0;
  std::string body;
  std::map<std::string, std::string> headers;  ///< Names in lower case.
};

struct HttpUrl {
  std::string host;
  std::uint16_t port = 80;
  std::string target = "/";
  bool tls = false;
  std::shared_ptr<const TlsContext> context;  ///< Of `tls`.
  std::string authorization;                  ///< Sent with every request; empty: nothing is.
};
/// "http://host[:port][/path]", "https://…" (whose context is still missing). kBadAddress.
[[nodiscard]] Result<HttpUrl> ParseHttpUrl(std::string_view url);

/// A client that keeps one connection to one server and opens it again when it broke. One loop, one
/// request at a time.
class HttpClient {
 public:
  HttpClient(World& world, Executor executor, HttpUrl server)
      : world_(world), executor_(std::move(executor)), server_(std::move(server)) {}
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;
  /// Errors: kBadAddress, kConnectRefused, kConnectTimeout, kDeadline, kConnectionClosed,
  /// kTlsFailed, kBadCredentials (https without a context), kBadHttp (what answers is not HTTP; the
  /// context quotes its first bytes). Any status is a success here.
  [[nodiscard]] Task<Result<HttpResponse>> Send(
      std::string method, std::string target, std::string body,
      std::vector<std::pair<std::string, std::string>> headers, Instant deadline);
  /// As Send(), but pieces of the body go to `on_data` as they arrive, and the response's body
  /// stays empty.
  [[nodiscard]] Task<Result<HttpResponse>> SendStreaming(
      std::string method, std::string target, std::string body,
      std::vector<std::pair<std::string, std::string>> headers, Instant deadline,
      std::function<void(std::string_view)> on_data);
  void Close();

 private:
  Task<Status> Connect(Instant deadline);
  World& world_;
  Executor executor_;
  HttpUrl server_;
  std::unique_ptr<BufferedReader> reader_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

[[nodiscard]] std::string_view HttpReason(int status) noexcept;

}  // namespace mooncake
