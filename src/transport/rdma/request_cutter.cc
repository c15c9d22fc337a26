#include "transport/rdma/request_cutter.h"

#include <algorithm>

namespace mooncake::rdma {
namespace {

std::uint64_t AddressOf(const std::byte* place) noexcept {
  return reinterpret_cast<std::uint64_t>(place);
}

// Most regions are one chunk: a division costs more than all else here.
[[gnu::always_inline]] inline std::uint64_t ChunkOf(std::uint64_t at,
                                                    std::uint64_t chunk_bytes) noexcept {
  return at < chunk_bytes ? 0 : at / chunk_bytes;
}

[[gnu::always_inline]] inline std::optional<Located> Locate(const RegionCursor& cursor,
                                                            const RequestLimits& limits,
                                                            const std::byte* place,
                                                            std::uint64_t remote_at) {
  if (!cursor.local || !cursor.local->IsReadyOn(limits.device)) return std::nullopt;
  if (!cursor.remote || cursor.remote->keys[limits.peer_device].empty()) return std::nullopt;
  const RegisteredRegion& local = *cursor.local;
  const RemoteRegion& remote = *cursor.remote;
  const std::uint64_t here = ChunkOf(AddressOf(place) - local.info.base, local.chunk_bytes);
  const std::uint64_t there = ChunkOf(remote_at, remote.chunk_bytes);
  const std::uint64_t here_at = here * local.chunk_bytes;
  const std::uint64_t there_at = there * remote.chunk_bytes;
  return Located{
      {local.info.base + here_at, std::min(local.chunk_bytes, local.info.length_bytes - here_at),
       local.on[limits.device].chunks[here].local_key},
      {there_at, std::min(remote.chunk_bytes, remote.length_bytes - there_at),
       remote.keys[limits.peer_device][there]},
      remote.base};
}

// False: it does not touch what is there at the peer, or there is no entry left for it.
[[gnu::always_inline]] inline bool Append(Request& request, const Located& at,
                                          std::uint64_t local_address, std::uint64_t remote_at,
                                          std::uint64_t length_bytes, int entries_max) {
  std::uint64_t& length = request.piece.range.length_bytes;
  int& count = request.work.num_sge;
  auto& remote = request.work.wr.rdma;
  const std::uint64_t remote_address = at.remote_base + remote_at;
  if (count == 0) {
    remote.remote_addr = remote_address;
    remote.rkey = at.remote.key;
  } else if (remote.rkey != at.remote.key || remote.remote_addr + length != remote_address) {
    return false;
  }
  ibv_sge* const last = count > 0 ? &request.entries[count - 1] : nullptr;
  const bool touches =
      last != nullptr && last->lkey == at.local.key && last->addr + last->length == local_address;
  if (touches) {
    last->length += static_cast<std::uint32_t>(length_bytes);
  } else if (count < entries_max) {
    request.entries[count++] = {local_address, static_cast<std::uint32_t>(length_bytes),
                                at.local.key};
  } else {
    return false;
  }
  length += length_bytes;
  return true;
}

}  // namespace

bool WholeCutter::Find(const PathRegions& regions, const Slice& slice,
                       const RequestLimits& limits) {
  const std::uint64_t version = regions.version();
  RegionCursor cursor;
  cursor.MoveTo(regions, slice, slice.local);
  const std::optional<Located> at = Locate(cursor, limits, slice.local, slice.offset);
  if (!at) return false;
  at_ = *at;
  region_ = slice.region;
  device_ = limits.device;
  peer_device_ = limits.peer_device;
  version_ = version;
  return true;
}

[[gnu::always_inline]] inline bool WholeCutter::Covers(std::uint64_t version, const Slice& slice,
                                                       const RequestLimits& limits) const noexcept {
  return version_ == version && device_ == limits.device && peer_device_ == limits.peer_device &&
         region_ == slice.region &&
         at_.local.Contains(AddressOf(slice.local), slice.length_bytes) &&
         at_.remote.Contains(slice.offset, slice.length_bytes);
}

[[gnu::hot]] bool WholeCutter::Cut(const PathRegions& regions, const Transfer& transfer,
                                   const RequestLimits& limits, Request& request) {
  const Slice& slice = transfer.slices.front();
  if (slice.length_bytes > limits.length_bytes_max) return false;
  if (!Covers(regions.version(), slice, limits) &&
      !(Find(regions, slice, limits) && Covers(version_, slice, limits)))
    return false;
  request.work.num_sge = 0;
  request.on_gpu = transfer.on_gpu;
  request.piece.range = {};
  return Append(request, at_, AddressOf(slice.local), slice.offset, slice.length_bytes, 1);
}

bool CutRequest(const PathRegions& regions, const Transfer& transfer, const RequestLimits& limits,
                RegionCursor& cursor, Range& rest, Request& request) {
  const int entries_max = std::min(limits.entries_max, static_cast<int>(Request::kEntriesMax));
  request.work.num_sge = 0;
  request.on_gpu = transfer.on_gpu;
  request.piece.range = {rest.slice, rest.offset, 0};
  const std::uint64_t& length = request.piece.range.length_bytes;
  while (rest.length_bytes > 0 && length < limits.length_bytes_max) {
    const Slice& slice = transfer.slices[rest.slice];
    if (rest.offset == slice.length_bytes) {
      rest.slice += 1;
      rest.offset = 0;
      continue;
    }
    std::byte* const place = slice.local + rest.offset;
    cursor.MoveTo(regions, slice, place);
    const std::uint64_t remote_at = slice.offset + rest.offset;
    const std::optional<Located> at = Locate(cursor, limits, place, remote_at);
    if (!at) return request.work.num_sge > 0;
    const std::uint64_t wanted = std::min(slice.length_bytes - rest.offset, rest.length_bytes);
    const std::uint64_t under_the_keys =
        std::min(at->local.LeftFrom(AddressOf(place)), at->remote.LeftFrom(remote_at));
    const std::uint64_t take =
        std::min(wanted, std::min(limits.length_bytes_max - length, under_the_keys));
    if (!Append(request, *at, AddressOf(place), remote_at, take, entries_max)) break;
    rest.offset += take;
    rest.length_bytes -= take;
  }
  return true;
}

}  // namespace mooncake::rdma
