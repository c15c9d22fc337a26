#include "instance/options.h"

#include "directory/directory.h"
#include "security/credentials.h"

namespace mooncake {
namespace {

constexpr OptionSpec kOwnOptions[] = {
    {"role", "both", Unit::kChoice,
     "What this instance does: compute prompts, generate tokens, or both.", "prefill|decode|both"},
    {"local_hostname",
     "",
     Unit::kText,
     "The instance's label, and where it listens: host, host:port or any name. A port that is "
     "written is the port that is "
     "listened on; without one a free port is chosen and published. Without a value: every "
     "address, the role as label.",
     {},
     "label"},
    {"host", "", Unit::kText, "Listen at this address instead of the one in local_hostname."},
    {"port", "", Unit::kCount,
     "Listen on this port instead of the one in local_hostname; 0 chooses a free one."},
    {"cluster", "default", Unit::kText, "Instances of different clusters do not see each other."},
    {"directory_wait", "15s", Unit::kDuration,
     "How long to wait for the directory at start before giving up; 0 waits for ever."},
    {"protocol", "", Unit::kChoice,
     "rdma: one line says why, if there is none. tcp, shm: RDMA is left out. Whatever it says, the "
     "best path that works is used.",
     "rdma|tcp|shm"},
    {"device_name", "", Unit::kText,
     "RDMA devices, separated by commas: names, patterns (mlx5_*), exclusions (^mlx5_2). Without a "
     "value: all that can be used; `mooncake topology` lists them."},
    {"transports", "", Unit::kText,
     "Only these transports, separated by commas: shm, ring, cma, rdma, tcp. Without a value: "
     "all."},
    {"model", "llama-3-8b", Unit::kText, "The model's shape; `mooncake models` lists them."},
    {"scale", "0.015625", Unit::kNumber,
     "Share of the model's real KV bytes per token that is kept, above 0 and at most 1."},
    {"page_tokens", "16", Unit::kCount, "Tokens in one page of KV memory."},
    {"kv_memory", "512MiB", Unit::kBytes, "Memory for KV pages."},
    {"queue_max", "256", Unit::kCount, "Requests held at once; more are answered with 429."},
    {"running_max", "32", Unit::kCount, "Sequences decoded at once; more wait."},
    {"request_timeout", "60s", Unit::kDuration,
     "A request that is not answered by then ends with an error that says why."},
    {"drain_timeout", "30s", Unit::kDuration, "How long to finish requests after SIGTERM."},
    {"prefill_tokens_per_second", "0", Unit::kNumber,
     "The prefill speed to imitate; 0: as fast as this machine computes."},
    {"decode_tokens_per_second", "0", Unit::kNumber,
     "The decode speed to imitate, for each request; 0: as fast as it goes."},
    {"log_level", "info", Unit::kChoice, "What is logged to stderr.", "debug|info|warn|error|off"},
};

// Keys of the files that people have today. They configure other programs, or parts of the
// public system that this one has no need of.
constexpr OptionSpec kUnusedOptions[] = {
    {"master_server_address", "", Unit::kUnused, ""},
    {"master_server_addr", "", Unit::kUnused, ""},
    {"metadata_backend", "", Unit::kUnused, ""},
    {"prefill_url", "", Unit::kUnused, ""},
    {"decode_url", "", Unit::kUnused, ""},
    {"global_segment_size", "", Unit::kUnused, ""},
    {"local_buffer_size", "", Unit::kUnused, ""},
    {"mode", "", Unit::kUnused, ""},
    {"enable_offload", "", Unit::kUnused, ""},
    {"transfer_timeout", "", Unit::kUnused, ""},
    {"storage_root_dir", "", Unit::kUnused, ""},
};

constexpr auto kOptions =
    JoinOptions(kOwnOptions, kDirectoryOptions, kCredentialOptions, kUnusedOptions);

}  // namespace

std::span<const OptionSpec> InstanceOptions() noexcept { return kOptions; }

}  // namespace mooncake
