// Gather lists over TCP: what DecodeDataBody() takes names listed regions only, adds up, and
// survives another round.
#include "fuzzer.h"
#include "transport/data_frames.h"
#include "wire/frame.h"

MOONCAKE_FUZZER(data_body) {
  using namespace mooncake;
  const Result<DataBody> body = DecodeDataBody(input);
  if (!body) return;
  std::uint64_t total = 0;
  for (const WireRange& range : body->ranges) {
    MC_FUZZ_CHECK(range.region_index < body->regions.size());
    total += range.length_bytes;
  }
  MC_FUZZ_CHECK(total == body->total_bytes && total <= kDataPayloadBytesMax);
  const std::string encoded = Encode(*body);
  const Result<DataBody> again = DecodeDataBody(AsBytes(encoded));
  MC_FUZZ_CHECK(again && Encode(*again) == encoded);
}
