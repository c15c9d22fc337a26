// What a peer may say of its RDMA devices and queue pairs, and the immediates that it may send.
#include <cstring>

#include "fuzzer.h"
#include "transport/rdma/mailbox.h"
#include "transport/rdma/rdma_messages.h"

MOONCAKE_FUZZER(rdma_messages) {
  using namespace mooncake;
  const std::string text(TextOf(input));
  if (const auto devices = rdma::DecodeDevices(text)) {
    MC_FUZZ_CHECK(devices->size() <= 64);
    for (const rdma::PeerDevice& device : *devices)
      MC_FUZZ_CHECK(device.addresses.rows.size() <= 256);
  }
  std::uint32_t immediate = 0;
  if (input.size() >= sizeof immediate) std::memcpy(&immediate, input.data(), sizeof immediate);
  if (const auto message = rdma::DecodeMessage(immediate)) {
    MC_FUZZ_CHECK(message->slot < rdma::kMessagesMax);
    MC_FUZZ_CHECK(message->length_bytes <= rdma::kMessageBytesMax);
    MC_FUZZ_CHECK(rdma::Encode(*message) == immediate);
  }
  if (const auto answer = rdma::DecodeAnswer(immediate)) {
    MC_FUZZ_CHECK(answer->slot < rdma::kMessagesMax && rdma::Encode(*answer) == immediate);
  }
  pb::RdmaConnectRequest connect;
  if (connect.ParseFromString(text)) {
    if (const auto ends = rdma::FromProto(connect.caller())) {
      MC_FUZZ_CHECK(connect.caller_size() == 3);
      for (const rdma::QueuePairEnd& end : *ends) {
        MC_FUZZ_CHECK(end.number < 1U << 24 && end.packet < 1U << 24);
        MC_FUZZ_CHECK(end.mtu_bytes >= 256 && end.mtu_bytes <= 4096);
        const auto again = rdma::FromProto(rdma::ToProto(end));
        MC_FUZZ_CHECK(again && again->number == end.number && again->lid == end.lid);
      }
    }
    if (const auto row = rdma::FromProto(connect.caller_address())) {
      const auto again = rdma::FromProto(rdma::ToProto(*row));
      MC_FUZZ_CHECK(again && again->gid == row->gid && again->kind == row->kind);
    }
  }
}
