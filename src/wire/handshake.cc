#include "wire/handshake.h"

#include <fmt/format.h>

#include "wire/messages.pb.h"

namespace mooncake {

Identity DrawIdentity(World& world, std::string label) {
  const auto since_1970 = std::chrono::duration_cast<std::chrono::milliseconds>(
      world.clock.WallNow().time_since_epoch());
  return {world.random.DrawInstanceId(), static_cast<std::uint64_t>(since_1970.count()),
          std::move(label), world.network.host(), MOONCAKE_VERSION};
}

std::string Describe(const Identity& identity) {
  return fmt::format("{} (id {})", identity.label.empty() ? "an unnamed instance" : identity.label,
                     ShortId(identity.id));
}

pb::Identity ToProto(const Identity& identity) {
  pb::Identity proto;
  proto.set_id_high(identity.id.high);
  proto.set_id_low(identity.id.low);
  proto.set_incarnation(identity.incarnation);
  proto.set_label(identity.label);
  proto.mutable_host()->set_boot_id(identity.host.boot_id);
  proto.mutable_host()->set_host_name(identity.host.host_name);
  proto.mutable_host()->set_process(identity.host.process);
  proto.mutable_host()->set_process_namespace(identity.host.process_namespace);
  proto.set_program_version(identity.program_version);
  return proto;
}

Identity FromProto(const pb::Identity& proto) {
  Identity identity;
  identity.id = {proto.id_high(), proto.id_low()};
  identity.incarnation = proto.incarnation();
  identity.label = proto.label();
  identity.host = {proto.host().boot_id(), proto.host().host_name(), proto.host().process(),
                   proto.host().process_namespace(), 0};
  identity.program_version = proto.program_version();
  return identity;
}

pb::Failure ToProto(const Error& error) {
  pb::Failure proto;
  proto.set_error_id(static_cast<std::uint32_t>(error.id));
  proto.set_context(error.context);
  proto.set_os_error(error.os_error);
  return proto;
}

Error FromProto(const pb::Failure& proto) {
  const auto id = static_cast<ErrorId>(proto.error_id());
  const bool known = proto.error_id() <= UINT16_MAX && FindError(id).id == id;
  return Error{known ? id : ErrorId::kInternal, proto.context(), proto.os_error()};
}

StreamDeadline::StreamDeadline(World& world, const Executor& executor,
                               std::shared_ptr<Stream> stream, Instant deadline)
    : timer_(world.clock.MakeTimer(executor)) {
  if (deadline == kNever) return;
  timer_->At(deadline, [passed = passed_, stream = std::move(stream)] {
    *passed = true;
    stream->Close();
  });
}

Task<Result<Handshake>> Dial(World& world, Executor executor, Endpoint to,
                             Introduction introduction, std::string purpose, InstanceId expected,
                             Instant deadline) {
  Result<std::unique_ptr<Stream>> stream = co_await world.network.Connect(executor, to, deadline);
  if (!stream) co_return Fail(stream.error());
  std::shared_ptr<Stream> shared = std::move(*stream);
  if (introduction.credentials.tls) {
    const StreamDeadline limit(world, executor, shared, deadline);
    auto encrypt = ConnectTls(shared, introduction.credentials.tls, ToString(to.address));
    Result<std::shared_ptr<Stream>> encrypted = co_await std::move(encrypt);
    if (limit.passed())
      co_return Fail(ErrorId::kConnectTimeout, ToString(to) + ": no TLS hand-shake");
    if (!encrypted) co_return Fail(Within(ToString(to), encrypted.error()));
    shared = std::move(*encrypted);
  }
  Result<Handshake> handshake =
      co_await Introduce(world, executor, std::move(shared), std::move(introduction),
                         std::move(purpose), expected, deadline);
  if (!handshake) co_return Fail(Within(ToString(to), handshake.error()));
  co_return handshake;
}

namespace {

template <class Body>
Task<Status> WriteMessage(Stream& stream, FrameKind kind, const Body& body) {
  FrameHeader header;
  header.kind = kind;
  const std::string bytes = body.SerializeAsString();
  co_return co_await WriteFrame(stream, header, AsBytes(bytes));
}

// The caller's half of the proof; the hello is to follow at once.
Task<Status> ProveAsCaller(World& world, BufferedReader& reader, const ClusterSecret& secret) {
  pb::Challenge challenge;
  challenge.set_nonce(DrawNonce(world.random));
  auto ask = WriteMessage(reader.stream(), FrameKind::kChallenge, challenge);
  const Status asked = co_await std::move(ask);
  if (!asked) co_return asked;
  const Result<Frame> frame = co_await reader.ReadFrame();
  if (!frame) co_return Fail(frame.error());
  pb::HelloReply refusal;
  if (frame->header.kind == FrameKind::kHelloReply && refusal.ParseFromString(frame->body) &&
      refusal.has_failure()) {
    co_return Fail(FromProto(refusal.failure()));
  }
  pb::ChallengeReply reply;
  if (frame->header.kind != FrameKind::kChallengeReply || !reply.ParseFromString(frame->body)) {
    co_return Fail(ErrorId::kBadFrame, "the answer to the challenge is none");
  }
  if (!secret.Accepts(reply.proof(), ProofSide::kCallee, challenge.nonce(), reply.nonce())) {
    co_return Fail(ErrorId::kNotProven, "that side has another secret than this one");
  }
  pb::Proof proof;
  proof.set_proof(secret.Prove(ProofSide::kCaller, challenge.nonce(), reply.nonce()));
  auto show = WriteMessage(reader.stream(), FrameKind::kProof, proof);
  co_return co_await std::move(show);
}

// The callee's half, once the caller's challenge has come.
Task<Status> ProveAsCallee(World& world, BufferedReader& reader, const Frame& first,
                           const ClusterSecret& secret) {
  pb::Challenge challenge;
  if (!challenge.ParseFromString(first.body) || challenge.nonce().size() != kNonceBytes) {
    co_return Fail(ErrorId::kBadFrame, "the challenge is none");
  }
  pb::ChallengeReply reply;
  reply.set_nonce(DrawNonce(world.random));
  reply.set_proof(secret.Prove(ProofSide::kCallee, challenge.nonce(), reply.nonce()));
  auto answer = WriteMessage(reader.stream(), FrameKind::kChallengeReply, reply);
  const Status answered = co_await std::move(answer);
  if (!answered) co_return answered;
  const Result<Frame> frame = co_await reader.ReadFrame();
  if (!frame) co_return Fail(frame.error());
  pb::Proof proof;
  if (frame->header.kind != FrameKind::kProof || !proof.ParseFromString(frame->body)) {
    co_return Fail(ErrorId::kBadFrame, "the proof is none");
  }
  if (!secret.Accepts(proof.proof(), ProofSide::kCaller, challenge.nonce(), reply.nonce())) {
    co_return Fail(ErrorId::kNotProven, "the caller has another secret than this process");
  }
  co_return Status{};
}

}  // namespace

Task<Result<Handshake>> Introduce(World& world, Executor executor, std::shared_ptr<Stream> stream,
                                  Introduction introduction, std::string purpose,
                                  InstanceId expected, Instant deadline) {
  StreamDeadline limit(world, executor, stream, deadline);
  const Error late{ErrorId::kConnectTimeout, "no answer to the hand-shake"};
  auto reader = std::make_unique<BufferedReader>(stream);
  if (introduction.credentials.secret) {
    auto prove = ProveAsCaller(world, *reader, *introduction.credentials.secret);
    const Status proven = co_await std::move(prove);
    if (!proven) co_return Fail(limit.passed() ? late : proven.error());
  }
  pb::Hello hello;
  hello.set_version_min(kProtocolVersionMin);
  hello.set_version_max(kProtocolVersionMax);
  *hello.mutable_sender() = ToProto(introduction.self);
  hello.set_cluster(introduction.cluster);
  hello.set_purpose(purpose);
  hello.set_expected_id_high(expected.high);
  hello.set_expected_id_low(expected.low);
  for (const auto& [name, advertisement] : introduction.transports)
    (*hello.mutable_transports())[name] = advertisement;
  auto introduce = WriteMessage(*stream, FrameKind::kHello, hello);
  const Status written = co_await std::move(introduce);
  if (!written) co_return Fail(limit.passed() ? late : written.error());

  const Result<Frame> frame = co_await reader->ReadFrame();
  if (limit.passed()) co_return Fail(late);
  if (!frame) co_return Fail(frame.error());
  pb::HelloReply reply;
  if (frame->header.kind != FrameKind::kHelloReply || !reply.ParseFromString(frame->body)) {
    co_return Fail(ErrorId::kBadFrame, "the answer to the hand-shake is none");
  }
  if (reply.has_failure()) co_return Fail(FromProto(reply.failure()));
  Handshake result;
  result.reader = std::move(reader);
  result.peer = FromProto(reply.sender());
  result.version = reply.version();
  for (const auto& [name, advertisement] : reply.transports())
    result.transports[name] = advertisement;
  result.purpose = std::move(purpose);
  if (!expected.empty() && result.peer.id != expected) {
    co_return Fail(ErrorId::kWrongPeer, fmt::format("expected id {}, {} answers", ShortId(expected),
                                                    Describe(result.peer)));
  }
  limit.Disarm();
  co_return result;
}

namespace {

// Why the connection is refused, if it is.
std::optional<Error> Refusal(const pb::Hello& hello, const Introduction& introduction) {
  if (hello.version_min() > kProtocolVersionMax || hello.version_max() < kProtocolVersionMin) {
    return Error{
        ErrorId::kVersionMismatch,
        fmt::format("{} {} speaks {} to {}, {} {} speaks {} to {}", hello.sender().label(),
                    hello.sender().program_version(), hello.version_min(), hello.version_max(),
                    introduction.self.label, introduction.self.program_version, kProtocolVersionMin,
                    kProtocolVersionMax)};
  }
  const InstanceId expected{hello.expected_id_high(), hello.expected_id_low()};
  if (!expected.empty() && expected != introduction.self.id) {
    return Error{ErrorId::kWrongPeer,
                 fmt::format("{} was meant for id {}, {} answers", hello.sender().label(),
                             ShortId(expected), Describe(introduction.self))};
  }
  if (!hello.cluster().empty() && hello.cluster() != introduction.cluster) {
    return Error{ErrorId::kWrongPeer,
                 fmt::format("this process is in cluster \"{}\", the caller in \"{}\"",
                             introduction.cluster, hello.cluster())};
  }
  return std::nullopt;
}

// The caller's hello, after its proof where this side has a secret.
Task<Result<Frame>> ReadHello(World& world, BufferedReader& reader, const ClusterSecret* secret) {
  Result<Frame> frame = co_await reader.ReadFrame();
  if (!frame) co_return frame;
  const bool proves = frame->header.kind == FrameKind::kChallenge;
  if (!proves && secret == nullptr) co_return frame;
  if (!proves) {
    co_return Fail(ErrorId::kNotProven,
                   "this process asks for the cluster's secret, and the caller has none");
  }
  if (secret == nullptr) {
    co_return Fail(ErrorId::kNotProven, "the caller has a secret, and this process has none");
  }
  auto prove = ProveAsCallee(world, reader, *frame, *secret);
  const Status proven = co_await std::move(prove);
  if (!proven) co_return Fail(proven.error());
  auto hello = reader.ReadFrame();
  co_return co_await std::move(hello);
}

}  // namespace

Task<void> Refuse(Stream& stream, const Error& refusal) {
  pb::HelloReply reply;
  *reply.mutable_failure() = ToProto(refusal);
  auto write = WriteMessage(stream, FrameKind::kHelloReply, reply);
  const Status written = co_await std::move(write);
  static_cast<void>(written);  // who is refused may have gone
}

Task<Result<Handshake>> Welcome(World& world, std::unique_ptr<BufferedReader> reader,
                                const Introduction& introduction) {
  auto read = ReadHello(world, *reader, introduction.credentials.secret.get());
  const Result<Frame> frame = co_await std::move(read);
  if (!frame && frame.error().id == ErrorId::kNotProven) {
    auto refuse = Refuse(reader->stream(), frame.error());
    co_await std::move(refuse);
  }
  if (!frame) co_return Fail(frame.error());
  pb::Hello hello;
  if (frame->header.kind != FrameKind::kHello || !hello.ParseFromString(frame->body)) {
    co_return Fail(ErrorId::kBadFrame, "the first frame is not a hand-shake");
  }
  pb::HelloReply reply;
  *reply.mutable_sender() = ToProto(introduction.self);
  const std::optional<Error> refusal = Refusal(hello, introduction);
  if (refusal) {
    *reply.mutable_failure() = ToProto(*refusal);
  } else {
    reply.set_version(std::min(hello.version_max(), kProtocolVersionMax));
    for (const auto& [name, advertisement] : introduction.transports)
      (*reply.mutable_transports())[name] = advertisement;
  }
  auto write = WriteMessage(reader->stream(), FrameKind::kHelloReply, reply);
  const Status written = co_await std::move(write);
  if (refusal) co_return Fail(*refusal);
  if (!written) co_return Fail(written.error());
  Handshake result;
  result.peer = FromProto(hello.sender());
  result.version = reply.version();
  for (const auto& [name, advertisement] : hello.transports())
    result.transports[name] = advertisement;
  result.purpose = hello.purpose();
  result.reader = std::move(reader);
  co_return result;
}

}  // namespace mooncake
