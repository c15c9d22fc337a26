#include "conductor/partner_choice.h"

#include <gtest/gtest.h>

#include <vector>

namespace mooncake {
namespace {

Candidate Make(std::uint64_t id, std::uint64_t cached, std::uint64_t queued) {
  return {.id = {id, 0},
          .tokens_cached = cached,
          .tokens_queued = queued,
          .queue_length = 1,
          .queue_max = 4};
}

TEST(PartnerChoice, TheOneThatIsReadyFirstServes) {
  EXPECT_EQ(ChoosePartner(std::vector{Make(1, 0, 0), Make(2, 800, 0)}, 1000),
            1U);  // has the prefix
  EXPECT_EQ(ChoosePartner(std::vector{Make(1, 0, 0), Make(2, 800, 5000)}, 1000),
            0U);  // but is busy
  EXPECT_EQ(ChoosePartner(std::vector{Make(1, 5000, 0), Make(2, 1000, 0)}, 1000),
            0U);  // more than all is all
}

TEST(PartnerChoice, ThoseThatDrainOrAreFullAreLeftOut) {
  Candidate draining = Make(1, 1000, 0);
  draining.draining = true;
  Candidate full = Make(2, 1000, 0);
  full.queue_length = 4;
  EXPECT_EQ(ChoosePartner(std::vector{draining, full, Make(3, 0, 9000)}, 1000), 2U);
  EXPECT_EQ(ChoosePartner(std::vector{draining, full}, 1000), std::nullopt);
  EXPECT_EQ(ChoosePartner({}, 1000), std::nullopt);
}

TEST(PartnerChoice, TheCallersPreferenceDecidesOnlyBetweenEquals) {
  Candidate preferred = Make(2, 0, 0);
  preferred.preferred = true;
  EXPECT_EQ(ChoosePartner(std::vector{Make(1, 0, 0), preferred}, 1000), 1U);
  EXPECT_EQ(ChoosePartner(std::vector{Make(1, 1, 0), preferred}, 1000), 0U);
}

}  // namespace
}  // namespace mooncake
