// What breaks under RDMA transfers, on an RDMA network within the process: every call of the
// driver, ports, pairs of devices, limits. Bytes arrive over what is left, and nothing is left
// over.
#include <gtest/gtest.h>

#include <numeric>
#include <thread>

#include "engine/test_node.h"

namespace mooncake {
namespace {

using namespace std::chrono_literals;
using rdma::FakeFabric;
using rdma::FakeVerbs;

constexpr std::size_t kBytes = 4 << 20;

// What a person was told, each line of this error.
void ExpectWarnings(ErrorId id, std::size_t count_min) {
  const std::vector<std::string> warnings = TakeWarnings();
  EXPECT_GE(warnings.size(), count_min);
  for (const std::string& line : warnings)
    EXPECT_NE(line.find(ErrorName(id)), std::string::npos) << line;
}

// Two processes on one network; each has the memory that the other one moves bytes from and to.
class Pair {
 public:
  // Both use all devices of the fabric; or, each on a host of its own, one half of them.
  enum class Devices { kShared, kHalves };
  Pair(const FakeFabric& fabric, const std::string& transports, const RdmaOptions& options = {},
       Devices devices = Devices::kShared)
      : fabric_(fabric),
        verbs(FakeVerbs::Make(fabric)),
        transports_(transports),
        options_(options),
        devices_(devices) {}
  ~Pair() { Stop(); }

  void Open() {
    const std::vector<std::string> names = FakeVerbs::DeviceNames(fabric_.devices);
    RdmaForTest of_a{verbs, names, options_};
    RdmaForTest of_b = of_a;
    if (devices_ == Devices::kHalves) {
      const auto middle = names.begin() + static_cast<std::ptrdiff_t>(names.size() / 2);
      of_a.devices.assign(names.begin(), middle);
      of_b.devices.assign(middle, names.end());
    }
    a = std::make_unique<Node>(real_.world(), wire_, "a", transports_, 0, of_a);
    b = std::make_unique<Node>(real_.world(), wire_, "b", transports_, 0, of_b);
    std::iota(reinterpret_cast<unsigned char*>(source.data()),
              reinterpret_cast<unsigned char*>(source.data() + source.size()), 1);
    ASSERT_TRUE(Succeeds(a->engine().Register(source.data(), source.size())));
    const Result<RegionInfo> region = b->engine().Register(target.data(), target.size());
    ASSERT_TRUE(Succeeds(region));
    this->region = *region;
    Result<PeerPtr> found = a->engine().ConnectNow(b->address(), In(5s));
    ASSERT_TRUE(Succeeds(found));
    peer = *found;
  }
  void Stop() {
    peer = nullptr;
    if (a) a->Stop();
    if (b) b->Stop();
    // What the loops still have to do for the engines.
    static_cast<void>(Becomes([this] { return verbs->live_handles().empty(); }, 2s));
    real_.Stop();
  }
  Instant In(Duration duration) { return After(real_.world().clock.Now(), duration); }

  // Writes everything in pieces of `piece` bytes, in another order, and reads it back.
  Status WriteAndReadBack(std::size_t piece, Duration timeout = 10s) {
    std::fill(target.begin(), target.end(), std::byte{0});
    std::vector<Copy> copies;
    for (std::size_t at = 0; at < kBytes; at += piece)
      copies.push_back({source.data() + at, region.id, kBytes - piece - at, piece});
    MC_TRY_STATUS(a->engine().Run(peer, Direction::kWrite, copies, {.deadline = In(timeout)}));
    for (const Copy& copy : copies) {
      if (std::memcmp(copy.local, target.data() + copy.offset, piece) != 0)
        return Fail(ErrorId::kChecksum, "wrong bytes were written");
    }
    const std::vector<std::byte> before = source;
    std::fill(source.begin(), source.end(), std::byte{0});
    Status read = a->engine().Run(peer, Direction::kRead, copies, {.deadline = In(timeout)});
    if (read && source != before) read = Fail(ErrorId::kChecksum, "wrong bytes were read");
    source = before;
    return read;
  }
  // Tells the peer `count` things at once.
  void Notify(int count, std::size_t length_bytes = 10) {
    for (int i = 0; i < count; ++i) {
      std::string message = std::to_string(last_message_++);
      message.resize(std::max(message.size(), length_bytes), ' ');
      said_.push_back(message);
    }
    std::atomic<int> left = count;
    for (int i = count; i-- > 0;) {
      Spawn(real_.world().control,
            [](Pair& me, std::string message, std::atomic<int>& all) -> Task<void> {
              auto notify = me.a->engine().Notify(me.peer, "n", std::move(message), me.In(5s));
              EXPECT_TRUE(Succeeds(co_await std::move(notify)));
              all -= 1;
            }(*this, said_[said_.size() - 1 - static_cast<std::size_t>(i)], left));
    }
    EXPECT_TRUE(Becomes([&left] { return left == 0; }, 10s));
  }
  // Whether the peer has heard all of it, each once.
  void ExpectHeard() {
    std::vector<std::string> heard;
    for (const Notification& one : b->engine().TakeNotifications()) heard.push_back(one.message);
    std::sort(heard.begin(), heard.end());
    std::sort(said_.begin(), said_.end());
    EXPECT_EQ(heard, said_);
    said_.clear();
  }
  std::uint64_t MessagesOverRdma() {
    return a->metrics().AddCounter("mooncake_rdma_sent_messages_total", "").value();
  }
  std::shared_ptr<Batch> SubmitWrite(Duration timeout) {
    return a->engine().Submit(peer, Direction::kWrite, {{source.data(), region.id, 0, kBytes}},
                              {.deadline = In(timeout)});
  }
  bool TargetIsSource() const { return target == source; }
  std::uint64_t Transfers(const std::string& transport) {
    for (const PathRow& path : a->engine().Paths()) {
      if (path.transport == transport) return path.transfers;
    }
    return 0;
  }
  std::string Rails() {
    for (const PathRow& path : a->engine().Paths()) {
      if (path.transport == "rdma") return path.detail;
    }
    return "there is none";
  }
  std::string WhyNoRdma() {
    for (const PathRow& path : a->engine().Paths()) {
      if (path.transport == "rdma") return path.reason;
    }
    return "there is none";
  }

 private:
  FakeFabric fabric_;

 public:
  std::shared_ptr<FakeVerbs> verbs;

 private:
  std::string transports_;
  RdmaOptions options_;
  Devices devices_;
  int last_message_ = 0;
  std::vector<std::string> said_;
  RealWorld real_;
  FakeWire wire_;

 public:
  std::vector<std::byte> source = std::vector<std::byte>(kBytes);
  std::vector<std::byte> target = std::vector<std::byte>(kBytes);
  RegionInfo region;
  PeerPtr peer;
  std::unique_ptr<Node> a;
  std::unique_ptr<Node> b;
};

const std::map<std::string, int> kNothing;

class EveryCall : public testing::TestWithParam<std::string> {};

// Whichever call fails, and at whichever time: the bytes go over another device, or over TCP.
TEST_P(EveryCall, FailsOnceAndTheBytesTakeAnotherWay) {
  constexpr int kTimes = 4;
  for (const std::size_t devices : {1, 2}) {
    for (int nth = 1; nth <= kTimes; ++nth) {
      Pair pair({.devices = devices}, "rdma,tcp");
      pair.verbs->FailCall(GetParam(), nth);
      pair.Open();
      EXPECT_TRUE(Succeeds(pair.WriteAndReadBack(64 << 10))) << nth;
      EXPECT_TRUE(Succeeds(pair.WriteAndReadBack(1 << 20))) << nth;
      pair.Notify(20);
      pair.ExpectHeard();
      for (const Node* const node : {pair.a.get(), pair.b.get()}) {
        if (!node->rdma_failure()) continue;
        EXPECT_EQ(node->rdma_failure()->id, ErrorId::kRdmaCall);
        EXPECT_NE(node->rdma_failure()->context.find(" on fake"), std::string::npos);
      }
      const bool failed = pair.verbs->HasFailed();
      pair.Stop();
      EXPECT_EQ(pair.verbs->live_handles(), kNothing) << nth;
      ExpectWarnings(ErrorId::kRdmaCall, 0);
      if (!failed) break;
    }
  }
}

// Without another way, it heals by itself or says which call failed.
TEST_P(EveryCall, FailsOnceAndThereIsNoOtherWay) {
  constexpr int kTimes = 4;
  for (int nth = 1; nth <= kTimes; ++nth) {
    Pair pair({.devices = 1}, "rdma");
    pair.verbs->FailCall(GetParam(), nth);
    pair.Open();
    const Status moved = pair.WriteAndReadBack(64 << 10);
    if (!moved) {
      const bool none = pair.a->rdma_failure() || pair.b->rdma_failure();
      EXPECT_TRUE(none || GetParam() == "RegMr") << moved.error().Text();
      EXPECT_EQ(moved.error().id, ErrorId::kNoPath) << moved.error().Text();
    }
    const bool failed = pair.verbs->HasFailed();
    pair.Stop();
    EXPECT_EQ(pair.verbs->live_handles(), kNothing) << nth;
    ExpectWarnings(ErrorId::kRdmaCall, 0);
    if (!failed) break;
  }
}

INSTANTIATE_TEST_SUITE_P(Each, EveryCall, testing::ValuesIn(FakeVerbs::Calls()),
                         [](const auto& info) { return info.param; });

TEST(Rails, ShareALargeBatch) {
  Pair pair({.devices = 4}, "rdma");
  pair.Open();
  ASSERT_TRUE(Succeeds(pair.WriteAndReadBack(64 << 10)));
  std::uint64_t carried = 0;
  for (std::size_t device = 0; device < 4; ++device) {
    EXPECT_GT(pair.verbs->Carried(device, device), 1U) << device;
    carried += pair.verbs->Carried(device, device);
  }
  EXPECT_GT(carried, 8U);
}

// Requests that were carried out for one write of kBytes.
std::uint64_t RequestsOfAWrite(const FakeFabric& fabric) {
  Pair pair(fabric, "rdma");
  pair.Open();
  const auto carried = [&pair, &fabric] {
    std::uint64_t all = 0;
    for (std::size_t device = 0; device < fabric.devices; ++device)
      all += pair.verbs->Carried(device, device);
    return all;
  };
  const auto write = [&pair, &fabric] {
    // The fake network has one lock: while it carries something out, a post takes as long.
    pair.verbs->Hold(!fabric.immediate);
    const auto batch = pair.SubmitWrite(5s);
    EXPECT_TRUE(Becomes([&] { return batch->Poll() || pair.verbs->Waiting() > 0; }, 5s));
    static_cast<void>(pair.Rails());  // the turn that posts all of it is over
    pair.verbs->Hold(false);
    EXPECT_TRUE(Succeeds(batch->Wait()));
  };
  for (int i = 0; i < 4; ++i) write();  // everything that comes first is over
  const std::uint64_t before = carried();
  write();
  EXPECT_TRUE(pair.TargetIsSource());
  return carried() - before;
}

TEST(Rails, TakeLongPiecesWhereNoOthersAreToEndWithThem) {
  EXPECT_EQ(RequestsOfAWrite({.devices = 1}), 1U);
  EXPECT_GE(RequestsOfAWrite({.devices = 2}), 4U);
  EXPECT_EQ(RequestsOfAWrite({.devices = 2, .immediate = true}), 1U);  // they would end one by one
}

// Neither for what is posted of them nor for what could not be posted yet.
TEST(Rails, HaveAShortTransferAndAMessageNotWaitForLongTransfers) {
  Pair pair({.devices = 1}, "rdma");
  pair.Open();
  ASSERT_TRUE(Succeeds(pair.WriteAndReadBack(1 << 20)));
  pair.verbs->HoldFrom(2 << 20);
  constexpr std::size_t kLongOnes = 100;
  std::vector<std::shared_ptr<Batch>> long_ones;
  for (std::size_t i = 0; i < kLongOnes; ++i) long_ones.push_back(pair.SubmitWrite(10s));
  EXPECT_TRUE(Becomes([&pair] { return pair.verbs->Waiting() > 1; }, 5s));
  EXPECT_LT(pair.verbs->Waiting(), kLongOnes);
  for (const std::size_t bytes : {64, 64 << 10, 1 << 20}) {
    for (const std::size_t parts : {1, 4}) {
      std::vector<Copy> copies;
      for (std::size_t i = 0; i < parts; ++i) {
        const std::size_t at = i * kBytes / parts;
        copies.push_back({pair.source.data() + at, pair.region.id, at, bytes / parts});
      }
      std::fill(pair.target.begin(), pair.target.end(), std::byte{0});
      EXPECT_TRUE(Succeeds(
          pair.a->engine().Run(pair.peer, Direction::kWrite, copies, {.deadline = pair.In(5s)})));
      for (const Copy& copy : copies)
        EXPECT_EQ(std::memcmp(pair.target.data() + copy.offset, copy.local, copy.length_bytes), 0);
    }
  }
  pair.Notify(1);
  EXPECT_EQ(pair.MessagesOverRdma(), 1U);
  for (const auto& long_one : long_ones) EXPECT_FALSE(long_one->Poll());
  pair.verbs->Hold(false);
  for (const auto& long_one : long_ones) EXPECT_TRUE(Succeeds(long_one->Wait()));
  EXPECT_TRUE(pair.TargetIsSource());
}

// Whatever carries a queue pair's requests one by one, a device or one way through the network, is
// not all there is.
TEST(Rails, SpreadLongTransfersOverTwoQueuePairs) {
  Pair pair({.devices = 1}, "rdma");
  pair.Open();
  ASSERT_TRUE(Succeeds(pair.WriteAndReadBack(1 << 20)));
  pair.verbs->Hold(true);
  std::vector<std::shared_ptr<Batch>> batches;
  for (int i = 0; i < 2; ++i) batches.push_back(pair.SubmitWrite(10s));
  EXPECT_TRUE(Becomes([&pair] { return pair.verbs->WaitingPairs() == 2; }, 5s));
  pair.verbs->Hold(false);
  for (const auto& batch : batches) EXPECT_TRUE(Succeeds(batch->Wait()));
  EXPECT_TRUE(pair.TargetIsSource());
}

TEST(Rails, TakeNoLongerPiecesThanTheirDevice) {
  EXPECT_EQ(RequestsOfAWrite({.devices = 1, .message_bytes_max = 128 << 10}), 32U);
}

// As soft-RoCE does on one processor: whoever posts finds everything done when it looks.
TEST(Rails, WhereRequestsEndAsTheyArePostedNobodyWaitsForThem) {
  Pair pair({.devices = 1, .immediate = true}, "rdma");
  pair.Open();
  ASSERT_TRUE(Succeeds(pair.WriteAndReadBack(1 << 20)));
  const Copy short_one{pair.source.data(), pair.region.id, kBytes - 64, 64};
  for (int i = 0; i < 100; ++i) {  // no event is due after these
    ASSERT_TRUE(Succeeds(pair.a->engine().Run(pair.peer, Direction::kWrite, {&short_one, 1},
                                              {.deadline = pair.In(5s)})));
  }
  const Instant limit = pair.In(5s);
  ASSERT_TRUE(Succeeds(pair.WriteAndReadBack(64)));  // many times what the queue takes
  EXPECT_LT(pair.In(0s), limit);
}

// Of two. The write ends well over the other one.
void LoseTheFirstRailUnderAWrite(Pair& pair, const std::function<void()>& lose) {
  pair.verbs->Hold(true);
  const auto batch = pair.SubmitWrite(10s);
  EXPECT_TRUE(Becomes([&pair] { return pair.verbs->Waiting() > 0; }, 5s));
  lose();
  pair.verbs->Hold(false);
  EXPECT_TRUE(Succeeds(batch->Wait()));
  EXPECT_TRUE(pair.TargetIsSource());
  EXPECT_EQ(pair.Rails().find("rail fake1; without fake0: "), 0U) << pair.Rails();
}

TEST(Rails, APortThatGoesDownUnderABatchCostsNothingButTime) {
  Pair pair({.devices = 2}, "rdma");
  pair.Open();
  ASSERT_TRUE(Succeeds(pair.WriteAndReadBack(1 << 20)));
  LoseTheFirstRailUnderAWrite(pair, [&pair] { pair.verbs->SetPort(0, false); });

  // It comes back within a second of its event, and is used again.
  const std::uint64_t before = pair.verbs->Carried(0, 0);
  pair.verbs->SetPort(0, true);
  const Instant limit = pair.In(1s);
  while (pair.verbs->Carried(0, 0) < before + 4 && pair.In(0s) < limit)
    ASSERT_TRUE(Succeeds(pair.WriteAndReadBack(64 << 10)));
  EXPECT_GE(pair.verbs->Carried(0, 0), before + 4);
  EXPECT_TRUE(Becomes([&pair] { return pair.Rails() == "rails fake0, fake1"; }, 1s))
      << pair.Rails();
}

TEST(Rails, OfADeviceThatFailsAreLeftToTheOthers) {
  Pair pair({.devices = 2}, "rdma");
  pair.Open();
  ASSERT_TRUE(Succeeds(pair.WriteAndReadBack(1 << 20)));
  LoseTheFirstRailUnderAWrite(pair, [&pair] { pair.verbs->FailDevice(0); });
  std::size_t warnings = 0;
  const auto both_say_so = [&warnings] { return (warnings += TakeWarnings().size()) == 2; };
  EXPECT_TRUE(Becomes(both_say_so, 5s));
}

// A port comes back while its partner is tried with another one, which nothing gets through to:
// what the driver waits for that is not waited for.
TEST(Rails, ComeBackThoughATryElsewhereHangs) {
  Pair pair({.devices = 4, .resolve_time = 3s}, "rdma", {}, Pair::Devices::kHalves);
  pair.Open();
  ASSERT_EQ(pair.Rails(), "rails fake0 to fake2, fake1 to fake3");
  pair.verbs->Cut(0, 3, true);
  pair.verbs->SetPort(2, false);
  EXPECT_TRUE(Becomes([&pair] { return pair.verbs->Resolving() == 1; }, 1s));
  pair.verbs->SetPort(2, true);
  EXPECT_TRUE(
      Becomes([&pair] { return pair.Rails() == "rails fake0 to fake2, fake1 to fake3"; }, 1s))
      << pair.Rails();
  EXPECT_TRUE(Succeeds(pair.WriteAndReadBack(64 << 10)));
  // What the driver makes at last for the try that was given up is not kept.
  EXPECT_EQ(pair.verbs->Resolving(), 1U);
  pair.verbs->Cut(0, 3, false);
  EXPECT_TRUE(Becomes([&pair] { return pair.verbs->Resolving() == 0; }, 1s));
  // Of two rails, at both ends.
  EXPECT_TRUE(Becomes([&pair] { return pair.verbs->live_handles()["pair"] == 12; }, 1s));
}

// The peer confirms that a broken rail has ended while its driver still hangs in another try.
TEST(Rails, ThatBreakDoNotWaitForATryThatHangs) {
  Pair pair({.devices = 6, .resolve_time = 3s}, "rdma", {}, Pair::Devices::kHalves);
  pair.Open();
  ASSERT_EQ(pair.Rails(), "rails fake0 to fake3, fake1 to fake4, fake2 to fake5");
  pair.verbs->Cut(0, 4, true);
  pair.verbs->SetPort(3, false);
  EXPECT_TRUE(Becomes([&pair] { return pair.verbs->Resolving() == 1; }, 1s));
  pair.verbs->Hold(true);
  const auto batch = pair.SubmitWrite(10s);
  EXPECT_TRUE(Becomes([&pair] { return pair.verbs->Waiting() >= 2; }, 5s));
  const Instant limit = pair.In(1s);
  pair.verbs->SetPort(1, false);
  pair.verbs->Hold(false);
  EXPECT_TRUE(Succeeds(batch->Wait()));
  EXPECT_LT(pair.In(0s), limit);
  EXPECT_TRUE(pair.TargetIsSource());
}

// A device that reaches nobody does not hold up the others.
TEST(Rails, OfOneDeviceDoNotWaitForAnother) {
  Pair pair({.devices = 4, .resolve_time = 3s}, "rdma", {}, Pair::Devices::kHalves);
  for (const std::size_t there : {2, 3}) pair.verbs->Cut(0, there, true);
  const Instant limit = pair.In(2s);
  pair.Open();
  ASSERT_TRUE(Succeeds(pair.WriteAndReadBack(1 << 20)));
  EXPECT_LT(pair.In(0s), limit);
  EXPECT_EQ(pair.Rails().find("rail fake1 to fake3"), 0U) << pair.Rails();
}

// Nobody transfers while the port is down: the path is there again with the port.
TEST(Rails, OfAnIdlePathComeBackByThemselves) {
  Pair pair({.devices = 1}, "rdma");
  pair.Open();
  ASSERT_TRUE(Succeeds(pair.WriteAndReadBack(1 << 20)));
  pair.verbs->SetPort(0, false);
  const auto pairs = [&pair] { return pair.verbs->live_handles()["pair"]; };
  EXPECT_TRUE(Becomes([&pairs] { return pairs() == 0; }, 1s));
  pair.verbs->SetPort(0, true);
  EXPECT_TRUE(Becomes([&pairs] { return pairs() == 6; }, 1s));
  EXPECT_TRUE(Succeeds(pair.WriteAndReadBack(1 << 20)));
}

TEST(Rails, OfWhichOneIsCutInSilence) {
  Pair pair({.devices = 2}, "rdma");
  pair.Open();
  pair.verbs->Hold(true);
  const auto batch = pair.SubmitWrite(10s);
  EXPECT_TRUE(Becomes([&pair] { return pair.verbs->Waiting() > 0; }, 5s));
  pair.verbs->Cut(1, 1, true);
  pair.verbs->Hold(false);
  EXPECT_TRUE(Succeeds(batch->Wait()));
  EXPECT_TRUE(pair.TargetIsSource());
  // The device finds another partner.
  const Instant limit = pair.In(5s);
  while (pair.verbs->Carried(0, 1) < 8 && pair.In(0s) < limit)
    ASSERT_TRUE(Succeeds(pair.WriteAndReadBack(64 << 10)));
  EXPECT_GE(pair.verbs->Carried(0, 1), 8U);
}

TEST(Rails, AllCutEndByTheDeadline) {
  Pair pair({.devices = 2}, "rdma");
  pair.Open();
  for (const std::size_t a : {0, 1}) {
    for (const std::size_t b : {0, 1}) pair.verbs->Cut(a, b, true);
  }
  const Instant begin = pair.In(0s);
  const Status late = pair.WriteAndReadBack(1 << 20, 1s);
  ASSERT_FALSE(late);
  EXPECT_TRUE(late.error().id == ErrorId::kDeadline) << late.error().Text();
  EXPECT_LT(pair.In(0s) - begin, 2s);
  for (const std::size_t a : {0, 1}) {
    for (const std::size_t b : {0, 1}) pair.verbs->Cut(a, b, false);
  }
  EXPECT_TRUE(Succeeds(pair.WriteAndReadBack(1 << 20, 10s)));
}

TEST(Rails, AllCutAndTcpTakesOver) {
  Pair pair({.devices = 2}, "rdma,tcp");
  pair.Open();
  EXPECT_TRUE(Succeeds(pair.WriteAndReadBack(1 << 20)));
  EXPECT_EQ(pair.Transfers("rdma"), 2U);
  for (const std::size_t a : {0, 1}) {
    for (const std::size_t b : {0, 1}) pair.verbs->Cut(a, b, true);
  }
  EXPECT_TRUE(Succeeds(pair.WriteAndReadBack(1 << 20)));
  EXPECT_EQ(pair.Transfers("tcp"), 2U);
}

// A rail that neither answers nor fails.
TEST(Rails, AStragglerIsSentAgainElsewhere) {
  Pair pair({.devices = 2}, "rdma");
  pair.Open();
  ASSERT_TRUE(Succeeds(pair.WriteAndReadBack(1 << 20)));
  pair.verbs->Stall(1, 1, true);
  const Instant begin = pair.In(0s);
  EXPECT_TRUE(Succeeds(pair.SubmitWrite(10s)->Wait()));
  EXPECT_LT(pair.In(0s) - begin, 2s);
  EXPECT_TRUE(pair.TargetIsSource());
}

TEST(Rails, ThatFailUnderAShortTransferComeBackForIt) {
  Pair pair({.devices = 1}, "rdma");
  pair.Open();
  const Copy copy{pair.source.data(), pair.region.id, 100, 64};
  const auto run = [&pair, &copy] {
    return pair.a->engine().Run(pair.peer, Direction::kWrite, {&copy, 1},
                                {.deadline = pair.In(5s)});
  };
  ASSERT_TRUE(Succeeds(run()));
  for (const char* const call : {"PostSend", "PollCq"}) {
    std::fill(pair.target.begin(), pair.target.end(), std::byte{0});
    pair.verbs->FailCall(call, 1);
    EXPECT_TRUE(Succeeds(run()));
    EXPECT_TRUE(pair.verbs->HasFailed());
    EXPECT_EQ(std::memcmp(pair.target.data() + 100, pair.source.data(), 64), 0) << call;
  }
}

// It is posted before anybody looks at the clock.
TEST(Rails, AreKeptWhereAShortTransferComesAfterItsDeadline) {
  Pair pair({.devices = 1}, "rdma");
  pair.Open();
  const Copy copy{pair.source.data(), pair.region.id, 100, 64};
  const auto write = [&pair, &copy](Duration timeout) {
    return pair.a->engine().Run(pair.peer, Direction::kWrite, {&copy, 1},
                                {.deadline = pair.In(timeout)});
  };
  ASSERT_TRUE(Succeeds(write(5s)));
  const std::uint64_t before = pair.verbs->Carried(0, 0);
  for (const Duration late : {0ns, 1ns - 1s})
    EXPECT_TRUE(FailsWith(write(late), ErrorId::kDeadline));
  EXPECT_EQ(pair.Rails(), "rail fake0");
  ASSERT_TRUE(Succeeds(write(5s)));
  EXPECT_GT(pair.verbs->Carried(0, 0), before);
}

TEST(Rails, OfNearDevicesComeFirst) {
  Pair pair({.devices = 3}, "rdma", {.nearest = {{"cpu:0", {{"fake2"}, {"fake0", "fake1"}}}}});
  pair.Open();
  const std::uint64_t far = pair.verbs->Carried(0, 0) + pair.verbs->Carried(1, 1);
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(Succeeds(pair.a->engine().Run(pair.peer, Direction::kWrite,
                                              {{{pair.source.data(), pair.region.id, 0, 4096}}},
                                              {.deadline = pair.In(5s)})));
  }
  EXPECT_EQ(pair.verbs->Carried(0, 0) + pair.verbs->Carried(1, 1), far);
  // More than one of them keeps busy is shared all the same.
  ASSERT_TRUE(Succeeds(pair.WriteAndReadBack(64 << 10)));
  EXPECT_GT(pair.verbs->Carried(0, 0) + pair.verbs->Carried(1, 1), far);
}

TEST(Messages, GoOverTheRailsWhileThereIsRoom) {
  Pair pair({.devices = 1}, "rdma");
  pair.Open();
  for (int i = 0; i < 20; ++i) pair.Notify(1);
  EXPECT_EQ(pair.MessagesOverRdma(), 20U);
  pair.Notify(100);  // eight at a time, the others over the control connection
  EXPECT_GE(pair.MessagesOverRdma(), 28U);
  pair.ExpectHeard();
  const std::uint64_t before = pair.MessagesOverRdma();
  pair.Notify(1, 1000);
  EXPECT_EQ(pair.MessagesOverRdma(), before);
  pair.ExpectHeard();
}

TEST(Messages, OfARailThatBreaksAreHeardOnce) {
  for (const bool cut : {false, true}) {
    Pair pair({.devices = 2}, "rdma");
    pair.Open();
    pair.Notify(1);
    EXPECT_EQ(pair.MessagesOverRdma(), 1U);
    // In silence, or with an event; the answers under way are lost too.
    std::thread breaks([&pair, cut] {
      for (const std::size_t device : {1, 0}) {
        if (cut) pair.verbs->Cut(device, device, true);
        if (!cut) pair.verbs->SetPort(device, false);
      }
    });
    for (int i = 0; i < 20; ++i) pair.Notify(12);
    breaks.join();
    pair.ExpectHeard();
  }
}

// The peer's end is gone, and nothing else is sent that would tell.
TEST(Messages, WhoseAnswerIsLostAreSaidAgain) {
  Pair pair({.devices = 1}, "rdma");
  pair.Open();
  pair.Notify(1);
  EXPECT_EQ(pair.MessagesOverRdma(), 1U);
  pair.verbs->FailCall("PostSend", 2);  // the answer
  const Instant limit = pair.In(3s);
  pair.Notify(1);
  EXPECT_LT(pair.In(0s), limit);
  EXPECT_TRUE(pair.verbs->HasFailed());
  pair.ExpectHeard();
}

TEST(Driver, ThatRefusesAttributesIsAskedForLess) {
  for (const FakeFabric& fabric :
       {FakeFabric{.inline_bytes_max = 0}, FakeFabric{.inline_bytes_max = 0, .entries_max = 1},
        FakeFabric{.relaxed_ordering = false}}) {
    Pair pair(fabric, "rdma");
    pair.Open();
    EXPECT_TRUE(Succeeds(pair.WriteAndReadBack(64)));
    EXPECT_TRUE(Succeeds(pair.WriteAndReadBack(64 << 10)));
  }
}

TEST(Registration, IsSplitAtTheLimitOfTheDevice) {
  Pair pair({.devices = 2, .registration_bytes_max = (1 << 20) + 100}, "rdma");
  pair.Open();
  EXPECT_TRUE(Succeeds(pair.WriteAndReadBack(kBytes)));
  EXPECT_TRUE(Succeeds(pair.WriteAndReadBack(4 << 10)));
  EXPECT_EQ(pair.verbs->live_handles()["region"] % 2, 0);
  EXPECT_GE(pair.verbs->live_handles()["region"], 2 * 2 * 4);
}

TEST(Registration, BeyondTheLimitOfLockedMemoryIsLeftToOthers) {
  const FakeFabric fabric{.devices = 1,
                          .lock = {.unlimited = false, .limit_bytes = 1 << 20, .locked_bytes = 0}};
  {
    Pair pair(fabric, "rdma,tcp");
    pair.Open();
    EXPECT_TRUE(Succeeds(pair.WriteAndReadBack(1 << 20)));
    EXPECT_EQ(pair.WhyNoRdma(), "");  // the path is there, for memory that fits
  }
  Pair pair(fabric, "rdma");
  pair.Open();
  EXPECT_TRUE(FailsWith(pair.WriteAndReadBack(1 << 20), ErrorId::kNoPath));
  ExpectWarnings(ErrorId::kMemoryLock, 4);
}

TEST(Registration, EndsWithTheRegion) {
  Pair pair({.devices = 2}, "rdma");
  pair.Open();
  ASSERT_TRUE(Succeeds(pair.WriteAndReadBack(1 << 20)));
  const int before = pair.verbs->live_handles()["region"];
  ASSERT_TRUE(Succeeds(pair.b->engine().Unregister(pair.region.id)));
  EXPECT_EQ(pair.verbs->live_handles()["region"], before - 2);
}

TEST(QueuePairs, OfThePeerThatWasUsedLeastRecentlyAreGivenBack) {
  RealWorld real;
  FakeWire wire;
  const std::shared_ptr<FakeVerbs> verbs = FakeVerbs::Make();
  const RdmaForTest rdma{verbs, FakeVerbs::DeviceNames(1), {.queue_pairs_max = 6}};
  Node near(real.world(), wire, "near", "rdma", 0, rdma);
  std::vector<std::byte> source(4096, std::byte{7});
  ASSERT_TRUE(Succeeds(near.engine().Register(source.data(), source.size())));
  struct Far {
    std::unique_ptr<Node> node;
    std::vector<std::byte> memory = std::vector<std::byte>(4096);
    PeerPtr peer;
  };
  std::vector<Far> all(5);
  const auto limit = [&real] { return After(real.world().clock.Now(), 5s); };
  const auto write = [&](Far& far) {
    return near.engine().Run(far.peer, Direction::kWrite,
                             {{{source.data(), far.peer->ListedRegions()[0].id, 0, 4096}}},
                             {.deadline = limit()});
  };
  // Two rails here, and their other ends, which the peers take down after those here.
  const auto within_budget = [&verbs] { return verbs->live_handles()["pair"] <= 12; };
  for (Far& far : all) {
    far.node = std::make_unique<Node>(real.world(), wire, "far", "rdma", 0, rdma);
    ASSERT_TRUE(Succeeds(far.node->engine().Register(far.memory.data(), far.memory.size())));
    Result<PeerPtr> peer = near.engine().ConnectNow(far.node->address(), limit());
    ASSERT_TRUE(Succeeds(peer));
    far.peer = *peer;
    EXPECT_TRUE(Succeeds(write(far)));
    EXPECT_TRUE(Becomes(within_budget, 1s));
  }
  // Each comes back when it is needed.
  for (int round = 0; round < 3; ++round) {
    for (Far& far : all) {
      std::fill(far.memory.begin(), far.memory.end(), std::byte{0});
      EXPECT_TRUE(Succeeds(write(far)));
      EXPECT_EQ(far.memory, source);
    }
  }
  EXPECT_TRUE(Becomes(within_budget, 1s));
  // One that many have connected to asks them.
  Far crowded;
  crowded.node = std::make_unique<Node>(real.world(), wire, "crowded", "rdma", 0, rdma);
  ASSERT_TRUE(
      Succeeds(crowded.node->engine().Register(crowded.memory.data(), crowded.memory.size())));
  for (Far& far : all) {
    ASSERT_TRUE(Succeeds(far.node->engine().Register(source.data(), source.size())));
    Result<PeerPtr> peer = far.node->engine().ConnectNow(crowded.node->address(), limit());
    ASSERT_TRUE(Succeeds(peer));
    EXPECT_TRUE(Succeeds(far.node->engine().Run(
        *peer, Direction::kWrite, {{{source.data(), (*peer)->ListedRegions()[0].id, 0, 4096}}},
        {.deadline = limit()})));
  }
  for (Far& far : all) far.peer = nullptr;
  near.Stop();
  for (Far& far : all) far.node->Stop();
  crowded.node->Stop();
  real.Stop();
}

TEST(QueuePairs, StayWithinTheBudget) {
  Pair pair({.devices = 1}, "rdma,tcp", {.queue_pairs_max = 0});
  pair.Open();
  EXPECT_TRUE(Succeeds(pair.WriteAndReadBack(1 << 20)));
  EXPECT_NE(pair.WhyNoRdma().find("E209"), std::string::npos) << pair.WhyNoRdma();
}

}  // namespace
}  // namespace mooncake
