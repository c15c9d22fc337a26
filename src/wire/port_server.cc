#include "wire/port_server.h"

#include <fmt/format.h>

#include <cstring>

#include "base/log.h"

namespace mooncake {
namespace {

enum class Speech { kFrames, kHttp, kTls, kUnknown };

constexpr std::size_t kTellingBytes = 4;

// Four bytes tell: our magic, the beginning of an HTTP method or of a TLS record.
Speech Recognise(Bytes first) {
  std::uint32_t magic = 0;
  std::memcpy(&magic, first.data(), sizeof magic);
  if (magic == kFrameMagic) return Speech::kFrames;
  const std::string_view text = AsText(first.first(4));
  for (const std::string_view method : {"GET ", "POST", "PUT ", "HEAD", "DELE", "OPTI", "PATC"}) {
    if (text == method) return Speech::kHttp;
  }
  return BeginsTls(first[0]) ? Speech::kTls : Speech::kUnknown;
}

// A local one has no address.
std::string OriginOf(const Stream& stream) {
  return stream.remote().port == 0 ? "this host" : ToString(stream.remote());
}

// A connection that was not accepted; that somebody went away is not worth a line.
void LogRefusal(const Stream& stream, const Error& error) {
  if (error.id == ErrorId::kConnectionClosed || error.id == ErrorId::kClosed) return;
  MC_LOG(info, "{}", Within("connection from " + OriginOf(stream), error).Text());
}

Task<void> RespondInText(HttpExchange& exchange, int status, std::string text,
                         std::vector<std::pair<std::string, std::string>> headers = {}) {
  auto respond = exchange.Respond(status, "text/plain", std::move(text) + "\n", std::move(headers));
  const Status sent = co_await std::move(respond);
  static_cast<void>(sent);  // who is refused may have gone
}

// Asks each request for the token of the secret.
HttpHandler Guarded(HttpHandler handler, std::shared_ptr<const ClusterSecret> secret) {
  return [handler = std::move(handler),
          secret = std::move(secret)](HttpExchange& exchange) -> Task<void> {
    const auto& headers = exchange.request().headers;
    const auto shown = headers.find("authorization");
    if (shown != headers.end() && secret->AcceptsAuthorization(shown->second)) {
      co_await handler(exchange);
      co_return;
    }
    const Error refusal{ErrorId::kNotProven,
                        "send the token that `mooncake http-token` prints, as a bearer token or as "
                        "the password of any user"};
    auto respond = RespondInText(exchange, 401, refusal.Text(),
                                 {{"WWW-Authenticate", "Basic realm=\"mooncake\""}});
    co_await std::move(respond);
  };
}

Task<void> AnswerThatItIsEncrypted(HttpExchange& exchange) {
  const Error refusal{ErrorId::kTlsFailed, "this port speaks https:// only"};
  auto respond = RespondInText(exchange, 400, refusal.Text());
  co_await std::move(respond);
}

}  // namespace

PortServer::PortServer(World& world, Metrics& metrics, PortServerOptions options)
    : world_(world),
      options_(options),
      accepted_(metrics.AddCounter("mooncake_port_connections_total",
                                   "Connections accepted on the common port.")),
      refused_(metrics.AddCounter("mooncake_port_refused_connections_total",
                                  "Connections closed at once because there were too many.")),
      garbage_(metrics.AddCounter(
          "mooncake_port_garbage_connections_total",
          "Connections closed because their first bytes were neither ours nor HTTP.")) {}

void PortServer::Serve(std::shared_ptr<Listener> listener) {
  listeners_.push_back(listener);
  Spawn(world_.control,
        [](std::shared_ptr<PortServer> me, std::shared_ptr<Listener> at) -> Task<void> {
          co_await me->AcceptLoop(at);
        }(shared_from_this(), listener));
}

void PortServer::Close(const Error& cause) {
  if (closed_) return;
  closed_ = true;
  for (const auto& listener : listeners_) listener->Close();
  for (const auto& [number, connection] : std::exchange(rpc_, {})) connection->Close(cause);
  for (const auto& [number, stream] : std::exchange(streams_, {})) stream->Close();
}

Task<void> PortServer::AcceptLoop(std::shared_ptr<Listener> listener) {
  bool refusing = false;  // the last connection could not be accepted: that is said once
  while (!closed_) {
    Result<std::unique_ptr<Stream>> accepted = co_await listener->Accept();
    if (closed_) co_return;
    if (!accepted) {
      if (accepted.error().id == ErrorId::kClosed) co_return;
      if (!std::exchange(refusing, true)) MC_LOG(warn, "{}", accepted.error().Text());
      constexpr Duration kPause =
          std::chrono::milliseconds(100);  // out of descriptors: some come back
      co_await world_.clock.SleepFor(world_.control, kPause);
      continue;
    }
    refusing = false;
    if (IsFull()) {
      refused_.Add();
      continue;
    }
    accepted_.Add();
    std::shared_ptr<Stream> stream = std::move(*accepted);
    Spawn(world_.control,
          [](std::shared_ptr<PortServer> me, std::shared_ptr<Stream> with) -> Task<void> {
            const std::uint64_t number = me->next_number_++;
            me->connections_ += 1;
            me->streams_.emplace(number, with);
            co_await me->Handle(with);
            me->streams_.erase(number);
            me->connections_ -= 1;
          }(shared_from_this(), std::move(stream)));
  }
}

bool PortServer::IsFull() {
  if (connections_ + data_.size() < options_.connections_max) return false;
  std::erase_if(data_, [](const std::weak_ptr<Stream>& stream) { return stream.expired(); });
  return connections_ + data_.size() >= options_.connections_max;
}

Task<void> PortServer::Handle(std::shared_ptr<Stream> stream) {
  const auto self = shared_from_this();
  auto limit = std::make_shared<StreamDeadline>(
      world_, world_.control, stream, After(world_.clock.Now(), options_.handshake_timeout));
  auto reader = std::make_unique<BufferedReader>(stream);
  const Status first = co_await reader->Want(kTellingBytes);
  if (!first) co_return;
  Speech speech = Recognise(reader->buffered());
  const std::shared_ptr<const TlsContext> tls = introduce().credentials.tls;
  bool encrypted = false;
  if (speech == Speech::kTls && tls) {
    auto accept = AcceptTls(stream, tls, reader->buffered());
    const Result<std::shared_ptr<Stream>> within = co_await std::move(accept);
    if (!within) {
      LogRefusal(*stream, within.error());
      stream->Close();
      co_return;
    }
    reader = std::make_unique<BufferedReader>(*within);
    const Status inner = co_await reader->Want(kTellingBytes);
    if (!inner) {
      LogRefusal(*stream, inner.error());
      co_return;
    }
    speech = Recognise(reader->buffered());
    encrypted = true;
  }
  switch (speech) {
    case Speech::kFrames: {
      auto frames = HandleFrames(std::move(reader), encrypted, std::move(limit));
      co_await std::move(frames);
      co_return;
    }
    case Speech::kHttp: {
      limit->Disarm();
      if (!on_http) break;
      auto http = HandleHttp(std::move(reader), encrypted);
      co_await std::move(http);
      co_return;
    }
    case Speech::kTls:
      LogRefusal(*stream, {ErrorId::kTlsFailed,
                           "the caller speaks TLS, and this process has no certificate"});
      break;
    case Speech::kUnknown:
      garbage_.Add();
      MC_LOG(info, "{}", Error{ErrorId::kBadFrame, "from " + OriginOf(*stream)}.Text());
      break;
  }
  stream->Close();
}

Task<void> PortServer::HandleHttp(std::unique_ptr<BufferedReader> reader, bool encrypted) {
  const Credentials credentials = introduce().credentials;
  HttpHandler handler = on_http;
  if (credentials.tls && !encrypted) {
    handler = AnswerThatItIsEncrypted;
  } else if (credentials.secret) {
    handler = Guarded(std::move(handler), credentials.secret);
  }
  auto serve = ServeHttp(world_, world_.control, std::move(reader), handler, options_.http);
  co_await std::move(serve);
}

Task<void> PortServer::HandleFrames(std::unique_ptr<BufferedReader> reader, bool encrypted,
                                    std::shared_ptr<StreamDeadline> limit) {
  const std::shared_ptr<Stream> stream = reader->shared_stream();
  const Introduction introduction = introduce();
  if (introduction.credentials.tls && !encrypted) {
    const Error refusal{ErrorId::kTlsFailed, "this port accepts encrypted connections only"};
    LogRefusal(*stream, refusal);
    auto refuse = Refuse(*stream, refusal);
    co_await std::move(refuse);
    stream->Close();
    co_return;
  }
  Result<Handshake> handshake = co_await Welcome(world_, std::move(reader), introduction);
  if (!handshake) {
    if (!limit->passed() && handshake.error().id == ErrorId::kBadFrame) garbage_.Add();
    LogRefusal(*stream, handshake.error());
    stream->Close();
    co_return;
  }
  limit->Disarm();
  if (closed_) {
    stream->Close();
    co_return;
  }
  if (handshake->purpose != kPurposeRpc) {
    if (on_data) {
      data_.push_back(stream);
      on_data(std::move(*handshake));
    }
    co_return;
  }
  const auto connection = std::make_shared<RpcConnection>(
      world_, world_.control, std::move(*handshake), router, options_.rpc);
  const std::uint64_t number = next_number_++;
  rpc_.emplace(number, connection);
  OneShot<bool> ended;
  connection->OnClose([&ended](const Error&) { ended.Set(true); });
  connection->Start();
  if (on_rpc) on_rpc(connection);
  co_await ended.Get();
  rpc_.erase(number);
}

}  // namespace mooncake
