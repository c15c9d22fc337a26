#include "memory/copy.h"

#include <gtest/gtest.h>

#include <random>

#include "base/real_world.h"

namespace mooncake {
namespace {

using internal::CopyCrcKernels;
using internal::CopyKernels;
using internal::CrcKernels;

constexpr std::byte kGuard{0xA5};
constexpr std::size_t kGuardBytes = 64;

std::vector<std::byte> RandomBytes(std::size_t count, unsigned seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// Copies into the middle of guard bytes; true if exactly the asked bytes changed, and rightly.
template <class Copy>
bool CopiesExactly(const std::vector<std::byte>& source, std::size_t from, std::size_t to,
                   std::size_t length, const Copy& copy) {
  std::vector<std::byte> target(kGuardBytes + to + length + kGuardBytes, kGuard);
  copy(target.data() + kGuardBytes + to, source.data() + from, length);
  std::vector<std::byte> expected(target.size(), kGuard);
  if (length > 0) std::memcpy(expected.data() + kGuardBytes + to, source.data() + from, length);
  return target == expected;
}

// Bit by bit: slow and obvious.
std::uint32_t SlowCrc(const std::byte* from, std::size_t length, std::uint32_t state) {
  for (std::size_t i = 0; i < length; ++i) {
    state ^= static_cast<std::uint32_t>(from[i]);
    for (int bit = 0; bit < 8; ++bit) state = (state >> 1) ^ ((state & 1) != 0 ? 0x82F63B78U : 0U);
  }
  return state;
}

TEST(Copy, EveryKernelCopiesExactlyItsRange) {
  const std::vector<std::byte> source = RandomBytes(1 << 20, 1);
  std::mt19937_64 random(2);
  for (const auto& kernel : CopyKernels()) {
    for (std::size_t length = 0; length <= 600; ++length) {
      ASSERT_TRUE(CopiesExactly(source, length % 67, length % 65, length, kernel.copy))
          << kernel.name << " " << length;
    }
    for (std::size_t to = 0; to < 65; ++to) {
      for (const std::size_t from : {0, 1, 31, 64}) {
        ASSERT_TRUE(CopiesExactly(source, from, to, 4096 + to, kernel.copy))
            << kernel.name << " " << to;
      }
    }
    for (int i = 0; i < 40; ++i) {
      const std::size_t from = random() % 4096;
      const std::size_t length = random() % (source.size() - from);
      ASSERT_TRUE(CopiesExactly(source, from, random() % 128, length, kernel.copy))
          << kernel.name << " " << length;
    }
  }
}

TEST(Copy, EveryCrcKernelAgreesWithTheSlowOne) {
  const std::vector<std::byte> source = RandomBytes(200'000, 3);
  for (const auto& kernel : CrcKernels()) {
    for (std::size_t length = 0; length <= 3000; length += length < 300 ? 1 : 37) {
      const std::byte* const from = source.data() + length % 9;
      ASSERT_EQ(kernel.crc(from, length, 0xFFFFFFFF), SlowCrc(from, length, 0xFFFFFFFF))
          << kernel.name << " " << length;
    }
    ASSERT_EQ(kernel.crc(source.data(), source.size(), 7), SlowCrc(source.data(), source.size(), 7))
        << kernel.name;
  }
}

TEST(Copy, EveryCopyCrcKernelCopiesAndSums) {
  const std::vector<std::byte> source = RandomBytes(300'000, 4);
  std::mt19937_64 random(5);
  for (const auto& kernel : CopyCrcKernels()) {
    const auto check = [&](std::size_t from, std::size_t to, std::size_t length) {
      std::uint32_t state = 0;
      const bool exact = CopiesExactly(
          source, from, to, length, [&](std::byte* target, const std::byte* begin, std::size_t n) {
            state = kernel.copy(target, begin, n, 0x12345678);
          });
      return exact && state == internal::CrcTable(source.data() + from, length, 0x12345678);
    };
    for (std::size_t length = 0; length <= 2200; length += length < 400 ? 1 : 13) {
      ASSERT_TRUE(check(length % 67, length % 65, length)) << kernel.name << " " << length;
    }
    for (int i = 0; i < 40; ++i) {
      const std::size_t length = random() % 250'000;
      ASSERT_TRUE(check(random() % 4096, random() % 128, length)) << kernel.name << " " << length;
    }
  }
}

TEST(Copy, Crc32cMatchesPublishedVectors) {  // RFC 3720, appendix B.4, and the check value of the
                                             // polynomial
  const CopyEngine engine = CopyEngine::Plain();
  const std::string_view digits = "123456789";
  EXPECT_EQ(engine.Crc32c(digits.data(), digits.size(), 0), 0xE3069283U);
  std::array<std::uint8_t, 32> bytes{};
  EXPECT_EQ(engine.Crc32c(bytes.data(), bytes.size(), 0), 0x8A9136AAU);
  bytes.fill(0xFF);
  EXPECT_EQ(engine.Crc32c(bytes.data(), bytes.size(), 0), 0x62A8AB43U);
  for (std::size_t i = 0; i < 32; ++i) bytes[i] = static_cast<std::uint8_t>(i);
  EXPECT_EQ(engine.Crc32c(bytes.data(), bytes.size(), 0), 0x46DD794EU);
  EXPECT_EQ(engine.Crc32c(bytes.data() + 10, 22, engine.Crc32c(bytes.data(), 10, 0)), 0x46DD794EU);
}

TEST(Copy, AMeasuredEngineCopiesAndSumsInEveryClass) {
  RealWorld world;
  const CopyEngine engine = CopyEngine::Measure(world.world().clock);
  const std::vector<std::byte> source = RandomBytes(3 << 20, 6);
  for (const std::size_t length :
       {std::size_t{0}, std::size_t{1}, std::size_t{256}, std::size_t{257}, std::size_t{4097},
        std::size_t{65537}, (std::size_t{1} << 20) + 1, source.size()}) {
    std::vector<std::byte> target(length);
    engine.Copy(target.data(), source.data(), length);
    ASSERT_TRUE(std::equal(target.begin(), target.end(), source.begin())) << length;
    std::fill(target.begin(), target.end(), std::byte{0});
    const std::uint32_t sum = engine.CopyCrc32c(target.data(), source.data(), length, 0);
    ASSERT_TRUE(std::equal(target.begin(), target.end(), source.begin())) << length;
    EXPECT_EQ(sum, engine.Crc32c(source.data(), length, 0));
  }
  ASSERT_EQ(engine.Describe().size(), 5U);
  for (const CopyEngine::Row& row : engine.Describe()) {
    EXPECT_GT(row.gigabytes_per_second, 0.01);
    EXPECT_FALSE(row.kernel.empty());
  }
}

}  // namespace
}  // namespace mooncake
