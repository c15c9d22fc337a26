// The verbs that this transport needs, as an interface: libibverbs where there is one
// (real_verbs.h), an RDMA network within the process for tests (fake_verbs.h). Names, structures
// and meanings are those of <infiniband/verbs.h>; whatever returns an int returns 0 or an errno,
// whatever returns a pointer sets errno.
#pragma once

#include <infiniband/verbs.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/result.h"

namespace mooncake::rdma {

using Gid = std::array<std::uint8_t, 16>;
enum class GidKind : std::uint8_t { kInfiniBand = 1, kRoceV1 = 2, kRoceV2 = 3 };

/// One row of a port's table of addresses.
struct GidRow {
  std::uint8_t index = 0;
  Gid gid{};
  GidKind kind = GidKind::kInfiniBand;
  std::string netdev;  ///< The network interface that it belongs to; empty on InfiniBand.

  bool operator==(const GidRow&) const = default;
};

/// How much memory this process may lock, and has locked.
struct LockLimit {
  bool unlimited = false;
  std::uint64_t limit_bytes = 0;
  std::uint64_t locked_bytes = 0;
};

/// Every member function may be called from any thread.
class Verbs {
 public:
  virtual ~Verbs() = default;

  [[nodiscard]] virtual ibv_context* OpenDevice(const std::string& name) = 0;
  virtual int CloseDevice(ibv_context* context) = 0;
  [[nodiscard]] virtual int QueryDevice(ibv_context* context, ibv_device_attr& attributes) = 0;
  [[nodiscard]] virtual int QueryPort(ibv_context* context, std::uint8_t port,
                                      ibv_port_attr& attributes) = 0;
  /// The rows that are in use.
  [[nodiscard]] virtual std::vector<GidRow> Gids(const std::string& device, std::uint8_t port) = 0;
  /// Of the context's async_fd, which does not block. EAGAIN: none is there.
  [[nodiscard]] virtual int GetAsyncEvent(ibv_context* context, ibv_async_event& event) = 0;
  virtual void AckAsyncEvent(ibv_async_event& event) = 0;

  [[nodiscard]] virtual ibv_pd* AllocPd(ibv_context* context) = 0;
  virtual int DeallocPd(ibv_pd* pd) = 0;
  [[nodiscard]] virtual LockLimit GetLockLimit() = 0;
  [[nodiscard]] virtual ibv_mr* RegMr(ibv_pd* pd, void* base, std::uint64_t length_bytes,
                                      int access) = 0;
  /// Memory that is described by a dmabuf. EOPNOTSUPP: the library or the driver has no such call.
  [[nodiscard]] virtual ibv_mr* RegDmabufMr(ibv_pd* pd, std::uint64_t offset,
                                            std::uint64_t length_bytes, std::uint64_t address,
                                            int descriptor, int access) = 0;
  virtual int DeregMr(ibv_mr* mr) = 0;

  [[nodiscard]] virtual ibv_comp_channel* CreateCompChannel(ibv_context* context) = 0;
  virtual int DestroyCompChannel(ibv_comp_channel* channel) = 0;
  [[nodiscard]] virtual ibv_cq* CreateCq(ibv_context* context, int depth, void* cookie,
                                         ibv_comp_channel* channel) = 0;
  virtual int DestroyCq(ibv_cq* cq) = 0;
  /// Of a channel whose descriptor does not block; acknowledged already. EAGAIN: none is there.
  [[nodiscard]] virtual int GetCqEvent(ibv_comp_channel* channel, void*& cookie) = 0;
  [[nodiscard]] virtual int ReqNotifyCq(ibv_cq* cq) = 0;
  /// As ibv_poll_cq: how many, or negative.
  [[nodiscard]] virtual int PollCq(ibv_cq* cq, int count_max, ibv_wc* completions) = 0;

  [[nodiscard]] virtual ibv_qp* CreateQp(ibv_pd* pd, ibv_qp_init_attr& attributes) = 0;
  [[nodiscard]] virtual int ModifyQp(ibv_qp* qp, ibv_qp_attr& attributes, int mask) = 0;
  virtual int DestroyQp(ibv_qp* qp) = 0;
  [[nodiscard]] virtual int PostSend(ibv_qp* qp, ibv_send_wr* chain, ibv_send_wr** bad) = 0;
  [[nodiscard]] virtual int PostRecv(ibv_qp* qp, ibv_recv_wr* chain, ibv_recv_wr** bad) = 0;

  [[nodiscard]] virtual std::string_view StatusText(ibv_wc_status status) = 0;
};

/// A destructor has no caller to tell, so it logs.
template <class T, int (Verbs::*Release)(T*)>
struct Releaser {
  Verbs* verbs = nullptr;
  void operator()(T* handle) const noexcept {
    if (const int failure = (verbs->*Release)(handle); failure != 0)
      MC_LOG(warn, "an RDMA handle could not be released: errno {}", failure);
  }
};
using Context = std::unique_ptr<ibv_context, Releaser<ibv_context, &Verbs::CloseDevice>>;
using ProtectionDomain = std::unique_ptr<ibv_pd, Releaser<ibv_pd, &Verbs::DeallocPd>>;
using MemoryRegion = std::unique_ptr<ibv_mr, Releaser<ibv_mr, &Verbs::DeregMr>>;
using CompletionChannel =
    std::unique_ptr<ibv_comp_channel, Releaser<ibv_comp_channel, &Verbs::DestroyCompChannel>>;
using CompletionQueue = std::unique_ptr<ibv_cq, Releaser<ibv_cq, &Verbs::DestroyCq>>;
using QueuePair = std::unique_ptr<ibv_qp, Releaser<ibv_qp, &Verbs::DestroyQp>>;

}  // namespace mooncake::rdma
