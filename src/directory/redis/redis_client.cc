#include "directory/redis/redis_client.h"

#include <fmt/format.h>

#include <array>

#include "directory/leased_directory.h"
#include "wire/handshake.h"
#include "wire/http.h"

namespace mooncake {

std::string RedisClient::Where() const { return ToString(server_.address); }

void RedisClient::Close() {
  if (stream_) stream_->Close();
  stream_ = nullptr;
  received_.clear();
}

Task<Result<std::vector<RespValue>>> RedisClient::Call(Commands commands, Instant deadline) {
  // A kept connection may have ended meanwhile (redis closes idle ones): then once more over a new
  // one.
  for (int attempt = 0;; ++attempt) {
    const bool reused = stream_ != nullptr;
    if (!reused) {
      const Status connected = co_await Connect(deadline);
      if (!connected) {
        Close();
        co_return Fail(connected.error());
      }
    }
    auto exchange = Exchange(commands, deadline);
    Result<std::vector<RespValue>> replies = co_await std::move(exchange);
    if (replies) co_return replies;
    Close();
    const bool broke =
        replies.error().id == ErrorId::kConnectionClosed || replies.error().id == ErrorId::kNetwork;
    if (broke && reused && attempt == 0) continue;
    co_return Fail(DirectoryFault(Where(), replies.error()));
  }
}

Task<Status> RedisClient::Connect(Instant deadline) {
  auto resolve = world_.network.Resolve(world_.control, server_.address.host, deadline);
  const Result<std::vector<IpAddress>> addresses = co_await std::move(resolve);
  if (!addresses) co_return Fail(addresses.error());
  Error last{ErrorId::kNetwork, server_.address.host + " has no address"};
  for (const IpAddress& address : *addresses) {
    const Endpoint endpoint{address, server_.address.port};
    auto connect = world_.network.Connect(world_.control, endpoint, deadline);
    Result<std::unique_ptr<Stream>> stream = co_await std::move(connect);
    if (stream) {
      stream_ = std::move(*stream);
      break;
    }
    last = stream.error();
  }
  if (!stream_) co_return Fail(DirectoryFault(Where(), last));
  if (server_.tls) {
    const StreamDeadline limit(world_, world_.control, stream_, deadline);
    auto encrypt = ConnectTls(stream_, server_.tls, server_.address.host);
    Result<std::shared_ptr<Stream>> encrypted = co_await std::move(encrypt);
    if (!encrypted) {
      const Error late{ErrorId::kDeadline, "no TLS hand-shake"};
      co_return Fail(DirectoryFault(Where(), limit.passed() ? late : encrypted.error()));
    }
    stream_ = std::move(*encrypted);
  }

  // PING tells a redis from everything else, also where no password and no database is asked for.
  Commands greeting;
  if (!server_.user.empty()) {
    greeting.push_back({"AUTH", server_.user, server_.password});
  } else if (!server_.password.empty()) {
    greeting.push_back({"AUTH", server_.password});
  }
  if (server_.database != 0) greeting.push_back({"SELECT", std::to_string(server_.database)});
  greeting.push_back({"PING"});
  auto greet = Exchange(greeting, deadline);
  const Result<std::vector<RespValue>> replies = co_await std::move(greet);
  if (replies) co_return Status{};
  if (replies.error().id != ErrorId::kConnectionClosed) {
    co_return Fail(DirectoryFault(Where(), replies.error()));
  }
  auto who = WhoClosed(replies.error(), deadline);
  co_return Fail(co_await std::move(who));
}

// A server that closes at the first bytes speaks something else, perhaps HTTP: our own ports do.
Task<Error> RedisClient::WhoClosed(Error cause, Instant deadline) {
  HttpClient http(world_, world_.control, {server_.address.host, server_.address.port, "/", false});
  auto ask = http.Send("GET", "/health", {}, {}, deadline);
  const Result<HttpResponse> answer = co_await std::move(ask);
  if (!answer) co_return DirectoryFault(Where(), cause);
  const auto server = answer->headers.find("server");
  if (server != answer->headers.end() && server->second.starts_with("mooncake")) {
    co_return Error{
        ErrorId::kDirectoryIsUs,
        fmt::format("{} is the port of a Mooncake process ({})", Where(), server->second)};
  }
  co_return Error{ErrorId::kWrongService, Where() + " is an HTTP server, not redis"};
}

Task<Result<std::vector<RespValue>>> RedisClient::Exchange(const Commands& commands,
                                                           Instant deadline) {
  const std::shared_ptr<Stream> stream = stream_;
  const StreamDeadline limit(world_, world_.control, stream, deadline);
  std::string request;
  for (const std::vector<std::string>& words : commands) request += EncodeRespCommand(words);
  const Bytes bytes = AsBytes(request);
  const Status written = co_await stream->Write(std::span(&bytes, 1));
  std::vector<RespValue> replies;
  Status read = written;
  while (read && replies.size() < commands.size()) {
    Result<RespValue> reply = co_await ReadReply();
    if (!reply) {
      read = Fail(reply.error());
      break;
    }
    if (reply->kind == RespKind::kError) co_return Fail(RedisFault(reply->text));
    replies.push_back(std::move(*reply));
  }
  if (limit.passed()) co_return Fail(ErrorId::kDeadline, "no answer");
  if (!read) co_return Fail(read.error());
  co_return replies;
}

Task<Result<RespValue>> RedisClient::ReadReply() {
  constexpr std::size_t kReplyBytesMax = 64 << 20;
  const std::shared_ptr<Stream> stream = stream_;
  std::vector<std::byte> piece(64 << 10);
  for (;;) {
    std::size_t consumed = 0;
    Result<std::optional<RespValue>> reply = DecodeResp(received_, consumed);
    if (!reply && received_.starts_with("HTTP/")) {
      co_return Fail(ErrorId::kWrongService, "this is an HTTP server, not redis");
    }
    if (!reply) co_return Fail(reply.error());
    if (*reply) {
      received_.erase(0, consumed);
      co_return std::move(**reply);
    }
    if (received_.size() > kReplyBytesMax) {
      co_return Fail(ErrorId::kDirectoryGarbage, "a reply without an end");
    }
    const Result<std::size_t> count = co_await stream->ReadSome(piece);
    if (!count) co_return Fail(count.error());
    received_ += AsText(Bytes(piece).first(*count));
    if (received_.size() >= piece.size())
      piece.resize(received_.size());  // long replies are decoded anew seldom
  }
}

}  // namespace mooncake
