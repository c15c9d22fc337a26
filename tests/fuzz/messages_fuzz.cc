// Control messages: each Protobuf body that a peer may send, and what is made of it.
#include "directory/record.h"
#include "engine/region_messages.h"
#include "fuzzer.h"
#include "wire/handshake.h"
#include "wire/messages.pb.h"
#include "wire/rpc.h"

namespace {

template <class Message>
void ParseOnly(const std::string& body) {
  Message message;
  if (mooncake::Parse(body, message))
    MC_FUZZ_CHECK(message.SerializeAsString().size() <= body.size() + 16 * message.ByteSizeLong());
}

}  // namespace

MOONCAKE_FUZZER(messages) {
  using namespace mooncake;
  if (input.empty()) return;
  const std::string body(TextOf(input.subspan(1)));
  switch (static_cast<unsigned>(input[0]) % 14) {
    case 0:
      ParseOnly<pb::Hello>(body);
      break;
    case 1:
      ParseOnly<pb::HelloReply>(body);
      break;
    case 2: {
      pb::Failure failure;
      if (Parse(body, failure)) MC_FUZZ_CHECK(!FromProto(failure).Text().empty());
      break;
    }
    case 3: {
      pb::Identity identity;
      if (Parse(body, identity)) MC_FUZZ_CHECK(!Describe(FromProto(identity)).empty());
      break;
    }
    case 4: {
      pb::Record proto;
      if (!Parse(body, proto)) break;
      const Record record = FromProto(proto);
      const Record again = FromProto(ToProto(record));
      MC_FUZZ_CHECK(again.identity.id == record.identity.id &&
                    again.endpoints == record.endpoints && again.attributes == record.attributes);
      break;
    }
    case 5: {
      pb::Region region;
      if (Parse(body, region)) static_cast<void>(FromProto(region));
      break;
    }
    case 6:
      ParseOnly<pb::ListRegionsReply>(body);
      break;
    case 7:
      ParseOnly<pb::PrefillRequest>(body);
      break;
    case 8:
      ParseOnly<pb::PrefillReply>(body);
      break;
    case 9:
      ParseOnly<pb::GenerateRequest>(body);
      break;
    case 10:
      ParseOnly<pb::ListRecordsReply>(body);
      break;
    case 11:
      ParseOnly<pb::ProbeReply>(body);
      break;
    case 12:
      ParseOnly<pb::CudaExportRequest>(body);
      break;
    default:
      ParseOnly<pb::CudaExportReply>(body);
      break;
  }
}
