// A connection that threads use instead of a loop, over a local name: one end is taken, the other
// stays on its loop.
#include <gtest/gtest.h>

#include <numeric>
#include <thread>

#include "base/real_world.h"
#include "base/test_loop.h"
#include "base/test_support.h"

namespace mooncake {
namespace {

using namespace std::chrono_literals;

class ThreadStreams : public testing::Test {
 protected:
  void SetUp() override {
    RunOn(world_, [this]() -> Task<void> {
      const std::string name = fmt::format("mooncake-test-{:x}", world_.random.Next());
      Result<std::unique_ptr<Listener>> listener = world_.network.ListenLocal(world_.control, name);
      if (!listener) co_return;
      auto connect = world_.network.ConnectLocal(world_.control, name, In(5s));
      Result<std::unique_ptr<Stream>> near = co_await std::move(connect);
      Result<std::unique_ptr<Stream>> far = co_await (*listener)->Accept();
      if (!near || !far) co_return;
      taken_ = (*near)->TakeForThreads();
      loop_ = std::move(*far);
    });
    ASSERT_NE(taken_, nullptr);
    ASSERT_NE(loop_, nullptr);
  }
  void TearDown() override {
    taken_ = nullptr;
    RunOn(world_, [this]() -> Task<void> {
      loop_ = nullptr;
      co_return;
    });
    real_.Stop();
  }
  Instant In(Duration duration) { return After(world_.clock.Now(), duration); }

  RealWorld real_;
  World& world_ = real_.world();
  std::unique_ptr<ThreadStream> taken_;
  std::unique_ptr<Stream> loop_;
};

TEST_F(ThreadStreams, MoreThanTheKernelHoldsGoesThereAndBack) {
  std::vector<std::byte> sent(8 << 20);
  std::iota(reinterpret_cast<unsigned char*>(sent.data()),
            reinterpret_cast<unsigned char*>(sent.data() + sent.size()), 7);
  std::thread echo([this, size = sent.size()] {
    RunOn(world_, [this, size]() -> Task<void> {
      std::vector<std::byte> bytes(size);
      const Status read = co_await ReadFull(*loop_, bytes);
      EXPECT_TRUE(Succeeds(read));
      const std::array<Bytes, 1> one = {bytes};
      const Status written = co_await loop_->Write(one);
      EXPECT_TRUE(Succeeds(written));
    });
  });
  // In pieces, one of them empty, so that a partial write ends inside one.
  const std::array<Bytes, 4> pieces = {Bytes(sent).first(1), Bytes(sent).subspan(1, 3'000'001),
                                       Bytes(), Bytes(sent).subspan(3'000'002)};
  EXPECT_TRUE(Succeeds(taken_->Write(pieces, In(20s))));
  std::vector<std::byte> back(sent.size());
  for (MutableBytes left = back; !left.empty();) {
    const std::array<MutableBytes, 2> into = {left.first(1), left.subspan(1)};
    const Result<std::size_t> count = taken_->ReadSomeV(into, In(20s));
    ASSERT_TRUE(Succeeds(count));
    left = left.subspan(*count);
  }
  echo.join();
  EXPECT_EQ(back, sent);
}

TEST_F(ThreadStreams, AnAnswerThatDoesNotComeAndAReaderThatDoesNotReadAreDeadlines) {
  std::byte byte{};
  const std::array<MutableBytes, 1> into = {MutableBytes(&byte, 1)};
  EXPECT_TRUE(FailsWith(taken_->ReadSomeV(into, In(20ms)), ErrorId::kDeadline));
  const std::vector<std::byte> much(32 << 20);
  const std::array<Bytes, 1> one = {much};
  EXPECT_TRUE(FailsWith(taken_->Write(one, In(50ms)), ErrorId::kDeadline));
}

TEST_F(ThreadStreams, CloseEndsAReadInProgressAndThoseToCome) {
  std::thread closing([this] { taken_->Close(); });
  std::byte byte{};
  const std::array<MutableBytes, 1> into = {MutableBytes(&byte, 1)};
  EXPECT_TRUE(FailsWith(taken_->ReadSomeV(into, kNever), ErrorId::kConnectionClosed));
  closing.join();
  EXPECT_TRUE(FailsWith(taken_->ReadSomeV(into, kNever), ErrorId::kConnectionClosed));
  const std::array<Bytes, 1> one = {into[0]};
  EXPECT_TRUE(FailsWith(taken_->Write(one, kNever), ErrorId::kConnectionClosed));
}

TEST_F(ThreadStreams, TheOtherEndsCloseIsTheEnd) {
  RunOn(world_, [this]() -> Task<void> {
    loop_->Close();
    co_return;
  });
  std::byte byte{};
  const std::array<MutableBytes, 1> into = {MutableBytes(&byte, 1)};
  EXPECT_TRUE(FailsWith(taken_->ReadSomeV(into, In(5s)), ErrorId::kConnectionClosed));
}

}  // namespace
}  // namespace mooncake
