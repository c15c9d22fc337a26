#include "transport/rdma/real_verbs.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/dynamic_library.h"

namespace mooncake::rdma {
namespace {

constexpr const char* kLibrary = "libibverbs.so.1";

// Every function that the library exports and this transport calls. What the header defines as
// macros or inline goes through these, or through the context.
struct Library : DynamicLibrary {
  decltype(&::ibv_get_device_list) get_device_list = nullptr;
  decltype(&::ibv_free_device_list) free_device_list = nullptr;
  decltype(&::ibv_get_device_name) get_device_name = nullptr;
  decltype(&::ibv_open_device) open_device = nullptr;
  decltype(&::ibv_close_device) close_device = nullptr;
  decltype(&::ibv_query_device) query_device = nullptr;
  int (*query_port)(ibv_context*, std::uint8_t, _compat_ibv_port_attr*) = nullptr;
  decltype(&::ibv_get_async_event) get_async_event = nullptr;
  decltype(&::ibv_ack_async_event) ack_async_event = nullptr;
  decltype(&::ibv_alloc_pd) alloc_pd = nullptr;
  decltype(&::ibv_dealloc_pd) dealloc_pd = nullptr;
  ibv_mr* (*reg_mr)(ibv_pd*, void*, std::size_t, int) = nullptr;
  decltype(&::ibv_dereg_mr) dereg_mr = nullptr;
  decltype(&::ibv_create_comp_channel) create_comp_channel = nullptr;
  decltype(&::ibv_destroy_comp_channel) destroy_comp_channel = nullptr;
  decltype(&::ibv_create_cq) create_cq = nullptr;
  decltype(&::ibv_destroy_cq) destroy_cq = nullptr;
  decltype(&::ibv_get_cq_event) get_cq_event = nullptr;
  decltype(&::ibv_ack_cq_events) ack_cq_events = nullptr;
  decltype(&::ibv_create_qp) create_qp = nullptr;
  decltype(&::ibv_modify_qp) modify_qp = nullptr;
  decltype(&::ibv_destroy_qp) destroy_qp = nullptr;
  decltype(&::ibv_wc_status_str) wc_status_str = nullptr;
  decltype(&::ibv_fork_init) fork_init = nullptr;
  // Of newer versions; null where they are missing.
  ibv_mr* (*reg_mr_iova2)(ibv_pd*, void*, std::size_t, std::uint64_t, unsigned int) = nullptr;
  decltype(&::ibv_reg_dmabuf_mr) reg_dmabuf_mr = nullptr;
};

Result<Library> Load() {
  Library library;
  library.handle = ::dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library.handle == nullptr)
    return Fail(ErrorId::kNoRdma,
                fmt::format("{} cannot be opened ({}): install libibverbs1 and ibverbs-providers",
                            kLibrary, ::dlerror()));
  const bool all = library.Take(library.get_device_list, "ibv_get_device_list") &&
                   library.Take(library.free_device_list, "ibv_free_device_list") &&
                   library.Take(library.get_device_name, "ibv_get_device_name") &&
                   library.Take(library.open_device, "ibv_open_device") &&
                   library.Take(library.close_device, "ibv_close_device") &&
                   library.Take(library.query_device, "ibv_query_device") &&
                   library.Take(library.query_port, "ibv_query_port") &&
                   library.Take(library.get_async_event, "ibv_get_async_event") &&
                   library.Take(library.ack_async_event, "ibv_ack_async_event") &&
                   library.Take(library.alloc_pd, "ibv_alloc_pd") &&
                   library.Take(library.dealloc_pd, "ibv_dealloc_pd") &&
                   library.Take(library.reg_mr, "ibv_reg_mr") &&
                   library.Take(library.dereg_mr, "ibv_dereg_mr") &&
                   library.Take(library.create_comp_channel, "ibv_create_comp_channel") &&
                   library.Take(library.destroy_comp_channel, "ibv_destroy_comp_channel") &&
                   library.Take(library.create_cq, "ibv_create_cq") &&
                   library.Take(library.destroy_cq, "ibv_destroy_cq") &&
                   library.Take(library.get_cq_event, "ibv_get_cq_event") &&
                   library.Take(library.ack_cq_events, "ibv_ack_cq_events") &&
                   library.Take(library.create_qp, "ibv_create_qp") &&
                   library.Take(library.modify_qp, "ibv_modify_qp") &&
                   library.Take(library.destroy_qp, "ibv_destroy_qp") &&
                   library.Take(library.wc_status_str, "ibv_wc_status_str") &&
                   library.Take(library.fork_init, "ibv_fork_init");
  if (!all) return Fail(ErrorId::kNoRdma, fmt::format("{} is too old: {}", kLibrary, ::dlerror()));
  static_cast<void>(library.Take(library.reg_mr_iova2, "ibv_reg_mr_iova2"));
  static_cast<void>(library.Take(library.reg_dmabuf_mr, "ibv_reg_dmabuf_mr"));
  return library;
}

bool SetNonBlocking(int descriptor) {
  const int flags = ::fcntl(descriptor, F_GETFL);
  return flags >= 0 && ::fcntl(descriptor, F_SETFL, flags | O_NONBLOCK) == 0;
}

std::string FirstLine(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// "fe80:0000:0000:0000:0202:0aff:fe4d:0001", as sysfs has it. All zeros: a row that is not in use.
bool ParseGid(std::string_view text, Gid& gid) {
  constexpr std::size_t kTextLength = 39;
  if (text.size() != kTextLength) return false;
  bool any = false;
  for (std::size_t i = 0; i < gid.size(); ++i) {
    const char* const at = text.data() + 2 * i + i / 2;
    const auto [end, failure] = std::from_chars(at, at + 2, gid[i], 16);
    if (failure != std::errc() || end != at + 2) return false;
    any = any || gid[i] != 0;
  }
  return any;
}

class RealVerbs final : public Verbs {
 public:
  explicit RealVerbs(const Library& library) : library_(library) {
    // A child of this process must not take pages away from the NIC; newer kernels see to it.
    if (library_.fork_init() != 0)
      MC_LOG(debug, "ibv_fork_init: errno {}; memory in use must not be touched after a fork()",
             errno);
  }

  ibv_context* OpenDevice(const std::string& name) override {
    ibv_context* context = nullptr;
    int failure = ENODEV;
    const auto open = [&](ibv_device* device) {
      if (context != nullptr || name != library_.get_device_name(device)) return;
      errno = 0;
      context = library_.open_device(device);
      failure = errno != 0 ? errno : EIO;
      // The library looks in other places too, and forgets why the first was no good.
      const std::string node = fmt::format("/dev/infiniband/{}", device->dev_name);
      if (context == nullptr && ::access(node.c_str(), R_OK | W_OK) != 0) failure = errno;
    };
    static_cast<void>(ForEachDevice(open));
    if (context != nullptr && !SetNonBlocking(context->async_fd)) {
      failure = errno;
      library_.close_device(context);
      context = nullptr;
    }
    if (context == nullptr) errno = failure;
    return context;
  }
  int CloseDevice(ibv_context* context) override { return library_.close_device(context); }
  int QueryDevice(ibv_context* context, ibv_device_attr& attributes) override {
    return library_.query_device(context, &attributes);
  }
  int QueryPort(ibv_context* context, std::uint8_t port, ibv_port_attr& attributes) override {
    attributes = {};  // the exported function fills an older, shorter structure
    return library_.query_port(context, port,
                               reinterpret_cast<_compat_ibv_port_attr*>(&attributes));
  }
  std::vector<GidRow> Gids(const std::string& device, std::uint8_t port) override {
    const std::filesystem::path at =
        fmt::format("/sys/class/infiniband/{}/ports/{}", device, static_cast<int>(port));
    constexpr int kRowsMax = 256;
    std::vector<GidRow> rows;
    for (int i = 0; i < kRowsMax; ++i) {
      const std::filesystem::path file = at / "gids" / std::to_string(i);
      if (std::error_code ignored; !std::filesystem::exists(file, ignored)) break;
      GidRow row{static_cast<std::uint8_t>(i), {}, GidKind::kInfiniBand, {}};
      if (!ParseGid(FirstLine(file), row.gid)) continue;
      const std::string kind = FirstLine(at / "gid_attrs/types" / std::to_string(i));
      if (kind == "RoCE v2") row.kind = GidKind::kRoceV2;
      row.netdev = FirstLine(at / "gid_attrs/ndevs" / std::to_string(i));
      if (kind == "IB/RoCE v1" && !row.netdev.empty()) row.kind = GidKind::kRoceV1;
      rows.push_back(std::move(row));
    }
    return rows;
  }
  int GetAsyncEvent(ibv_context* context, ibv_async_event& event) override {
    return library_.get_async_event(context, &event) == 0 ? 0 : errno;
  }
  void AckAsyncEvent(ibv_async_event& event) override { library_.ack_async_event(&event); }

  ibv_pd* AllocPd(ibv_context* context) override { return library_.alloc_pd(context); }
  int DeallocPd(ibv_pd* pd) override { return library_.dealloc_pd(pd); }
  LockLimit GetLockLimit() override {
    LockLimit limit;
    rlimit most{};
    if (::getrlimit(RLIMIT_MEMLOCK, &most) != 0) return limit;
    limit.limit_bytes = most.rlim_cur;
    limit.unlimited = most.rlim_cur == RLIM_INFINITY;
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
      constexpr unsigned kIpcLock = 14;  // the capability that the kernel asks for
      if (line.starts_with("VmPin:"))
        limit.locked_bytes = std::strtoull(line.c_str() + 6, nullptr, 10) << 10;
      if (line.starts_with("CapEff:") &&
          (std::strtoull(line.c_str() + 7, nullptr, 16) >> kIpcLock & 1) != 0)
        limit.unlimited = true;
    }
    return limit;
  }
  ibv_mr* RegMr(ibv_pd* pd, void* base, std::uint64_t length_bytes, int access) override {
    const auto flags = static_cast<unsigned>(access);
    if ((flags & IBV_ACCESS_OPTIONAL_RANGE) == 0)
      return library_.reg_mr(pd, base, length_bytes, access);
    if (library_.reg_mr_iova2 != nullptr)
      return library_.reg_mr_iova2(pd, base, length_bytes, reinterpret_cast<std::uint64_t>(base),
                                   flags);
    errno = EOPNOTSUPP;
    return nullptr;
  }
  ibv_mr* RegDmabufMr(ibv_pd* pd, std::uint64_t offset, std::uint64_t length_bytes,
                      std::uint64_t address, int descriptor, int access) override {
    if (library_.reg_dmabuf_mr != nullptr)
      return library_.reg_dmabuf_mr(pd, offset, length_bytes, address, descriptor, access);
    errno = EOPNOTSUPP;
    return nullptr;
  }
  int DeregMr(ibv_mr* mr) override { return library_.dereg_mr(mr); }

  ibv_comp_channel* CreateCompChannel(ibv_context* context) override {
    ibv_comp_channel* const channel = library_.create_comp_channel(context);
    if (channel != nullptr && !SetNonBlocking(channel->fd)) {
      const int failure = errno;
      library_.destroy_comp_channel(channel);
      errno = failure;
      return nullptr;
    }
    return channel;
  }
  int DestroyCompChannel(ibv_comp_channel* channel) override {
    return library_.destroy_comp_channel(channel);
  }
  ibv_cq* CreateCq(ibv_context* context, int depth, void* cookie,
                   ibv_comp_channel* channel) override {
    return library_.create_cq(context, depth, cookie, channel, 0);
  }
  int DestroyCq(ibv_cq* cq) override { return library_.destroy_cq(cq); }
  int GetCqEvent(ibv_comp_channel* channel, void*& cookie) override {
    ibv_cq* cq = nullptr;
    if (library_.get_cq_event(channel, &cq, &cookie) != 0) return errno;
    library_.ack_cq_events(cq, 1);
    return 0;
  }
  int ReqNotifyCq(ibv_cq* cq) override { return ::ibv_req_notify_cq(cq, 0); }
  [[gnu::hot]] int PollCq(ibv_cq* cq, int count_max, ibv_wc* completions) override {
    return ::ibv_poll_cq(cq, count_max, completions);
  }

  ibv_qp* CreateQp(ibv_pd* pd, ibv_qp_init_attr& attributes) override {
    return library_.create_qp(pd, &attributes);
  }
  int ModifyQp(ibv_qp* qp, ibv_qp_attr& attributes, int mask) override {
    return library_.modify_qp(qp, &attributes, mask);
  }
  int DestroyQp(ibv_qp* qp) override { return library_.destroy_qp(qp); }
  [[gnu::hot]] int PostSend(ibv_qp* qp, ibv_send_wr* chain, ibv_send_wr** bad) override {
    return ::ibv_post_send(qp, chain, bad);
  }
  int PostRecv(ibv_qp* qp, ibv_recv_wr* chain, ibv_recv_wr** bad) override {
    return ::ibv_post_recv(qp, chain, bad);
  }
  std::string_view StatusText(ibv_wc_status status) override {
    return library_.wc_status_str(status);
  }

 private:
  // 0 or an errno. ENOSYS is what the library says where the kernel has no RDMA at all.
  template <class Call>
  int ForEachDevice(Call&& call) {
    int count = 0;
    ibv_device** const list = library_.get_device_list(&count);
    if (list == nullptr) return errno == ENOSYS ? 0 : errno;
    for (int i = 0; i < count; ++i) call(list[i]);
    library_.free_device_list(list);
    return 0;
  }

  const Library library_;
};

}  // namespace

Result<std::shared_ptr<Verbs>> OpenRealVerbs() {
  MC_TRY(const Library library, Load());
  return std::make_shared<RealVerbs>(library);
}

}  // namespace mooncake::rdma
