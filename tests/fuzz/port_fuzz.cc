// Whatever arrives at the port of an engine, in a simulated world: frames in any order, HTTP, bytes
// that are neither. It takes everything in its stride, and who has no key gets no byte of a region
// and changes none; who does not know the secret is not even told who is there.
#include <algorithm>
#include <array>

#include "choices.h"
#include "directory/p2p/p2p_directory.h"
#include "engine/engine.h"
#include "sim/sim_world.h"
#include "transport/tcp/tcp_transport.h"
#include "wire/messages.pb.h"

namespace mooncake {
namespace {

using namespace std::chrono_literals;

constexpr std::string_view kLabel = "the-name-of-the-target";
constexpr std::string_view kTreasure = "bytes of a region that nobody was told of. ";
constexpr std::uint16_t kPort = 5000;

class Target {
 public:
  Target(SimWorld& sim, std::shared_ptr<const ClusterSecret> secret) : sim_(sim) {
    World& world = process_.world();
    directory_ = MakeP2pDirectory(world);
    port_ = std::make_shared<PortServer>(world, metrics_, PortServerOptions{});
    port_->on_http = [](HttpExchange& exchange) -> Task<void> {
      auto respond = exchange.Respond(200, "text/plain", exchange.request().body, {});
      static_cast<void>(co_await std::move(respond));
    };
    EngineOptions options;
    options.credentials.secret = std::move(secret);
    engine_ = std::make_unique<Engine>(
        world, metrics_, port_, *directory_,
        Identity{{1, 2}, 1, std::string(kLabel), world.network.host(), "fuzz"}, options);
    engine_->AddTransport(MakeTcpTransport(world, metrics_, engine_->regions(), CopyEngine::Plain(),
                                           [this] { return engine_->Introduce(); }, {}));
    while (memory_.size() < 4096) memory_ += kTreasure;
    before_ = memory_;
    const Result<RegionInfo> region =
        engine_->Register(memory_.data(), memory_.size(), {.listed = false});
    MC_FUZZ_CHECK(region);
    Result<std::unique_ptr<Listener>> listener =
        world.network.Listen(world.control, {IpAddress::AnyV6(), kPort});
    MC_FUZZ_CHECK(listener);
    engine_->Start();
    port_->Serve(std::move(*listener));
  }

  Endpoint at() const { return {process_.host().addresses().front(), kPort}; }
  bool is_unchanged() const { return memory_ == before_; }

  void Close() {
    const auto close = [](Target& me) -> Task<void> {
      auto engine = me.engine_->CloseAsync();
      co_await std::move(engine);
      me.port_->Close(Error{ErrorId::kClosed, "the end"});
    };
    MC_FUZZ_CHECK(sim_.Run(process_, close(*this), After(sim_.Now(), 100s)));
    engine_ = nullptr;
    port_ = nullptr;
    directory_ = nullptr;
    sim_.RunFor(100s);
    MC_FUZZ_CHECK(process_.left().nothing());
  }

 private:
  SimWorld& sim_;
  SimProcess& process_ = sim_.Start(sim_.AddHost());
  Metrics metrics_;
  std::string memory_;
  std::string before_;
  std::unique_ptr<Directory> directory_;
  std::shared_ptr<PortServer> port_;
  std::unique_ptr<Engine> engine_;
};

std::string Draw(FuzzChoices& choices, std::uint64_t length) {
  std::string bytes;
  for (; length > 0 && !choices.exhausted(); --length)
    bytes += static_cast<char>(choices.Below(256));
  return bytes;
}

// A frame that is well-formed outside; its body is whatever was drawn.
std::string DrawFrame(FuzzChoices& choices) {
  constexpr std::array kKinds = {
      FrameKind::kHello,      FrameKind::kHelloReply, FrameKind::kRequest,        FrameKind::kReply,
      FrameKind::kItem,       FrameKind::kFailure,    FrameKind::kCancel,         FrameKind::kPing,
      FrameKind::kPong,       FrameKind::kChallenge,  FrameKind::kChallengeReply, FrameKind::kProof,
      FrameKind::kWrite,      FrameKind::kRead,       FrameKind::kData,           FrameKind::kAck,
      FrameKind::kDataFailure};
  FrameHeader header;
  header.kind = kKinds[choices.Below(kKinds.size())];
  header.flags = static_cast<std::uint8_t>(choices.Below(3));
  header.method = static_cast<std::uint16_t>(choices.Below(70));
  header.id = choices.Below(4);
  const std::string body = Draw(choices, choices.Below(64));
  const std::string payload = Draw(choices, choices.Below(64));
  header.body_bytes = static_cast<std::uint32_t>(body.size());
  header.payload_bytes = static_cast<std::uint32_t>(payload.size());
  if (choices.Below(16) == 1)
    header.payload_bytes = static_cast<std::uint32_t>(choices.Below(kPayloadBytesMax + 2));
  return std::string(AsText(Encode(header))) + body + payload;
}

// The beginning of a conversation as it should be, so that what follows is reached.
std::string DrawHello(FuzzChoices& choices) {
  pb::Hello hello;
  hello.set_version_min(1);
  hello.set_version_max(1);
  hello.mutable_sender()->set_id_high(9);
  hello.mutable_sender()->set_id_low(1 + choices.Below(2));
  hello.mutable_sender()->set_label("fuzzer");
  hello.set_purpose(choices.Below(2) == 0 ? "rpc" : "tcp");
  const std::string body = hello.SerializeAsString();
  FrameHeader header;
  header.kind = FrameKind::kHello;
  header.body_bytes = static_cast<std::uint32_t>(body.size());
  return std::string(AsText(Encode(header))) + body;
}

// A write or read that is right in all but the key.
std::string DrawTransfer(FuzzChoices& choices) {
  DataBody list;
  list.regions = {{1 + choices.Below(2), choices.Below(UINT64_MAX)}};
  list.ranges = {{choices.Below(5000), static_cast<std::uint32_t>(choices.Below(64)), 0}};
  const bool write = choices.Below(2) == 0;
  const std::string payload = write ? std::string(list.ranges[0].length_bytes, 'x') : "";
  list.payload_crc32c = 0;
  const std::string body = Encode(list);
  FrameHeader header;
  header.kind = write ? FrameKind::kWrite : FrameKind::kRead;
  header.id = 1 + choices.Below(3);
  header.body_bytes = static_cast<std::uint32_t>(body.size());
  header.payload_bytes = static_cast<std::uint32_t>(payload.size());
  return std::string(AsText(Encode(header))) + body + payload;
}

struct Conversation {
  FuzzChoices choices;
  std::string answer;
  bool written = false;
};

Task<void> Speak(World& world, std::shared_ptr<Stream> stream, Conversation& talk) {
  constexpr int kStepsMax = 64;
  for (int step = 0; step < kStepsMax && !talk.choices.exhausted(); ++step) {
    std::string bytes;
    switch (talk.choices.Below(8)) {
      case 0:
      case 1:
        bytes = DrawFrame(talk.choices);
        break;
      case 2:
      case 3:
        bytes = DrawHello(talk.choices);
        break;
      case 4:
      case 5:
        bytes = DrawTransfer(talk.choices);
        break;
      case 6:
        bytes = Draw(talk.choices, talk.choices.Below(200));
        break;
      default: {
        auto pause = world.clock.SleepFor(world.control,
                                          std::chrono::milliseconds(talk.choices.Below(8000)));
        co_await std::move(pause);
      }
    }
    if (bytes.empty()) continue;
    const Bytes whole = AsBytes(bytes);
    const Status written = co_await stream->Write(std::span(&whole, 1));
    if (!written) break;
  }
  talk.written = true;
}

Task<void> Listen(std::shared_ptr<Stream> stream, Conversation& talk) {
  std::vector<std::byte> piece(4096);
  for (;;) {
    const Result<std::size_t> count = co_await stream->ReadSome(piece);
    if (!count) co_return;
    talk.answer += AsText(Bytes(piece).first(*count));
  }
}

}  // namespace
}  // namespace mooncake

MOONCAKE_FUZZER(port) {
  using namespace mooncake;
  Conversation talk{FuzzChoices(input), {}};
  const bool asks_secret = talk.choices.Below(2) == 1;
  SimWorld sim(1);
  Target target(sim, asks_secret ? *ClusterSecret::Make("sixteen bytes and a few more")
                                 : std::shared_ptr<const ClusterSecret>());
  SimProcess& caller = sim.Start(sim.AddHost());
  std::shared_ptr<Stream> stream;
  const auto connect = [](World& world, Endpoint to, std::shared_ptr<Stream>& into) -> Task<void> {
    Result<std::unique_ptr<Stream>> made =
        co_await world.network.Connect(world.control, to, After(world.clock.Now(), 10s));
    MC_FUZZ_CHECK(made);
    into = std::move(*made);
  };
  MC_FUZZ_CHECK(
      sim.Run(caller, connect(caller.world(), target.at(), stream), After(sim.Now(), 60s)));
  Spawn(caller.world().control, Listen(stream, talk));
  Spawn(caller.world().control, Speak(caller.world(), stream, talk));
  MC_FUZZ_CHECK(sim.RunUntil([&talk] { return talk.written; }, After(sim.Now(), 3600s)));
  sim.RunFor(10s);
  stream->Close();
  sim.RunFor(10s);
  target.Close();
  MC_FUZZ_CHECK(target.is_unchanged());
  MC_FUZZ_CHECK(talk.answer.find(kTreasure.substr(0, 12)) == std::string::npos);
  if (asks_secret) MC_FUZZ_CHECK(talk.answer.find(kLabel) == std::string::npos);
}
