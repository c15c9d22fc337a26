#include "drop_in/transfer_engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "drop_in/fork_mark.h"
#include "drop_in/report.h"
#include "drop_in/running_engine.h"
#include "engine/local_pins.h"

namespace mooncake::drop_in {
namespace {

constexpr int kAttemptsMax = 3;

Error NotInitialized() {
  return {ErrorId::kNotInitialized, "or this process was forked from the one that it runs in"};
}

Error NoSuchTransfer(std::uint64_t id) {
  return {ErrorId::kBadRange, fmt::format("there is no transfer {}", id)};
}

std::byte* ToPointer(std::uint64_t address) { return reinterpret_cast<std::byte*>(address); }

int ReportUnknown(std::string_view what, std::uint64_t address) {
  Report(what,
         Error{ErrorId::kRegionUnknown, fmt::format("no registration begins at {:#x}", address)});
  return kAddressNotRegistered;
}

// Every protocol that a client asks for is served by the transports that work, but for those whose
// clients allocate memory in ways that none of them knows.
Status CheckProtocol(std::string_view protocol) {
  for (const std::string_view device : {"nvlink", "nvlink_intra", "hip"}) {
    if (protocol == device)
      return Fail(ErrorId::kMemoryKind,
                  fmt::format("the protocol {} is not built; under rdma or tcp, memory of NVIDIA's "
                              "GPUs goes whichever way works",
                              protocol));
  }
  return {};
}

// Whether a registration of the client's own begins there, not one of managed memory.
bool IsClients(RunningEngine& running, std::uint64_t address) {
  return running.engine().regions()->FindBase(ToPointer(address)).has_value() &&
         !running.managed().Owns(address);
}

Status CheckShape(const Ranges& ranges) {
  if (ranges.local.size() == ranges.remote.size() && ranges.local.size() == ranges.lengths.size())
    return {};
  return Fail(ErrorId::kBadRange,
              fmt::format("{} local addresses, {} remote ones, {} lengths", ranges.local.size(),
                          ranges.remote.size(), ranges.lengths.size()));
}

// One engine's call runs no other on its thread: one list per thread serves all of them.
std::vector<Slice>& Scratch() {
  thread_local std::vector<Slice> slices;
  slices.clear();
  return slices;
}

// The index of the first range that no region of the peer holds; nullopt: `slices` has them all.
std::optional<std::size_t> ToSlices(const Ranges& ranges, const AddressIndex& index,
                                    std::vector<Slice>& slices) {
  std::size_t hint = 0;
  slices.clear();
  slices.reserve(ranges.lengths.size());
  for (std::size_t i = 0; i < ranges.lengths.size(); ++i) {
    const std::uint64_t length = ranges.lengths[i];
    if (length == 0) continue;
    const AddressIndex::Entry* const entry = index.Find(ranges.remote[i], length, hint);
    if (entry == nullptr) return i;
    slices.push_back(
        {ToPointer(ranges.local[i]), entry->region, ranges.remote[i] - entry->base, length});
  }
  return std::nullopt;
}

// Of memory that is pinned.
Status CopyWithinGpus(RunningEngine& running, const Ranges& ranges, bool writes) {
  const auto place = [&](std::uint64_t address, std::uint64_t length) -> Result<Place> {
    MC_TRY(const RegionInfo region,
           running.engine().regions()->FindLocal(ToPointer(address), length));
    return Place{ToPointer(address), IsOnGpu(region)};
  };
  MC_TRY(const auto queue, running.engine().gpus()->MakeQueue("*"));
  for (std::size_t i = 0; i < ranges.lengths.size(); ++i) {
    if (ranges.lengths[i] == 0) continue;
    MC_TRY(const Place local, place(ranges.local[i], ranges.lengths[i]));
    MC_TRY(const Place remote, place(ranges.remote[i], ranges.lengths[i]));
    MC_TRY_STATUS(queue->Add(writes ? remote : local, writes ? local : remote, ranges.lengths[i]));
  }
  return queue->Finish();
}

Status CopyWithin(RunningEngine& running, const Ranges& ranges, Opcode opcode) {
  LocalPins memory(*running.engine().regions());
  // All before a byte has moved.
  for (std::size_t i = 0; i < ranges.lengths.size(); ++i) {
    MC_TRY_STATUS(memory.Hold(ToPointer(ranges.local[i]), ranges.lengths[i]));
    MC_TRY_STATUS(memory.Hold(ToPointer(ranges.remote[i]), ranges.lengths[i]));
  }
  const bool writes = opcode == Opcode::kWrite;
  if (memory.on_gpu()) return CopyWithinGpus(running, ranges, writes);
  for (std::size_t i = 0; i < ranges.lengths.size(); ++i) {
    if (ranges.lengths[i] == 0) continue;
    std::memmove(ToPointer(writes ? ranges.remote[i] : ranges.local[i]),
                 ToPointer(writes ? ranges.local[i] : ranges.remote[i]), ranges.lengths[i]);
  }
  return {};
}

// The segment, and the ranges as slices of its regions. A range that is not known may be newer than
// what is: the peer is asked once.
Result<Segment> Resolve(RunningEngine& running, const std::string& name, const Ranges& ranges,
                        Instant deadline, std::vector<Slice>& slices) {
  MC_TRY(Segment segment, running.Find(name, deadline));
  std::optional<std::size_t> missing = ToSlices(ranges, *segment.addresses, slices);
  if (missing) {
    MC_TRY(segment, running.Refresh(name, deadline));
    missing = ToSlices(ranges, *segment.addresses, slices);
  }
  if (!missing) return segment;
  return Fail(ErrorId::kRegionUnknown,
              fmt::format("range {}: no memory that {} has registered holds {} bytes at {:#x}",
                          *missing, name, ranges.lengths[*missing], ranges.remote[*missing]));
}

Direction ToDirection(Opcode opcode) {
  return opcode == Opcode::kWrite ? Direction::kWrite : Direction::kRead;
}

BatchOptions ToOptions(const TransferNotify* notify, Instant deadline) {
  BatchOptions options;
  options.deadline = deadline;
  if (notify != nullptr) options.notify.emplace(notify->name, notify->message);
  return options;
}

// Whether the same call may succeed now: the peer's process has been replaced, or its memory has
// been registered anew.
bool MayFindAgain(const Error& error) {
  return error.code() == Errc::kPeerGone || error.id == ErrorId::kRegionUnknown ||
         error.id == ErrorId::kBadRegionKey;
}

}  // namespace

// What TransferAsync() has started and nobody has asked the end of; what this engine told itself.
struct TransferEngine::Batches {
  std::mutex mutex;
  std::uint64_t next_id = 1;                                // guarded by mutex
  std::map<std::uint64_t, std::shared_ptr<Batch>> running;  // guarded by mutex; null: done

  std::uint64_t Add(std::shared_ptr<Batch> batch) {
    const std::lock_guard lock(mutex);
    running.emplace(next_id, std::move(batch));
    return next_id++;
  }
  std::optional<std::shared_ptr<Batch>> Find(std::uint64_t id) {
    const std::lock_guard lock(mutex);
    const auto found = running.find(id);
    if (found == running.end()) return std::nullopt;
    return found->second;
  }
  void Forget(std::uint64_t id) {
    const std::lock_guard lock(mutex);
    running.erase(id);
  }
  // Batches hold on to their engine's world, so they go first.
  void EndAll() {
    for (const auto& [id, batch] : running) {
      if (batch) batch->Cancel();
    }
    for (const auto& [id, batch] : running) {
      if (batch) static_cast<void>(batch->Wait());
    }
    running.clear();
  }

  std::vector<TransferNotify> own;  // guarded by mutex
  void Deliver(const TransferNotify& notify) {
    const std::lock_guard lock(mutex);
    own.push_back(notify);
  }
  std::vector<TransferNotify> TakeOwn() {
    const std::lock_guard lock(mutex);
    return std::exchange(own, {});
  }
};

TransferEngine::TransferEngine()
    : mark_(std::make_unique<ForkMark>()), batches_(std::make_unique<Batches>()) {}

TransferEngine::~TransferEngine() {
  if (mark_->in_child()) {
    static_cast<void>(owned_.release());  // its threads are the parent's
    static_cast<void>(batches_.release());
    return;
  }
  batches_->EndAll();
}

RunningEngine* TransferEngine::running() const noexcept {
  return mark_->in_child() ? nullptr : running_.load(std::memory_order_acquire);
}

int TransferEngine::Initialize(std::string_view local_hostname, std::string_view metadata_server,
                               std::string_view protocol, std::string_view devices) noexcept {
  return InitializeExt(local_hostname, metadata_server, protocol, devices, {});
}

int TransferEngine::InitializeExt(std::string_view local_hostname, std::string_view metadata_server,
                                  std::string_view protocol, std::string_view devices,
                                  std::string_view metadata_type) noexcept {
  if (mark_->in_child()) return Report("initialize", NotInitialized());
  if (const Status known = CheckProtocol(protocol); !known)
    return Report("initialize", known.error());
  const std::lock_guard lock(initialize_mutex_);
  if (owned_) return Report("initialize", Error{ErrorId::kNotInitialized, "it already is"});
  try {
    Result<std::unique_ptr<RunningEngine>> opened =
        RunningEngine::Open(local_hostname, metadata_server, metadata_type, protocol, devices);
    if (!opened) return Report("initialize", opened.error());
    owned_ = std::move(*opened);
  } catch (const std::exception& failure) {  // no thread, no descriptor for a loop
    return Report("initialize", Error{ErrorId::kNoDescriptors, failure.what()});
  }
  running_.store(owned_.get(), std::memory_order_release);
  return kOk;
}

int TransferEngine::rpc_port() const noexcept {
  const RunningEngine* const engine = running();
  return engine == nullptr ? int{kFailed} : int{engine->port()};
}

std::string TransferEngine::LocalAddress() const noexcept {
  const RunningEngine* const engine = running();
  return engine == nullptr ? std::string() : engine->address();
}

std::string TransferEngine::SegmentName() const noexcept {
  const RunningEngine* const engine = running();
  return engine == nullptr ? std::string() : engine->name();
}

// ---- memory ----

int TransferEngine::RegisterMemory(std::uint64_t address, std::uint64_t length_bytes,
                                   std::string_view location, bool remote_accessible) noexcept {
  RunningEngine* const engine = running();
  if (engine == nullptr) return Report("register_memory", NotInitialized());
  RegisterOptions options;
  options.location = std::string(location);
  options.listed = remote_accessible;
  const Result<RegionInfo> region =
      engine->engine().Register(ToPointer(address), length_bytes, options);
  if (region) return kOk;
  Report("register_memory", region.error());
  return region.error().id == ErrorId::kRegionExists ? kAddressOverlap : kFailed;
}

int TransferEngine::UnregisterMemory(std::uint64_t address) noexcept {
  RunningEngine* const engine = running();
  if (engine == nullptr) return Report("unregister_memory", NotInitialized());
  const Result<RegionInfo> region = engine->engine().regions()->FindBase(ToPointer(address));
  if (!region || !IsClients(*engine, address)) return ReportUnknown("unregister_memory", address);
  const Status ended = engine->engine().Unregister(region->id);
  if (ended) return kOk;
  Report("unregister_memory", ended.error());
  return ended.error().id == ErrorId::kRegionUnknown ? kAddressNotRegistered : kFailed;
}

int TransferEngine::BatchRegisterMemory(std::span<const std::uint64_t> addresses,
                                        std::span<const std::uint64_t> lengths_bytes,
                                        std::string_view location) noexcept {
  if (addresses.size() != lengths_bytes.size()) {
    return Report("batch_register_memory",
                  Error{ErrorId::kBadRange, fmt::format("{} addresses and {} lengths",
                                                        addresses.size(), lengths_bytes.size())});
  }
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    const int outcome = RegisterMemory(addresses[i], lengths_bytes[i], location);
    if (outcome == kOk) continue;
    while (i-- > 0) static_cast<void>(UnregisterMemory(addresses[i]));
    return outcome;
  }
  return kOk;
}

int TransferEngine::BatchUnregisterMemory(std::span<const std::uint64_t> addresses) noexcept {
  RunningEngine* const engine = running();
  if (engine == nullptr) return Report("batch_unregister_memory", NotInitialized());
  std::set<std::uint64_t> seen;
  for (const std::uint64_t address : addresses) {
    if (IsClients(*engine, address) && seen.insert(address).second) continue;
    return ReportUnknown("batch_unregister_memory", address);
  }
  int outcome = kOk;
  for (const std::uint64_t address : addresses) {
    if (const int one = UnregisterMemory(address); one != kOk) outcome = one;
  }
  return outcome;
}

bool TransferEngine::IsRegistered(std::uint64_t address,
                                  std::uint64_t length_bytes) const noexcept {
  RunningEngine* const engine = running();
  if (engine == nullptr) return false;
  return length_bytes == 0 ||
         engine->engine().regions()->FindLocalBytes(ToPointer(address), length_bytes).has_value();
}

std::uint64_t TransferEngine::AllocateManagedBuffer(std::uint64_t length_bytes) noexcept {
  RunningEngine* const engine = running();
  if (engine == nullptr) {
    Report("allocate_managed_buffer", NotInitialized());
    return 0;
  }
  const Result<std::uint64_t> address = engine->managed().Allocate(length_bytes);
  if (address) return *address;
  Report("allocate_managed_buffer", address.error());
  return 0;
}

int TransferEngine::FreeManagedBuffer(std::uint64_t address) noexcept {
  RunningEngine* const engine = running();
  if (engine == nullptr) return Report("free_managed_buffer", NotInitialized());
  const Status freed = engine->managed().Free(address);
  if (freed) return kOk;
  Report("free_managed_buffer", freed.error());
  return freed.error().id == ErrorId::kRegionUnknown ? kAddressNotRegistered : kFailed;
}

int TransferEngine::ReserveManagedMemory() noexcept {
  const std::uint64_t buffer = AllocateManagedBuffer(1);
  return buffer == 0 ? int{kFailed} : FreeManagedBuffer(buffer);
}

// ---- moving bytes ----

int TransferEngine::TransferSync(std::string_view segment, std::uint64_t local,
                                 std::uint64_t remote, std::uint64_t length_bytes, Opcode opcode,
                                 const TransferNotify* notify) noexcept {
  return TransferSync(segment, {{&local, 1}, {&remote, 1}, {&length_bytes, 1}}, opcode, notify);
}

int TransferEngine::TransferSync(std::string_view segment, const Ranges& ranges, Opcode opcode,
                                 const TransferNotify* notify) noexcept {
  RunningEngine* const engine = ReadyFor(ranges);
  if (engine == nullptr) return kFailed;
  return Move(*engine, std::string(segment), ranges, opcode, notify);
}

RunningEngine* TransferEngine::ReadyFor(const Ranges& ranges) const noexcept {
  RunningEngine* const engine = running();
  const Status ready = engine == nullptr ? Fail(NotInitialized()) : CheckShape(ranges);
  if (ready) return engine;
  Report("transfer", ready.error());
  return nullptr;
}

int TransferEngine::Move(RunningEngine& running, const std::string& segment, const Ranges& ranges,
                         Opcode opcode, const TransferNotify* notify) {
  if (running.IsSelf(segment)) {
    const Status copied = CopyWithin(running, ranges, opcode);
    if (!copied) return Report("transfer", copied.error());
    if (notify != nullptr) batches_->Deliver(*notify);
    return kOk;
  }
  const Instant deadline = running.Deadline();
  std::vector<Slice>& slices = Scratch();
  Error last;
  std::optional<InstanceId> told;  // who may have had the notification already
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    const Result<Segment> found = Resolve(running, segment, ranges, deadline, slices);
    if (!found) return Report("transfer", found.error());
    if (told == found->peer->identity().id) break;
    const Status moved =
        running.engine().Run(found->peer, ToDirection(opcode), slices, ToOptions(notify, deadline));
    if (moved) return kOk;
    last = moved.error();
    if (!MayFindAgain(last)) break;
    if (notify != nullptr && last.code() == Errc::kPeerGone) told = found->peer->identity().id;
    running.Forget(segment, found->peer);
  }
  return Report("transfer", last);
}

std::uint64_t TransferEngine::TransferAsync(std::string_view segment, const Ranges& ranges,
                                            Opcode opcode, const TransferNotify* notify) noexcept {
  RunningEngine* const engine = ReadyFor(ranges);
  if (engine == nullptr) return 0;
  const std::string name(segment);
  if (engine->IsSelf(name))
    return Move(*engine, name, ranges, opcode, notify) == kOk ? batches_->Add(nullptr) : 0;
  const Instant deadline = engine->Deadline();
  std::vector<Slice> slices;
  const Result<Segment> found = Resolve(*engine, name, ranges, deadline, slices);
  if (!found) {
    Report("transfer", found.error());
    return 0;
  }
  const std::shared_ptr<Batch> batch = engine->engine().Submit(
      found->peer, ToDirection(opcode), std::move(slices), ToOptions(notify, deadline));
  // Whoever asks for its end is told that it has failed, not why.
  batch->OnDone([](const Status& ended) {
    if (!ended && ended.error().code() != Errc::kCancelled) Report("transfer", ended.error());
  });
  return batches_->Add(batch);
}

std::optional<std::uint64_t> TransferEngine::TryTransferAsync(
    std::string_view segment, const Ranges& ranges, Opcode opcode,
    const TransferNotify* notify) noexcept {
  RunningEngine* const engine = ReadyFor(ranges);
  if (engine == nullptr) return 0;
  std::optional<Segment> known = engine->Known(std::string(segment));
  std::vector<Slice> slices;
  if (!known || ToSlices(ranges, *known->addresses, slices)) return std::nullopt;
  return batches_->Add(engine->engine().Submit(known->peer, ToDirection(opcode), std::move(slices),
                                               ToOptions(notify, engine->Deadline())));
}

void TransferEngine::OnEnd(std::uint64_t id, std::function<void(const Status&)> call) noexcept {
  const std::optional<std::shared_ptr<Batch>> batch =
      running() == nullptr ? std::nullopt : batches_->Find(id);
  if (!batch) {
    call(Fail(NoSuchTransfer(id)));
  } else if (*batch) {
    (*batch)->OnDone(std::move(call));
  } else {
    call({});
  }
}

void TransferEngine::Cancel(std::uint64_t id) noexcept {
  if (running() == nullptr) return;
  const std::optional<std::shared_ptr<Batch>> batch = batches_->Find(id);
  if (batch && *batch) (*batch)->Cancel();
}

int TransferEngine::WaitAll(std::span<const std::uint64_t> ids) noexcept {
  if (running() == nullptr) return Report("transfer status", NotInitialized());
  int outcome = kOk;
  for (const std::uint64_t id : ids) {
    const std::optional<std::shared_ptr<Batch>> batch = batches_->Find(id);
    if (!batch) {
      outcome = Report("transfer status", NoSuchTransfer(id));
    } else if (*batch && !(*batch)->Wait()) {
      outcome = kFailed;
    }
    batches_->Forget(id);
  }
  return outcome;
}

int TransferEngine::PeekStatus(std::uint64_t id) const noexcept {
  if (running() == nullptr) return kBroken;
  const std::optional<std::shared_ptr<Batch>> batch = batches_->Find(id);
  if (!batch) return kBroken;
  if (!*batch) return kDone;
  const std::optional<Status> ended = (*batch)->Poll();
  if (!ended) return kUnderWay;
  if (*ended) return kDone;
  return ended->error().id == ErrorId::kDeadline ? kTimedOut : kBroken;
}

int TransferEngine::CheckStatus(std::uint64_t id) noexcept {
  const int status = PeekStatus(id);
  if (status != kUnderWay) batches_->Forget(id);
  return status;
}

int TransferEngine::AwaitStatus(std::uint64_t id) const noexcept {
  if (running() == nullptr) return kBroken;
  const std::optional<std::shared_ptr<Batch>> batch = batches_->Find(id);
  if (batch && *batch) static_cast<void>((*batch)->Wait());
  return PeekStatus(id);
}

void TransferEngine::Release(std::uint64_t id) noexcept {
  static_cast<void>(AwaitStatus(id));
  if (running() != nullptr) batches_->Forget(id);
}

// ---- peers ----

int TransferEngine::OpenSegment(std::string_view segment) noexcept {
  RunningEngine* const engine = running();
  if (engine == nullptr) return Report("open segment", NotInitialized());
  if (engine->IsSelf(segment)) return kOk;
  const Result<Segment> found = engine->Find(std::string(segment), engine->ProbeDeadline());
  return found ? kOk : Report("open segment", found.error());
}

int TransferEngine::SendProbe(std::string_view segment) noexcept {
  RunningEngine* const engine = running();
  if (engine == nullptr) return Report("probe", NotInitialized());
  if (engine->IsSelf(segment)) return kOk;
  const Result<Segment> answered = engine->Refresh(std::string(segment), engine->ProbeDeadline());
  return answered ? kOk : Report("probe", answered.error());
}

int TransferEngine::SendNotify(std::string_view segment, const TransferNotify& notify) noexcept {
  RunningEngine* const engine = running();
  if (engine == nullptr) return Report("notify", NotInitialized());
  if (engine->IsSelf(segment)) {
    batches_->Deliver(notify);
    return kOk;
  }
  const std::string name(segment);
  const Instant deadline = engine->Deadline();
  const Result<Segment> found = engine->Find(name, deadline);
  if (!found) return Report("notify", found.error());
  const Status told = engine->Notify(found->peer, notify, deadline);
  return told ? kOk : Report("notify", told.error());
}

std::vector<TransferNotify> TransferEngine::TakeNotifies() noexcept {
  RunningEngine* const engine = running();
  if (engine == nullptr) return {};
  std::vector<TransferNotify> all = batches_->TakeOwn();
  for (Notification& each : engine->engine().TakeNotifications())
    all.push_back({std::move(each.name), std::move(each.message)});
  return all;
}

std::uint64_t TransferEngine::FirstBufferAddress(std::string_view segment) noexcept {
  RunningEngine* const engine = running();
  if (engine == nullptr) return 0;
  if (engine->IsSelf(segment)) {
    const RegionTable& regions = *engine->engine().regions();
    return AddressIndex(regions.List(RegionId{0}, regions.size())).first_base();
  }
  const Result<Segment> found = engine->Refresh(std::string(segment), engine->ProbeDeadline());
  if (found) return found->addresses->first_base();
  Report("first buffer address", found.error());
  return 0;
}

std::vector<PathUse> TransferEngine::Paths(std::string_view segment) noexcept {
  RunningEngine* const engine = running();
  if (engine == nullptr) return {};
  const std::optional<Segment> known = engine->Known(std::string(segment));
  if (!known) return {};
  std::vector<PathUse> paths;
  for (PathRow& row : engine->engine().Paths()) {
    if (row.usable && row.peer == known->peer->identity().id)
      paths.push_back({std::move(row.transport), row.bytes});
  }
  return paths;
}

}  // namespace mooncake::drop_in
