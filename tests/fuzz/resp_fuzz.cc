// Replies of redis, and the connection string that leads there.
#include "directory/redis/redis_directory.h"
#include "directory/redis/resp.h"
#include "fuzzer.h"

namespace mooncake {
namespace {

// A reply as redis would have sent it.
std::string Encode(const RespValue& value) {
  switch (value.kind) {
    case RespKind::kNull:
      return "$-1\r\n";
    case RespKind::kSimple:
      return "+" + value.text + "\r\n";
    case RespKind::kError:
      return "-" + value.text + "\r\n";
    case RespKind::kInteger:
      return ":" + std::to_string(value.integer) + "\r\n";
    case RespKind::kBulk:
      return "$" + std::to_string(value.text.size()) + "\r\n" + value.text + "\r\n";
    case RespKind::kArray:
      break;
  }
  std::string text = "*" + std::to_string(value.items.size()) + "\r\n";
  for (const RespValue& item : value.items) text += Encode(item);
  return text;
}

}  // namespace
}  // namespace mooncake

MOONCAKE_FUZZER(resp) {
  using namespace mooncake;
  const std::string_view text = TextOf(input);
  std::size_t consumed = 0;
  const Result<std::optional<RespValue>> value = DecodeResp(text, consumed);
  MC_FUZZ_CHECK(consumed <= text.size());
  if (value && *value) {
    MC_FUZZ_CHECK(consumed > 0);
    const std::string encoded = Encode(**value);
    std::size_t again = 0;
    const Result<std::optional<RespValue>> decoded = DecodeResp(encoded, again);
    MC_FUZZ_CHECK(decoded && *decoded && again == encoded.size() && Encode(**decoded) == encoded);
  } else {
    MC_FUZZ_CHECK(consumed == 0);
  }
  if (const Result<RedisServer> server = ParseRedisServer(text))
    MC_FUZZ_CHECK(server->address.port != 0);
}
