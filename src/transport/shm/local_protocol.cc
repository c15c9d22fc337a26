#include "transport/shm/local_protocol.h"

#include <charconv>

namespace mooncake::shm {
namespace {

constexpr std::string_view kPrefix = "1 mooncake-";
constexpr std::size_t kNameDigits = 32;
constexpr std::size_t kNonceDigits = 16;

bool IsHexadecimal(std::string_view text) {
  return text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

}  // namespace

std::string Encode(const Advertisement& advertisement) {
  return fmt::format("1 {} {:016x}", advertisement.name, advertisement.nonce);
}

std::optional<Advertisement> ParseAdvertisement(std::string_view text) {
  if (text.size() != kPrefix.size() + kNameDigits + 1 + kNonceDigits || !text.starts_with(kPrefix))
    return {};
  const std::string_view name = text.substr(2, kPrefix.size() - 2 + kNameDigits);
  const std::string_view nonce = text.substr(text.size() - kNonceDigits);
  if (!IsHexadecimal(name.substr(kPrefix.size() - 2)) || !IsHexadecimal(nonce)) return {};
  if (text[text.size() - kNonceDigits - 1] != ' ') return {};
  Advertisement result{std::string(name), 0};
  std::from_chars(nonce.data(), nonce.data() + nonce.size(), result.nonce, 16);
  return result;
}

std::optional<MessageHeader> DecodeHeader(Bytes bytes) {
  if (bytes.size() < sizeof(MessageHeader)) return {};
  MessageHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != kMessageMagic) return {};
  return header;
}

}  // namespace mooncake::shm
