#include "directory/p2p/p2p_directory.h"

#include <fmt/format.h>

namespace mooncake {
namespace {

class P2pDirectory final : public Directory {
 public:
  explicit P2pDirectory(World& world) : world_(world) {}
  std::string Describe() const override { return "P2PHANDSHAKE"; }
  Task<Status> Publish(Record, Instant) override { co_return Status{}; }
  Task<void> Withdraw(Instant) override { co_return; }
  Task<Result<std::vector<Record>>> List(Instant) override { co_return std::vector<Record>{}; }

  Task<Result<Record>> Find(std::string label, Instant deadline) override {
    const Result<HostPort> parts = ParseHostPort(label);
    if (!parts) co_return Fail(parts.error());
    if (parts->port == 0) {
      co_return Fail(
          ErrorId::kBadAddress,
          fmt::format("\"{}\": with P2PHANDSHAKE a peer's name is its host:port", label));
    }
    const Result<std::vector<IpAddress>> addresses =
        co_await world_.network.Resolve(world_.control, parts->host, deadline);
    if (!addresses) co_return Fail(addresses.error());
    Record record;
    record.identity.label = label;
    // Whether it is this host is not known before the hand-shake; a loopback address can only mean
    // this one.
    record.identity.host = world_.network.host();
    for (const IpAddress& address : *addresses) record.endpoints.push_back({address, parts->port});
    co_return record;
  }
  std::optional<Outage> outage() const override { return std::nullopt; }

 private:
  World& world_;
};

}  // namespace

std::unique_ptr<Directory> MakeP2pDirectory(World& world) {
  return std::make_unique<P2pDirectory>(world);
}

}  // namespace mooncake
