// Configuration files and the values in them.
#include "base/address.h"
#include "base/options.h"
#include "base/units.h"
#include "fuzzer.h"
#include "instance/options.h"
#include "wire/http.h"

MOONCAKE_FUZZER(options) {
  using namespace mooncake;
  const std::string text(TextOf(input));
  Options::Sources sources;
  sources.file_name = "fuzz.json";
  sources.file_content = text.empty() ? " " : text;
  sources.environment = [](const std::string&) { return std::string(); };
  if (const Result<Options> options = Options::Load(InstanceOptions(), sources)) {
    MC_FUZZ_CHECK(options->Explain().size() == InstanceOptions().size());
  } else {
    MC_FUZZ_CHECK(!options.error().Text().empty());
  }
  if (const Result<Endpoint> endpoint = ParseEndpoint(text))
    MC_FUZZ_CHECK(ParseEndpoint(ToString(*endpoint)) == *endpoint);
  static_cast<void>(ParseHostPort(text));
  static_cast<void>(ParseIpAddress(text));
  static_cast<void>(ParseBytes(text));
  static_cast<void>(ParseDuration(text));
  static_cast<void>(ParseHttpUrl(text));
  static_cast<void>(ParseInstanceId(text));
}
