// Frames: what DecodeFrameHeader() takes it gives back, and takes nothing above the bounds.
#include "fuzzer.h"
#include "wire/frame.h"

MOONCAKE_FUZZER(frame) {
  using namespace mooncake;
  const Result<FrameHeader> header = DecodeFrameHeader(input);
  if (!header) return;
  MC_FUZZ_CHECK(header->body_bytes <= kBodyBytesMax && header->payload_bytes <= kPayloadBytesMax);
  const FrameHeaderBytes again = Encode(*header);
  MC_FUZZ_CHECK(std::equal(again.begin(), again.end(), input.begin()));
}
