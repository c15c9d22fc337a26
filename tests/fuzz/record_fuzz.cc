// Records as etcd holds them, base64 around them, and the connection strings that lead there.
#include "base/base64.h"
#include "directory/etcd/etcd_directory.h"
#include "directory/record.h"
#include "fuzzer.h"

MOONCAKE_FUZZER(record) {
  using namespace mooncake;
  const std::string_view text = TextOf(input);
  if (const Result<Record> record = RecordFromJson(text)) {
    const Result<Record> again = RecordFromJson(ToJson(*record));
    MC_FUZZ_CHECK(again && again->identity.id == record->identity.id &&
                  again->endpoints == record->endpoints);
  }
  if (const auto decoded = DecodeBase64(text))
    MC_FUZZ_CHECK(DecodeBase64(EncodeBase64(*decoded)) == decoded);
  if (const Result<EtcdServers> servers = ParseEtcdServers(text))
    MC_FUZZ_CHECK(!servers->endpoints.empty());
}
