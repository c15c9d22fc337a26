// mooncake.engine: the transfer engine under the names, arguments and return values of the public
// project's module of that name.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "drop_in/local_topology.h"
#include "drop_in/transfer_engine.h"
#include "python/arguments.h"
#include "python/metadata_service.h"
#include "python/own_engine.h"
#include "python/without_gil.h"

namespace mooncake::python {
namespace {

namespace py = pybind11;
using drop_in::Opcode;
using drop_in::TransferNotify;
using Inner = drop_in::TransferEngine;
// What Python calls TransferEngine. Arguments that name nothing fail like any other call.
class Engine {
 public:
  int Initialize(const std::string& local_hostname, const std::string& metadata_server,
                 const std::string& protocol, const std::string& device_name) {
    return Begun(inner_->Initialize(local_hostname, metadata_server, protocol, device_name));
  }
  int InitializeExt(const std::string& local_hostname, const std::string& metadata_server,
                    const std::string& protocol, const std::string& device_name,
                    const std::string& metadata_type) {
    return Begun(inner_->InitializeExt(local_hostname, metadata_server, protocol, device_name,
                                       metadata_type));
  }
  [[nodiscard]] int GetRpcPort() const { return inner_->rpc_port(); }
  [[nodiscard]] InnerPtr GetEngine() const { return inner_; }
  [[nodiscard]] std::uintptr_t GetEnginePtr() const {
    return reinterpret_cast<std::uintptr_t>(inner_.get());
  }

  int RegisterMemory(Number address, Number length, const std::string& location) {
    if (!address.value || !length.value) return drop_in::kFailed;
    return inner_->RegisterMemory(*address.value, *length.value, location);
  }
  int UnregisterMemory(Number address) {
    return address.value ? inner_->UnregisterMemory(*address.value)
                         : drop_in::kAddressNotRegistered;
  }
  int BatchRegisterMemory(const Numbers& addresses, const Numbers& lengths,
                          const std::string& location) {
    if (!addresses.values() || !lengths.values()) return drop_in::kFailed;
    return inner_->BatchRegisterMemory(*addresses.values(), *lengths.values(), location);
  }
  int BatchUnregisterMemory(const Numbers& addresses) {
    return addresses.values() ? inner_->BatchUnregisterMemory(*addresses.values())
                              : drop_in::kAddressNotRegistered;
  }

  template <Opcode opcode>
  int TransferOne(const std::string& target, Number local, Number remote, Number length) {
    if (!local.value || !remote.value || !length.value) return drop_in::kFailed;
    return inner_->TransferSync(target, *local.value, *remote.value, *length.value, opcode);
  }
  // Other threads may change the notification as soon as the interpreter's lock is gone: a copy.
  int Transfer(const std::string& target, Number local, Number remote, Number length, Opcode opcode,
               std::optional<TransferNotify> notify) {
    if (!local.value || !remote.value || !length.value) return drop_in::kFailed;
    const WithoutGil waiting;
    return inner_->TransferSync(target, *local.value, *remote.value, *length.value, opcode,
                                notify ? &*notify : nullptr);
  }
  template <Opcode opcode>
  int TransferMany(const std::string& target, const Numbers& local, const Numbers& remote,
                   const Numbers& lengths) {
    if (!local.values() || !remote.values() || !lengths.values()) return drop_in::kFailed;
    return inner_->TransferSync(target, {*local.values(), *remote.values(), *lengths.values()},
                                opcode);
  }
  int TransferBatch(const std::string& target, const Numbers& local, const Numbers& remote,
                    const Numbers& lengths, Opcode opcode, std::optional<TransferNotify> notify) {
    if (!local.values() || !remote.values() || !lengths.values()) return drop_in::kFailed;
    const WithoutGil waiting;
    return inner_->TransferSync(target, {*local.values(), *remote.values(), *lengths.values()},
                                opcode, notify ? &*notify : nullptr);
  }
  template <Opcode opcode>
  std::uint64_t Submit(const std::string& target, Number local, Number remote, Number length) {
    if (!local.value || !remote.value || !length.value) return 0;
    return inner_->TransferAsync(
        target, {{&*local.value, 1}, {&*remote.value, 1}, {&*length.value, 1}}, opcode);
  }
  template <Opcode opcode>
  std::uint64_t SubmitMany(const std::string& target, const Numbers& local, const Numbers& remote,
                           const Numbers& lengths) {
    return SubmitBatch(target, local, remote, lengths, opcode);
  }
  std::uint64_t SubmitBatch(const std::string& target, const Numbers& local, const Numbers& remote,
                            const Numbers& lengths, Opcode opcode) {
    if (!local.values() || !remote.values() || !lengths.values()) return 0;
    return inner_->TransferAsync(target, {*local.values(), *remote.values(), *lengths.values()},
                                 opcode);
  }
  int GetBatchTransferStatus(const Numbers& ids) {
    return ids.values() ? inner_->WaitAll(*ids.values()) : drop_in::kFailed;
  }
  int CheckStatus(Number id) { return id.value ? inner_->CheckStatus(*id.value) : -1; }

  int SendProbe(const std::string& target) { return inner_->SendProbe(target); }
  std::vector<TransferNotify> GetNotifies() { return inner_->TakeNotifies(); }
  std::uint64_t GetFirstBufferAddress(const std::string& segment) {
    return inner_->FirstBufferAddress(segment);
  }

  std::uint64_t AllocateManagedBuffer(Number length) {
    return length.value ? inner_->AllocateManagedBuffer(*length.value) : 0;
  }
  int FreeManagedBuffer(Number address, const py::object& /*length*/) {
    if (!address.value) return drop_in::kAddressNotRegistered;
    const WithoutGil waiting;
    return inner_->FreeManagedBuffer(*address.value);
  }
  int WriteBytesToBuffer(Number address, const py::buffer& bytes, Number length) {
    if (!address.value || !length.value) return drop_in::kFailed;
    const py::buffer_info from = bytes.request();
    const auto held = static_cast<std::uint64_t>(from.size * from.itemsize);
    if (*length.value > held || !inner_->IsRegistered(*address.value, *length.value))
      return drop_in::kFailed;
    std::memcpy(reinterpret_cast<void*>(*address.value), from.ptr, *length.value);
    return drop_in::kOk;
  }
  py::bytes ReadBytesFromBuffer(Number address, Number length) {
    if (!address.value || !length.value || !inner_->IsRegistered(*address.value, *length.value))
      return {};
    return {reinterpret_cast<const char*>(*address.value), static_cast<std::size_t>(*length.value)};
  }

 private:
  // Clients use get_first_buffer_address() of engines that have registered nothing.
  int Begun(int code) {
    if (code == drop_in::kOk) static_cast<void>(inner_->ReserveManagedMemory());
    return code;
  }

  InnerPtr inner_ = MakeInner();
};

using Waiting = py::call_guard<WithoutGil>;

void BindMemory(py::class_<Engine>& engine) {
  engine
      .def("register_memory", &Engine::RegisterMemory, py::arg("buffer_addr"), py::arg("capacity"),
           py::arg("location") = "*", Waiting(),
           "Lets peers read and write [buffer_addr, buffer_addr + capacity), bytes. 0; -7 where "
           "some "
           "of it is registered already; otherwise negative.")
      .def("unregister_memory", &Engine::UnregisterMemory, py::arg("buffer_addr"), Waiting(),
           "0: no peer touches the memory any more. -3: nothing begins at that address.")
      .def("batch_register_memory", &Engine::BatchRegisterMemory, py::arg("buffer_addresses"),
           py::arg("capacities"), py::arg("location") = "*", Waiting(),
           "All of them (0) or none (negative).")
      .def("batch_unregister_memory", &Engine::BatchUnregisterMemory, py::arg("buffer_addresses"),
           Waiting(), "All of them (0), or none (negative) if one is not registered.")
      .def("allocate_managed_buffer", &Engine::AllocateManagedBuffer, py::arg("length"), Waiting(),
           "Address of `length` zeroed bytes that are registered and that peers of this host map: "
           "the fastest there is. 0: there is no memory.")
      .def("free_managed_buffer", &Engine::FreeManagedBuffer, py::arg("buffer_addr"),
           py::arg("length"),
           "0, or negative for an address that was not allocated. The length is "
           "not needed.")
      .def("write_bytes_to_buffer", &Engine::WriteBytesToBuffer, py::arg("dest_address"),
           py::arg("data"), py::arg("length"),
           "Copies the first `length` bytes of `data` to registered memory. 0 or negative.")
      .def("read_bytes_from_buffer", &Engine::ReadBytesFromBuffer, py::arg("source_address"),
           py::arg("length"), "`length` bytes of registered memory; b\"\" where it is not.");
}

void BindTransfers(py::class_<Engine>& engine) {
  const auto one = [&engine](const char* name, auto function, const char* text) {
    engine.def(name, function, py::arg("target_hostname"), py::arg("buffer"),
               py::arg("peer_buffer_address"), py::arg("length"), Waiting(), text);
  };
  const auto many = [&engine](const char* name, auto function, const char* text) {
    engine.def(name, function, py::arg("target_hostname"), py::arg("buffers"),
               py::arg("peer_buffer_addresses"), py::arg("lengths"), Waiting(), text);
  };
  one("transfer_sync_write", &Engine::TransferOne<Opcode::kWrite>,
      "Writes to the peer. 0: the bytes are in its memory. Negative: failed.");
  one("transfer_sync_read", &Engine::TransferOne<Opcode::kRead>,
      "Reads from the peer. 0: the bytes are here. Negative: failed.");
  many("batch_transfer_sync_write", &Engine::TransferMany<Opcode::kWrite>,
       "As transfer_sync_write, for many ranges in one message. Sequences or arrays of integers.");
  many("batch_transfer_sync_read", &Engine::TransferMany<Opcode::kRead>,
       "As transfer_sync_read, for many ranges in one message. Sequences or arrays of integers.");
  many("batch_transfer_async_write", &Engine::SubmitMany<Opcode::kWrite>,
       "Starts and returns an id for get_batch_transfer_status; 0: nothing was started.");
  many("batch_transfer_async_read", &Engine::SubmitMany<Opcode::kRead>,
       "Starts and returns an id for get_batch_transfer_status; 0: nothing was started.");
  one("transfer_submit_write", &Engine::Submit<Opcode::kWrite>,
      "Starts and returns an id for transfer_check_status; 0: nothing was started.");
  engine
      .def("transfer_sync", &Engine::Transfer, py::arg("target_hostname"), py::arg("buffer"),
           py::arg("peer_buffer_address"), py::arg("length"), py::arg("opcode"),
           py::arg("notify") = py::none(),
           "Reads or writes, then delivers `notify` to the peer, exactly once. 0 or negative.")
      .def("batch_transfer_sync", &Engine::TransferBatch, py::arg("target_hostname"),
           py::arg("buffers"), py::arg("peer_buffer_addresses"), py::arg("lengths"),
           py::arg("opcode"), py::arg("notify") = py::none(),
           "As transfer_sync, for many ranges in one message.")
      .def("batch_transfer_async", &Engine::SubmitBatch, py::arg("target_hostname"),
           py::arg("buffers"), py::arg("peer_buffer_addresses"), py::arg("lengths"),
           py::arg("opcode"), Waiting(),
           "Starts and returns an id for get_batch_transfer_status; 0: nothing was started.")
      .def("get_batch_transfer_status", &Engine::GetBatchTransferStatus, py::arg("batch_ids"),
           Waiting(), "Waits for all of them. 0: each has moved everything. Negative: one has not.")
      .def("transfer_check_status", &Engine::CheckStatus, py::arg("batch_id"),
           "1: done, 0: under way, -1: failed or not known, -2: out of time.");
}

}  // namespace
}  // namespace mooncake::python

PYBIND11_MODULE(engine, m) {
  namespace py = pybind11;
  namespace drop_in = mooncake::drop_in;
  using namespace mooncake::python;
  using mooncake::drop_in::Opcode;
  using mooncake::drop_in::TransferNotify;
  m.doc() = "Moves bytes between the memory of processes: Mooncake's transfer engine.";

  py::class_<TransferNotify>(m, "TransferNotify", "What a peer is told after a transfer.")
      .def(py::init([](std::string name, std::string msg) {
             return TransferNotify{std::move(name), std::move(msg)};
           }),
           py::arg("name") = "", py::arg("msg") = "")
      .def_readwrite("name", &TransferNotify::name)
      .def_readwrite("msg", &TransferNotify::message);

  // Kinds of GPU memory that other builds move.
  for (const char* name : {"SUPPORT_MNNVL", "SUPPORT_HIP", "SUPPORT_INTRA_NVLINK"})
    m.attr(name) = false;

  // The store's module takes it: one registered type for both.
  py::class_<Inner, InnerPtr>(m, "InnerTransferEngine");

  py::class_<Engine> engine(m, "TransferEngine");
  py::enum_<Opcode>(engine, "Opcode", "Whether bytes come from the peer or go to it.")
      .value("Read", Opcode::kRead)
      .value("Write", Opcode::kWrite)
      .export_values();
  m.attr("TransferOpcode") = engine.attr("Opcode");
  engine.attr("TransferOpcode") = engine.attr("Opcode");
  engine.doc() =
      "An engine of this process; any number, each with its own port. Every call may come from any "
      "thread and lets others run while it waits. Calls fail with a negative number (those that "
      "return an id or an address, with 0), never with an exception; why is in the log.";
  engine.def(py::init<>())
      .def("initialize", &Engine::Initialize, py::arg("local_hostname"), py::arg("metadata_server"),
           py::arg("protocol"), py::arg("device_name"), Waiting(),
           "0 or negative. `metadata_server` \"P2PHANDSHAKE\": peers call this engine "
           "f\"{host}:{get_rpc_port()}\"; otherwise a directory, in which it is `local_hostname`.")
      .def("initialize_ext", &Engine::InitializeExt, py::arg("local_hostname"),
           py::arg("metadata_server"), py::arg("protocol"), py::arg("device_name"),
           py::arg("metadata_type"), Waiting(), "The same with the kind of directory by name.")
      .def("get_rpc_port", &Engine::GetRpcPort, "The port that peers connect to.")
      .def("get_engine", &Engine::GetEngine, "For MooncakeDistributedStore.setup(engine=...).")
      .def("get_engine_ptr", &Engine::GetEnginePtr)
      .def("send_probe", &Engine::SendProbe, py::arg("target_hostname"), Waiting(),
           "0: the peer answers. Negative within seconds: it does not.")
      .def(
          "get_local_topology",
          [](const Engine&, const std::optional<std::string>& devices) {
            return drop_in::LocalTopology(devices.value_or(""));
          },
          py::arg("device_name") = py::none(),
          "JSON: for each NUMA node and GPU of this host, the RDMA devices near it and the others. "
          "`device_name`, names with commas, leaves only those.")
      .def("get_notifies", &Engine::GetNotifies,
           "What peers have sent since the last call: TransferNotify objects, each once.")
      .def("get_first_buffer_address", &Engine::GetFirstBufferAddress, py::arg("segment_name"),
           Waiting(),
           "Of the memory that a peer, or this engine, registered first; where it has registered "
           "none, of the memory that allocate_managed_buffer takes from. 0: no answer.");
  BindMemory(engine);
  BindTransfers(engine);
  BindMetadataService(m);
  BindOwnEngine(m);
}
