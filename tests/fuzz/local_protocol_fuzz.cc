// What a process of the same host may send before memory is shared: packets and advertisements.
#include "fuzzer.h"
#include "transport/shm/local_protocol.h"

MOONCAKE_FUZZER(local_protocol) {
  using namespace mooncake;
  if (const auto advertisement = shm::ParseAdvertisement(TextOf(input))) {
    const auto again = shm::ParseAdvertisement(shm::Encode(*advertisement));
    MC_FUZZ_CHECK(again && again->name == advertisement->name &&
                  again->nonce == advertisement->nonce);
  }
  static_cast<void>(shm::DecodeHeader(input));
  static_cast<void>(shm::DecodeBody<shm::Hello>(input));
  static_cast<void>(shm::DecodeBody<shm::Ring>(input));
  static_cast<void>(shm::DecodeBody<shm::Reply>(input));
  if (const auto map = shm::DecodeBody<shm::Map>(input)) {
    const auto header = shm::DecodeHeader(input);
    MC_FUZZ_CHECK(header && header->type == shm::MessageType::kMap);
  }
}
