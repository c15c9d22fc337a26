// Arithmetic modulo the Castagnoli polynomial, at compile time: tables and folding constants are
// computed, not copied.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace mooncake::internal {

inline constexpr std::uint32_t kCrc32cPolynomial = 0x82F63B78;  ///< Reflected: bit 31 is x^0.

/// a * b mod P.
constexpr std::uint32_t CrcMultiply(std::uint32_t a, std::uint32_t b) {
  std::uint32_t product = 0;
  for (std::uint32_t bit = 1U << 31; bit != 0; bit >>= 1) {
    if ((a & bit) != 0) product ^= b;
    b = (b & 1) != 0 ? (b >> 1) ^ kCrc32cPolynomial : b >> 1;
  }
  return product;
}

/// x^n mod P.
constexpr std::uint32_t CrcPower(std::uint64_t n) {
  std::uint32_t result = 1U << 31;
  std::uint32_t square = 1U << 30;
  for (; n != 0; n >>= 1) {
    if ((n & 1) != 0) result = CrcMultiply(result, square);
    square = CrcMultiply(square, square);
  }
  return result;
}

/// tables[k][b]: the state after byte b and then k zero bytes, from state 0.
constexpr std::array<std::array<std::uint32_t, 256>, 8> CrcByteTables() {
  std::array<std::array<std::uint32_t, 256>, 8> tables{};
  for (std::uint32_t b = 0; b < 256; ++b) {
    std::uint32_t state = b;
    for (int i = 0; i < 8; ++i)
      state = (state & 1) != 0 ? (state >> 1) ^ kCrc32cPolynomial : state >> 1;
    tables[0][b] = state;
  }
  for (std::size_t k = 1; k < 8; ++k) {
    for (std::size_t b = 0; b < 256; ++b) {
      const std::uint32_t before = tables[k - 1][b];
      tables[k][b] = (before >> 8) ^ tables[0][before & 0xFF];
    }
  }
  return tables;
}

/// Advances a state over a fixed number of zero bytes with four look-ups.
using CrcShiftTables = std::array<std::array<std::uint32_t, 256>, 4>;
constexpr CrcShiftTables MakeCrcShiftTables(std::uint64_t bytes) {
  const std::uint32_t power = CrcPower(8 * bytes);
  CrcShiftTables tables{};
  std::array<std::uint32_t, 32> columns{};
  for (std::uint32_t bit = 0; bit < 32; ++bit) columns[bit] = CrcMultiply(power, 1U << bit);
  for (std::uint32_t k = 0; k < 4; ++k) {
    for (std::uint32_t b = 0; b < 256; ++b) {
      std::uint32_t sum = 0;
      for (std::uint32_t bit = 0; bit < 8; ++bit) {
        if ((b >> bit & 1) != 0) sum ^= columns[8 * k + bit];
      }
      tables[k][b] = sum;
    }
  }
  return tables;
}
constexpr std::uint32_t CrcShift(const CrcShiftTables& tables, std::uint32_t state) {
  return tables[0][state & 0xFF] ^ tables[1][state >> 8 & 0xFF] ^ tables[2][state >> 16 & 0xFF] ^
         tables[3][state >> 24];
}

}  // namespace mooncake::internal
