// mooncake http-token: what people and Prometheus send to a port that asks for the cluster's
// secret.
#include <fmt/format.h>

#include "cli/command.h"
#include "security/credentials.h"

namespace mooncake {
namespace {

int RunHttpToken(CommandInput& input) {
  if (!input.words.empty())
    return Report({ErrorId::kUsage, fmt::format("\"{}\" is no flag", input.words[0])});
  const Result<Credentials> credentials = LoadCredentials(input.real.world().files, input.options);
  if (!credentials) return Report(credentials.error());
  if (!credentials->secret) return Report({ErrorId::kUsage, "--cluster-secret-file is needed"});
  fmt::print("{}\n", credentials->secret->HttpToken());
  return kExitOk;
}

}  // namespace

const Command kHttpTokenCommand = {
    "http-token",
    "Prints the token that opens HTTP where there is a secret",
    "http-token --cluster-secret-file FILE",
    "Example: curl -H \"Authorization: Bearer $(mooncake http-token --cluster-secret-file FILE)\" "
    "http://127.0.0.1:8100/status\n"
    "A browser asks for a password: it is the same token, for any user. The secret cannot be "
    "computed from it.\n",
    kCredentialOptions,
    &RunHttpToken,
};

}  // namespace mooncake
