#include "engine/own_memory.h"

#include <fmt/format.h>

#include "base/log.h"
#include "engine/region_messages.h"

namespace mooncake {
namespace {

constexpr std::size_t kRegionsPerPage = 4096;

Error StillCopied(RegionId id) {
  return {ErrorId::kDeadline,
          fmt::format("region {} is still being copied", static_cast<std::uint64_t>(id))};
}

}  // namespace

OwnMemory::OwnMemory(World& world, Duration unregister_timeout)
    : world_(world),
      unregister_timeout_(unregister_timeout),
      regions_(std::make_shared<RegionTable>(world.random)),
      background_(world.threads.MakeWorker(WorkerUrgency::kWhenIdle)) {}

Result<RegionInfo> OwnMemory::Register(void* base, std::uint64_t length_bytes,
                                       RegisterOptions options) {
  MC_TRY(std::string gpu, gpus_->Locate(base, length_bytes));
  const bool any = options.location == "*";
  if (gpu.empty() && !any && IsGpuLocation(options.location)) {
    const std::string absence = gpus_->Absence();
    return Fail(ErrorId::kBadRange,
                fmt::format("{} bytes at {} are memory of the host, not of {}{}{}", length_bytes,
                            base, options.location, absence.empty() ? "" : ": ", absence));
  }
  if (!gpu.empty() && !any && options.location != gpu) {
    return Fail(ErrorId::kBadRange, fmt::format("{} bytes at {} are memory of {}, not of {}",
                                                length_bytes, base, gpu, options.location));
  }
  if (!gpu.empty()) options.location = std::move(gpu);
  return regions_->Register(base, length_bytes, options);
}

Result<RegionInfo> OwnMemory::Allocate(const std::string& name, std::uint64_t length_bytes,
                                       const RegisterOptions& options) {
  if (IsGpuLocation(options.location))
    return Fail(ErrorId::kBadRange, "memory is allocated on the host, not on " + options.location);
  MC_TRY(std::unique_ptr<SharedSegment> segment, SharedSegment::Create(name, length_bytes));
  MC_TRY(const RegionInfo info, regions_->Register(*segment, options));
  SharedSegment* const borrowed = segment.get();
  {
    const std::lock_guard lock(segments_mutex_);
    segments_.emplace(info.id, std::move(segment));
  }
  // The pin keeps Unregister() from freeing what is being populated.
  const Result<PinnedRange> pin = regions_->Pin(info.id, info.key, Access::kRead);
  if (pin) {
    background_->Add([borrowed, pin = *pin] { borrowed->Populate(); });
  }
  return info;
}

Task<Result<bool>> OwnMemory::WaitUntilUnused(RegionId id, Instant deadline) {
  const auto self = shared_from_this();
  const auto end = std::make_shared<OneShot<bool>>();
  MC_CO_TRY_STATUS(regions_->Unregister(
      id, [loop = world_.control, end] { Post(loop, [end] { end->Set(true); }); }));
  auto unused = WaitUntil(world_.clock, world_.control, end, deadline);
  co_return co_await std::move(unused);
}

Task<Status> OwnMemory::Unregister(RegionId id, std::function<Task<void>(RegionId)> withdraw) {
  const auto self = shared_from_this();
  {
    const std::lock_guard lock(segments_mutex_);
    if (const auto found = segments_.find(id); found != segments_.end())
      found->second->StopPopulating();
  }
  const Instant deadline = After(world_.clock.Now(), unregister_timeout_);
  const Result<bool> unused = co_await WaitUntilUnused(id, deadline);
  if (!unused) co_return Fail(unused.error());
  Status heard = co_await TellCallers(id, deadline);
  auto withdrawn = withdraw(id);
  co_await std::move(withdrawn);
  if (!*unused) co_return Fail(StillCopied(id));  // what is still copied stays mapped
  const std::lock_guard lock(segments_mutex_);
  segments_.erase(id);
  co_return heard;
}

struct OwnMemory::Telling {
  std::size_t left = 1;
  Status outcome;
  OneShot<bool> end;
  void Done() {
    if (--left == 0) end.Set(true);
  }
};

// Whoever connected to us may have mapped the region. All at once: one that does not answer keeps
// nobody else from knowing.
Task<Status> OwnMemory::TellCallers(RegionId id, Instant deadline) {
  const auto self = shared_from_this();
  pb::ForgetRegionsRequest request;
  request.add_ids(static_cast<std::uint64_t>(id));
  const auto telling = std::make_shared<Telling>();
  for (const auto& weak : callers_) {
    const std::shared_ptr<RpcConnection> caller = weak.lock();
    if (!caller || !caller->is_open()) continue;
    telling->left += 1;
    Spawn(world_.control, Tell(caller, request.SerializeAsString(), deadline, telling));
  }
  telling->Done();
  co_await telling->end.Get();
  co_return telling->outcome;
}

Task<void> OwnMemory::Tell(std::shared_ptr<RpcConnection> caller, std::string body,
                           Instant deadline, std::shared_ptr<Telling> telling) {
  auto call = caller->Call(Method::kForgetRegions, std::move(body), deadline);
  const Result<Reply> reply = co_await std::move(call);
  if (!reply && reply.error().id == ErrorId::kDeadline)
    telling->outcome = Fail(Within("unregister", reply.error()));
  telling->Done();
}

Result<Reply> OwnMemory::List(const Frame& request) const {
  pb::ListRegionsRequest body;
  if (!Parse(request.body, body)) return Fail(ErrorId::kBadFrame, "ListRegionsRequest");
  const std::vector<RegionInfo> page = regions_->List(RegionId{body.after_id()}, kRegionsPerPage);
  pb::ListRegionsReply reply;
  for (const RegionInfo& region : page) *reply.add_regions() = ToProto(region);
  reply.set_more(page.size() == kRegionsPerPage);
  reply.set_version(regions_->version());
  return MakeReply(reply);
}

void OwnMemory::AddCaller(const std::shared_ptr<RpcConnection>& caller) {
  std::erase_if(callers_, [](const auto& c) { return c.expired(); });
  callers_.push_back(caller);
}

void OwnMemory::StopPopulating() {
  const std::lock_guard lock(segments_mutex_);
  for (const auto& [id, segment] : segments_) segment->StopPopulating();
}

Task<void> OwnMemory::Close() {
  const auto self = shared_from_this();
  co_await Finished(*background_, world_.control);
  background_->Stop();
  for (;;) {
    const std::vector<RegionInfo> left = regions_->All(kRegionsPerPage);
    if (left.empty()) co_return;
    for (const RegionInfo& region : left) {
      const Instant deadline = After(world_.clock.Now(), unregister_timeout_);
      const Result<bool> unused = co_await WaitUntilUnused(region.id, deadline);
      if (unused && !*unused) MC_LOG(warn, "{}", StillCopied(region.id).Text());
    }
  }
}

}  // namespace mooncake
