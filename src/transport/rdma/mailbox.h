// Short messages over a rail. The caller writes one into a slot of a page of the receiver, with an
// immediate that says which; the receiver answers with an immediate alone. Eight are on their way
// at most, so both ends have eight receive requests posted. docs/wire.md has the bits.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "transport/rdma/rail_pairs.h"

namespace mooncake::rdma {

/// Memory of its own at one end of a rail. The receiver's is what the rail is proven with, written
/// by the caller, read back and compared; then it takes messages.
struct RailPage {
  static constexpr std::size_t kBytes = 4096;
  /// On the device, readable and writable from outside if `remote`. Errors as
  /// RdmaDevice::Register().
  [[nodiscard]] static Result<RailPage> Make(RdmaDevice& device, std::size_t length_bytes,
                                             bool remote);
  std::unique_ptr<std::byte[]> bytes;
  MemoryRegion region;  // ends before the bytes
};

inline constexpr std::size_t kMessagesMax = kReceivesMax;  ///< On their way over one rail.
inline constexpr std::size_t kMessageBytesMax = RailPage::kBytes / kMessagesMax;

/// Which slot has a message.
struct MessageNotice {
  std::size_t slot = 0;
  std::size_t length_bytes = 0;
};
/// What became of the message in a slot, which is free again.
struct AnswerNotice {
  std::size_t slot = 0;
  bool taken = false;
};
/// As the 32 bits of an immediate, in network order.
[[nodiscard]] std::uint32_t Encode(const MessageNotice& notice) noexcept;
[[nodiscard]] std::uint32_t Encode(const AnswerNotice& notice) noexcept;
/// Nullopt: no such slot or length, or bits that must be 0 are not.
[[nodiscard]] std::optional<MessageNotice> DecodeMessage(std::uint32_t immediate) noexcept;
[[nodiscard]] std::optional<AnswerNotice> DecodeAnswer(std::uint32_t immediate) noexcept;

/// The caller's slots. One thread at a time.
class Outbox {
 public:
  /// Told once whether the peer has taken the message; false also where nobody knows.
  using Answered = std::function<void(bool taken)>;

  Outbox() = default;
  /// `page` is ours; the other two are where the peer's is.
  Outbox(RailPage page, std::uint64_t remote_address, std::uint32_t remote_key)
      : page_(std::move(page)), remote_address_(remote_address), remote_key_(remote_key) {}

  [[nodiscard]] bool HasRoom() const noexcept { return page_.bytes && taken_ < kMessagesMax; }
  /// Whether an answer is due.
  [[nodiscard]] bool is_waiting() const noexcept { return taken_ > 0; }
  /// Takes a slot, of which there is one, and makes the request that fills the peer's. The message
  /// has at most kMessageBytesMax bytes. `request` points to `entry`.
  void Put(std::string_view message, Answered answered, ibv_send_wr& request, ibv_sge& entry);
  /// What was put last has not been posted: its slot is free again, and nobody is told.
  void Undo() noexcept;
  /// Tells whoever an immediate answers. False: it answers nothing.
  [[nodiscard]] bool Answer(std::uint32_t immediate);
  /// No answer comes any more: tells all who wait.
  void Abandon();

 private:
  RailPage page_;
  std::uint64_t remote_address_ = 0;
  std::uint32_t remote_key_ = 0;
  std::array<Answered, kMessagesMax> waiting_;
  std::size_t taken_ = 0;  // slots in waiting_
  std::size_t last_ = 0;   // the slot that was put last
};

/// The receiver's end of a rail. One thread at a time.
class ServedRail {
 public:
  /// Its completions are told with `cookie`. Errors: kQueuePairBudget, kRdmaCall, kMemoryLock.
  [[nodiscard]] static Result<ServedRail> Make(const std::shared_ptr<RdmaDevice>& device,
                                               std::uint64_t cookie);
  /// Connects it as RailPairs::Connect() does, and takes messages from now on. kRdmaCall.
  [[nodiscard]] Status Connect(const RailEnds& here, const RailEnds& there,
                               const AddressPair& addresses);

  [[nodiscard]] const RailPairs& pairs() const noexcept { return pairs_; }
  [[nodiscard]] const std::shared_ptr<RdmaDevice>& device() const noexcept {
    return pairs_.device();
  }
  [[nodiscard]] const RailPage& page() const noexcept { return page_; }
  [[nodiscard]] std::uint64_t cookie() const noexcept { return cookie_; }

  struct Message {
    std::size_t slot = 0;
    std::string bytes;
  };
  /// Appends what has come since the last call. False: the pair is broken, or the peer says what
  /// cannot be.
  [[nodiscard]] bool Receive(std::vector<Message>& messages);
  /// False: the pair is broken.
  [[nodiscard]] bool Answer(const AnswerNotice& answer);

 private:
  ServedRail(std::uint64_t cookie, RailPage page, RailPairs pairs)
      : cookie_(cookie), page_(std::move(page)), pairs_(std::move(pairs)) {}
  [[nodiscard]] bool Poll(std::vector<Message>& messages);

  std::uint64_t cookie_;
  RailPage page_;  // outlives the pairs
  RailPairs pairs_;
};

}  // namespace mooncake::rdma
