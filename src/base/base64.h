// Base64 (RFC 4648 section 4).
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace mooncake {

[[nodiscard]] std::string EncodeBase64(std::string_view bytes);
/// nullopt if `text` is not base64.
[[nodiscard]] std::optional<std::string> DecodeBase64(std::string_view text);

}  // namespace mooncake
