#include <gtest/gtest.h>

#include "base/test_loop.h"
#include "base/test_support.h"
#include "wire/messages.pb.h"
#include "wire/test_port.h"

namespace mooncake {
namespace {

using namespace std::chrono_literals;

std::string Hex(Bytes bytes) {
  std::string text;
  for (const std::byte byte : bytes) text += fmt::format("{:02x}", static_cast<unsigned>(byte));
  return text;
}

// ---- golden: docs/wire.md promises these bytes --------------------------------------------------

TEST(WireGolden, FrameHeader) {
  FrameHeader header;
  header.kind = FrameKind::kRequest;
  header.method = 49;
  header.id = 0x1122334455667788;
  header.body_bytes = 3;
  header.payload_bytes = 0x10000;
  header.budget_ms = 30000;
  EXPECT_EQ(Hex(Encode(header)),
            "4d434b31030031008877665544332211030000000000010030750000395ff239");
}

TEST(WireGolden, Hello) {
  pb::Hello hello;
  hello.set_version_min(1);
  hello.set_version_max(1);
  hello.set_purpose("rpc");
  hello.mutable_sender()->set_id_high(1);
  hello.mutable_sender()->set_id_low(2);
  hello.mutable_sender()->set_label("p0");
  EXPECT_EQ(Hex(AsBytes(hello.SerializeAsString())),
            "0801100122160901000000000000001102000000000000002202703032"
            "03727063");
}

TEST(WireGolden, CudaExport) {
  pb::CudaExportRequest request;
  request.add_regions()->set_id(1);
  request.mutable_regions(0)->set_key(7);
  EXPECT_EQ(Hex(AsBytes(request.SerializeAsString())), "0a0b0801110700000000000000");
  pb::CudaPiece piece;
  piece.set_handle("h");
  piece.set_offset(2);
  piece.set_length_bytes(300);
  pb::CudaExportReply reply;
  reply.add_regions()->set_id(1);
  *reply.mutable_regions(0)->add_pieces() = piece;
  reply.set_nonce("n");
  *reply.add_proof() = piece;
  EXPECT_EQ(Hex(AsBytes(reply.SerializeAsString())),
            "0a0c080112080a0168100218ac02"
            "12016e"
            "1a080a0168100218ac02");
}

TEST(WireGolden, RdmaConnectRequest) {
  pb::RdmaConnectRequest request;
  request.set_rail(3);
  request.set_device("mlx5_0");
  for (const std::uint32_t number : {0x123456, 0x123457, 0x123458}) {
    pb::RdmaEnd& end = *request.add_caller();
    end.set_queue_pair(number);
    end.set_packet(0xABCDEF);
    end.set_mtu_bytes(4096);
    end.set_reads(16);
    end.set_lid(7);
  }
  request.mutable_caller_address()->set_gid(std::string(16, 'g'));
  request.mutable_caller_address()->set_kind(3);
  EXPECT_EQ(Hex(AsBytes(request.SerializeAsString())),
            "080312066d6c78355f301a1008d6e84810ef9baf0518802020102807"
            "1a1008d7e84810ef9baf0518802020102807"
            "1a1008d8e84810ef9baf0518802020102807"
            "22140a10676767676767676767676767676767671003");
}

TEST(WireGolden, RdmaKeysReply) {
  pb::RdmaKeysReply reply;
  pb::RdmaKeysReply::Region& region = *reply.add_regions();
  region.set_id(5);
  region.set_base(0x7F0000000000);
  region.set_chunk_bytes(1 << 30);
  pb::RdmaKeysReply::Keys& keys = *region.add_devices();
  keys.set_device("mlx5_0");
  keys.add_keys(0x11223344);
  EXPECT_EQ(Hex(AsBytes(reply.SerializeAsString())),
            "0a2108051100000000007f0000188080808004220e0a066d6c78355f30120444332211");
}

TEST(Frame, DecodeRefusesWhatIsNotAHeader) {
  FrameHeaderBytes good = Encode({FrameKind::kPing, 0, 0, 7, 0, 0, 0});
  EXPECT_EQ(DecodeFrameHeader(good)->id, 7U);
  for (std::size_t i = 0; i < good.size(); ++i) {
    FrameHeaderBytes bad = good;
    bad[i] ^= std::byte{0x40};
    EXPECT_TRUE(FailsWith(DecodeFrameHeader(bad), ErrorId::kBadFrame)) << i;
  }
  EXPECT_TRUE(FailsWith(DecodeFrameHeader(Bytes(good).first(31)), ErrorId::kBadFrame));
  const FrameHeaderBytes unknown = Encode({FrameKind{99}, 0, 0, 0, 0, 0, 0});
  EXPECT_TRUE(FailsWith(DecodeFrameHeader(unknown), ErrorId::kBadFrame));
  const FrameHeaderBytes large = Encode({FrameKind::kRequest, 0, 0, 0, kBodyBytesMax + 1, 0, 0});
  EXPECT_TRUE(FailsWith(DecodeFrameHeader(large), ErrorId::kFrameTooLarge));
}

// ---- a server and its clients over loopback
// ------------------------------------------------------

class Wire : public testing::Test {
 protected:
  void SetUp() override { Start(PortServerOptions{.handshake_timeout = 200ms}); }

  void Start(PortServerOptions options) {
    server_ = std::make_shared<PortServer>(world_, metrics_, options);
    server_->introduce = [this] { return Introduction{identity_, "test", {{"tcp", "here"}}}; };
    server_->router.Add(Method::kStatus, [](RpcCall&, Frame request) -> Task<Result<Reply>> {
      co_return Reply{request.body + "!", request.payload};
    });
    server_->router.Add(Method::kProbe, [this](RpcCall& call, Frame) -> Task<Result<Reply>> {
      OneShot<bool> cancelled;
      call.OnCancel([&cancelled] { cancelled.Set(true); });
      co_await cancelled.Get();
      cancelled_ += 1;
      co_return Reply{};
    });
    server_->router.Add(Method::kGenerate, [](RpcCall& call, Frame) -> Task<Result<Reply>> {
      for (int i = 0; i < 100; ++i) {
        Reply item{std::to_string(i), {}};
        const Status sent = co_await call.Send(std::move(item));
        if (!sent) co_return Fail(sent.error());
      }
      co_return Reply{"end", {}};
    });
    server_->router.Add(Method::kPrefill, [](RpcCall&, Frame) -> Task<Result<Reply>> {
      co_return Fail(ErrorId::kKvFull, "needs 7, has 3");
    });
    at_ = ServeOnLoopback(world_, server_);
  }
  void TearDown() override {
    StopServing(world_, server_);
    real_.Stop();
  }
  Instant In(Duration duration) { return After(world_.clock.Now(), duration); }

  Task<Result<std::shared_ptr<RpcConnection>>> Connect(InstanceId expected = {},
                                                       std::string cluster = "test") {
    Introduction introduction{
        {.id = {9, 9}, .incarnation = 1, .label = "client", .host = {}, .program_version = "x"},
        cluster,
        {}};
    auto dial = Dial(world_, world_.control, at_, std::move(introduction), "rpc", expected, In(5s));
    Result<Handshake> handshake = co_await std::move(dial);
    if (!handshake) co_return Fail(handshake.error());
    auto connection = std::make_shared<RpcConnection>(world_, world_.control, std::move(*handshake),
                                                      no_methods_, RpcLimits{});
    connection->Start();
    co_return connection;
  }
  // Runs `body` with a connection.
  void With(std::function<Task<void>(std::shared_ptr<RpcConnection>)> body) {
    RunOn(world_, [this, &body]() -> Task<void> {
      Result<std::shared_ptr<RpcConnection>> connection = co_await Connect();
      EXPECT_TRUE(Succeeds(connection));
      if (connection) {
        co_await body(*connection);
        (*connection)->Close(Error{ErrorId::kClosed, "done"});
      }
    });
  }

  Metrics metrics_;
  RealWorld real_;
  World& world_ = real_.world();
  Identity identity_{{1, 2}, 5, "server", {}, "test"};
  RpcRouter no_methods_;
  std::shared_ptr<PortServer> server_;
  Endpoint at_;
  std::atomic<int> cancelled_ = 0;
};

TEST_F(Wire, CallsAreAnsweredWithBodyAndPayload) {
  With([this](std::shared_ptr<RpcConnection> connection) -> Task<void> {
    EXPECT_EQ(connection->peer().label, "server");
    EXPECT_EQ(connection->handshake().transports.at("tcp"), "here");
    std::vector<std::byte> payload(100000, std::byte{3});
    auto call = connection->Call(Method::kStatus, "hello", In(5s), payload);
    const Result<Reply> reply = co_await std::move(call);
    EXPECT_TRUE(Succeeds(reply));
    EXPECT_EQ(reply->body, "hello!");
    EXPECT_EQ(reply->payload, payload);
  });
}

TEST_F(Wire, FailuresKeepIdAndContext) {
  With([this](std::shared_ptr<RpcConnection> connection) -> Task<void> {
    auto call = connection->Call(Method::kPrefill, "", In(5s));
    const Result<Reply> reply = co_await std::move(call);
    EXPECT_TRUE(FailsWith(reply, ErrorId::kKvFull));
    EXPECT_EQ(reply.error().context, "needs 7, has 3");
    auto unknown = connection->Call(Method{999}, "", In(5s));
    const Result<Reply> none = co_await std::move(unknown);
    EXPECT_TRUE(FailsWith(none, ErrorId::kUnknownMethod));
  });
}

TEST_F(Wire, ItemsArriveInOrderBeforeTheReply) {
  With([this](std::shared_ptr<RpcConnection> connection) -> Task<void> {
    std::vector<std::string> items;
    auto call = connection->CallStream(Method::kGenerate, "", In(5s), {}, [&items](Reply item) {
      items.push_back(item.body);
      return true;
    });
    const Result<Reply> reply = co_await std::move(call);
    EXPECT_TRUE(Succeeds(reply));
    EXPECT_EQ(items.size(), 100U);
    EXPECT_EQ(items.back(), "99");
  });
}

TEST_F(Wire, ADeadlineEndsTheCallAndCancelsTheHandler) {
  With([this](std::shared_ptr<RpcConnection> connection) -> Task<void> {
    auto call = connection->Call(Method::kProbe, "", In(50ms));
    const Result<Reply> reply = co_await std::move(call);
    EXPECT_TRUE(FailsWith(reply, ErrorId::kDeadline));
    auto status =
        connection->Call(Method::kStatus, "still here", In(5s));  // the connection lives on
    const Result<Reply> after = co_await std::move(status);
    EXPECT_TRUE(Succeeds(after));
  });
  EXPECT_EQ(cancelled_, 1);
}

TEST_F(Wire, AClosedServerFailsEveryCallInFlight) {
  With([this](std::shared_ptr<RpcConnection> connection) -> Task<void> {
    Post(world_.control, [this] { server_->Close(Error{ErrorId::kClosed, "stopping"}); });
    auto call = connection->Call(Method::kProbe, "", In(5s));
    const Result<Reply> reply = co_await std::move(call);
    EXPECT_TRUE(FailsWith(reply, ErrorId::kConnectionClosed));
  });
}

TEST_F(Wire, TheWrongPeerAndTheWrongClusterAreRefused) {
  RunOn(world_, [this]() -> Task<void> {
    const InstanceId other{7, 7};
    Result<std::shared_ptr<RpcConnection>> wrong = co_await Connect(other);
    EXPECT_TRUE(FailsWith(wrong, ErrorId::kWrongPeer));
    std::string cluster = "another";
    Result<std::shared_ptr<RpcConnection>> elsewhere = co_await Connect({}, std::move(cluster));
    EXPECT_TRUE(FailsWith(elsewhere, ErrorId::kWrongPeer));
  });
}

// Sends `bytes` and returns what comes back until the server closes.
class Hostile : public Wire {
 protected:
  std::string Exchange(std::string bytes) {
    std::string answer;
    RunOn(world_, [this, &bytes, &answer]() -> Task<void> {
      Result<std::unique_ptr<Stream>> stream =
          co_await world_.network.Connect(world_.control, at_, In(5s));
      EXPECT_TRUE(Succeeds(stream));
      const Bytes sent = AsBytes(bytes);
      static_cast<void>(co_await (*stream)->Write(std::span(&sent, 1)));
      std::array<std::byte, 4096> buffer{};
      for (;;) {
        const Result<std::size_t> count = co_await (*stream)->ReadSome(buffer);
        if (!count) break;
        answer += AsText(Bytes(buffer).first(*count));
      }
    });
    return answer;
  }
  void ExpectAlive() {
    With([this](std::shared_ptr<RpcConnection> connection) -> Task<void> {
      auto call = connection->Call(Method::kStatus, "alive", In(5s));
      const Result<Reply> reply = co_await std::move(call);
      EXPECT_TRUE(Succeeds(reply));
    });
  }
};

TEST_F(Hostile, GarbageEndsItsOwnConnectionOnly) {
  EXPECT_EQ(Exchange("\x16\x03\x01 garbage"), "");
  FrameHeaderBytes header = Encode({FrameKind::kHello, 0, 0, 0, 0, 0, 0});
  std::string frame(AsText(header));
  frame[16] = frame[17] = frame[18] = frame[19] =
      '\xff';  // a length of 2^32 - 1, and a checksum that does not fit
  EXPECT_EQ(Exchange(frame), "");
  const FrameHeaderBytes huge = Encode({FrameKind::kHello, 0, 0, 0, UINT32_MAX, UINT32_MAX, 0});
  EXPECT_EQ(Exchange(std::string(AsText(huge))), "");
  const FrameHeaderBytes early = Encode({FrameKind::kRequest, 0, 1, 1, 0, 0, 0});
  EXPECT_EQ(Exchange(std::string(AsText(early))), "");
  ExpectAlive();
}

TEST_F(Hostile, AHalfFrameIsGivenUpAtTheHandshakesDeadline) {
  const FrameHeaderBytes header = Encode({FrameKind::kHello, 0, 0, 0, 100, 0, 0});
  const Instant begin = world_.clock.Now();
  EXPECT_EQ(Exchange(std::string(AsText(header)) + "abc"), "");
  EXPECT_EQ(Exchange(std::string(AsText(header)).substr(0, 10)), "");
  EXPECT_LT(world_.clock.Now() - begin, 3s);
  ExpectAlive();
}

TEST_F(Hostile, HttpWithoutAHandlerIsClosed) {
  EXPECT_EQ(Exchange("GET / HTTP/1.1\r\n\r\n"), "");
  ExpectAlive();
}

}  // namespace
}  // namespace mooncake
