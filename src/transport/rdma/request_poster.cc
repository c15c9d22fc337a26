#include "transport/rdma/request_poster.h"

#include <algorithm>

namespace mooncake::rdma {

// Much at a time while much is left of it. Several rails shall end together: each takes half of its
// share, then half of what is left of that. But not where the thread that posts does the work: the
// more it is given at once, the more of it does the kernel on another processor.
std::uint64_t RequestPoster::ChainBytesFor(const Operation& operation, const Rail& rail) {
  const LinkPace& pace = rail.pace();
  const std::uint64_t left = operation.left.back().length_bytes;
  if (left <= pace.piece_bytes()) return pace.piece_bytes();
  const bool is_shared = rails_.size() > 1 && !pace.is_carried_by_poster();
  const std::uint64_t share = is_shared ? left / (2 * rails_.size()) : left;
  return pace.ChainBytesFor(share, rail.bytes_in_flight(),
                            operation.transfer->deadline - turn_.Now());
}

// Into chain_; returns how many. 0: the rail cannot carry what is next.
std::size_t RequestPoster::Cut(Operation& operation, const Rail& rail) {
  std::size_t count = 0;
  std::uint64_t bytes = 0;
  const std::uint64_t bytes_max = ChainBytesFor(operation, rail);
  RequestLimits limits{rail.device().rank(), rail.peer_device(), rail.device().entries_max()};
  const std::size_t most = std::min(kChainMax, rail.room(rail.PairFor(operation.lane)));
  while (count < most && bytes < bytes_max && !operation.left.empty()) {
    Range rest = operation.left.back();
    Request& request = chain_[count];
    // No short rest at its end, for which a range would be cut.
    limits.length_bytes_max =
        std::clamp(bytes_max - bytes, rail.pace().piece_bytes(), rail.pace().piece_bytes_max());
    if (!CutRequest(regions_, *operation.transfer, limits, operation.regions, rest, request)) break;
    request.piece.operation = &operation;
    bytes += request.piece.range.length_bytes;
    count += 1;
    if (rest.length_bytes == 0) {
      operation.left.pop_back();
    } else {
      operation.left.back() = rest;
    }
  }
  return count;
}

// For what begins at `offset` in the slice. Inlined: with one rail there is little to choose.
[[gnu::always_inline]] inline std::optional<std::size_t> RequestPoster::Choose(
    Operation& operation, const Slice& slice, std::uint64_t offset) const {
  // Which rail is near depends on where the memory is.
  if (rails_.size() > 1) operation.regions.MoveTo(regions_, slice, slice.local + offset);
  return rails_.Choose(operation);
}

RequestPoster::Outcome RequestPoster::PostNext(Operation& operation) {
  const Range next = operation.left.back();
  const Slice& slice = operation.transfer->slices[next.slice];
  while (const std::optional<std::size_t> place = Choose(operation, slice, next.offset)) {
    if (const std::size_t count = Cut(operation, rails_[*place]); count > 0)
      return PostChain(operation, *place, count);
    operation.cannot.resize(rails_.size());
    operation.cannot[*place] = true;
  }
  const auto cannot = std::count(operation.cannot.begin(), operation.cannot.end(), true);
  return static_cast<std::size_t>(cannot) < rails_.size() ? Outcome::kNoRoom : Outcome::kNowhere;
}

RequestPoster::Outcome RequestPoster::PostChain(Operation& operation, std::size_t place,
                                                std::size_t count) {
  Rail& rail = rails_[place];
  std::size_t accepted = 0;
  const std::size_t pair = rail.PairFor(operation.lane);
  const bool is_measured = rails_.size() > 1 && operation.lane == Lane::kLong;
  const Instant begin = is_measured ? turn_.Look() : turn_.Now();
  const std::uint64_t before = rail.bytes_in_flight();
  const Status posted =
      rail.Post(pair, operation.transfer->direction, std::span(chain_).first(count), accepted);
  rail.Stamp(pair, accepted, begin);
  if (is_measured) rail.NotePosting(rail.bytes_in_flight() - before, turn_.Look() - begin);
  operation.pieces += accepted;
  if (posted) return Outcome::kPosted;
  for (std::size_t i = count; i-- > accepted;) operation.left.push_back(chain_[i].piece.range);
  refusal_ = {place, posted.error().Brief()};
  return Outcome::kRefused;
}

[[gnu::hot]] bool RequestPoster::PostWhole(Operation& operation) {
  const Transfer& transfer = *operation.transfer;
  const bool may_be_one = operation.lane == Lane::kShort && transfer.slices.size() == 1;
  if (!may_be_one || transfer.total_bytes == 0) return false;
  const std::optional<std::size_t> place = Choose(operation, transfer.slices.front(), 0);
  if (!place) return false;
  Rail& rail = rails_[*place];
  const RequestLimits limits{rail.device().rank(), rail.peer_device(), 1,
                             rail.pace().piece_bytes()};
  Request& request = chain_.front();
  if (!whole_.Cut(regions_, transfer, limits, request)) return false;
  request.piece.operation = &operation;
  if (!rail.PostOne(transfer.direction, request)) return false;
  operation.pieces = 1;
  whole_rail_ = &rail;
  return true;
}

}  // namespace mooncake::rdma
