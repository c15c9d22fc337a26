#include "wire/http.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <charconv>

#include "wire/handshake.h"

namespace mooncake {
namespace {

namespace http = boost::beast::http;
using boost::system::error_code;

std::string LowerCase(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return lower;
}

template <class Fields>
std::map<std::string, std::string> CopyHeaders(const Fields& fields) {
  std::map<std::string, std::string> headers;
  for (const auto& field : fields)
    headers[LowerCase(field.name_string())] = std::string(field.value());
  return headers;
}

boost::asio::const_buffer ToBuffer(Bytes bytes) { return {bytes.data(), bytes.size()}; }

std::string Quote(Bytes bytes) {
  constexpr std::size_t kQuotedMax = 16;
  std::string quoted;
  for (const std::byte byte : bytes.first(std::min(bytes.size(), kQuotedMax))) {
    const char c = static_cast<char>(byte);
    quoted += c >= ' ' && c <= '~' ? std::string(1, c)
                                   : fmt::format("\\x{:02x}", static_cast<unsigned>(byte));
  }
  return quoted;
}

// What the client gets when its request is refused before a handler sees it.
struct Rejected {
  int status;
  std::string why;
};

class Exchange final : public HttpExchange {
 public:
  Exchange(std::shared_ptr<Stream> stream, HttpRequest request, bool keep_alive)
      : stream_(std::move(stream)), request_(std::move(request)), keep_alive_(keep_alive) {}

  const HttpRequest& request() const override { return request_; }

  Task<Status> Respond(int status, std::string content_type, std::string body,
                       std::vector<std::pair<std::string, std::string>> headers) override {
    MC_ASSERT(!responded_);
    responded_ = true;
    std::string head = Head(status, content_type);
    for (const auto& [name, value] : headers) head += fmt::format("{}: {}\r\n", name, value);
    head += fmt::format("Content-Length: {}\r\n\r\n", body.size());
    if (request_.method == "HEAD") body.clear();
    const std::array<Bytes, 2> buffers = {AsBytes(head), AsBytes(body)};
    const Status written = co_await stream_->Write(buffers);
    if (!written) broken_ = true;
    complete_ = true;
    co_return written;
  }

  Task<Status> BeginStream(int status, std::string content_type) override {
    MC_ASSERT(!responded_);
    responded_ = true;
    const std::string head = Head(status, content_type) +
                             "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";
    const Bytes bytes = AsBytes(head);
    const Status written = co_await stream_->Write(std::span(&bytes, 1));
    if (!written) broken_ = true;
    co_return written;
  }

  Task<Status> Write(std::string chunk) override {
    if (broken_) co_return Fail(ErrorId::kClientGone, {});
    if (chunk.empty()) co_return Status{};
    const std::string size = fmt::format("{:x}\r\n", chunk.size());
    chunk += "\r\n";
    const std::array<Bytes, 2> buffers = {AsBytes(size), AsBytes(chunk)};
    const Status written = co_await stream_->Write(buffers);
    if (!written) broken_ = true;
    co_return written;
  }

  Task<Status> EndStream() override {
    static constexpr std::string_view kEnd = "0\r\n\r\n";
    const Bytes bytes = AsBytes(kEnd);
    const Status written = co_await stream_->Write(std::span(&bytes, 1));
    if (!written) broken_ = true;
    complete_ = true;
    co_return written;
  }

  bool responded() const override { return responded_; }
  void OnClientGone(std::function<void()> call) override {
    if (gone_) {
      call();
    } else {
      on_gone_ = std::move(call);
    }
  }

  void ClientGone() {
    gone_ = true;
    broken_ = true;
    if (!complete_ && on_gone_) std::exchange(on_gone_, nullptr)();
  }
  void Finish() {
    complete_ = true;
    on_gone_ = nullptr;
  }
  [[nodiscard]] bool reusable() const { return keep_alive_ && complete_ && !broken_; }

 private:
  std::string Head(int status, const std::string& content_type) const {
    return fmt::format(
        "HTTP/1.1 {} {}\r\nServer: mooncake/{}\r\nContent-Type: {}\r\nConnection: {}\r\n", status,
        HttpReason(status), MOONCAKE_VERSION, content_type, keep_alive_ ? "keep-alive" : "close");
  }

  std::shared_ptr<Stream> stream_;
  HttpRequest request_;
  bool keep_alive_;
  bool responded_ = false;
  bool complete_ = false;
  bool broken_ = false;
  bool gone_ = false;
  std::function<void()> on_gone_;
};

struct Parsed {
  HttpRequest request;
  bool keep_alive;
};

// nullopt: the connection ended between requests.
Task<Result<std::optional<Parsed>>> ReadRequest(World& world, const Executor& executor,
                                                BufferedReader& reader, const HttpLimits& limits,
                                                Rejected& rejected) {
  http::request_parser<http::string_body> parser;
  parser.header_limit(limits.header_bytes_max);
  parser.body_limit(limits.body_bytes_max);
  StreamDeadline idle(world, executor, reader.shared_stream(),
                      After(world.clock.Now(), limits.idle_timeout));
  if (reader.buffered().empty()) {
    const Status first = co_await reader.Want(1);
    if (!first) co_return std::optional<Parsed>{};
  }
  idle.Disarm();
  StreamDeadline head(world, executor, reader.shared_stream(),
                      After(world.clock.Now(), limits.header_timeout));
  StreamDeadline body(world, executor, reader.shared_stream(),
                      After(world.clock.Now(), limits.header_timeout + limits.body_timeout));
  std::size_t header_bytes =
      0;  // the parser's own limit starts anew with each piece that it is given
  while (!parser.is_done()) {
    error_code code;
    const bool in_header = !parser.is_header_done();
    parser.eager(!in_header);
    const std::size_t consumed = parser.put(ToBuffer(reader.buffered()), code);
    reader.Consume(consumed);
    if (in_header) header_bytes += consumed;
    if (header_bytes > limits.header_bytes_max) code = http::error::header_limit;
    if (parser.is_header_done()) head.Disarm();
    if (code == http::error::need_more ||
        (!code && reader.buffered().empty() && !parser.is_done())) {
      const std::size_t have = reader.buffered().size();
      constexpr std::size_t kUnparsedMax = 32 << 10;  // a header line longer than that is refused
      if (have >= kUnparsedMax) {
        rejected = {431, "a header line is too long"};
        co_return Fail(ErrorId::kBadHttp, rejected.why);
      }
      const Status more = co_await reader.Want(have + 1);
      if (!more) co_return Fail(more.error());
      continue;
    }
    if (code == http::error::header_limit) {
      rejected = {431, "the headers are too long"};
    } else if (code == http::error::body_limit) {
      rejected = {413, fmt::format("the body is longer than {} bytes", limits.body_bytes_max)};
    } else if (code) {
      rejected = {400, code.message()};
    }
    if (code) co_return Fail(ErrorId::kBadHttp, rejected.why);
  }
  auto message = parser.release();
  Parsed parsed;
  parsed.keep_alive = message.keep_alive();
  parsed.request.method = std::string(message.method_string());
  parsed.request.target = std::string(message.target());
  parsed.request.headers = CopyHeaders(message.base());
  parsed.request.body = std::move(message.body());
  co_return std::optional<Parsed>(std::move(parsed));
}

// Reads ahead while a handler works, so that a client that goes away is noticed at once. What it
// reads is the next request's beginning. Bounded: a client may not send more than one buffer ahead.
Task<void> WatchClient(std::shared_ptr<BufferedReader> reader, std::shared_ptr<Exchange> exchange,
                       std::shared_ptr<OneShot<bool>> done) {
  constexpr std::size_t kAheadMax = 4096;
  const std::size_t have = reader->buffered().size();
  if (have < kAheadMax) {
    const Status more = co_await reader->Want(have + 1);
    if (!more) exchange->ClientGone();
  }
  done->Set(true);
}

// To close a connection on which bytes are unread resets it, and a reset overtakes the answer. So a
// refused client gets a moment to finish what it is sending.
Task<void> Linger(World& world, const Executor& executor, std::shared_ptr<Stream> stream) {
  constexpr Duration kTimeMax = std::chrono::seconds(1);
  const StreamDeadline limit(world, executor, stream, After(world.clock.Now(), kTimeMax));
  std::array<std::byte, 16384> ignored;
  for (;;) {
    const Result<std::size_t> read = co_await stream->ReadSome(ignored);
    if (!read) co_return;
  }
}

}  // namespace

Task<void> ServeHttp(World& world, Executor executor, std::unique_ptr<BufferedReader> reader,
                     const HttpHandler& handler, HttpLimits limits) {
  const std::shared_ptr<BufferedReader> shared = std::move(reader);
  const std::shared_ptr<Stream> stream = shared->shared_stream();
  std::shared_ptr<OneShot<bool>> watch;
  for (bool more = true; more;) {
    if (watch) {  // the watcher's read must end before ours begins; it ends with the next request's
                  // first byte
      StreamDeadline idle(world, executor, stream, After(world.clock.Now(), limits.idle_timeout));
      co_await watch->Get();
      idle.Disarm();
    }
    Rejected rejected{0, {}};
    Result<std::optional<Parsed>> parsed =
        co_await ReadRequest(world, executor, *shared, limits, rejected);
    if (!parsed) {
      if (rejected.status != 0) {
        Exchange refusal(stream, {}, false);
        std::string text = Error{ErrorId::kBadHttp, rejected.why}.Text() + "\n";
        auto respond = refusal.Respond(rejected.status, "text/plain", std::move(text), {});
        static_cast<void>(co_await std::move(respond));
        auto linger = Linger(world, executor, stream);
        co_await std::move(linger);
      }
      break;
    }
    if (!parsed->has_value()) break;
    auto exchange =
        std::make_shared<Exchange>(stream, std::move((*parsed)->request), (*parsed)->keep_alive);
    watch = std::make_shared<OneShot<bool>>();
    Spawn(executor, WatchClient(shared, exchange, watch));
    co_await handler(*exchange);
    if (!exchange->responded()) {
      auto respond = exchange->Respond(500, "text/plain", "no handler answered\n", {});
      static_cast<void>(co_await std::move(respond));
    }
    exchange->Finish();
    more = exchange->reusable();
  }
  stream->Close();
}

std::string_view HttpReason(int status) noexcept {
  switch (status) {
    case 200:
      return "OK";
    case 202:
      return "Accepted";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 413:
      return "Payload Too Large";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 499:
      return "Client Closed Request";
    case 500:
      return "Internal Server Error";
    case 502:
      return "Bad Gateway";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    case 507:
      return "Insufficient Storage";
    default:
      return "Status";
  }
}

Result<HttpUrl> ParseHttpUrl(std::string_view url) {
  HttpUrl parsed;
  constexpr std::string_view kHttp = "http://";
  constexpr std::string_view kHttps = "https://";
  std::string_view rest = url;
  if (rest.starts_with(kHttps)) {
    parsed.tls = true;
    parsed.port = 443;
    rest.remove_prefix(kHttps.size());
  } else if (rest.starts_with(kHttp)) {
    rest.remove_prefix(kHttp.size());
  } else if (rest.find("://") != std::string_view::npos) {
    return Fail(ErrorId::kBadAddress, fmt::format("\"{}\": write http://host:port", url));
  }
  const std::size_t slash = rest.find('/');
  if (slash != std::string_view::npos) parsed.target = rest.substr(slash);
  Result<HostPort> authority = ParseHostPort(rest.substr(0, slash));
  if (!authority) return Fail(Within(fmt::format("\"{}\"", url), authority.error()));
  parsed.host = authority->host;
  if (authority->port != 0) parsed.port = authority->port;
  return parsed;
}

HttpClient::~HttpClient() {
  *alive_ = false;
  Close();
}

void HttpClient::Close() {
  if (reader_) reader_->stream().Close();
  reader_ = nullptr;
}

Task<Status> HttpClient::Connect(Instant deadline) {
  if (server_.tls && !server_.context)
    co_return Fail(ErrorId::kBadCredentials, "https:// needs to be told whom to trust");
  Result<std::vector<IpAddress>> addresses =
      co_await world_.network.Resolve(executor_, server_.host, deadline);
  if (!addresses) co_return Fail(addresses.error());
  Error last{ErrorId::kNetwork, server_.host + " has no address"};
  for (const IpAddress& address : *addresses) {
    const Endpoint endpoint{address, server_.port};
    Result<std::unique_ptr<Stream>> stream =
        co_await world_.network.Connect(executor_, endpoint, deadline);
    if (stream) {
      std::shared_ptr<Stream> shared = std::move(*stream);
      if (server_.tls) {
        const StreamDeadline limit(world_, executor_, shared, deadline);
        auto encrypt = ConnectTls(shared, server_.context, server_.host);
        Result<std::shared_ptr<Stream>> encrypted = co_await std::move(encrypt);
        if (limit.passed()) co_return Fail(ErrorId::kDeadline, "no TLS hand-shake");
        if (!encrypted) co_return Fail(encrypted.error());
        shared = std::move(*encrypted);
      }
      reader_ = std::make_unique<BufferedReader>(std::move(shared));
      co_return Status{};
    }
    last = stream.error();
  }
  co_return Fail(last);
}

Task<Result<HttpResponse>> HttpClient::Send(
    std::string method, std::string target, std::string body,
    std::vector<std::pair<std::string, std::string>> headers, Instant deadline) {
  std::string collected;
  auto send =
      SendStreaming(std::move(method), std::move(target), std::move(body), std::move(headers),
                    deadline, [&collected](std::string_view data) { collected += data; });
  Result<HttpResponse> response = co_await std::move(send);
  if (response) response->body = std::move(collected);
  co_return response;
}

Task<Result<HttpResponse>> HttpClient::SendStreaming(
    std::string method, std::string target, std::string body,
    std::vector<std::pair<std::string, std::string>> headers, Instant deadline,
    std::function<void(std::string_view)> on_data) {
  const std::string server = ToString(HostPort{server_.host, server_.port});
  std::string head =
      fmt::format("{} {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: mooncake/{}\r\nContent-Length: {}\r\n",
                  method, target, server, MOONCAKE_VERSION, body.size());
  if (!server_.authorization.empty())
    head += fmt::format("Authorization: {}\r\n", server_.authorization);
  for (const auto& [name, value] : headers) head += fmt::format("{}: {}\r\n", name, value);
  head += "\r\n";

  // A kept connection may have been closed by the server meanwhile: then once more over a new one.
  for (int attempt = 0;; ++attempt) {
    const bool reused = reader_ != nullptr;
    if (!reused) {
      const Status connected = co_await Connect(deadline);
      if (!connected) co_return Fail(connected.error());
    }
    const std::shared_ptr<Stream> stream = reader_->shared_stream();
    StreamDeadline limit(world_, executor_, stream, deadline);
    const std::array<Bytes, 2> buffers = {AsBytes(head), AsBytes(body)};
    const Status written = co_await stream->Write(buffers);
    Status first = written;
    if (written) first = co_await reader_->Want(1);
    if (limit.passed()) {
      Close();
      co_return Fail(ErrorId::kDeadline, "no answer from " + server);
    }
    if (!first) {
      Close();
      if (reused && attempt == 0) continue;
      co_return Fail(Within(server, first.error()));
    }

    http::response_parser<http::buffer_body> parser;
    parser.body_limit(boost::none);
    std::array<char, 65536> piece{};
    std::string quoted = Quote(reader_->buffered());
    while (!parser.is_done()) {
      parser.get().body().data = piece.data();
      parser.get().body().size = piece.size();
      error_code code;
      const std::size_t consumed = parser.put(ToBuffer(reader_->buffered()), code);
      reader_->Consume(consumed);
      if (parser.is_header_done()) {
        const std::size_t got = piece.size() - parser.get().body().size;
        if (got > 0) on_data({piece.data(), got});
      }
      if (code == http::error::need_buffer) continue;
      if (code && code != http::error::need_more) {
        Close();
        co_return Fail(ErrorId::kBadHttp,
                       fmt::format("{} answers with \"{}\": {}", server, quoted, code.message()));
      }
      if (parser.is_done() || (consumed > 0 && !reader_->buffered().empty() && !code)) continue;
      const std::size_t have = reader_->buffered().size();
      Status more = Fail(ErrorId::kBadHttp, server + " sends an endless header");
      if (have < piece.size() / 2) more = co_await reader_->Want(have + 1);
      if (more) continue;
      if (limit.passed()) {
        Close();
        co_return Fail(ErrorId::kDeadline, "the answer of " + server + " never ended");
      }
      error_code end;
      parser.put_eof(end);
      if (end || !parser.is_done()) {
        Close();
        co_return Fail(Within(server, more.error()));
      }
    }
    HttpResponse response;
    response.status = static_cast<int>(parser.get().result_int());
    response.headers = CopyHeaders(parser.get().base());
    limit.Disarm();
    if (!parser.keep_alive()) Close();
    co_return response;
  }
}

}  // namespace mooncake
