#include "transport/rdma/rail_group.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace mooncake::rdma {
namespace {

// What a device that is one group farther from the memory must be better by.
constexpr double kTierPenalty = 0.5;
constexpr Duration kStragglerMin = std::chrono::milliseconds(200);
constexpr double kStragglerFactor = 20;
// The peer answers a message as it comes. Where its end is gone, nothing else may tell.
constexpr Duration kAnswerTimeout = std::chrono::seconds(1);

double NanosecondsFor(const Rail& rail, std::uint64_t bytes) noexcept {
  return static_cast<double>(bytes) / std::max(rail.pace().bytes_per_nanosecond(), 1e-6);
}

}  // namespace

void RailGroup::Add(std::unique_ptr<Rail> rail) {
  missing_.erase(rail->device().rank());
  rails_.push_back(std::move(rail));
}

std::unique_ptr<Rail> RailGroup::Take(std::size_t place, const std::string& reason) {
  std::unique_ptr<Rail> rail = std::move(rails_[place]);
  rails_.erase(rails_.begin() + static_cast<std::ptrdiff_t>(place));
  SetMissing(rail->device().rank(), fmt::format("{}: {}", rail->device().name(), reason));
  return rail;
}

std::vector<std::unique_ptr<Rail>> RailGroup::TakeAll() noexcept {
  missing_.clear();
  return std::exchange(rails_, {});
}

bool RailGroup::HasFrom(const RdmaDevice& device) const noexcept {
  return std::any_of(rails_.begin(), rails_.end(),
                     [&device](const auto& rail) { return &rail->device() == &device; });
}

std::string RailGroup::Name(const Rail& rail) const {
  return fmt::format("{} to {}", rail.device().name(), peer_devices_[rail.peer_device()]);
}

std::string RailGroup::Describe() const {
  if (rails_.empty() && missing_.empty())
    return "no rail: its queue pairs serve another peer until the next transfer";
  std::vector<std::string> names;
  for (const auto& rail : rails_) {
    const std::string& here = rail->device().name();
    names.push_back(here == peer_devices_[rail->peer_device()] ? here : Name(*rail));
  }
  std::sort(names.begin(), names.end());
  std::string text = names.empty() ? "no rail"
                                   : fmt::format("{} {}", names.size() == 1 ? "rail" : "rails",
                                                 fmt::join(names, ", "));
  std::string_view before = "; without ";
  for (const auto& [rank, reason] : missing_) {
    text.append(before).append(reason);
    before = "; ";
  }
  return text;
}

std::optional<std::size_t> RailGroup::ChooseAmongAll(const Operation& operation) const {
  std::optional<std::size_t> best;
  double least = 0;
  for (std::size_t place = 0; place < rails_.size(); ++place) {
    const Rail& rail = *rails_[place];
    if (place < operation.cannot.size() && operation.cannot[place]) continue;
    if (!rail.HasRoom(operation.lane)) continue;
    double until_done = 0;
    if (rails_.size() > 1) {
      const int tier =
          operation.regions.local ? operation.regions.local->on[rail.device().rank()].tier : 0;
      until_done = (1 + kTierPenalty * tier) *
                   NanosecondsFor(rail, rail.bytes_in_flight() + rail.pace().piece_bytes());
    }
    if (best && until_done >= least) continue;
    best = place;
    least = until_done;
  }
  return best;
}

bool RailGroup::any_is_idle() const noexcept {
  return std::any_of(rails_.begin(), rails_.end(),
                     [](const auto& rail) { return rail->is_idle(); });
}

std::optional<std::string> RailGroup::WhyLate(std::size_t place, Instant now) const {
  const Rail& rail = *rails_[place];
  if (now > After(rail.silent_since(), kAnswerTimeout)) return "no answer to a message";
  if (!IsStraggler(rail, now)) return std::nullopt;
  return fmt::format("no completion for {} ms",
                     (now - rail.oldest()) / std::chrono::milliseconds(1));
}

bool RailGroup::IsStraggler(const Rail& rail, Instant now) const noexcept {
  if (rail.is_idle() || !any_is_idle()) return false;
  const double expected = NanosecondsFor(rail, rail.bytes_in_flight());
  return now - rail.oldest() >=
         std::max<Duration>(kStragglerMin,
                            Duration(static_cast<std::int64_t>(kStragglerFactor * expected)));
}

bool RailGroup::is_awaited() const noexcept {
  return std::any_of(rails_.begin(), rails_.end(),
                     [](const auto& rail) { return rail->is_awaited(); });
}

bool RailGroup::Arm() {
  bool some = false;
  for (const auto& rail : rails_) {
    if (!rail->is_awaited() || rail->is_armed()) continue;
    rail->Arm();
    some = some || rail->is_armed();
  }
  return some;
}

void RailGroup::Heard() noexcept {
  for (const auto& rail : rails_) rail->Heard();
}

}  // namespace mooncake::rdma
