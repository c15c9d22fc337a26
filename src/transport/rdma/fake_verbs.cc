#include "transport/rdma/fake_verbs.h"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <set>
#include <thread>

#include "base/process_memory.h"
#include "base/unique_fd.h"

namespace mooncake::rdma {
namespace {

// A queue whose length a descriptor tells, as the kernel's are.
template <class T>
struct EventQueue {
  EventQueue() : fd(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC | EFD_SEMAPHORE)) {}
  void Put(T event) {
    events.push_back(event);
    const std::uint64_t one = 1;
    static_cast<void>(::write(fd.get(), &one, sizeof one));
  }
  std::optional<T> Take() {
    std::uint64_t one = 0;
    if (events.empty() || ::read(fd.get(), &one, sizeof one) < 0) return std::nullopt;
    const T event = events.front();
    events.pop_front();
    return event;
  }
  UniqueFd fd;
  std::deque<T> events;
};

struct FakeContext : ibv_context {
  std::size_t rank = 0;
  EventQueue<ibv_event_type> events;
};
struct FakeChannel : ibv_comp_channel {
  EventQueue<void*> events;
};
struct FakeCq : ibv_cq {
  FakeChannel* channel_of = nullptr;
  bool armed = false;
  std::deque<ibv_wc> completions;
};
struct FakePd : ibv_pd {};
struct FakeMr : ibv_mr {
  ~FakeMr() {
    if (mapped != nullptr) ::munmap(mapped, mapped_bytes);
  }
  // Where the device finds the byte at `address`.
  [[nodiscard]] std::byte* At(std::uint64_t address) const {
    if (mapped == nullptr) return reinterpret_cast<std::byte*>(address);
    return static_cast<std::byte*>(mapped) + mapped_offset +
           (address - reinterpret_cast<std::uint64_t>(addr));
  }
  std::size_t rank = 0;
  int access = 0;
  // Of a dmabuf.
  void* mapped = nullptr;
  std::uint64_t mapped_bytes = 0;
  std::uint64_t mapped_offset = 0;
};
struct FakeQp : ibv_qp {
  std::size_t rank = 0;
  FakeCq* send_queue = nullptr;
  FakeCq* receive_queue = nullptr;
  std::deque<std::uint64_t> receives;  // the ids of receive requests
  std::size_t receives_max = 0;
  std::uint32_t there = 0;
  std::size_t depth = 0;
  std::size_t waiting = 0;
};

struct FakeRequest {
  FakeQp* pair = nullptr;
  std::uint64_t id = 0;
  ibv_wr_opcode opcode = IBV_WR_RDMA_WRITE;
  std::uint32_t immediate = 0;
  bool is_signaled = false;
  std::vector<ibv_sge> entries;
  std::vector<std::byte> bytes;  // of an inline write, taken when it was posted
  bool is_inline = false;
  std::uint64_t remote_address = 0;
  std::uint32_t remote_key = 0;
};

std::uint64_t LengthOf(std::span<const ibv_sge> entries) {
  std::uint64_t length = 0;
  for (const ibv_sge& entry : entries) length += entry.length;
  return length;
}

class FakeNetwork final : public FakeVerbs {
 public:
  explicit FakeNetwork(const FakeFabric& fabric)
      : fabric_(fabric), active_(fabric.devices, true), nic_([this] { Carry(); }) {}
  ~FakeNetwork() override {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    wake_.notify_all();
    nic_.join();
  }

  // ---- what tests do ----
  std::size_t Waiting() const override {
    const std::lock_guard lock(mutex_);
    return posted_.size();
  }
  std::size_t WaitingPairs() const override {
    const std::lock_guard lock(mutex_);
    std::set<const FakeQp*> pairs;
    for (const FakeRequest& request : posted_) pairs.insert(request.pair);
    return pairs.size();
  }
  std::size_t Resolving() const override {
    const std::lock_guard lock(mutex_);
    return resolving_;
  }
  void SetPort(std::size_t device, bool active) override {
    Change(device, active, active ? IBV_EVENT_PORT_ACTIVE : IBV_EVENT_PORT_ERR);
  }
  void FailDevice(std::size_t device) override { Change(device, false, IBV_EVENT_DEVICE_FATAL); }
  void Cut(std::size_t a, std::size_t b, bool cut) override {
    const std::lock_guard lock(mutex_);
    if (cut) {
      cut_.insert(std::minmax(a, b));
    } else {
      cut_.erase(std::minmax(a, b));
    }
    wake_.notify_all();
  }
  void Stall(std::size_t a, std::size_t b, bool stall) override {
    const std::lock_guard lock(mutex_);
    if (stall) {
      stalled_.insert(std::minmax(a, b));
    } else {
      stalled_.erase(std::minmax(a, b));
    }
    wake_.notify_all();
  }
  std::uint64_t Carried(std::size_t a, std::size_t b) const override {
    const std::lock_guard lock(mutex_);
    const auto found = carried_.find(std::minmax(a, b));
    return found == carried_.end() ? 0 : found->second;
  }
  void HoldFrom(std::optional<std::uint64_t> length_bytes) override {
    const std::lock_guard lock(mutex_);
    held_from_ = length_bytes;
    wake_.notify_all();
  }

  // ---- verbs ----
  ibv_context* OpenDevice(const std::string& name) override {
    if (Fails("OpenDevice")) return nullptr;
    auto* const context = Make<FakeContext>("context");
    const std::lock_guard lock(mutex_);
    context->rank = std::stoul(name.substr(4));
    context->async_fd = context->events.fd.get();
    contexts_.insert(context);
    return context;
  }
  int CloseDevice(ibv_context* context) override {
    const std::lock_guard lock(mutex_);
    contexts_.erase(static_cast<FakeContext*>(context));
    return Release("context", static_cast<FakeContext*>(context));
  }
  int QueryDevice(ibv_context*, ibv_device_attr& attributes) override {
    if (Fails("QueryDevice")) return EIO;
    attributes.phys_port_cnt = 1;
    attributes.max_mr_size = fabric_.registration_bytes_max;
    attributes.max_qp = fabric_.queue_pairs_max;
    attributes.max_cqe = 1 << 16;
    attributes.max_sge = 4;
    attributes.max_qp_rd_atom = 16;
    attributes.max_qp_init_rd_atom = 16;
    return 0;
  }
  int QueryPort(ibv_context* context, std::uint8_t, ibv_port_attr& attributes) override {
    if (Fails("QueryPort")) return EIO;
    const std::lock_guard lock(mutex_);
    const std::size_t rank = static_cast<FakeContext*>(context)->rank;
    attributes = {};
    attributes.state = active_[rank] ? IBV_PORT_ACTIVE : IBV_PORT_DOWN;
    attributes.active_mtu = IBV_MTU_4096;
    attributes.max_msg_sz = fabric_.message_bytes_max;
    attributes.lid = static_cast<std::uint16_t>(rank + 1);
    attributes.link_layer = IBV_LINK_LAYER_INFINIBAND;
    attributes.active_width = 2;
    attributes.active_speed = 32;
    return 0;
  }
  std::vector<GidRow> Gids(const std::string&, std::uint8_t) override { return {}; }
  int GetAsyncEvent(ibv_context* context, ibv_async_event& event) override {
    if (Fails("GetAsyncEvent")) return EIO;
    const std::lock_guard lock(mutex_);
    const auto taken = static_cast<FakeContext*>(context)->events.Take();
    if (!taken) return EAGAIN;
    event.event_type = *taken;
    return 0;
  }
  void AckAsyncEvent(ibv_async_event&) override {}

  ibv_pd* AllocPd(ibv_context* context) override {
    if (Fails("AllocPd")) return nullptr;
    auto* const pd = Make<FakePd>("domain");
    pd->context = context;
    return pd;
  }
  int DeallocPd(ibv_pd* pd) override {
    const std::lock_guard lock(mutex_);
    return Release("domain", static_cast<FakePd*>(pd));
  }
  LockLimit GetLockLimit() override { return fabric_.lock; }
  ibv_mr* RegMr(ibv_pd* pd, void* base, std::uint64_t length_bytes, int access) override {
    if (Fails("RegMr")) return nullptr;
    const bool relaxed = (access & IBV_ACCESS_RELAXED_ORDERING) != 0;
    if (length_bytes > fabric_.registration_bytes_max || (relaxed && !fabric_.relaxed_ordering)) {
      errno = EINVAL;
      return nullptr;
    }
    // Memory of a GPU, which takes more than this.
    std::byte first{};
    const iovec here{&first, 1};
    const iovec there{base, 1};
    if (!ReadProcessMemory(::getpid(), {&here, 1}, {&there, 1})) {
      errno = EFAULT;
      return nullptr;
    }
    return AddRegion(Make<FakeMr>("region"), pd, base, length_bytes, access);
  }
  ibv_mr* RegDmabufMr(ibv_pd* pd, std::uint64_t offset, std::uint64_t length_bytes,
                      std::uint64_t address, int descriptor, int access) override {
    if (Fails("RegDmabufMr")) return nullptr;
    void* const mapped =
        ::mmap(nullptr, offset + length_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (mapped == MAP_FAILED) return nullptr;
    auto* const mr = Make<FakeMr>("region");
    mr->mapped = mapped;
    mr->mapped_bytes = offset + length_bytes;
    mr->mapped_offset = offset;
    return AddRegion(mr, pd, reinterpret_cast<void*>(address), length_bytes, access);
  }
  int DeregMr(ibv_mr* mr) override {
    const std::lock_guard lock(mutex_);
    regions_.erase(mr->lkey);
    return Release("region", static_cast<FakeMr*>(mr));
  }

  ibv_comp_channel* CreateCompChannel(ibv_context*) override {
    if (Fails("CreateCompChannel")) return nullptr;
    auto* const channel = Make<FakeChannel>("channel");
    channel->fd = channel->events.fd.get();
    return channel;
  }
  int DestroyCompChannel(ibv_comp_channel* channel) override {
    const std::lock_guard lock(mutex_);
    return Release("channel", static_cast<FakeChannel*>(channel));
  }
  ibv_cq* CreateCq(ibv_context*, int, void* cookie, ibv_comp_channel* channel) override {
    if (Fails("CreateCq")) return nullptr;
    auto* const cq = Make<FakeCq>("queue");
    cq->cq_context = cookie;
    cq->channel_of = static_cast<FakeChannel*>(channel);
    return cq;
  }
  int DestroyCq(ibv_cq* cq) override {
    const std::lock_guard lock(mutex_);
    std::erase(static_cast<FakeCq*>(cq)->channel_of->events.events, cq->cq_context);
    return Release("queue", static_cast<FakeCq*>(cq));
  }
  int GetCqEvent(ibv_comp_channel* channel, void*& cookie) override {
    if (Fails("GetCqEvent")) return EIO;
    const std::lock_guard lock(mutex_);
    const auto taken = static_cast<FakeChannel*>(channel)->events.Take();
    if (!taken) return EAGAIN;
    cookie = *taken;
    return 0;
  }
  int ReqNotifyCq(ibv_cq* cq) override {
    if (Fails("ReqNotifyCq")) return EIO;
    const std::lock_guard lock(mutex_);
    static_cast<FakeCq*>(cq)->armed = true;
    return 0;
  }
  int PollCq(ibv_cq* cq, int count_max, ibv_wc* completions) override {
    if (Fails("PollCq")) return -1;
    const std::lock_guard lock(mutex_);
    auto& queue = static_cast<FakeCq*>(cq)->completions;
    int count = 0;
    for (; count < count_max && !queue.empty(); ++count) {
      completions[count] = queue.front();
      queue.pop_front();
    }
    return count;
  }

  ibv_qp* CreateQp(ibv_pd* pd, ibv_qp_init_attr& attributes) override {
    if (Fails("CreateQp")) return nullptr;
    if (attributes.cap.max_inline_data > fabric_.inline_bytes_max ||
        attributes.cap.max_send_sge > fabric_.entries_max) {
      errno = EINVAL;
      return nullptr;
    }
    auto* const pair = Make<FakeQp>("pair");
    const std::lock_guard lock(mutex_);
    pair->rank = static_cast<FakeContext*>(pd->context)->rank;
    pair->send_queue = static_cast<FakeCq*>(attributes.send_cq);
    pair->receive_queue = static_cast<FakeCq*>(attributes.recv_cq);
    pair->depth = attributes.cap.max_send_wr;
    pair->receives_max = attributes.cap.max_recv_wr;
    pair->qp_num = ++last_pair_;
    pair->state = IBV_QPS_RESET;
    pairs_[pair->qp_num] = pair;
    return pair;
  }
  int ModifyQp(ibv_qp* qp, ibv_qp_attr& attributes, int mask) override {
    if (Fails("ModifyQp")) return EIO;
    std::unique_lock lock(mutex_);
    auto& pair = *static_cast<FakeQp*>(qp);
    if ((mask & IBV_QP_DEST_QPN) != 0) {
      pair.there = attributes.dest_qp_num;
      if (!Resolve(pair, lock)) return ETIMEDOUT;
    }
    pair.state = attributes.qp_state;
    return 0;
  }
  int DestroyQp(ibv_qp* qp) override {
    const std::lock_guard lock(mutex_);
    auto* const pair = static_cast<FakeQp*>(qp);
    pairs_.erase(pair->qp_num);
    std::erase_if(posted_, [pair](const FakeRequest& request) { return request.pair == pair; });
    for (FakeCq* const queue : {pair->send_queue, pair->receive_queue})
      std::erase_if(queue->completions,
                    [pair](const ibv_wc& one) { return one.qp_num == pair->qp_num; });
    return Release("pair", pair);
  }
  int PostSend(ibv_qp* qp, ibv_send_wr* chain, ibv_send_wr** bad) override {
    *bad = chain;
    if (Fails("PostSend")) return EIO;
    const std::lock_guard lock(mutex_);
    auto* const pair = static_cast<FakeQp*>(qp);
    for (; chain != nullptr; chain = chain->next) {
      *bad = chain;
      if (pair->waiting == pair->depth) return ENOMEM;
      const std::span<const ibv_sge> entries(chain->sg_list,
                                             static_cast<std::size_t>(chain->num_sge));
      if (LengthOf(entries) > fabric_.message_bytes_max) return EINVAL;
      pair->waiting += 1;
      FakeRequest request{pair,
                          chain->wr_id,
                          chain->opcode,
                          chain->imm_data,
                          (chain->send_flags & IBV_SEND_SIGNALED) != 0,
                          {entries.begin(), entries.end()},
                          {},
                          (chain->send_flags & IBV_SEND_INLINE) != 0,
                          chain->wr.rdma.remote_addr,
                          chain->wr.rdma.rkey};
      if (request.is_inline) {
        for (const ibv_sge& entry : request.entries) {
          const auto* const from = reinterpret_cast<const std::byte*>(entry.addr);
          request.bytes.insert(request.bytes.end(), from, from + entry.length);
        }
      }
      if (fabric_.immediate && posted_.empty() && !IsHeldUp(request)) {
        Complete(request, CarryOut(request));
      } else {
        posted_.push_back(std::move(request));
      }
    }
    *bad = nullptr;
    wake_.notify_all();
    return 0;
  }
  int PostRecv(ibv_qp* qp, ibv_recv_wr* chain, ibv_recv_wr** bad) override {
    *bad = chain;
    if (Fails("PostRecv")) return EIO;
    const std::lock_guard lock(mutex_);
    auto* const pair = static_cast<FakeQp*>(qp);
    for (; chain != nullptr; chain = chain->next) {
      *bad = chain;
      if (pair->state == IBV_QPS_RESET) return EINVAL;
      if (pair->receives.size() == pair->receives_max) return ENOMEM;
      pair->receives.push_back(chain->wr_id);
    }
    *bad = nullptr;
    return 0;
  }
  std::string_view StatusText(ibv_wc_status status) override {
    switch (status) {
      case IBV_WC_RETRY_EXC_ERR:
        return "transport retry counter exceeded";
      case IBV_WC_REM_ACCESS_ERR:
        return "remote access error";
      case IBV_WC_LOC_PROT_ERR:
        return "local protection error";
      case IBV_WC_WR_FLUSH_ERR:
        return "work request flushed error";
      default:
        return "an error";
    }
  }

 private:
  template <class T>
  T* Make(const char* kind) {
    CountHandle(kind, 1);
    return new T();
  }
  template <class T>
  int Release(const char* kind, T* handle) {
    CountHandle(kind, -1);
    delete handle;
    return 0;
  }

  void Change(std::size_t device, bool active, ibv_event_type event) {
    const std::lock_guard lock(mutex_);
    active_[device] = active;
    for (FakeContext* const context : contexts_) {
      if (context->rank == device) context->events.Put(event);
    }
    wake_.notify_all();
  }

  ibv_mr* AddRegion(FakeMr* mr, ibv_pd* pd, void* base, std::uint64_t length_bytes, int access) {
    const std::lock_guard lock(mutex_);
    mr->rank = static_cast<FakeContext*>(pd->context)->rank;
    mr->addr = base;
    mr->length = length_bytes;
    mr->access = access;
    mr->lkey = mr->rkey = ++last_key_;
    regions_[mr->lkey] = mr;
    return mr;
  }

  bool Fails(const std::string& name) {
    if (!FaultBook::Fails(name)) return false;
    errno = EIO;
    return true;
  }

  // The network cards of all devices: one thread that carries out request after request.
  void Carry() {
    std::unique_lock lock(mutex_);
    for (;;) {
      auto next = posted_.end();
      wake_.wait(lock, [this, &next] {
        next = FindNext();
        return stopped_ || next != posted_.end();
      });
      if (stopped_) return;
      FakeRequest request = std::move(*next);
      posted_.erase(next);
      ibv_wc_status status = CarryOut(request);
      if (status == IBV_WC_RETRY_EXC_ERR) {
        // It is repeated for a while; others go on meanwhile.
        const std::uint32_t number = request.pair->qp_num;
        lock.unlock();
        std::this_thread::sleep_for(fabric_.retry_time);
        lock.lock();
        if (!pairs_.contains(number)) continue;
      }
      Complete(request, status);
    }
  }

  // False: nothing got through to the other device for all of resolve_time.
  bool Resolve(const FakeQp& pair, std::unique_lock<std::mutex>& lock) {
    const auto there = pairs_.find(pair.there);
    if (fabric_.resolve_time.count() == 0 || there == pairs_.end()) return true;
    resolving_ += 1;
    const bool found = wake_.wait_for(
        lock, fabric_.resolve_time,
        [this, a = pair.rank, b = there->second->rank] { return stopped_ || Reaches(a, b); });
    resolving_ -= 1;
    return found;
  }

  bool Reaches(std::size_t a, std::size_t b) const {
    return active_[a] && active_[b] && !cut_.contains(std::minmax(a, b));
  }

  bool IsHeldUp(const FakeRequest& request) const {
    const FakeQp& pair = *request.pair;
    if (held_from_ && LengthOf(request.entries) >= *held_from_) return true;
    const auto there = pairs_.find(pair.there);
    return there != pairs_.end() && stalled_.contains(std::minmax(pair.rank, there->second->rank));
  }

  // The first that neither is held up nor stands behind one that is.
  std::deque<FakeRequest>::iterator FindNext() {
    std::set<const FakeQp*> held_up;
    return std::find_if(posted_.begin(), posted_.end(), [&](const FakeRequest& one) {
      if (IsHeldUp(one)) held_up.insert(one.pair);
      return !held_up.contains(one.pair);
    });
  }

  ibv_wc_status CarryOut(const FakeRequest& request) {
    FakeQp& pair = *request.pair;
    if (pair.state == IBV_QPS_ERR) return IBV_WC_WR_FLUSH_ERR;
    const auto there = pairs_.find(pair.there);
    if (there == pairs_.end() || there->second->state < IBV_QPS_RTR) return IBV_WC_RETRY_EXC_ERR;
    const std::size_t rank = there->second->rank;
    if (!Reaches(pair.rank, rank)) return IBV_WC_RETRY_EXC_ERR;
    const std::uint64_t length = LengthOf(request.entries);
    for (const ibv_sge& entry : request.entries) {
      if (!request.is_inline &&
          !Allows(entry.lkey, entry.addr, entry.length, pair.rank, IBV_ACCESS_LOCAL_WRITE))
        return IBV_WC_LOC_PROT_ERR;
    }
    carried_[std::minmax(pair.rank, rank)] += 1;
    if (request.opcode == IBV_WR_SEND_WITH_IMM)
      return length > 0 ? IBV_WC_REM_INV_REQ_ERR : Notice(*there->second, request);
    const bool is_write = request.opcode != IBV_WR_RDMA_READ;
    if (!Allows(request.remote_key, request.remote_address, length, rank,
                is_write ? IBV_ACCESS_REMOTE_WRITE : IBV_ACCESS_REMOTE_READ))
      return IBV_WC_REM_ACCESS_ERR;
    std::byte* remote = regions_.at(request.remote_key)->At(request.remote_address);
    if (request.is_inline) std::memcpy(remote, request.bytes.data(), request.bytes.size());
    for (const ibv_sge& entry : request.entries) {
      if (request.is_inline) break;
      std::byte* const local = regions_.at(entry.lkey)->At(entry.addr);
      std::memcpy(is_write ? remote : local, is_write ? local : remote, entry.length);
      remote += entry.length;
    }
    if (request.opcode == IBV_WR_RDMA_WRITE_WITH_IMM) return Notice(*there->second, request);
    return IBV_WC_SUCCESS;
  }

  // The receiver is told of an immediate.
  static ibv_wc_status Notice(FakeQp& pair, const FakeRequest& request) {
    if (pair.receives.empty()) return IBV_WC_RNR_RETRY_EXC_ERR;
    ibv_wc completion{};
    completion.wr_id = pair.receives.front();
    pair.receives.pop_front();
    completion.opcode =
        request.opcode == IBV_WR_SEND_WITH_IMM ? IBV_WC_RECV : IBV_WC_RECV_RDMA_WITH_IMM;
    completion.wc_flags = IBV_WC_WITH_IMM;
    completion.imm_data = request.immediate;
    completion.qp_num = pair.qp_num;
    Put(*pair.receive_queue, completion);
    return IBV_WC_SUCCESS;
  }

  bool Allows(std::uint32_t key, std::uint64_t address, std::uint64_t length, std::size_t rank,
              int access) const {
    const auto found = regions_.find(key);
    if (found == regions_.end()) return false;
    const FakeMr& region = *found->second;
    const std::uint64_t offset = address - reinterpret_cast<std::uint64_t>(region.addr);
    return region.rank == rank && (region.access & access) != 0 && offset <= region.length &&
           length <= region.length - offset;
  }

  void Complete(const FakeRequest& request, ibv_wc_status status) {
    FakeQp& pair = *request.pair;
    pair.waiting -= 1;
    if (status == IBV_WC_SUCCESS && !request.is_signaled) return;
    ibv_wc completion{};
    completion.wr_id = request.id;
    completion.status = status;
    completion.qp_num = pair.qp_num;
    Put(*pair.send_queue, completion);
    if (status == IBV_WC_SUCCESS) return;
    pair.state = IBV_QPS_ERR;
    completion.status = IBV_WC_WR_FLUSH_ERR;
    for (const std::uint64_t id : std::exchange(pair.receives, {})) {
      completion.wr_id = id;
      Put(*pair.receive_queue, completion);
    }
  }

  static void Put(FakeCq& queue, const ibv_wc& completion) {
    queue.completions.push_back(completion);
    if (std::exchange(queue.armed, false)) queue.channel_of->events.Put(queue.cq_context);
  }

  const FakeFabric fabric_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  // All of it guarded by mutex_.
  std::vector<bool> active_;
  std::set<std::pair<std::size_t, std::size_t>> cut_;
  std::set<std::pair<std::size_t, std::size_t>> stalled_;
  std::map<std::pair<std::size_t, std::size_t>, std::uint64_t> carried_;
  std::set<FakeContext*> contexts_;
  std::map<std::uint32_t, FakeMr*> regions_;
  std::map<std::uint32_t, FakeQp*> pairs_;
  std::deque<FakeRequest> posted_;
  std::uint32_t last_key_ = 0;
  std::uint32_t last_pair_ = 0;
  std::optional<std::uint64_t> held_from_;
  bool stopped_ = false;
  std::size_t resolving_ = 0;
  std::thread nic_;
};

}  // namespace

std::vector<std::string> FakeVerbs::DeviceNames(std::size_t count) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < count; ++i) names.push_back(fmt::format("fake{}", i));
  return names;
}

std::shared_ptr<FakeVerbs> FakeVerbs::Make(const FakeFabric& fabric) {
  return std::make_shared<FakeNetwork>(fabric);
}

std::vector<std::string> FakeVerbs::Calls() {
  return {"OpenDevice", "QueryDevice",       "QueryPort", "GetAsyncEvent", "AllocPd",
          "RegMr",      "CreateCompChannel", "CreateCq",  "GetCqEvent",    "ReqNotifyCq",
          "PollCq",     "CreateQp",          "ModifyQp",  "PostSend",      "PostRecv"};
}

}  // namespace mooncake::rdma
