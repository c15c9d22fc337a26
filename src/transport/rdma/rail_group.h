// The rails of one path, and why there are not more.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "transport/rdma/operation.h"
#include "transport/rdma/rail.h"

namespace mooncake::rdma {

/// One thread at a time: whoever holds the path's mutex. Places change when a rail is taken out.
class RailGroup {
 public:
  /// The names of the peer's devices, by their number.
  explicit RailGroup(std::vector<std::string> peer_devices)
      : peer_devices_(std::move(peer_devices)) {}

  [[nodiscard]] bool empty() const noexcept { return rails_.empty(); }
  [[nodiscard]] std::size_t size() const noexcept { return rails_.size(); }
  [[nodiscard]] Rail& operator[](std::size_t place) const noexcept { return *rails_[place]; }

  void Add(std::unique_ptr<Rail> rail);
  /// `reason` is why it is missing from now on.
  [[nodiscard]] std::unique_ptr<Rail> Take(std::size_t place, const std::string& reason);
  /// Nothing counts as missing then.
  [[nodiscard]] std::vector<std::unique_ptr<Rail>> TakeAll() noexcept;
  /// Why the device here of that rank has no rail, as far as is known.
  void SetMissing(std::size_t rank, std::string reason) { missing_[rank] = std::move(reason); }

  [[nodiscard]] bool HasFrom(const RdmaDevice& device) const noexcept;
  /// Both ends: "mlx5_0 to mlx5_1".
  [[nodiscard]] std::string Name(const Rail& rail) const;
  /// As Path::Describe().
  [[nodiscard]] std::string Describe() const;

  /// What a transfer has at most that goes with the short ones.
  [[nodiscard]] std::uint64_t short_bytes_max() const noexcept {
    std::uint64_t least = UINT64_MAX;
    for (const auto& rail : rails_) least = std::min(least, rail->pace().piece_bytes());
    return least;
  }
  /// The place of the rail that would have the next piece of the operation done first: by bytes in
  /// flight, measured rate, and how near its device is to the memory that operation.regions is at.
  /// nullopt: none of those that can carry it has room.
  [[nodiscard]] std::optional<std::size_t> Choose(const Operation& operation) const {
    const bool is_easy =
        rails_.size() == 1 && operation.cannot.empty() && rails_[0]->HasRoom(operation.lane);
    if (is_easy) return 0;
    return ChooseAmongAll(operation);
  }
  /// Why the rail at that place is not waited for any longer: its oldest piece takes far longer
  /// than its rate explains while another rail is done with everything, or the peer does not answer
  /// a message. nullopt: it is not late.
  [[nodiscard]] std::optional<std::string> WhyLate(std::size_t place, Instant now) const;

  /// Whether completions will come.
  [[nodiscard]] bool is_awaited() const noexcept;
  /// Arms the rails where completions will come. False: they all were.
  bool Arm();
  void Heard() noexcept;

 private:
  [[nodiscard]] bool any_is_idle() const noexcept;
  [[nodiscard]] bool IsStraggler(const Rail& rail, Instant now) const noexcept;
  [[nodiscard]] std::optional<std::size_t> ChooseAmongAll(const Operation& operation) const;

  const std::vector<std::string> peer_devices_;
  std::vector<std::unique_ptr<Rail>> rails_;
  std::map<std::size_t, std::string> missing_;  // why there are not more, by the device's rank
};

}  // namespace mooncake::rdma
