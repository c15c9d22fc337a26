// The first frames of every connection: a proof where there is a secret, then who speaks, which
// protocol versions, for which purpose.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "base/ids.h"
#include "base/result.h"
#include "base/world.h"
#include "security/credentials.h"
#include "wire/frame.h"

namespace mooncake {

namespace pb {
class Hello;
class HelloReply;
class Identity;
class Failure;
}  // namespace pb

inline constexpr std::uint32_t kProtocolVersionMin = 1;
inline constexpr std::uint32_t kProtocolVersionMax = 1;
inline constexpr std::string_view kPurposeRpc = "rpc";

/// Who a process is. A peer's is data: nothing in it is trusted beyond being text.
struct Identity {
  InstanceId id;
  std::uint64_t incarnation =
      0;  ///< Grows with every start under the same label (milliseconds of wall time).
  std::string label;
  HostIdentity host;
  std::string program_version;
};
/// Of a process that starts now, on this host.
[[nodiscard]] Identity DrawIdentity(World& world, std::string label);
/// "prefill-0 (id 7f3a)".
[[nodiscard]] std::string Describe(const Identity& identity);

[[nodiscard]] pb::Identity ToProto(const Identity& identity);
[[nodiscard]] Identity FromProto(const pb::Identity& proto);
[[nodiscard]] pb::Failure ToProto(const Error& error);
/// An unknown id becomes kInternal; the peer's text stays.
[[nodiscard]] Error FromProto(const pb::Failure& proto);

/// What this side says of itself, and shows before.
struct Introduction {
  Identity self;
  std::string cluster;
  std::map<std::string, std::string> transports;  ///< Name, advertisement.
  Credentials credentials;
};

struct Handshake {
  std::unique_ptr<BufferedReader> reader;
  Identity peer;
  std::uint32_t version = 0;
  std::map<std::string, std::string> transports;
  std::string purpose;
};

/// Dials and introduces. `expected` empty: whoever answers. Errors: kConnectRefused,
/// kConnectTimeout, kWrongPeer, kVersionMismatch, kBadFrame (another protocol answers), kDeadline,
/// kTlsFailed, kNotProven, and what the peer refused with.
[[nodiscard]] Task<Result<Handshake>> Dial(World& world, Executor executor, Endpoint to,
                                           Introduction introduction, std::string purpose,
                                           InstanceId expected, Instant deadline);
/// The same over a stream that is already open, and encrypted if it is to be.
[[nodiscard]] Task<Result<Handshake>> Introduce(World& world, Executor executor,
                                                std::shared_ptr<Stream> stream,
                                                Introduction introduction, std::string purpose,
                                                InstanceId expected, Instant deadline);
/// The server's side, after the first bytes were told to be a frame. Refuses with a Failure where
/// it must.
[[nodiscard]] Task<Result<Handshake>> Welcome(World& world, std::unique_ptr<BufferedReader> reader,
                                              const Introduction& introduction);
/// Answers whatever hand-shake begins with `refusal`.
[[nodiscard]] Task<void> Refuse(Stream& stream, const Error& refusal);

/// Closes `stream` at `deadline` unless disarmed: the deadline of a few reads and writes in a row.
class StreamDeadline {
 public:
  StreamDeadline(World& world, const Executor& executor, std::shared_ptr<Stream> stream,
                 Instant deadline);
  [[nodiscard]] bool passed() const noexcept { return *passed_; }
  void Disarm() { timer_->Cancel(); }

 private:
  std::shared_ptr<bool> passed_ = std::make_shared<bool>(false);
  std::unique_ptr<Timer> timer_;
};

}  // namespace mooncake
