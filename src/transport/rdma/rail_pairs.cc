#include "transport/rdma/rail_pairs.h"

namespace mooncake::rdma {

Result<RailPairs> RailPairs::Make(const std::shared_ptr<RdmaDevice>& device, std::uint64_t cookie) {
  RailPairs made(device);
  MC_TRY(made.queue_, device->MakeCompletionQueue(cookie, kPairsOfRail));
  for (RdmaDevice::Owned& pair : made.pairs_) {
    MC_TRY(pair, RdmaDevice::MakeQueuePair(device, made.queue_.get()));
  }
  return made;
}

RailEnds RailPairs::Describe(Random& random) const {
  RailEnds ends;
  for (std::size_t i = 0; i < ends.size(); ++i)
    ends[i] =
        device_->Describe(*pairs_[i].pair, static_cast<std::uint32_t>(random.Next() & 0xFFFFFF));
  return ends;
}

Status RailPairs::Connect(const RailEnds& here, const RailEnds& there,
                          const AddressPair& addresses) {
  for (std::size_t i = 0; i < pairs_.size(); ++i)
    MC_TRY_STATUS(device_->Connect(*pairs_[i].pair, here[i], there[i], addresses));
  return device_->PostReceives((*this)[kShortPair], kReceivesMax);
}

void RailPairs::Reset() noexcept {
  for (RdmaDevice::Owned& pair : pairs_) pair.Reset();
}

}  // namespace mooncake::rdma
