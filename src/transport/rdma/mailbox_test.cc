#include "transport/rdma/mailbox.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>

#include "base/real_world.h"
#include "base/test_support.h"
#include "transport/rdma/fake_verbs.h"

namespace mooncake::rdma {
namespace {

using namespace std::chrono_literals;

TEST(Notices, AreReadAsTheyWereWritten) {
  for (std::size_t slot = 0; slot < kMessagesMax; ++slot) {
    for (const std::size_t length : {std::size_t{0}, std::size_t{1}, kMessageBytesMax}) {
      const auto message = DecodeMessage(Encode(MessageNotice{slot, length}));
      ASSERT_TRUE(message);
      EXPECT_EQ(message->slot, slot);
      EXPECT_EQ(message->length_bytes, length);
    }
    for (const bool taken : {false, true}) {
      const auto answer = DecodeAnswer(Encode(AnswerNotice{slot, taken}));
      ASSERT_TRUE(answer);
      EXPECT_EQ(answer->slot, slot);
      EXPECT_EQ(answer->taken, taken);
    }
  }
}

TEST(Notices, HaveTheseBits) {
  EXPECT_EQ(Encode(MessageNotice{3, 500}), ::htonl(0x000301F4));
  EXPECT_EQ(Encode(AnswerNotice{7, true}), ::htonl(0x00070001));
}

TEST(Notices, ThatCannotBeAreRefused) {
  for (const std::uint32_t bits : {0x00080000U, 0x00000201U, 0x0000FFFFU, 0x80000000U, ~0U})
    EXPECT_FALSE(DecodeMessage(::htonl(bits))) << bits;
  for (const std::uint32_t bits : {0x00080000U, 0x00000002U, 0x80000001U, ~0U})
    EXPECT_FALSE(DecodeAnswer(::htonl(bits))) << bits;
}

// A caller's queue pair that does as it likes, and the served end.
class Mailbox : public testing::Test {
 protected:
  void SetUp() override {
    auto device = RdmaDevice::Open(*verbs_, "fake0", 0, {});
    ASSERT_TRUE(Succeeds(device));
    device_ = *device;
    auto served = ServedRail::Make(device_, 1);
    auto pairs = RailPairs::Make(device_, 2);
    ASSERT_TRUE(Succeeds(served));
    ASSERT_TRUE(Succeeds(pairs));
    served_.emplace(std::move(*served));
    pairs_.emplace(std::move(*pairs));
    const RailEnds here = pairs_->Describe(real_.world().random);
    const RailEnds there = served_->pairs().Describe(real_.world().random);
    ASSERT_TRUE(Succeeds(pairs_->Connect(here, there, {})));
    ASSERT_TRUE(Succeeds(served_->Connect(there, here, {})));
    auto page = RailPage::Make(*device_, RailPage::kBytes, false);
    ASSERT_TRUE(Succeeds(page));
    outbox_ = Outbox(std::move(*page), reinterpret_cast<std::uint64_t>(served_->page().bytes.get()),
                     served_->page().region->rkey);
  }
  void Post(ibv_send_wr& request) {
    ibv_send_wr* bad = nullptr;
    ASSERT_EQ(verbs_->PostSend(&(*pairs_)[kShortPair], &request, &bad), 0);
    ASSERT_TRUE(Becomes([this] { return verbs_->Waiting() == 0; }, 2s));
  }
  void Send(const std::string& message, Outbox::Answered answered = [](bool) {}) {
    ibv_send_wr request;
    ibv_sge entry;
    outbox_.Put(message, std::move(answered), request, entry);
    Post(request);
  }
  // False: the served end says that its pair must go.
  bool Receive(std::size_t count) {
    bool is_whole = true;
    EXPECT_TRUE(Becomes(
        [&] {
          is_whole = is_whole && served_->Receive(messages_);
          return !is_whole || messages_.size() >= count;
        },
        2s));
    return is_whole;
  }
  std::optional<std::uint32_t> NextImmediate() {
    ibv_wc completion{};
    const auto comes = [&] { return verbs_->PollCq(&pairs_->queue(), 1, &completion) == 1; };
    if (!Becomes(comes, 2s) || completion.status != IBV_WC_SUCCESS) return std::nullopt;
    return completion.imm_data;
  }

  RealWorld real_;
  std::shared_ptr<FakeVerbs> verbs_ = FakeVerbs::Make();
  std::shared_ptr<RdmaDevice> device_;
  Outbox outbox_;
  std::optional<RailPairs> pairs_;
  std::optional<ServedRail> served_;
  std::vector<ServedRail::Message> messages_;
};

TEST_F(Mailbox, CarriesMessagesAndTheirAnswers) {
  std::vector<bool> answers;
  for (int round = 0; round < 3; ++round) {
    for (std::size_t i = 0; i < kMessagesMax; ++i)
      Send(std::string(i * kMessageBytesMax / (kMessagesMax - 1), 'x'),
           [&answers](bool taken) { answers.push_back(taken); });
    EXPECT_FALSE(outbox_.HasRoom());
    ASSERT_TRUE(Receive(kMessagesMax));
    for (const auto& message : messages_) {
      EXPECT_EQ(message.bytes.size(), message.slot * kMessageBytesMax / (kMessagesMax - 1));
      EXPECT_EQ(message.bytes.find_first_not_of('x'), std::string::npos);
      ASSERT_TRUE(served_->Answer({message.slot, message.slot % 2 == 0}));
    }
    messages_.clear();
    for (std::size_t i = 0; i < kMessagesMax; ++i) {
      const auto immediate = NextImmediate();
      ASSERT_TRUE(immediate);
      ASSERT_TRUE(outbox_.Answer(*immediate));
      EXPECT_FALSE(outbox_.Answer(*immediate));  // it answers nothing any more
      EXPECT_EQ(answers.back(), i % 2 == 0);
      ASSERT_TRUE(Succeeds(device_->PostReceives((*pairs_)[kShortPair], 1)));
    }
    EXPECT_FALSE(outbox_.is_waiting());
  }
}

TEST_F(Mailbox, RefusesSlotsAndLengthsThatThereAreNot) {
  for (const std::uint32_t bits : {0x00080000U, 0x00000201U, ~0U}) {
    pairs_.reset();
    SetUp();
    messages_.clear();
    ibv_send_wr request{};
    request.opcode = IBV_WR_SEND_WITH_IMM;
    request.imm_data = ::htonl(bits);
    Post(request);
    EXPECT_FALSE(Receive(1));
    EXPECT_TRUE(messages_.empty());
  }
}

TEST_F(Mailbox, TakesNoMessageThatWasNotWritten) {
  ibv_send_wr request{};
  request.opcode = IBV_WR_SEND_WITH_IMM;
  request.imm_data = Encode(MessageNotice{0, 3});
  Post(request);
  EXPECT_FALSE(Receive(1));
  EXPECT_TRUE(messages_.empty());
}

}  // namespace
}  // namespace mooncake::rdma
