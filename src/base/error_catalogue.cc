// Every error a user can meet: its id, what a caller does about it, its title and its remedy.
// docs/errors.md is printed from this table (`mooncake explain --all`), and a test holds the two
// together.
#include "base/error_catalogue.h"

#include <fmt/format.h>

#include <array>
#include <cstring>

namespace mooncake {
namespace {

using enum Errc;
using Id = ErrorId;

constexpr std::array kCatalogue = {
    ErrorEntry{Id::kUnknownOption, kInvalidArgument, "unknown option",
               "Correct the name; `mooncake help options` lists all of an instance's."},
    ErrorEntry{Id::kBadOptionValue, kInvalidArgument, "an option has a value that it cannot have",
               "Write a value of the kind that the message names."},
    ErrorEntry{Id::kWrongService, kInvalidArgument,
               "something else answers where the directory should be",
               "Correct metadata_server so that it names the directory's own host and port."},
    ErrorEntry{Id::kBadAddress, kInvalidArgument, "not an address",
               "Write host:port, [ipv6]:port, or a host alone."},
    ErrorEntry{Id::kPortTaken, kInvalidArgument, "the port is taken",
               "Stop the process that holds it, or write another port, or none to have a free one "
               "chosen."},
    ErrorEntry{Id::kAddressNotOurs, kInvalidArgument, "the address is not one of this host",
               "Write one of the host's own addresses in local_hostname, or leave it out."},
    ErrorEntry{Id::kDirectoryUnreachable, kUnavailable, "the directory is unreachable",
               "Start it, or correct metadata_server; peers that are connected go on meanwhile."},
    ErrorEntry{Id::kBadConfigFile, kInvalidArgument, "the configuration file cannot be used",
               "Correct the file at the place that the message names."},
    ErrorEntry{Id::kDirectoryRefused, kUnavailable, "nothing listens at the directory's address",
               "Start the directory there, or correct metadata_server."},
    ErrorEntry{Id::kDirectoryIsUs, kInvalidArgument, "metadata_server names a Mooncake port",
               "Write the directory's port in metadata_server (etcd's default is 2379), not an "
               "instance's."},
    ErrorEntry{Id::kDirectoryTimeout, kUnavailable, "the directory does not answer in time",
               "Check the address in metadata_server and any firewall between: packets vanish on "
               "the way."},
    ErrorEntry{Id::kDirectoryGarbage, kInvalidArgument, "what answers is not a directory",
               "Correct metadata_server: the port belongs to a program with another protocol."},
    ErrorEntry{Id::kUsage, kInvalidArgument, "the command line cannot be used",
               "Run the same command with --help."},
    ErrorEntry{Id::kFileAccess, kInvalidArgument, "a file cannot be used",
               "Check that the path exists and that this user may read or write it."},
    ErrorEntry{Id::kBadTrace, kInvalidArgument, "the trace cannot be read",
               "Correct the line: one JSON object with timestamp, input_length, output_length and "
               "hash_ids."},
    ErrorEntry{Id::kListenFailed, kInvalidArgument, "cannot listen",
               "Correct the address, or the right that the message names."},
    ErrorEntry{Id::kUnknownModel, kInvalidArgument, "unknown model",
               "Pick one that `mooncake models` lists."},
    ErrorEntry{Id::kDirectoryDenied, kDenied, "the directory refuses these credentials",
               "Correct user and password in metadata_server: etcd://user:password@host:port, "
               "redis://:password@host:port."},
    ErrorEntry{Id::kBadCredentials, kInvalidArgument,
               "a certificate, a key or a secret cannot be used",
               "Correct the file or the option that the message names."},
    ErrorEntry{Id::kNotInitialized, kInvalidArgument, "a transfer engine that is not initialized",
               "Call initialize() once, before anything else, in the process that transfers."},
    ErrorEntry{Id::kPeerGone, kPeerGone, "the peer is gone",
               "Start it again: connections heal by themselves; its own log says why it went."},
    ErrorEntry{Id::kConnectRefused, kPeerGone, "nothing listens at the peer's address",
               "Start the peer again; its record disappears by itself within 10 s."},
    ErrorEntry{Id::kConnectTimeout, kPeerGone, "the peer's address does not answer",
               "Check the network and any firewall between the two hosts."},
    ErrorEntry{Id::kConnectionClosed, kPeerGone, "the connection was closed",
               "Look at the peer's log; the connection is opened again by the next request."},
    ErrorEntry{Id::kBadFrame, kCorrupt, "bytes that are not a frame of ours",
               "Check what speaks to this port: it accepts Mooncake's protocol and HTTP only."},
    ErrorEntry{Id::kFrameTooLarge, kCorrupt, "a frame claims more than the protocol allows",
               "Check what speaks to this port: no Mooncake process sends such a length."},
    ErrorEntry{Id::kVersionMismatch, kUnsupported, "no protocol version that both sides speak",
               "Upgrade the older side, which the message names."},
    ErrorEntry{Id::kDeadline, kUnknownOutcome, "the deadline passed",
               "Raise the request's timeout, or look why the peer is slow; the outcome is unknown, "
               "not failed."},
    ErrorEntry{Id::kPeerBusy, kTryAgain, "the peer has as much work as it may take",
               "Repeat the request a little later."},
    ErrorEntry{Id::kNotFound, kNotFound, "no live instance of that name or role",
               "Start it, or correct the name; `mooncake status` lists who is alive."},
    ErrorEntry{
        Id::kWrongPeer, kPeerGone, "another process answers at the peer's address",
        "Nothing: the record is replaced by itself, and the next look-up finds the new process."},
    ErrorEntry{Id::kUnknownMethod, kUnsupported, "the peer does not know this call",
               "Upgrade the peer to the version of this program."},
    ErrorEntry{Id::kNetwork, kPeerGone, "the network refuses",
               "Check the route to that address (`ip route get ADDRESS`)."},
    ErrorEntry{Id::kBadHttp, kInvalidArgument, "not an HTTP message that we accept",
               "Correct the request: the message says what is wrong with it."},
    ErrorEntry{Id::kClosed, kCancelled, "this side is closing",
               "Nothing: the process was asked to stop."},
    ErrorEntry{Id::kTlsFailed, kDenied, "no encrypted connection",
               "Give both sides a certificate that the other side's CA has signed, or neither: the "
               "message says what was wrong."},
    ErrorEntry{Id::kNotProven, kDenied, "the secret of the cluster was not proven",
               "Give every process of the cluster the same cluster_secret_file."},
    ErrorEntry{Id::kNoDescriptors, kTryAgain, "no file descriptor is left",
               "Raise the limit of open files (`ulimit -n`); connections that wait are accepted as "
               "soon as there is one."},
    ErrorEntry{Id::kCancelled, kCancelled, "cancelled", "Nothing: somebody asked for it."},
    ErrorEntry{
        Id::kNoPath, kPeerGone, "no path to the peer is left",
        "Correct what the message says of each transport; `mooncake status` shows the same of a "
        "running instance."},
    ErrorEntry{Id::kPathFailed, kPeerGone, "a path failed in the middle of a transfer",
               "Nothing: another path or a new connection takes the rest; if it repeats, see "
               "`mooncake status`."},
    ErrorEntry{Id::kPathUnusable, kUnsupported, "a transport cannot be used with this peer",
               "Nothing: the next better transport is used; the message says why not this one."},
    ErrorEntry{Id::kChecksum, kCorrupt, "bytes arrived changed",
               "Check the host's memory and network cards: checksums beneath ours did not notice."},
    ErrorEntry{Id::kNoRdma, kUnsupported, "this host has no RDMA that can be used",
               "Nothing, if there should be none: another transport serves. Otherwise correct what "
               "the message names; `mooncake topology` lists devices and reasons."},
    ErrorEntry{Id::kRdmaDevice, kInvalidArgument, "a named RDMA device cannot be used",
               "Correct device_name, or what the message says of the device; `mooncake topology` "
               "lists those that can be used."},
    ErrorEntry{
        Id::kRdmaCall, kPeerGone, "the RDMA driver refused a call",
        "Nothing: other devices and transports take the work; the message names the call and "
        "the device."},
    ErrorEntry{Id::kQueuePairBudget, kTryAgain, "no queue pair is left on an RDMA device",
               "Nothing: connections that are idle give theirs back; if it repeats, spread the "
               "peers over more devices."},
    ErrorEntry{
        Id::kGpuCall, kPeerGone, "the GPU driver refused a call",
        "Nothing: other transports take the work where there are some; the message names the call "
        "and what the driver said."},
    ErrorEntry{
        Id::kBadRegionKey, kDenied, "the access key of the region is wrong",
        "Fetch the region's description again: it was registered anew, or never for this peer."},
    ErrorEntry{Id::kOutOfRegion, kDenied, "the range lies outside the registered region",
               "Correct the address or the length; a range must lie within one registered region."},
    ErrorEntry{Id::kRegionExists, kInvalidArgument, "the memory overlaps a registered region",
               "Unregister the other region first."},
    ErrorEntry{Id::kRegionUnknown, kInvalidArgument, "no such region",
               "Register the memory before it is used, and unregister it once."},
    ErrorEntry{Id::kMemoryShortage, kNoSpace, "not enough memory",
               "Ask for less, or free some: the message says how much there is."},
    ErrorEntry{Id::kMapFailed, kUnsupported, "memory cannot be mapped",
               "Check the limit that the message names."},
    ErrorEntry{Id::kNotRegistered, kInvalidArgument, "the local memory is not registered",
               "Register the buffer before it is used in a transfer."},
    ErrorEntry{Id::kBadRange, kInvalidArgument, "a range is not valid",
               "Correct the length or the address of the range that the message names."},
    ErrorEntry{Id::kMemoryKind, kUnsupported, "memory of this kind cannot be moved",
               "Copy it to memory of the host first, and register that."},
    ErrorEntry{Id::kMemoryLock, kDenied, "the limit of locked memory is too low for RDMA",
               "Raise it as the message says: `ulimit -l`, LimitMEMLOCK= of the service, or the "
               "container's memlock."},
    ErrorEntry{
        Id::kNoPartner, kUnavailable, "no partner instance",
        "Start an instance of the missing role in the same cluster and with the same directory."},
    ErrorEntry{Id::kQueueFull, kTryAgain, "the instance has as many requests as it may hold",
               "Repeat the request after the time in Retry-After, or add instances."},
    ErrorEntry{Id::kKvFull, kNoSpace, "the request needs more KV memory than there is",
               "Raise kv_memory, lower the model's scale, or shorten the prompt."},
    ErrorEntry{Id::kBadRequest, kInvalidArgument, "the request cannot be served",
               "Correct the field that the message names."},
    ErrorEntry{Id::kPrefillFailed, kUnavailable, "the prefill did not finish",
               "Repeat the request; the message says what happened to the prefill instance."},
    ErrorEntry{Id::kDraining, kUnavailable, "the instance is draining before it stops",
               "Send the request to another instance."},
    ErrorEntry{Id::kWrongAnswer, kCorrupt,
               "an answer differs from that of one undivided computation",
               "Report it with the seed or the trace: this must never happen."},
    ErrorEntry{Id::kClientGone, kCancelled, "the client went away",
               "Nothing: the work for it was stopped."},
    ErrorEntry{Id::kNoInstance, kUnavailable, "no instance answers",
               "Start two, each in a terminal of its own: `mooncake instance --role prefill` and "
               "`mooncake instance --role decode`."},
    ErrorEntry{Id::kNotAnInstance, kInvalidArgument, "what answers is no Mooncake instance",
               "Write the address that an instance prints when it is ready: http://host:port."},
    ErrorEntry{Id::kInternal, kInternal, "a fault of our own", "Report it with the log around it."},
};

constexpr bool Ascending() {
  for (std::size_t i = 1; i < kCatalogue.size(); ++i) {
    if (kCatalogue[i - 1].id >= kCatalogue[i].id) return false;
  }
  return true;
}
static_assert(Ascending(), "rows are in the order of their ids, each once");

}  // namespace

std::span<const ErrorEntry> ErrorCatalogue() noexcept { return kCatalogue; }

const ErrorEntry& FindError(ErrorId id) noexcept {
  for (const ErrorEntry& entry : kCatalogue) {
    if (entry.id == id) return entry;
  }
  return kCatalogue.back();
}

std::string ErrorName(ErrorId id) { return fmt::format("E{:03}", static_cast<unsigned>(id)); }

std::string ErrnoText(int os_error) {
  char buffer[128];
  return fmt::format("{} [{}]", strerror_r(os_error, buffer, sizeof buffer), os_error);
}

std::string Error::Text() const {
  const ErrorEntry& entry = FindError(id);
  std::string text = fmt::format("{} {}", ErrorName(id), entry.title);
  if (!context.empty()) text += ": " + context;
  if (os_error != 0) text += fmt::format(" ({})", ErrnoText(os_error));
  return fmt::format("{}. Do: {}", text, entry.remedy);
}

std::string Error::Brief() const {
  std::string text =
      fmt::format("{} {}", ErrorName(id), context.empty() ? FindError(id).title : context);
  if (os_error != 0) text += fmt::format(" ({})", ErrnoText(os_error));
  return text;
}

Error Within(std::string_view prefix, Error error) {
  error.context =
      error.context.empty() ? std::string(prefix) : fmt::format("{}: {}", prefix, error.context);
  return error;
}

}  // namespace mooncake
