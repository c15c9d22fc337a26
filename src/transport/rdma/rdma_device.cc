#include "transport/rdma/rdma_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/units.h"

namespace mooncake::rdma {
namespace {

constexpr int kEntriesMax = 8;
constexpr std::uint32_t kInlineBytes = 64;
constexpr std::uint32_t kReadsMax = 16;
constexpr std::uint8_t kHopLimit = 64;
constexpr std::uint8_t kReceiverNotReadyTimer = 12;  // 0.64 ms
constexpr std::uint8_t kReceiverNotReadyRetries = 7;

std::uint32_t Bytes(ibv_mtu mtu) noexcept { return 128U << static_cast<unsigned>(mtu); }
ibv_mtu ToMtu(std::uint32_t bytes) noexcept {
  for (const ibv_mtu mtu : {IBV_MTU_4096, IBV_MTU_2048, IBV_MTU_1024, IBV_MTU_512}) {
    if (bytes >= Bytes(mtu)) return mtu;
  }
  return IBV_MTU_256;
}

int AccessFor(bool remote_read, bool remote_write) noexcept {
  return IBV_ACCESS_LOCAL_WRITE | (remote_read ? IBV_ACCESS_REMOTE_READ : 0) |
         (remote_write ? IBV_ACCESS_REMOTE_WRITE : 0);
}

double GigabitsPerSecond(const ibv_port_attr& port) noexcept {
  const double lanes = port.active_width == 1    ? 1
                       : port.active_width == 2  ? 4
                       : port.active_width == 4  ? 8
                       : port.active_width == 8  ? 12
                       : port.active_width == 16 ? 2
                                                 : 1;
  switch (port.active_speed) {
    case 1:
      return lanes * 2.5;
    case 2:
      return lanes * 5;
    case 4:
    case 8:
      return lanes * 10;
    case 16:
      return lanes * 14;
    case 32:
      return lanes * 25;
    case 64:
      return lanes * 50;
    case 128:
      return lanes * 100;
    default:
      return lanes * 2.5;
  }
}

std::string_view StateText(ibv_port_state state) noexcept {
  switch (state) {
    case IBV_PORT_DOWN:
      return "DOWN";
    case IBV_PORT_INIT:
      return "INIT";
    case IBV_PORT_ARMED:
      return "ARMED";
    case IBV_PORT_ACTIVE:
      return "ACTIVE";
    default:
      return "not ready";
  }
}

}  // namespace

RdmaDevice::Owned& RdmaDevice::Owned::operator=(Owned&& other) noexcept {
  if (this == &other) return *this;
  Reset();
  device = std::move(other.device);
  pair = std::move(other.pair);
  return *this;
}

void RdmaDevice::Owned::Reset() noexcept {
  if (!pair) return;
  pair = nullptr;
  device->queue_pairs_ -= 1;
}

Error RdmaDevice::Failed(std::string_view call, int os_error) const {
  return {ErrorId::kRdmaCall, fmt::format("{} on {}", call, name_), os_error};
}

Result<std::shared_ptr<RdmaDevice>> RdmaDevice::Open(Verbs& verbs, const std::string& name,
                                                     std::size_t rank, const RdmaOptions& options) {
  std::shared_ptr<RdmaDevice> device(new RdmaDevice(verbs, name, rank, options));
  device->context_ = Context(verbs.OpenDevice(name), {&verbs});
  if (!device->context_) {
    const int failure = errno;
    if (failure == EACCES || failure == EPERM)
      return Fail(
          ErrorId::kRdmaCall,
          fmt::format("ibv_open_device on {}: no right to its node in /dev/infiniband", name),
          failure);
    if (failure == ENODEV || failure == ENOENT)
      return Fail(ErrorId::kRdmaCall,
                  fmt::format("ibv_open_device on {}: its node in /dev/infiniband, or the library "
                              "of its provider, is missing here (a container needs --device="
                              "/dev/infiniband)",
                              name),
                  failure);
    return Fail(device->Failed("ibv_open_device", failure));
  }
  if (const int failure = verbs.QueryDevice(device->context_.get(), device->attributes_))
    return Fail(device->Failed("ibv_query_device", failure));
  device->domain_ = ProtectionDomain(verbs.AllocPd(device->context_.get()), {&verbs});
  if (!device->domain_) return Fail(device->Failed("ibv_alloc_pd", errno));
  device->channel_ = CompletionChannel(verbs.CreateCompChannel(device->context_.get()), {&verbs});
  if (!device->channel_) return Fail(device->Failed("ibv_create_comp_channel", errno));
  device->entries_max_ = std::clamp(device->attributes_.max_sge, 1, kEntriesMax);
  device->inline_bytes_max_ = kInlineBytes;
  const int depth_max = device->attributes_.max_qp_wr;
  device->queue_depth_ = options.queue_depth;
  if (depth_max > 0)
    device->queue_depth_ = std::min(options.queue_depth, static_cast<std::uint32_t>(depth_max));
  device->Refresh();
  return device;
}

PortState RdmaDevice::port() const {
  const std::lock_guard lock(mutex_);
  return port_;
}

PortState RdmaDevice::Look() {
  PortState state;
  state.reason = "it has no port";
  for (std::uint8_t number = 1; number <= attributes_.phys_port_cnt; ++number) {
    ibv_port_attr port{};
    if (const int failure = verbs_.QueryPort(context_.get(), number, port); failure != 0) {
      state.reason = Failed("ibv_query_port", failure).Brief();
      continue;
    }
    state.number = number;
    state.mtu_bytes = Bytes(port.active_mtu);
    state.gigabits_per_second = GigabitsPerSecond(port);
    if (port.max_msg_sz > 0) state.message_bytes_max = port.max_msg_sz;
    state.addresses = {port.link_layer != IBV_LINK_LAYER_ETHERNET, port.lid,
                       verbs_.Gids(name_, number)};
    if (port.state != IBV_PORT_ACTIVE) {
      state.reason = fmt::format("port {} is {}", number, StateText(port.state));
    } else if (!state.addresses.infiniband && state.addresses.rows.empty()) {
      state.reason = fmt::format("port {} has no address", number);
    } else {
      state.usable = true;
      state.reason.clear();
      return state;
    }
  }
  return state;
}

void RdmaDevice::Refresh() {
  PortState state = Look();
  const std::lock_guard lock(mutex_);
  usable_ = state.usable;
  port_ = std::move(state);
}

void RdmaDevice::SetUnusable(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  usable_ = false;
  port_.usable = false;
  port_.reason = reason;
}

std::optional<ibv_event_type> RdmaDevice::NextEvent() {
  ibv_async_event event{};
  if (verbs_.GetAsyncEvent(context_.get(), event) != 0) return std::nullopt;
  const ibv_event_type type = event.event_type;
  verbs_.AckAsyncEvent(event);
  return type;
}

std::optional<std::uint64_t> RdmaDevice::NextCompletionEvent() {
  void* cookie = nullptr;
  if (verbs_.GetCqEvent(channel_.get(), cookie) != 0) return std::nullopt;
  return reinterpret_cast<std::uint64_t>(cookie);
}

Result<MemoryRegion> RdmaDevice::Register(void* base, std::uint64_t length_bytes, bool remote_read,
                                          bool remote_write) {
  const int access = AccessFor(remote_read, remote_write);
  ibv_mr* region = nullptr;
  if (relaxed_ordering_) {
    region = verbs_.RegMr(domain_.get(), base, length_bytes, access | IBV_ACCESS_RELAXED_ORDERING);
    if (region == nullptr && (errno == EINVAL || errno == EOPNOTSUPP)) relaxed_ordering_ = false;
  }
  if (region == nullptr) region = verbs_.RegMr(domain_.get(), base, length_bytes, access);
  if (region != nullptr) return MemoryRegion(region, {&verbs_});
  const int failure = errno;
  const LockLimit limit = verbs_.GetLockLimit();
  if (failure == ENOMEM && !limit.unlimited) {
    return Fail(ErrorId::kMemoryLock,
                fmt::format("{} more on {}: {} of {} are locked already", FormatBytes(length_bytes),
                            name_, FormatBytes(limit.locked_bytes), FormatBytes(limit.limit_bytes)),
                failure);
  }
  return Fail(Failed(fmt::format("ibv_reg_mr of {} bytes at {}", length_bytes, base), failure));
}

Result<MemoryRegion> RdmaDevice::Register(const Dmabuf& dmabuf, void* base,
                                          std::uint64_t length_bytes, bool remote_read,
                                          bool remote_write) {
  ibv_mr* const region = verbs_.RegDmabufMr(
      domain_.get(), dmabuf.offset, length_bytes, reinterpret_cast<std::uint64_t>(base),
      dmabuf.descriptor.get(), AccessFor(remote_read, remote_write));
  if (region != nullptr) return MemoryRegion(region, {&verbs_});
  return Fail(
      Failed(fmt::format("ibv_reg_dmabuf_mr of {} bytes at {}", length_bytes, base), errno));
}

Result<CompletionQueue> RdmaDevice::MakeCompletionQueue(std::uint64_t cookie, std::size_t pairs) {
  const auto depth = static_cast<int>(pairs * (queue_depth_ + kReceivesMax));
  ibv_cq* const queue = verbs_.CreateCq(context_.get(), std::min(depth, attributes_.max_cqe),
                                        reinterpret_cast<void*>(cookie), channel_.get());
  if (queue == nullptr) return Fail(Failed("ibv_create_cq", errno));
  return CompletionQueue(queue, {&verbs_});
}

Result<RdmaDevice::Owned> RdmaDevice::MakeQueuePair(const std::shared_ptr<RdmaDevice>& device,
                                                    ibv_cq* completions) {
  RdmaDevice& me = *device;
  const std::uint32_t most =
      std::min(me.options_.queue_pairs_max, static_cast<std::uint32_t>(me.attributes_.max_qp));
  if (me.queue_pairs_.fetch_add(1) >= most) {
    me.queue_pairs_ -= 1;
    return Fail(ErrorId::kQueuePairBudget, fmt::format("{} are in use on {}", most, me.name_));
  }
  ibv_qp_init_attr wanted{};
  wanted.send_cq = completions;
  wanted.recv_cq = completions;
  wanted.qp_type = IBV_QPT_RC;
  wanted.cap.max_recv_wr = kReceivesMax;
  wanted.cap.max_recv_sge = 1;
  for (;;) {
    wanted.cap.max_send_wr = me.queue_depth_;
    wanted.cap.max_send_sge = static_cast<std::uint32_t>(me.entries_max_);
    wanted.cap.max_inline_data = me.inline_bytes_max_;
    if (ibv_qp* const pair = me.verbs_.CreateQp(me.domain_.get(), wanted))
      return Owned(device, QueuePair(pair, {&me.verbs_}));
    const int failure = errno;
    if (me.AskForLess(failure)) continue;
    me.queue_pairs_ -= 1;
    return Fail(me.Failed("ibv_create_qp", failure));
  }
}

bool RdmaDevice::AskForLess(int refusal) {
  if (refusal != EINVAL && refusal != EOPNOTSUPP) return false;
  if (inline_bytes_max_ > 0) {
    MC_LOG(info, "RDMA device {} refuses inline requests; it does without", name_);
    inline_bytes_max_ = 0;
  } else if (entries_max_ > 1) {
    MC_LOG(info, "RDMA device {} refuses requests of several entries; it does without", name_);
    entries_max_ = 1;
  } else {
    return false;
  }
  return true;
}

Status RdmaDevice::PostReceives(ibv_qp& pair, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    ibv_recv_wr request{};
    request.wr_id = kReceiveId;
    ibv_recv_wr* bad = nullptr;
    if (const int failure = verbs_.PostRecv(&pair, &request, &bad))
      return Fail(Failed("ibv_post_recv", failure));
  }
  return {};
}

QueuePairEnd RdmaDevice::Describe(const ibv_qp& pair, std::uint32_t packet) const {
  const PortState state = port();
  return {pair.qp_num, packet, state.mtu_bytes,
          std::clamp(static_cast<std::uint32_t>(attributes_.max_qp_rd_atom), 1U, kReadsMax),
          state.addresses.lid};
}

Status RdmaDevice::Connect(ibv_qp& pair, const QueuePairEnd& here, const QueuePairEnd& there,
                           const AddressPair& addresses) {
  const std::uint8_t port_number = port().number;
  ibv_qp_attr init{};
  init.qp_state = IBV_QPS_INIT;
  init.port_num = port_number;
  init.qp_access_flags = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
  if (const int failure = verbs_.ModifyQp(
          &pair, init, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS))
    return Fail(Failed("ibv_modify_qp to INIT", failure));

  ibv_qp_attr receive{};
  receive.qp_state = IBV_QPS_RTR;
  receive.path_mtu = ToMtu(std::min(here.mtu_bytes, there.mtu_bytes));
  receive.dest_qp_num = there.number;
  receive.rq_psn = there.packet;
  receive.max_dest_rd_atomic = static_cast<std::uint8_t>(here.reads);
  receive.min_rnr_timer = kReceiverNotReadyTimer;
  receive.ah_attr.port_num = port_number;
  receive.ah_attr.dlid = there.lid;
  if (addresses.routed) {
    receive.ah_attr.is_global = 1;
    receive.ah_attr.grh.sgid_index = addresses.local.index;
    receive.ah_attr.grh.hop_limit = kHopLimit;
    std::memcpy(receive.ah_attr.grh.dgid.raw, addresses.remote.gid.data(),
                addresses.remote.gid.size());
  }
  if (const int failure =
          verbs_.ModifyQp(&pair, receive,
                          IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                              IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER)) {
    return Fail(Failed(
        fmt::format("ibv_modify_qp to RTR, from {} to {}, MTU {},", ToString(addresses.local),
                    ToString(addresses.remote), std::min(here.mtu_bytes, there.mtu_bytes)),
        failure));
  }

  ibv_qp_attr send{};
  send.qp_state = IBV_QPS_RTS;
  send.sq_psn = here.packet;
  send.timeout = options_.timeout;
  send.retry_cnt = options_.retries;
  send.rnr_retry = kReceiverNotReadyRetries;
  send.max_rd_atomic = static_cast<std::uint8_t>(
      std::clamp(std::min(there.reads, static_cast<std::uint32_t>(attributes_.max_qp_init_rd_atom)),
                 1U, kReadsMax));
  if (const int failure =
          verbs_.ModifyQp(&pair, send,
                          IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                              IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC))
    return Fail(Failed("ibv_modify_qp to RTS", failure));
  return {};
}

}  // namespace mooncake::rdma
