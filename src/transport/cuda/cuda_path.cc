#include "transport/cuda/cuda_path.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "wire/rpc.h"

namespace mooncake::cuda {
namespace {

constexpr std::size_t kLanes = 2;
constexpr std::size_t kFreeQueuesMax = 4;
constexpr std::uint64_t kAheadBytesMax = 16 << 20;  // copies between two waits
constexpr std::size_t kCopiesBetweenLooks = 256;

// A call of the driver for each range, and one wait.
constexpr Duration kOpenedFixed = std::chrono::microseconds(12);
constexpr double kOpenedNanosecondsPerRange = 2500;
constexpr double kOpenedNanosecondsPerByte = 0.05;
constexpr Duration kStagedFixed = std::chrono::microseconds(150);
constexpr double kStagedNanosecondsPerRange = 2500;
constexpr double kStagedNanosecondsPerByte = 0.3;

bool IsCancelled(const Transfer& transfer) noexcept {
  return transfer.cancelled != nullptr && *transfer.cancelled;
}

Error Closed() { return {ErrorId::kPathFailed, "the path is closed"}; }

}  // namespace

CudaPath::CudaPath(std::shared_ptr<const CudaPathContext> context,
                   std::shared_ptr<const PeerInfo> peer)
    : shared_(std::move(context)),
      context_(*shared_),
      peer_(std::move(peer)),
      same_host_(IsSameHost(context_.world.network.host(), peer_->host)),
      opened_cost_(kOpenedFixed, kOpenedNanosecondsPerRange, kOpenedNanosecondsPerByte),
      staged_cost_(kStagedFixed, kStagedNanosecondsPerRange, kStagedNanosecondsPerByte) {}

std::optional<Duration> CudaPath::Estimate(const Transfer& transfer) const {
  if (!transfer.on_gpu) return std::nullopt;
  return (IsOpen(transfer) ? opened_cost_ : staged_cost_).Estimate(transfer);
}

// ---- regions that are opened ----

bool CudaPath::MayOpen() const { return same_host_ && context_.gpus->in_use() && !way_refused_; }

bool CudaPath::IsOpen(const Transfer& transfer) const {
  if (!same_host_) return false;
  RegionId last{};
  bool any = false;
  for (const Slice& slice : transfer.slices) {
    if (any && slice.region == last) continue;
    if (!opened_.Find(slice.region)) return false;
    last = slice.region;
    any = true;
    if (transfer.region_count == 1) break;
  }
  return any;
}

bool CudaPath::IsPrepared(const Transfer& transfer) const {
  if (IsOpen(transfer)) return true;
  if (MayOpen()) {
    for (const Slice& slice : transfer.slices) {
      const RegionInfo* const region = peer_->regions->Find(slice.region);
      if (region != nullptr && IsOnGpu(*region) && !opened_.IsDecided(slice.region)) return false;
      if (transfer.region_count == 1) break;
    }
  }
  return lane_count_ > 0;
}

std::vector<RegionInfo> CudaPath::Undecided(const TransferNeeds& needs) const {
  std::vector<RegionInfo> regions;
  for (const RegionId id : needs.remote) {
    const RegionInfo* const region = peer_->regions->Find(id);
    if (region != nullptr && IsOnGpu(*region) && !opened_.IsDecided(id)) regions.push_back(*region);
  }
  return regions;
}

Task<Status> CudaPath::Prepare(TransferNeeds needs, Instant deadline) {
  const auto self = shared_from_this();
  while (preparing_) {
    const auto prepared = std::make_shared<OneShot<bool>>();
    waiting_.push_back(prepared);
    co_await prepared->Get();
  }
  preparing_ = true;
  auto prepare = PrepareAll(std::move(needs), deadline);
  Status outcome = co_await std::move(prepare);
  preparing_ = false;
  for (const auto& waiting : std::exchange(waiting_, {})) waiting->Set(true);
  co_return outcome;
}

Task<Status> CudaPath::PrepareAll(TransferNeeds needs, Instant deadline) {
  if (gate_.closed()) co_return Fail(Closed());
  std::vector<RegionInfo> undecided = Undecided(needs);
  if (MayOpen() && !undecided.empty()) {
    auto open = OpenRegions(std::move(undecided), deadline);
    const Status opened = co_await std::move(open);
    if (!opened) co_return opened;
  }
  const bool all_open = std::all_of(needs.remote.begin(), needs.remote.end(),
                                    [this](RegionId id) { return opened_.Find(id) != nullptr; });
  if (all_open || lane_count_ > 0) co_return Status{};
  auto open = OpenLanes(deadline);
  co_return co_await std::move(open);
}

Task<Status> CudaPath::OpenRegions(std::vector<RegionInfo> regions, Instant deadline) {
  auto ask = AskForHandles(regions, deadline);
  const Result<pb::CudaExportReply> reply = co_await std::move(ask);
  if (!reply && reply.error().id != ErrorId::kGpuCall) co_return Fail(reply.error());
  if (!reply) {
    MC_LOG(info, "GPU memory of {} is moved by way of the host's: {}", peer_->label,
           reply.error().Brief());
    way_refused_ = true;
    co_return Status{};
  }
  const auto opened = std::make_shared<OneShot<bool>>();
  context_.stager->Do([self = shared_from_this(), &regions, &reply, opened] {
    self->OpenOnThread(regions, *reply);
    Post(self->context_.world.control, [opened] { opened->Set(true); });
  });
  co_await opened->Get();
  for (const RegionInfo& region : regions) {
    // What has been unregistered meanwhile, and what comes after the end.
    if (gate_.closed() || peer_->regions->Find(region.id) == nullptr) opened_.Forget(region.id);
  }
  if (gate_.closed()) co_return Fail(Closed());
  co_return Status{};
}

Task<Result<pb::CudaExportReply>> CudaPath::AskForHandles(std::vector<RegionInfo> regions,
                                                          Instant deadline) {
  auto dial = context_.dial(peer_, deadline);
  const Result<std::shared_ptr<BufferedReader>> reader = co_await std::move(dial);
  if (!reader) co_return Fail(reader.error());
  const World& world = context_.world;
  StreamDeadline limit(context_.world, world.control, (*reader)->shared_stream(), deadline);
  pb::CudaExportRequest request;
  for (const RegionInfo& region : regions) {
    pb::CudaExportRequest::Region& wanted = *request.add_regions();
    wanted.set_id(static_cast<std::uint64_t>(region.id));
    wanted.set_key(static_cast<std::uint64_t>(region.key));
  }
  const std::string body = request.SerializeAsString();
  FrameHeader header;
  header.kind = FrameKind::kRequest;
  header.method = static_cast<std::uint16_t>(Method::kCudaExport);
  header.id = 1;
  const Bytes body_bytes = AsBytes(body);
  const Status asked = co_await WriteFrame((*reader)->stream(), header, body_bytes);
  Result<Frame> frame = Fail(ErrorId::kPathFailed, asked ? std::string() : asked.error().context);
  if (asked) frame = co_await (*reader)->ReadFrame();
  limit.Disarm();
  (*reader)->stream().Close();
  if (!frame && limit.passed()) co_return Fail(ErrorId::kDeadline, "asking for GPU memory");
  if (!frame) co_return Fail(frame.error());
  pb::Failure failure;
  if (frame->header.kind == FrameKind::kFailure && failure.ParseFromString(frame->body))
    co_return Fail(Within(peer_->label, FromProto(failure)));
  pb::CudaExportReply reply;
  if (frame->header.kind != FrameKind::kReply || !reply.ParseFromString(frame->body))
    co_return Fail(ErrorId::kBadFrame, "CudaExportReply");
  co_return reply;
}

void CudaPath::OpenOnThread(const std::vector<RegionInfo>& regions,
                            const pb::CudaExportReply& reply) {
  if (const Status proven = Prove(reply); !proven) {
    MC_LOG(info, "GPU memory of {} is moved by way of the host's: {}", peer_->label,
           proven.error().Brief());
    way_refused_ = true;
    return;
  }
  for (const RegionInfo& region : regions) {
    std::shared_ptr<OpenedRegion> opened;
    for (const pb::CudaExportReply::Region& told : reply.regions()) {
      if (told.id() != static_cast<std::uint64_t>(region.id) || told.pieces().empty()) continue;
      Result<std::shared_ptr<OpenedRegion>> made =
          OpenedRegion::Open(*context_.gpus, told, region.length_bytes);
      if (made) opened = std::move(*made);
      if (!made)
        MC_LOG(info, "a GPU region of {} is moved by way of the host: {}", peer_->label,
               made.error().Brief());
    }
    opened_.Decide(region.id, std::move(opened));
  }
}

// What the peer's memory holds, read as transfers will read it.
Status CudaPath::Prove(const pb::CudaExportReply& reply) const {
  if (reply.nonce().empty() || reply.proof_size() != 1)
    return Fail(ErrorId::kMemoryKind, "the peer exports nothing");
  MC_TRY(const std::shared_ptr<OpenedRegion> proof, [&]() -> Result<std::shared_ptr<OpenedRegion>> {
    pb::CudaExportReply::Region told;
    *told.add_pieces() = reply.proof(0);
    return OpenedRegion::Open(*context_.gpus, told, reply.nonce().size());
  }());
  std::string found(reply.nonce().size(), '\0');
  std::uint64_t contiguous = 0;
  MC_TRY(const std::unique_ptr<CopyQueue> queue, context_.gpus->MakeQueue("*"));
  MC_TRY_STATUS(queue->ToHost(found.data(), proof->At(0, contiguous), found.size()));
  MC_TRY_STATUS(queue->Finish());
  if (found != reply.nonce())
    return Fail(ErrorId::kMemoryKind, "its handles open other memory here than there");
  return {};
}

Result<std::unique_ptr<CopyQueue>> CudaPath::TakeQueue() {
  {
    const std::lock_guard lock(queues_mutex_);
    if (!queues_.empty()) {
      std::unique_ptr<CopyQueue> queue = std::move(queues_.back());
      queues_.pop_back();
      return queue;
    }
  }
  return context_.gpus->MakeQueue("*");
}

Status CudaPath::Run(const Transfer& transfer) {
  const CallGate::Pass pass(gate_);
  if (gate_.closed()) return Fail(Closed());
  MC_TRY_STATUS(CheckTransfer(transfer, *peer_->regions));
  MC_TRY(std::unique_ptr<CopyQueue> queue, TakeQueue());
  const Instant begin = context_.world.clock.Now();
  MC_TRY_STATUS(CopyAll(transfer, *queue));
  if (CostModel::IsWorthObserving(transfer))
    opened_cost_.Observe(transfer, context_.world.clock.Now() - begin);
  const bool write = transfer.direction == Direction::kWrite;
  (write ? context_.sent_bytes : context_.received_bytes).Add(transfer.total_bytes);
  const std::lock_guard lock(queues_mutex_);
  if (queues_.size() < kFreeQueuesMax && !gate_.closed()) queues_.push_back(std::move(queue));
  return {};
}

// Every copy has ended when this returns, and not before does anybody close what they use.
Status CudaPath::CopyAll(const Transfer& transfer, CopyQueue& queue) {
  std::map<RegionId, std::shared_ptr<OpenedRegion>> used;
  const Status added = AddCopies(transfer, queue, used);
  const Status finished = queue.Finish();
  return added ? finished : added;
}

Status CudaPath::AddCopies(const Transfer& transfer, CopyQueue& queue,
                           std::map<RegionId, std::shared_ptr<OpenedRegion>>& used) {
  const bool writes = transfer.direction == Direction::kWrite;
  const OpenedRegion* there = nullptr;
  RegionId there_id{};
  LocalMemory::Around here;
  std::uint64_t ahead_bytes = 0;
  std::uint64_t unseen_bytes = kPieceBytesMax;  // since the last look at the deadline
  std::size_t unseen_copies = 0;
  for (const Slice& slice : transfer.slices) {
    if (slice.length_bytes == 0) continue;
    if (there == nullptr || there_id != slice.region) {
      there_id = slice.region;
      std::shared_ptr<OpenedRegion>& held = used[there_id];
      if (!held) held = opened_.Find(there_id);
      if (!held) return Fail(ErrorId::kPathUnusable, "a region that is not prepared");
      there = held.get();
    }
    if (!here.Holds(slice.local)) {
      MC_TRY(here, context_.memory->Find(slice.local));
    }
    for (std::uint64_t done = 0; done < slice.length_bytes;) {
      std::uint64_t piece = 0;
      std::byte* const remote = there->At(slice.offset + done, piece);
      piece = std::min({piece, slice.length_bytes - done, kPieceBytesMax});
      if (unseen_bytes + piece > kPieceBytesMax || ++unseen_copies > kCopiesBetweenLooks) {
        MC_TRY_STATUS(CheckGoing(transfer, *there));
        unseen_bytes = 0;
        unseen_copies = 0;
      }
      const Place local{slice.local + done, here.on_gpu};
      const Place other{remote, true};
      MC_TRY_STATUS(queue.Add(writes ? other : local, writes ? local : other, piece));
      done += piece;
      unseen_bytes += piece;
      ahead_bytes += piece;
      if (ahead_bytes >= kAheadBytesMax) {
        MC_TRY_STATUS(queue.Finish());
        ahead_bytes = 0;
      }
    }
  }
  return {};
}

Status CudaPath::CheckGoing(const Transfer& transfer, const OpenedRegion& region) const {
  if (gate_.closed()) return Fail(Closed());
  if (region.forgotten.load(std::memory_order_acquire))
    return Fail(ErrorId::kRegionUnknown, "the peer has unregistered it");
  return CheckPace(transfer, context_.world.clock);
}

// ---- staged ----

Task<Status> CudaPath::OpenLanes(Instant deadline) {
  for (std::size_t i = 0; i < kLanes; ++i) {
    auto dial = context_.dial(peer_, deadline);
    const Result<std::shared_ptr<BufferedReader>> reader = co_await std::move(dial);
    if (gate_.closed()) co_return Fail(Closed());
    if (!reader) co_return Fail(reader.error());
    const Status moved = (*reader)->stream().MoveTo(context_.world.data);
    if (!moved) co_return moved;
    lane_count_ += 1;
    Post(context_.world.data,
         [self = shared_from_this(), reader = *reader] { self->AddLane(reader); });
  }
  co_return Status{};
}

void CudaPath::AddLane(std::shared_ptr<BufferedReader> reader) {
  const auto lane = std::make_shared<Lane>();
  lane->lane = std::make_shared<StagedLane>(context_.world, context_.stager, context_.memory,
                                            std::move(reader));
  if (closed_) lane->lane->Close(Closed());
  lanes_.push_back(lane);
  Spawn(context_.world.data, Work(lane));
}

Task<void> CudaPath::Work(LanePtr lane) {
  const auto self = shared_from_this();
  while (lane->lane->is_open()) {
    if (queue_.empty()) {
      co_await lane->wake.Wait();
      continue;
    }
    const OperationPtr operation = queue_.front();
    queue_.pop_front();
    operation->lane = lane->lane;
    auto run = lane->lane->Run(*operation->transfer, *peer_->regions);
    Status status = co_await std::move(run);
    operation->lane = nullptr;
    End(operation, std::move(status));
  }
  std::erase(lanes_, lane);
  lane_count_ -= 1;
  if (!lanes_.empty()) co_return;
  while (!queue_.empty()) {
    const OperationPtr operation = queue_.front();
    queue_.pop_front();
    End(operation, Fail(ErrorId::kPathFailed, "cuda, staged: no connection is left"));
  }
}

void CudaPath::Start(const Transfer& transfer, std::function<void(Status)> done) {
  if (closed_) return done(Fail(Closed()));
  if (Status checked = CheckTransfer(transfer, *peer_->regions); !checked)
    return done(std::move(checked));
  if (IsOpen(transfer)) {
    return context_.stager->Do([self = shared_from_this(), &transfer, done = std::move(done)] {
      Post(self->context_.world.data,
           [done, status = self->Run(transfer)]() mutable { done(std::move(status)); });
    });
  }
  if (lanes_.empty())
    return done(Fail(ErrorId::kPathFailed, "cuda, staged: no connection is left"));
  const auto operation = std::make_shared<Operation>();
  operation->transfer = &transfer;
  operation->done = std::move(done);
  operation->begun = context_.world.clock.Now();
  if (transfer.deadline != kNever) {
    operation->timer = context_.world.clock.MakeTimer(context_.world.data);
    operation->timer->At(transfer.deadline, [this, weak = std::weak_ptr(operation)] {
      if (const OperationPtr late = weak.lock())
        GiveUp(late, {ErrorId::kDeadline, "staged to " + peer_->label});
    });
  }
  operations_.push_back(operation);
  queue_.push_back(operation);
  for (const LanePtr& lane : lanes_) lane->wake.Notify();
}

void CudaPath::EndCancelled() {
  const std::vector<OperationPtr> operations = operations_;
  for (const OperationPtr& operation : operations) {
    if (IsCancelled(*operation->transfer)) GiveUp(operation, {ErrorId::kCancelled, {}});
  }
}

// What is under way ends once its memory is left alone.
void CudaPath::GiveUp(const OperationPtr& operation, const Error& cause) {
  if (operation->lane) return operation->lane->Close(cause);
  std::erase(queue_, operation);
  End(operation, Fail(cause));
}

void CudaPath::End(const OperationPtr& operation, Status status) {
  if (!operation->done) return;
  operation->timer = nullptr;
  const Transfer& transfer = *operation->transfer;
  if (status) {
    const bool write = transfer.direction == Direction::kWrite;
    (write ? context_.sent_bytes : context_.received_bytes).Add(transfer.total_bytes);
    if (CostModel::IsWorthObserving(transfer))
      staged_cost_.Observe(transfer, context_.world.clock.Now() - operation->begun);
  }
  std::erase(operations_, operation);
  std::exchange(operation->done, nullptr)(std::move(status));
}

void CudaPath::CloseNow() {
  closed_ = true;
  const std::vector<OperationPtr> waiting(queue_.begin(), queue_.end());
  for (const OperationPtr& operation : waiting) GiveUp(operation, Closed());
  for (const LanePtr& lane : lanes_) {
    lane->lane->Close(Closed());
    lane->wake.Notify();
  }
}

void CudaPath::Close() noexcept {
  gate_.Close();
  gate_.AwaitEmpty();
  std::vector<std::unique_ptr<CopyQueue>> queues;
  {
    const std::lock_guard lock(queues_mutex_);
    queues = std::exchange(queues_, {});
  }
  // Closing handles waits for the driver.
  using Held = std::pair<std::vector<std::shared_ptr<OpenedRegion>>,
                         std::vector<std::unique_ptr<CopyQueue>>>;
  const auto held = std::make_shared<Held>(opened_.TakeAll(), std::move(queues));
  if (!held->first.empty() || !held->second.empty()) context_.stager->Do([held] { *held = {}; });
  Post(context_.world.data, [self = shared_from_this()] { self->CloseNow(); });
}

}  // namespace mooncake::cuda
