#include "bench/limits.h"

#include <algorithm>
#include <array>

namespace mooncake {
namespace {

enum class Command : std::uint64_t { kSink, kSource, kPingPong };

struct CommandBytes {
  std::uint64_t command;
  std::uint64_t bytes;  // of all; for kPingPong: of each message there
  std::uint64_t answer_bytes;
  std::uint64_t spin;
};

constexpr std::size_t kPieceBytes = 1 << 20;
constexpr std::uint64_t kStreamBytesMin =
    64 << 20;  // a stream of less would mostly be its beginning and end
constexpr std::size_t kMessageBytesMax = 4096;

MutableBytes AsWritable(auto& value) {
  return {reinterpret_cast<std::byte*>(&value), sizeof value};
}
Bytes AsReadable(const auto& value) {
  return {reinterpret_cast<const std::byte*>(&value), sizeof value};
}

Status SendAll(PlainSocket& socket, Bytes area, std::uint64_t bytes) {
  for (std::uint64_t done = 0; done < bytes;) {
    const std::size_t at = done % area.size();
    const std::uint64_t piece =
        std::min<std::uint64_t>({kPieceBytes, bytes - done, area.size() - at});
    MC_TRY_STATUS(socket.Send(area.subspan(at, piece)));
    done += piece;
  }
  return {};
}

Status ReceiveAll(PlainSocket& socket, MutableBytes area, std::uint64_t bytes) {
  for (std::uint64_t done = 0; done < bytes;) {
    const std::size_t at = done % area.size();
    const std::uint64_t piece =
        std::min<std::uint64_t>({kPieceBytes, bytes - done, area.size() - at});
    MC_TRY_STATUS(socket.Receive(area.subspan(at, piece)));
    done += piece;
  }
  return {};
}

// Ranges as addresses, made before the clock runs.
struct Piece {
  std::byte* to;
  const std::byte* from;
};

class CopyCall final : public BenchCall {
 public:
  CopyCall(const BenchRow& row, Direction direction, MutableBytes local, MutableBytes remote)
      : length_(row.range_bytes), ranges_(row.ranges) {
    const BenchLayout layout(row, std::min(local.size(), remote.size()));
    pieces_.reserve(layout.positions() * ranges_);
    for (std::size_t position = 0; position < layout.positions(); ++position) {
      for (std::uint32_t i = 0; i < ranges_; ++i) {
        const BenchLayout::Range range = layout.At(position, i);
        std::byte* const here = local.data() + range.local;
        std::byte* const there = remote.data() + range.remote;
        pieces_.push_back(direction == Direction::kWrite ? Piece{there, here} : Piece{here, there});
      }
    }
  }
  Status Run(std::size_t position) override {
    for (std::size_t i = position * ranges_; i < (position + 1) * ranges_; ++i)
      kernel_(pieces_[i].to, pieces_[i].from, length_);
    return {};
  }
  // Tries every kernel on these very copies, and keeps the fastest.
  void ChooseKernel(Clock& clock) {
    const std::size_t positions = pieces_.size() / ranges_;
    constexpr std::uint64_t kTrialBytes = 32 << 20;
    constexpr int kRounds = 3;
    const std::size_t trial =
        std::clamp<std::size_t>(kTrialBytes / (length_ * ranges_), 1, positions);
    Duration least = Duration::max();
    internal::CopyFunction best = kernel_;
    for (int round = 0; round < kRounds; ++round) {
      for (const internal::CopyKernel& kernel : internal::CopyKernels()) {
        // It would win here, where nothing waits for a single call, and lose where something does.
        if (kernel.streams && length_ * ranges_ < internal::kPageBytes) continue;
        kernel_ = kernel.copy;
        const Instant begin = clock.Now();
        for (std::size_t position = 0; position < trial; ++position)
          static_cast<void>(Run(position));
        const Duration took = clock.Now() - begin;
        if (took < least) {
          least = took;
          best = kernel.copy;
        }
      }
    }
    kernel_ = best;
  }

 private:
  std::uint64_t length_;
  std::uint32_t ranges_;
  std::vector<Piece> pieces_;
  internal::CopyFunction kernel_ = internal::CopyMemcpy;
};

class ProcessVmCall final : public BenchCall {
 public:
  ProcessVmCall(const BenchRow& row, Direction direction, MutableBytes local, std::int64_t process,
                std::uint64_t remote_base)
      : process_(process),
        writes_(direction == Direction::kWrite),
        ranges_(row.ranges),
        bytes_(row.bytes()) {
    const BenchLayout layout(row, local.size());
    for (std::size_t position = 0; position < layout.positions(); ++position) {
      for (std::uint32_t i = 0; i < ranges_; ++i) {
        const BenchLayout::Range range = layout.At(position, i);
        local_.push_back({local.data() + range.local, row.range_bytes});
        remote_.push_back({reinterpret_cast<void*>(remote_base + range.remote), row.range_bytes});
      }
    }
  }
  Status Run(std::size_t position) override {
    std::size_t moved = 0;
    for (std::size_t done = 0; done < ranges_; done += kProcessRangesMax) {
      const std::size_t count = std::min<std::size_t>(ranges_ - done, kProcessRangesMax);
      const std::span<const iovec> here(local_.data() + position * ranges_ + done, count);
      const std::span<const iovec> there(remote_.data() + position * ranges_ + done, count);
      MC_TRY(const std::size_t some, writes_ ? WriteProcessMemory(process_, here, there)
                                             : ReadProcessMemory(process_, here, there));
      moved += some;
    }
    if (moved != bytes_)
      return Fail(ErrorId::kOutOfRegion, fmt::format("{} of {} bytes", moved, bytes_));
    return {};
  }

 private:
  std::int64_t process_;
  bool writes_;
  std::uint32_t ranges_;
  std::uint64_t bytes_;
  std::vector<iovec> local_;
  std::vector<iovec> remote_;
};

class StreamCall final : public BenchCall {
 public:
  StreamCall(PlainSocket& socket, const BenchRow& row, Direction direction, MutableBytes local)
      : socket_(socket),
        writes_(direction == Direction::kWrite),
        calls_(row.ranges > 1
                   ? 1
                   : std::max<std::uint64_t>(
                         1, std::min<std::uint64_t>(kStreamBytesMin, local.size()) / row.bytes())),
        bytes_(row.bytes() * calls_),
        local_(local) {}
  std::uint64_t calls_per_run() const noexcept override { return calls_; }
  Status Run(std::size_t) override {
    const CommandBytes command{
        static_cast<std::uint64_t>(writes_ ? Command::kSink : Command::kSource), bytes_, 0, 0};
    MC_TRY_STATUS(socket_.Send(AsReadable(command)));
    if (!writes_) return ReceiveAll(socket_, local_, bytes_);
    MC_TRY_STATUS(SendAll(socket_, local_, bytes_));
    std::byte done{};
    return socket_.Receive(AsWritable(done));
  }

 private:
  PlainSocket& socket_;
  bool writes_;
  std::uint64_t calls_;
  std::uint64_t bytes_;
  MutableBytes local_;
};

// The command stays for all calls: the peer echoes until a message of other content ends it.
class PingPongCall final : public BenchCall {
 public:
  PingPongCall(PlainSocket& socket, const BenchRow& row, Direction direction, bool spin)
      : socket_(socket),
        spin_(spin),
        there_(direction == Direction::kWrite ? row.bytes() : 1),
        back_(direction == Direction::kWrite ? 1 : row.bytes()) {
    MC_ASSERT(there_ <= kMessageBytesMax && back_ <= kMessageBytesMax);
  }
  void Rest() override {
    if (!std::exchange(begun_, false)) return;
    const std::array<std::byte, kMessageBytesMax> end{std::byte{1}};
    static_cast<void>(socket_.Send(Bytes(end).first(there_)));
  }
  Status Run(std::size_t) override {
    if (!std::exchange(begun_, true)) {
      const CommandBytes command{static_cast<std::uint64_t>(Command::kPingPong), there_, back_,
                                 spin_ ? 1U : 0U};
      MC_TRY_STATUS(socket_.Send(AsReadable(command)));
    }
    MC_TRY_STATUS(socket_.Send(Bytes(message_).first(there_)));
    const MutableBytes answer = MutableBytes(answer_).first(back_);
    return spin_ ? socket_.ReceiveSpinning(answer) : socket_.Receive(answer);
  }

 private:
  PlainSocket& socket_;
  bool spin_;
  std::uint64_t there_;
  std::uint64_t back_;
  bool begun_ = false;
  std::array<std::byte, kMessageBytesMax> message_{};
  std::array<std::byte, kMessageBytesMax> answer_{};
};

Status ServePingPong(PlainSocket& socket, const CommandBytes& command) {
  std::array<std::byte, kMessageBytesMax> message{};
  if (command.bytes > message.size() || command.answer_bytes > message.size() ||
      command.bytes == 0) {
    return Fail(ErrorId::kBadFrame, "a ping-pong");
  }
  const MutableBytes there = MutableBytes(message).first(command.bytes);
  for (;;) {
    MC_TRY_STATUS(command.spin != 0 ? socket.ReceiveSpinning(there) : socket.Receive(there));
    if (message[0] != std::byte{0}) return {};
    MC_TRY_STATUS(socket.Send(Bytes(message).first(command.answer_bytes)));
  }
}

}  // namespace

Status ServeLimitCommand(PlainSocket& socket, MutableBytes area) {
  CommandBytes command{};
  MC_TRY_STATUS(socket.Receive(AsWritable(command)));
  switch (static_cast<Command>(command.command)) {
    case Command::kSink: {
      MC_TRY_STATUS(ReceiveAll(socket, area, command.bytes));
      const std::byte done{};
      return socket.Send(AsReadable(done));
    }
    case Command::kSource:
      return SendAll(socket, area, command.bytes);
    case Command::kPingPong:
      return ServePingPong(socket, command);
  }
  return Fail(ErrorId::kBadFrame, "a command of the limits");
}

Result<MappingLimit> MappingLimit::Open(std::int64_t process, std::uint64_t area_bytes) {
  std::unique_ptr<SharedSegment> own;
  Result<UniqueFd> fd = OpenMemfdOf(process, kBenchMemfdName);
  if (!fd) {
    MC_TRY(own, SharedSegment::Create(kBenchMemfdName, area_bytes));
    own->Populate();
    fd = own->Duplicate(true);
    if (!fd) return Fail(fd.error());
  }
  MC_TRY(std::unique_ptr<MappedView> view, MappedView::Map(std::move(*fd), area_bytes, true));
  return MappingLimit(std::move(own), std::move(view));
}

std::unique_ptr<BenchCall> MappingLimit::Prepare(Clock& clock, const BenchRow& row,
                                                 Direction direction, MutableBytes local) const {
  auto call = std::make_unique<CopyCall>(row, direction, local, view_->bytes());
  call->ChooseKernel(clock);
  return call;
}

std::unique_ptr<BenchCall> PrepareProcessVm(const BenchRow& row, Direction direction,
                                            MutableBytes local, std::int64_t process,
                                            std::uint64_t remote_base) {
  return std::make_unique<ProcessVmCall>(row, direction, local, process, remote_base);
}

Result<TcpLimit> TcpLimit::Open(const Endpoint& to) {
  MC_TRY(PlainSocket socket, PlainSocket::Connect(to));
  return TcpLimit(std::move(socket));
}

std::unique_ptr<BenchCall> TcpLimit::PrepareStream(const BenchRow& row, Direction direction,
                                                   MutableBytes local) {
  return std::make_unique<StreamCall>(*socket_, row, direction, local);
}

std::unique_ptr<BenchCall> TcpLimit::PreparePingPong(const BenchRow& row, Direction direction,
                                                     bool spin) {
  return std::make_unique<PingPongCall>(*socket_, row, direction, spin);
}

}  // namespace mooncake
