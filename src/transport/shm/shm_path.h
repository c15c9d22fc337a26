// A path that copies into memory of the peer which this process has mapped.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "memory/copy.h"
#include "memory/shared_segment.h"
#include "transport/shm/service_link.h"
#include "transport/transfer_check.h"

namespace mooncake::shm {

class ShmPath final : public Path, public std::enable_shared_from_this<ShmPath> {
 public:
  ShmPath(World& world, CopyEngine copy, std::shared_ptr<const PeerInfo> peer,
          std::shared_ptr<ServiceLink> link);
  std::optional<Duration> Estimate(const Transfer& transfer) const override;
  bool IsPrepared(const Transfer& transfer) const override;
  Task<Status> Prepare(TransferNeeds needs, Instant deadline) override;
  bool is_synchronous() const noexcept override { return true; }
  Status Run(const Transfer& transfer) override;
  std::optional<Status> TryRun(const Transfer& transfer) override;
  void Start(const Transfer& transfer, std::function<void(Status)> done) override;
  void Forget(RegionId region) override;
  void Close() noexcept override;

 private:
  struct View {
    RegionId region{};
    Access access{};  // what the peer has granted
    std::unique_ptr<MappedView> mapped;
    std::atomic<bool> forgotten{false};
  };
  using Views = std::vector<std::shared_ptr<View>>;  // shared: a Run() under way keeps what it
                                                     // copies to. By region.

  static void FetchAhead(const View& view, const Slice& slice) noexcept;
  [[nodiscard]] static View* Find(const Views& views, RegionId region, Access wanted);
  [[nodiscard]] Task<Status> MapRegion(RegionId region, Direction direction, Instant deadline);
  void Publish(RegionId region, std::shared_ptr<View> view);
  [[nodiscard]] static bool AreMapped(const Views& views, const Transfer& transfer);
  [[nodiscard]] Status RunOn(const Views& views, const Transfer& transfer);
  [[nodiscard]] Status CopyAll(const Transfer& transfer, const Views& views);
  [[nodiscard]] Status CheckGoing(const Transfer& transfer) const;

  World& world_;
  const CopyEngine copy_;
  const std::shared_ptr<const PeerInfo> peer_;
  const std::shared_ptr<ServiceLink> link_;
  CostModel cost_;
  CallGate gate_;
  std::mutex publish_;  // held by whoever replaces the snapshot, never by Run()
  std::atomic<std::shared_ptr<const Views>> views_;
};

}  // namespace mooncake::shm
