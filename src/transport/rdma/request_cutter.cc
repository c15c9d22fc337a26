#include "transport/rdma/request_cutter.h"

#include <algorithm>

namespace mooncake::rdma {
namespace {

// A place of a transfer on the devices of a rail.
struct Located {
  std::uint64_t local_address = 0;
  std::uint32_t local_key = 0;
  std::uint64_t remote_address = 0;
  std::uint32_t remote_key = 0;
  std::uint64_t length_bytes_max = 0;  // to the end of the nearer chunk
};

// Most regions are one chunk: a division costs more than all else here.
struct ChunkPlace {
  ChunkPlace(std::uint64_t at, std::uint64_t chunk_bytes) noexcept
      : chunk(at < chunk_bytes ? 0 : at / chunk_bytes),
        left_bytes(chunk_bytes - (at - chunk * chunk_bytes)) {}
  std::uint64_t chunk;
  std::uint64_t left_bytes;  // to its end
};

[[gnu::always_inline]] inline std::optional<Located> Locate(const RegionCursor& cursor,
                                                            const RequestLimits& limits,
                                                            const std::byte* place,
                                                            std::uint64_t remote_at) {
  if (!cursor.local || !cursor.local->IsReadyOn(limits.device)) return std::nullopt;
  if (!cursor.remote || cursor.remote->keys[limits.peer_device].empty()) return std::nullopt;
  const RegisteredRegion& local = *cursor.local;
  const RemoteRegion& remote = *cursor.remote;
  const auto address = reinterpret_cast<std::uint64_t>(place);
  const ChunkPlace local_at(address - local.info.base, local.chunk_bytes);
  const ChunkPlace there_at(remote_at, remote.chunk_bytes);
  return Located{address, local.on[limits.device].chunks[local_at.chunk].local_key,
                 remote.base + remote_at, remote.keys[limits.peer_device][there_at.chunk],
                 std::min(local_at.left_bytes, there_at.left_bytes)};
}

// False: it does not touch what is there at the peer, or there is no entry left for it.
[[gnu::always_inline]] inline bool Append(Request& request, const Located& at,
                                          std::uint64_t length_bytes, int entries_max) {
  std::uint64_t& length = request.piece.range.length_bytes;
  int& count = request.work.num_sge;
  auto& remote = request.work.wr.rdma;
  if (count == 0) {
    remote.remote_addr = at.remote_address;
    remote.rkey = at.remote_key;
  } else if (remote.rkey != at.remote_key || remote.remote_addr + length != at.remote_address) {
    return false;
  }
  ibv_sge* const last = count > 0 ? &request.entries[count - 1] : nullptr;
  const bool touches = last != nullptr && last->lkey == at.local_key &&
                       last->addr + last->length == at.local_address;
  if (touches) {
    last->length += static_cast<std::uint32_t>(length_bytes);
  } else if (count < entries_max) {
    request.entries[count++] = {at.local_address, static_cast<std::uint32_t>(length_bytes),
                                at.local_key};
  } else {
    return false;
  }
  length += length_bytes;
  return true;
}

}  // namespace

bool CutWhole(const Transfer& transfer, const RequestLimits& limits, const RegionCursor& cursor,
              Request& request) {
  const Slice& slice = transfer.slices.front();
  const std::optional<Located> at = Locate(cursor, limits, slice.local, slice.offset);
  if (!at || slice.length_bytes > std::min(limits.length_bytes_max, at->length_bytes_max))
    return false;
  request.work.num_sge = 0;
  request.on_gpu = transfer.on_gpu;
  request.piece.range = {};
  return Append(request, *at, slice.length_bytes, 1);
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
    const std::optional<Located> at = Locate(cursor, limits, place, slice.offset + rest.offset);
    if (!at) return request.work.num_sge > 0;
    const std::uint64_t wanted = std::min(slice.length_bytes - rest.offset, rest.length_bytes);
    const std::uint64_t take =
        std::min(wanted, std::min(limits.length_bytes_max - length, at->length_bytes_max));
    if (!Append(request, *at, take, entries_max)) break;
    rest.offset += take;
    rest.length_bytes -= take;
  }
  return true;
}

}  // namespace mooncake::rdma
