// mooncake_http_metadata_server: the metadata service that clients name as
// http://host:port/metadata.
#include <fmt/format.h>
#include <gflags/gflags.h>

#include <future>

#include "base/log.h"
#include "drop_in/metadata_service.h"

DEFINE_string(host, "0.0.0.0", "Address to listen at; 0.0.0.0 is all of this host's");
DEFINE_int32(port, 8080, "Port to listen at; 0 is any free one");
DEFINE_string(log_level, "info", "What is logged to stderr: debug, info, warn, error or off");

namespace {

int Complain(const std::string& why) {
  fmt::print(stderr, "mooncake_http_metadata_server: {}\n", why);
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace mooncake;
  gflags::SetUsageMessage(
      "serves http://HOST:PORT/metadata, by which transfer engines find each other\n"
      "Example: mooncake_http_metadata_server --host 192.168.0.137 --port 8080");
  gflags::SetVersionString(MOONCAKE_VERSION);
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  if (argc > 1) return Complain(fmt::format("\"{}\" is no flag", argv[1]));
  if (FLAGS_port < 0 || FLAGS_port > 65535)
    return Complain(fmt::format("--port {} is none: 0 to 65535", FLAGS_port));
  if (!SetLogLevel(std::string_view(FLAGS_log_level)))
    return Complain(fmt::format("--log_level {} is none", FLAGS_log_level));
  const auto service =
      drop_in::MetadataService::Open(FLAGS_host, static_cast<std::uint16_t>(FLAGS_port));
  if (!service) return Complain(service.error().Text());
  std::promise<void> stop;
  (*service)->OnStopSignal([&stop, told = false]() mutable {
    if (!std::exchange(told, true)) stop.set_value();
  });
  fmt::print("the metadata service is ready: http://{}/metadata\n", ToString((*service)->bound()));
  std::fflush(stdout);
  stop.get_future().wait();
  return 0;
}
