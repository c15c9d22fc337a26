#include "transport/data_frames.h"

#include <fmt/format.h>

#include "base/test_support.h"
#include "wire/frame.h"

namespace mooncake {
namespace {

std::string Hex(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) text += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return text;
}

DataBody Example() {
  DataBody body;
  body.regions = {{1, 0x1122334455667788}, {2, 7}};
  body.ranges = {{0x1000, 4096, 0}, {0, 5, 1}};
  body.payload_crc32c = 0xAABBCCDD;
  return body;
}

// docs/wire.md promises these bytes.
TEST(DataFrames, GatherListGolden) {
  EXPECT_EQ(Hex(Encode(Example())),
            "0200000002000000ddccbbaa00000000"
            "01000000000000008877665544332211"
            "02000000000000000700000000000000"
            "00100000000000000010000000000000"
            "00000000000000000500000001000000");
}

TEST(DataFrames, ADecodedListIsWhatWasEncoded) {
  const std::string bytes = Encode(Example());
  const Result<DataBody> body = DecodeDataBody(AsBytes(bytes));
  ASSERT_TRUE(Succeeds(body));
  EXPECT_EQ(Encode(*body), bytes);
  EXPECT_EQ(body->total_bytes, 4101U);
}

TEST(DataFrames, WhatDoesNotFitIsRefused) {
  const std::string good = Encode(Example());
  for (std::size_t length = 0; length < good.size(); ++length) {
    EXPECT_TRUE(FailsWith(DecodeDataBody(AsBytes(std::string_view(good).substr(0, length))),
                          ErrorId::kBadFrame))
        << length;
  }
  EXPECT_TRUE(FailsWith(DecodeDataBody(AsBytes(good + "x")), ErrorId::kBadFrame));
  DataBody unlisted = Example();
  unlisted.ranges[1].region_index = 2;
  EXPECT_TRUE(FailsWith(DecodeDataBody(AsBytes(Encode(unlisted))), ErrorId::kBadFrame));
  DataBody long_one = Example();
  long_one.ranges[0].length_bytes = kDataPayloadBytesMax;
  EXPECT_TRUE(FailsWith(DecodeDataBody(AsBytes(Encode(long_one))), ErrorId::kBadFrame));
  std::string many = Encode(DataBody{});
  many[4] = many[5] = many[6] = many[7] = '\xff';  // 2^32 - 1 ranges
  EXPECT_TRUE(FailsWith(DecodeDataBody(AsBytes(many)), ErrorId::kBadFrame));
}

}  // namespace
}  // namespace mooncake
