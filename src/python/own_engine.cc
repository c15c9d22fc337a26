#include "python/own_engine.h"

#include <fmt/format.h>
#include <pybind11/stl.h>
#include <sys/eventfd.h>

#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "python/arguments.h"
#include "python/raise.h"

namespace mooncake::python {
namespace {

namespace py = pybind11;
using drop_in::Opcode;
using drop_in::Ranges;
using drop_in::TransferNotify;
using Inner = drop_in::TransferEngine;

std::uint64_t Value(const Number& number, const char* what) {
  if (!number.value)
    Raise({ErrorId::kBadRange, fmt::format("{} is negative or needs more than 64 bits", what)});
  return *number.value;
}

std::span<const std::uint64_t> Values(const Numbers& numbers, const char* what) {
  if (!numbers.values())
    Raise({ErrorId::kBadRange,
           fmt::format("one of {} is negative or needs more than 64 bits", what)});
  return *numbers.values();
}

// Transfers that have ended, for one event loop: its descriptor is readable while there are any.
class Completions {
 public:
  Completions() : queue_(std::make_shared<Queue>()) {
    queue_->readable = UniqueFd(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    if (!queue_->readable) Raise({ErrorId::kNoDescriptors, "eventfd", errno});
  }

  [[nodiscard]] int descriptor() const { return queue_->readable.get(); }
  // Pairs of a transfer's id and None or the exception that it ended with.
  [[nodiscard]] py::list Take() {
    std::uint64_t count = 0;
    static_cast<void>(::read(queue_->readable.get(), &count, sizeof(count)));
    std::vector<std::pair<std::uint64_t, Status>> ended;
    {
      const std::lock_guard lock(queue_->mutex);
      ended.swap(queue_->ended);
    }
    py::list all;
    for (const auto& [id, outcome] : ended)
      all.append(py::make_tuple(id, outcome ? py::none() : ToException(outcome.error())));
    return all;
  }
  [[nodiscard]] std::function<void(const Status&)> AddOf(std::uint64_t id) const {
    return [queue = queue_, id](const Status& outcome) {
      const std::lock_guard lock(queue->mutex);
      queue->ended.emplace_back(id, outcome);
      const std::uint64_t one = 1;
      static_cast<void>(::write(queue->readable.get(), &one, sizeof(one)));
    };
  }

 private:
  // Outlives the loop that it was for: transfers end when they end.
  struct Queue {
    UniqueFd readable;
    std::mutex mutex;
    std::vector<std::pair<std::uint64_t, Status>> ended;  // guarded by mutex
  };
  std::shared_ptr<Queue> queue_;
};

// Registered memory: somebody's, who is kept alive, or the engine's own, which is given back when
// nobody looks at it any more. Keeps the engine alive.
class HeldMemory {
 public:
  HeldMemory(InnerPtr engine, std::uint64_t address, std::uint64_t length_bytes, py::object owner)
      : engine_(std::move(engine)),
        address_(address),
        length_bytes_(length_bytes),
        owner_(std::move(owner)) {}
  ~HeldMemory() {
    if (!engine_) return;
    int ended = drop_in::kOk;
    RunWithoutGil([&] {
      ended = owner_ ? engine_->UnregisterMemory(address_) : engine_->FreeManagedBuffer(address_);
    });
    Keep(ended);
  }
  HeldMemory(const HeldMemory&) = delete;
  HeldMemory& operator=(const HeldMemory&) = delete;

  [[nodiscard]] std::uint64_t address() const { return address_; }
  [[nodiscard]] std::uint64_t length_bytes() const { return length_bytes_; }
  [[nodiscard]] py::buffer_info Show() const {
    return {reinterpret_cast<std::uint8_t*>(address_), static_cast<py::ssize_t>(length_bytes_)};
  }
  // Somebody's memory is theirs alone from now on; who looks at it still keeps it alive.
  void Close() {
    if (!owner_ || !engine_) return;
    const InnerPtr engine = std::exchange(engine_, nullptr);
    Checked([&] {
      const int ended = engine->UnregisterMemory(address_);
      Keep(ended);
      return ended;
    });
  }

 private:
  // What is still touched although its registration has ended is never given back.
  void Keep(int ended) {
    if (ended != drop_in::kFailed || !owner_) return;
    const py::gil_scoped_acquire locked;
    owner_.inc_ref();
  }

  InnerPtr engine_;
  std::uint64_t address_;
  std::uint64_t length_bytes_;
  py::object owner_;  // null: the engine's own
};

// Of an object that shows its memory.
std::pair<std::uint64_t, std::uint64_t> PlaceOf(const py::buffer& buffer) {
  const py::buffer_info info = buffer.request(true);
  return {reinterpret_cast<std::uint64_t>(info.ptr),
          static_cast<std::uint64_t>(info.size * info.itemsize)};
}

class OwnEngine {
 public:
  OwnEngine(const std::string& local_hostname, const std::string& directory,
            const std::string& protocol, const std::string& device) {
    Checked([&] { return inner_->Initialize(local_hostname, directory, protocol, device); });
  }

  // Calls that are under way hold on to it until they return.
  void Close() { inner_ = nullptr; }
  [[nodiscard]] std::string Name() const { return Get()->SegmentName(); }
  [[nodiscard]] int Port() const { return Get()->rpc_port(); }

  [[nodiscard]] std::unique_ptr<HeldMemory> Register(const Number& address, const Number& length,
                                                     const std::string& location,
                                                     py::object owner) const {
    const std::uint64_t begin = Value(address, "the address");
    const std::uint64_t length_bytes = Value(length, "the length");
    const InnerPtr engine = Get();
    Checked([&] { return engine->RegisterMemory(begin, length_bytes, location); });
    return std::make_unique<HeldMemory>(engine, begin, length_bytes, std::move(owner));
  }
  [[nodiscard]] std::unique_ptr<HeldMemory> Allocate(const Number& length) const {
    const std::uint64_t length_bytes = Value(length, "the length");
    const InnerPtr engine = Get();
    const std::uint64_t address =
        Checked([&] { return engine->AllocateManagedBuffer(length_bytes); });
    return std::make_unique<HeldMemory>(engine, address, length_bytes, py::object());
  }

  void Open(const std::string& segment) const {
    const InnerPtr engine = Get();
    Checked([&] { return engine->OpenSegment(segment); });
  }
  void Probe(const std::string& segment) const {
    const InnerPtr engine = Get();
    Checked([&] { return engine->SendProbe(segment); });
  }
  [[nodiscard]] std::uint64_t FirstAddress(const std::string& segment) const {
    const InnerPtr engine = Get();
    return Checked([&] { return engine->FirstBufferAddress(segment); });
  }
  [[nodiscard]] py::dict Paths(const std::string& segment) const {
    py::dict paths;
    for (const drop_in::PathUse& path : Get()->Paths(segment))
      paths[py::str(path.transport)] = path.bytes;
    return paths;
  }
  void Notify(const std::string& segment, const std::string& name,
              const std::string& message) const {
    const InnerPtr engine = Get();
    const TransferNotify notify{name, message};
    Checked([&] { return engine->SendNotify(segment, notify); });
  }
  [[nodiscard]] std::vector<TransferNotify> TakeNotifies() const { return Get()->TakeNotifies(); }

  void Transfer(const std::string& segment, const Numbers& local, const Numbers& remote,
                const Numbers& lengths, Opcode opcode, std::optional<TransferNotify> notify) const {
    const Ranges ranges = ToRanges(local, remote, lengths);
    const InnerPtr engine = Get();
    Checked(
        [&] { return engine->TransferSync(segment, ranges, opcode, notify ? &*notify : nullptr); });
  }
  // The transfer's id, which `completions` will name; None: it cannot start without waiting.
  [[nodiscard]] std::optional<std::uint64_t> Start(const Completions& completions,
                                                   const std::string& segment, const Numbers& local,
                                                   const Numbers& remote, const Numbers& lengths,
                                                   Opcode opcode,
                                                   std::optional<TransferNotify> notify) const {
    const Ranges ranges = ToRanges(local, remote, lengths);
    const InnerPtr engine = Get();
    return Checked([&] {
      const std::optional<std::uint64_t> id =
          engine->TryTransferAsync(segment, ranges, opcode, notify ? &*notify : nullptr);
      if (id && *id != 0) engine->OnEnd(*id, completions.AddOf(*id));
      return id;
    });
  }
  void Cancel(std::uint64_t id) const {
    if (inner_) inner_->Cancel(id);
  }
  // Of a transfer that has ended.
  void Forget(std::uint64_t id) const {
    if (inner_) inner_->Release(id);
  }

 private:
  [[nodiscard]] InnerPtr Get() const {
    if (!inner_) Raise({ErrorId::kClosed, "the engine has been closed"});
    return inner_;
  }
  static Ranges ToRanges(const Numbers& local, const Numbers& remote, const Numbers& lengths) {
    return {Values(local, "the local addresses"), Values(remote, "the remote addresses"),
            Values(lengths, "the lengths")};
  }

  InnerPtr inner_ = MakeInner();
};

}  // namespace

// Closing waits for peers and threads, which may want the interpreter's lock.
InnerPtr MakeInner() {
  return {new Inner, [](Inner* engine) { RunWithoutGil([engine] { delete engine; }); }};
}

void BindOwnEngine(py::module_& module) {
  module.def("_place_of", &PlaceOf);
  module.def("_error", [](int id, const std::string& context) {
    return ToException({static_cast<ErrorId>(id), context});
  });
  py::class_<Completions>(module, "_Completions")
      .def(py::init<>())
      .def("fileno", &Completions::descriptor)
      .def("take", &Completions::Take);
  py::class_<HeldMemory>(module, "_Memory", py::buffer_protocol())
      .def_property_readonly("address", &HeldMemory::address)
      .def_property_readonly("nbytes", &HeldMemory::length_bytes)
      .def("close", &HeldMemory::Close)
      .def_buffer(&HeldMemory::Show);
  py::class_<OwnEngine>(module, "_Engine")
      .def(py::init<const std::string&, const std::string&, const std::string&,
                    const std::string&>())
      .def("close", &OwnEngine::Close)
      .def("name", &OwnEngine::Name)
      .def("port", &OwnEngine::Port)
      .def("register", &OwnEngine::Register)
      .def("allocate", &OwnEngine::Allocate)
      .def("open", &OwnEngine::Open)
      .def("probe", &OwnEngine::Probe)
      .def("first_address", &OwnEngine::FirstAddress)
      .def("paths", &OwnEngine::Paths)
      .def("notify", &OwnEngine::Notify)
      .def("take_notifies", &OwnEngine::TakeNotifies)
      .def("transfer", &OwnEngine::Transfer)
      .def("start", &OwnEngine::Start)
      .def("cancel", &OwnEngine::Cancel)
      .def("forget", &OwnEngine::Forget);
}

}  // namespace mooncake::python
