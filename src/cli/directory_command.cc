// mooncake directory: carries the directory for several hosts that have no etcd.
#include <fmt/format.h>

#include <future>

#include "base/log.h"
#include "cli/command.h"
#include "directory/http/directory_http.h"
#include "directory/memory/directory_server.h"
#include "wire/port_server.h"

namespace mooncake {
namespace {

constexpr OptionSpec kOwnOptions[] = {
    {"listen", "0.0.0.0:7700", Unit::kText,
     "Address and port to listen at; port 0 is any free one."},
    {"http", "false", Unit::kFlag,
     "Also serve /metadata on that port, as the HTTP metadata service of the public project."},
    {"log_level", "info", Unit::kChoice, "What is logged to stderr.", "debug|info|warn|error|off"},
};

constexpr auto kOptions = JoinOptions(kOwnOptions, kCredentialOptions);

int RunDirectory(CommandInput& input) {
  if (!input.words.empty())
    return Report({ErrorId::kUsage, fmt::format("\"{}\" is no flag", input.words[0])});
  SetLogLevel(input.options.Text("log_level"));
  World& world = input.real.world();
  const Result<Endpoint> at = ParseListenAddress(input.options.Text("listen"));
  if (!at) return Report(Within("--listen", at.error()));
  const Result<Credentials> credentials = LoadCredentials(world.files, input.options);
  if (!credentials) return Report(credentials.error());
  const auto stop = std::make_shared<std::promise<void>>();
  input.real.OnStopSignal([stop, told = std::make_shared<bool>(false)] {
    if (!std::exchange(*told, true)) stop->set_value();
  });
  Result<std::unique_ptr<Listener>> listener = world.network.Listen(world.control, *at);
  if (!listener) return Report(listener.error());
  const Endpoint bound = (*listener)->bound();
  Metrics metrics;
  const auto port = std::make_shared<PortServer>(world, metrics, PortServerOptions{});
  const auto server = std::make_shared<DirectoryServer>(world);
  const Identity identity{world.random.DrawInstanceId(), 1, "directory", world.network.host(),
                          MOONCAKE_VERSION};
  port->introduce = [identity, credentials = *credentials] {
    return Introduction{identity, {}, {}, credentials};
  };
  const auto metadata =
      input.options.Flag("http") ? std::make_shared<MetadataServer>(world) : nullptr;
  port->on_http = DirectoryHttp(metrics, metadata);
  server->AddTo(port->router);
  std::shared_ptr<Listener> shared = std::move(*listener);
  Post(world.control, [port, shared] { port->Serve(shared); });
  const std::string or_http =
      metadata ? fmt::format(" or \"{}://{}/metadata\"", credentials->tls ? "https" : "http",
                             ToString(bound))
               : "";
  fmt::print("the directory is ready: metadata_server = \"mooncake://{}\"{}\n", ToString(bound),
             or_http);
  std::fflush(stdout);
  stop->get_future().wait();
  std::promise<void> closed;
  Post(world.control, [port, &closed] {
    port->Close(Error{ErrorId::kClosed, "the directory stops"});
    closed.set_value();
  });
  closed.get_future().wait();
  return kExitOk;
}

}  // namespace

const Command kDirectoryCommand = {
    "directory",
    "Carries the directory for several hosts, without etcd",
    "directory [--listen ADDRESS:PORT] [--http]",
    "Instances find it with metadata_server = \"mooncake://HOST:PORT\", with --http also with "
    "\"http://HOST:PORT/metadata\";\n"
    "those of one cluster use one of the two. It keeps records in memory only: after a restart "
    "the\n"
    "living instances register again by themselves within seconds. On a single host it is not "
    "needed.\n",
    kOptions,
    &RunDirectory,
};

}  // namespace mooncake
