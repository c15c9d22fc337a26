#include "transport/rdma/mailbox.h"

#include <arpa/inet.h>

namespace mooncake::rdma {
namespace {

// A message: its slot above 16 bits of length. An answer: its slot above one bit.
constexpr unsigned kSlotShift = 16;
constexpr std::uint32_t kLengthMask = 0xFFFF;

}  // namespace

Result<RailPage> RailPage::Make(RdmaDevice& device, std::size_t length_bytes, bool remote) {
  RailPage page;
  page.bytes = std::make_unique<std::byte[]>(length_bytes);
  MC_TRY(page.region, device.Register(page.bytes.get(), length_bytes, remote, remote));
  return page;
}

std::uint32_t Encode(const MessageNotice& notice) noexcept {
  return ::htonl(static_cast<std::uint32_t>(notice.slot << kSlotShift | notice.length_bytes));
}

std::uint32_t Encode(const AnswerNotice& notice) noexcept {
  return ::htonl(static_cast<std::uint32_t>(notice.slot << kSlotShift | (notice.taken ? 1U : 0U)));
}

std::optional<MessageNotice> DecodeMessage(std::uint32_t immediate) noexcept {
  const std::uint32_t bits = ::ntohl(immediate);
  const MessageNotice notice{bits >> kSlotShift, bits & kLengthMask};
  if (notice.slot >= kMessagesMax || notice.length_bytes > kMessageBytesMax) return std::nullopt;
  return notice;
}

std::optional<AnswerNotice> DecodeAnswer(std::uint32_t immediate) noexcept {
  const std::uint32_t bits = ::ntohl(immediate);
  if (bits >> kSlotShift >= kMessagesMax || (bits & kLengthMask) > 1) return std::nullopt;
  return AnswerNotice{bits >> kSlotShift, (bits & kLengthMask) == 1};
}

// ---- the caller ----

void Outbox::Put(std::string_view message, Answered answered, ibv_send_wr& request,
                 ibv_sge& entry) {
  MC_ASSERT(HasRoom() && message.size() <= kMessageBytesMax);
  last_ = 0;
  while (waiting_[last_]) ++last_;
  waiting_[last_] = std::move(answered);
  taken_ += 1;
  std::byte* const place = page_.bytes.get() + last_ * kMessageBytesMax;
  message.copy(reinterpret_cast<char*>(place), message.size());
  entry = {reinterpret_cast<std::uint64_t>(place), static_cast<std::uint32_t>(message.size()),
           page_.region->lkey};
  request = {};
  request.sg_list = &entry;
  request.num_sge = 1;
  request.opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
  request.imm_data = Encode(MessageNotice{last_, message.size()});
  request.wr.rdma.remote_addr = remote_address_ + last_ * kMessageBytesMax;
  request.wr.rdma.rkey = remote_key_;
}

void Outbox::Undo() noexcept {
  waiting_[last_] = nullptr;
  taken_ -= 1;
}

bool Outbox::Answer(std::uint32_t immediate) {
  const std::optional<AnswerNotice> answer = DecodeAnswer(immediate);
  if (!answer || !waiting_[answer->slot]) return false;
  taken_ -= 1;
  std::exchange(waiting_[answer->slot], nullptr)(answer->taken);
  return true;
}

void Outbox::Abandon() {
  taken_ = 0;
  for (Answered& one : waiting_) {
    if (one) std::exchange(one, nullptr)(false);
  }
}

// ---- the receiver ----

Result<ServedRail> ServedRail::Make(const std::shared_ptr<RdmaDevice>& device,
                                    std::uint64_t cookie) {
  MC_TRY(RailPage page, RailPage::Make(*device, RailPage::kBytes, true));
  MC_TRY(RailPairs pairs, RailPairs::Make(device, cookie));
  return ServedRail(cookie, std::move(page), std::move(pairs));
}

Status ServedRail::Connect(const RailEnds& here, const RailEnds& there,
                           const AddressPair& addresses) {
  MC_TRY_STATUS(pairs_.Connect(here, there, addresses));
  if (const int failure = device()->verbs().ReqNotifyCq(&pairs_.queue()))
    return Fail(ErrorId::kRdmaCall, "ibv_req_notify_cq on " + device()->name(), failure);
  return {};
}

bool ServedRail::Receive(std::vector<Message>& messages) {
  // What has come before the queue is armed wakes nobody.
  return Poll(messages) && device()->verbs().ReqNotifyCq(&pairs_.queue()) == 0 && Poll(messages);
}

bool ServedRail::Poll(std::vector<Message>& messages) {
  constexpr int kBatch = 16;
  std::array<ibv_wc, kBatch> completions;
  for (int count = kBatch; count == kBatch;) {
    count = device()->verbs().PollCq(&pairs_.queue(), kBatch, completions.data());
    if (count < 0) return false;
    for (int i = 0; i < count; ++i) {
      const ibv_wc& completion = completions[static_cast<std::size_t>(i)];
      if (completion.status != IBV_WC_SUCCESS) return false;
      if (completion.wr_id != kReceiveId) continue;  // an answer has arrived there
      const std::optional<MessageNotice> notice = DecodeMessage(completion.imm_data);
      const bool has_notice = completion.opcode == IBV_WC_RECV_RDMA_WITH_IMM && notice;
      if (!has_notice || !device()->PostReceives(pairs_[kShortPair], 1)) return false;
      // A copy, once: the peer may write there again at any time.
      const std::byte* const place = page_.bytes.get() + notice->slot * kMessageBytesMax;
      messages.push_back(
          {notice->slot, std::string(reinterpret_cast<const char*>(place), notice->length_bytes)});
    }
  }
  return true;
}

bool ServedRail::Answer(const AnswerNotice& answer) {
  ibv_send_wr request{};
  request.opcode = IBV_WR_SEND_WITH_IMM;
  request.send_flags = IBV_SEND_SIGNALED;
  request.imm_data = Encode(answer);
  ibv_send_wr* bad = nullptr;
  return device()->verbs().PostSend(&pairs_[kShortPair], &request, &bad) == 0;
}

}  // namespace mooncake::rdma
