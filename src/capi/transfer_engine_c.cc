#include "transfer_engine_c.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/result.h"
#include "drop_in/transfer_engine.h"

namespace mooncake::capi {
namespace {

using drop_in::kFailed;
using drop_in::kOk;
using drop_in::Opcode;
using drop_in::TransferNotify;

// Requests of one submission that go to the same segment in the same direction travel as one.
struct Group {
  segment_id_t target = 0;
  int opcode = 0;
  std::vector<std::uint64_t> local, remote, lengths;
  std::uint64_t id = 0;  // of the transfer
};

struct Task {
  std::uint64_t transfer = 0;
  std::uint64_t length_bytes = 0;
};

struct Handle {
  drop_in::TransferEngine engine;
  std::shared_mutex mutex;
  std::map<std::string, segment_id_t> ids;          // guarded by mutex
  std::map<segment_id_t, std::string> names;        // guarded by mutex
  segment_id_t next_segment = 1;                    // guarded by mutex
  std::map<batch_id_t, std::vector<Task>> batches;  // guarded by mutex
  batch_id_t next_batch = 1;                        // guarded by mutex

  std::optional<std::string> NameOf(segment_id_t id) {
    if (id == LOCAL_SEGMENT) return engine.SegmentName();
    const std::shared_lock lock(mutex);
    const auto found = names.find(id);
    if (found == names.end()) return std::nullopt;
    return found->second;
  }
};

Handle* ToHandle(transfer_engine_t engine) { return static_cast<Handle*>(engine); }
std::uint64_t AddressOf(const void* pointer) { return reinterpret_cast<std::uint64_t>(pointer); }
std::string Text(const char* text) { return text == nullptr ? std::string() : std::string(text); }

int Refuse(std::string_view what, ErrorId id, std::string context) {
  MC_LOG(warn, "{}: {}", what, Error(id, std::move(context)).Text());
  return kFailed;
}

// Groups in the order of their first requests, and to which of them each request belongs.
bool Divide(const transfer_request* entries, std::size_t count, std::vector<Group>& groups,
            std::vector<std::size_t>& group_of) {
  for (std::size_t i = 0; i < count; ++i) {
    const transfer_request& entry = entries[i];
    if (entry.opcode != OPCODE_READ && entry.opcode != OPCODE_WRITE) return false;
    auto group = std::find_if(groups.begin(), groups.end(), [&entry](const Group& each) {
      return each.target == entry.target_id && each.opcode == entry.opcode;
    });
    if (group == groups.end())
      group = groups.insert(groups.end(), Group{entry.target_id, entry.opcode, {}, {}, {}, 0});
    group->local.push_back(AddressOf(entry.source));
    group->remote.push_back(entry.target_offset);
    group->lengths.push_back(entry.length);
    group_of.push_back(static_cast<std::size_t>(group - groups.begin()));
  }
  return true;
}

int Submit(Handle* handle, batch_id_t batch, const transfer_request* entries, std::size_t count,
           const TransferNotify* notify) {
  constexpr std::string_view kWhat = "submitTransfer";
  if (handle == nullptr || (entries == nullptr && count > 0) || (count == 0 && notify != nullptr))
    return Refuse(kWhat, ErrorId::kBadRange, "no engine or no requests");
  {
    const std::shared_lock lock(handle->mutex);
    if (!handle->batches.contains(batch))
      return Refuse(kWhat, ErrorId::kBadRange, fmt::format("there is no batch {}", batch));
  }
  std::vector<Group> groups;
  std::vector<std::size_t> group_of;
  if (!Divide(entries, count, groups, group_of))
    return Refuse(kWhat, ErrorId::kBadRange, "an opcode that is neither a read nor a write");
  std::vector<std::string> names;
  for (const Group& group : groups) {
    std::optional<std::string> name = handle->NameOf(group.target);
    if (!name)
      return Refuse(kWhat, ErrorId::kNotFound, fmt::format("there is no segment {}", group.target));
    names.push_back(*std::move(name));
  }
  if (notify != nullptr && groups.size() > 1) {
    // It follows the bytes of all: its own group goes last, when the others have ended.
    std::rotate(groups.begin(), groups.begin() + 1, groups.end());
    std::rotate(names.begin(), names.begin() + 1, names.end());
    for (std::size_t& index : group_of) index = (index + groups.size() - 1) % groups.size();
  }
  const auto abandon = [&](std::size_t begun) {
    for (std::size_t i = 0; i < begun; ++i) handle->engine.Release(groups[i].id);
    return kFailed;
  };
  for (std::size_t i = 0; i < groups.size(); ++i) {
    Group& group = groups[i];
    const bool last = i + 1 == groups.size();
    if (last && notify != nullptr) {
      for (std::size_t before = 0; before < i; ++before) {
        if (handle->engine.AwaitStatus(groups[before].id) != drop_in::kDone) return abandon(i);
      }
    }
    group.id = handle->engine.TransferAsync(
        names[i], {group.local, group.remote, group.lengths},
        group.opcode == OPCODE_WRITE ? Opcode::kWrite : Opcode::kRead, last ? notify : nullptr);
    if (group.id == 0) return abandon(i);
  }
  const std::lock_guard lock(handle->mutex);
  const auto found = handle->batches.find(batch);
  if (found == handle->batches.end()) return abandon(groups.size());  // freed meanwhile
  for (std::size_t i = 0; i < count; ++i)
    found->second.push_back({groups[group_of[i]].id, entries[i].length});
  return kOk;
}

char* Duplicate(const std::string& text) {
  auto* const copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (copy != nullptr) std::memcpy(copy, text.c_str(), text.size() + 1);
  return copy;
}

}  // namespace
}  // namespace mooncake::capi

// The functions below are of no namespace.
using namespace mooncake::capi;
namespace drop_in = mooncake::drop_in;

transfer_engine_t createTransferEngine(const char* metadata_conn_string,
                                       const char* local_server_name, const char*, uint64_t, int) {
  auto handle = std::make_unique<Handle>();
  const int begun =
      handle->engine.Initialize(Text(local_server_name), Text(metadata_conn_string), {}, {});
  return begun == kOk ? handle.release() : nullptr;
}

void destroyTransferEngine(transfer_engine_t engine) { delete ToHandle(engine); }

int getLocalIpAndPort(transfer_engine_t engine, char* buf_out, size_t buf_len) {
  if (engine == nullptr || buf_out == nullptr) return kFailed;
  const std::string address = ToHandle(engine)->engine.LocalAddress();
  if (address.empty() || address.size() >= buf_len) return kFailed;
  std::memcpy(buf_out, address.c_str(), address.size() + 1);
  return kOk;
}

transport_t installTransport(transfer_engine_t engine, const char*, void**) { return engine; }
int uninstallTransport(transfer_engine_t engine, const char*) {
  return engine == nullptr ? kFailed : kOk;
}
int removeLocalSegment(transfer_engine_t engine, const char*) {
  return engine == nullptr ? kFailed : kOk;
}
int syncSegmentCache(transfer_engine_t engine) { return engine == nullptr ? kFailed : kOk; }

segment_id_t openSegment(transfer_engine_t engine, const char* segment_name) {
  if (engine == nullptr || segment_name == nullptr) return kFailed;
  Handle& handle = *ToHandle(engine);
  const std::string name(segment_name);
  if (name == handle.engine.SegmentName()) return LOCAL_SEGMENT;
  if (handle.engine.OpenSegment(name) != kOk) return kFailed;
  const std::lock_guard lock(handle.mutex);
  const auto [found, added] = handle.ids.emplace(name, handle.next_segment);
  if (added) handle.names.emplace(handle.next_segment++, name);
  return found->second;
}

segment_id_t openSegmentNoCache(transfer_engine_t engine, const char* segment_name) {
  const segment_id_t id = openSegment(engine, segment_name);
  if (id > 0 && ToHandle(engine)->engine.SendProbe(segment_name) != kOk) return kFailed;
  return id;
}

int closeSegment(transfer_engine_t engine, segment_id_t segment_id) {
  if (engine == nullptr) return kFailed;
  if (segment_id == LOCAL_SEGMENT) return kOk;
  Handle& handle = *ToHandle(engine);
  const std::lock_guard lock(handle.mutex);
  return handle.names.contains(segment_id) ? kOk : kFailed;  // others may still use the id
}

int registerLocalMemory(transfer_engine_t engine, void* addr, size_t length, const char* location,
                        int remote_accessible) {
  if (engine == nullptr) return kFailed;
  return ToHandle(engine)->engine.RegisterMemory(
      AddressOf(addr), length, location == nullptr ? "*" : location, remote_accessible != 0);
}

int unregisterLocalMemory(transfer_engine_t engine, void* addr) {
  return engine == nullptr ? kFailed : ToHandle(engine)->engine.UnregisterMemory(AddressOf(addr));
}

int registerLocalMemoryBatch(transfer_engine_t engine, buffer_entry_t* buffer_list,
                             size_t buffer_len, const char* location) {
  if (engine == nullptr || (buffer_list == nullptr && buffer_len > 0)) return kFailed;
  std::vector<std::uint64_t> addresses, lengths;
  for (std::size_t i = 0; i < buffer_len; ++i) {
    addresses.push_back(AddressOf(buffer_list[i].addr));
    lengths.push_back(buffer_list[i].length);
  }
  return ToHandle(engine)->engine.BatchRegisterMemory(addresses, lengths,
                                                      location == nullptr ? "*" : location);
}

int unregisterLocalMemoryBatch(transfer_engine_t engine, void** addr_list, size_t addr_len) {
  if (engine == nullptr || (addr_list == nullptr && addr_len > 0)) return kFailed;
  std::vector<std::uint64_t> addresses;
  for (std::size_t i = 0; i < addr_len; ++i) addresses.push_back(AddressOf(addr_list[i]));
  return ToHandle(engine)->engine.BatchUnregisterMemory(addresses);
}

batch_id_t allocateBatchID(transfer_engine_t engine, size_t) {
  if (engine == nullptr) return INVALID_BATCH;
  Handle& handle = *ToHandle(engine);
  const std::lock_guard lock(handle.mutex);
  handle.batches.emplace(handle.next_batch, std::vector<Task>());
  return handle.next_batch++;
}

int submitTransfer(transfer_engine_t engine, batch_id_t batch_id, struct transfer_request* entries,
                   size_t count) {
  return Submit(ToHandle(engine), batch_id, entries, count, nullptr);
}

int submitTransferWithNotify(transfer_engine_t engine, batch_id_t batch_id,
                             struct transfer_request* entries, size_t count,
                             notify_msg_t notify_msg) {
  const TransferNotify notify{Text(notify_msg.name), Text(notify_msg.msg)};
  return Submit(ToHandle(engine), batch_id, entries, count, &notify);
}

int getTransferStatus(transfer_engine_t engine, batch_id_t batch_id, size_t task_id,
                      struct transfer_status* status) {
  if (engine == nullptr || status == nullptr) return kFailed;
  Handle& handle = *ToHandle(engine);
  const std::shared_lock lock(handle.mutex);
  const auto found = handle.batches.find(batch_id);
  if (found == handle.batches.end() || task_id >= found->second.size()) return kFailed;
  const Task& task = found->second[task_id];
  switch (handle.engine.PeekStatus(task.transfer)) {
    case drop_in::kDone:
      *status = {STATUS_COMPLETED, task.length_bytes};
      break;
    case drop_in::kUnderWay:
      *status = {STATUS_WAITING, 0};
      break;
    case drop_in::kTimedOut:
      *status = {STATUS_TIMEOUT, 0};
      break;
    default:
      *status = {STATUS_FAILED, 0};
  }
  return kOk;
}

int freeBatchID(transfer_engine_t engine, batch_id_t batch_id) {
  if (engine == nullptr) return kFailed;
  Handle& handle = *ToHandle(engine);
  std::vector<Task> tasks;
  {
    const std::lock_guard lock(handle.mutex);
    const auto found = handle.batches.find(batch_id);
    if (found == handle.batches.end()) return kFailed;
    for (const Task& task : found->second) {
      if (handle.engine.PeekStatus(task.transfer) == drop_in::kUnderWay) return kFailed;
    }
    tasks = std::move(found->second);
    handle.batches.erase(found);
  }
  for (const Task& task : tasks) handle.engine.Release(task.transfer);
  return kOk;
}

notify_msg_t* getNotifsFromEngine(transfer_engine_t engine, int* size) {
  if (size != nullptr) *size = 0;
  if (engine == nullptr || size == nullptr) return nullptr;
  const std::vector<TransferNotify> all = ToHandle(engine)->engine.TakeNotifies();
  if (all.empty()) return nullptr;
  auto* const messages = static_cast<notify_msg_t*>(std::malloc(all.size() * sizeof(notify_msg_t)));
  if (messages == nullptr) return nullptr;
  for (std::size_t i = 0; i < all.size(); ++i)
    messages[i] = {Duplicate(all[i].name), Duplicate(all[i].message)};
  *size = static_cast<int>(all.size());
  return messages;
}

int freeNotifsMsgBuf(notify_msg_t* msg, int size) {
  if (msg == nullptr) return kOk;
  for (int i = 0; i < size; ++i) {
    std::free(msg[i].name);
    std::free(msg[i].msg);
  }
  std::free(msg);
  return kOk;
}

int genNotifyInEngine(transfer_engine_t engine, uint64_t target_id, notify_msg_t notify_msg) {
  if (engine == nullptr || target_id > INT32_MAX) return kFailed;
  const auto name = ToHandle(engine)->NameOf(static_cast<segment_id_t>(target_id));
  if (!name) return kFailed;
  return ToHandle(engine)->engine.SendNotify(*name, {Text(notify_msg.name), Text(notify_msg.msg)});
}
