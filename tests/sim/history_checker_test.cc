#include "history_checker.h"

#include <gtest/gtest.h>

namespace mooncake {
namespace {

using namespace std::chrono_literals;
using namespace history;

constexpr Instant At(Duration since) { return Instant(1h) + since; }
Error ErrorOf(ErrorId id) { return {id, "told by the test"}; }

class HistoryChecks : public testing::Test {
 protected:
  // Of process 1 with process 2, from 0 s to 1 s.
  void Begin(Operation operation, Kind kind = Kind::kTransfer, bool notifies = false) {
    checker_.Add(At(0s), Began{.operation = operation,
                               .name = "write",
                               .kind = kind,
                               .from = 1,
                               .to = 2,
                               .deadline = At(1s),
                               .moves_bytes = true,
                               .notifies = notifies});
  }
  void End(Duration when, std::optional<ErrorId> error = {}) {
    checker_.Add(At(when), Ended{1, error ? std::optional(ErrorOf(*error)) : std::nullopt, {}});
  }
  // The one rule that is broken.
  void ExpectOnly(Rule rule) {
    checker_.Finish();
    ASSERT_EQ(checker_.violations().size(), 1U);
    EXPECT_EQ(checker_.violations()[0].rule, rule) << checker_.violations()[0].text;
  }
  void ExpectSound() {
    checker_.Finish();
    for (const Violation& violation : checker_.violations())
      ADD_FAILURE() << ToString(violation.rule) << ": " << violation.text;
  }
  HistoryChecker checker_;
};

TEST_F(HistoryChecks, ASoundHistoryPasses) {
  Begin(1, Kind::kTransfer, true);
  EXPECT_EQ(checker_.open(), 1U);
  checker_.Add(At(100ms), Took{"memory", "write", 0, 10});
  checker_.Add(At(200ms), Heard{1, 2, 1, true});
  checker_.Add(At(200ms), Gave{"memory", "write", 0});
  End(300ms);
  EXPECT_EQ(checker_.open(), 0U);
  ExpectSound();
}

TEST_F(HistoryChecks, WrongBytes) {
  Begin(1);
  checker_.Add(At(10ms), Ended{1, {}, "byte 7 is another one"});
  ExpectOnly(Rule::kWrongBytes);
}

TEST_F(HistoryChecks, TwoEnds) {
  Begin(1);
  End(10ms);
  End(20ms, ErrorId::kDeadline);
  ExpectOnly(Rule::kEndedTwice);
}

TEST_F(HistoryChecks, NoEnd) {
  Begin(1);
  ExpectOnly(Rule::kNeverEnded);
}

TEST_F(HistoryChecks, ADeadOwnersOperationNeedsNoEndAndGetsNone) {
  Begin(1);
  checker_.Add(At(10ms), Gone{1});
  checker_.Add(At(10ms), Orphaned{1});
  EXPECT_EQ(checker_.open(), 0U);
  End(9s);
  ExpectSound();
}

TEST_F(HistoryChecks, AnEndAfterTheDeadline) {
  Begin(1);
  End(1s + HistoryChecker::kLateMax + 1ns, ErrorId::kDeadline);
  ExpectOnly(Rule::kLate);
}

TEST_F(HistoryChecks, AStalledProcessEndsWhenItRunsAgain) {
  Begin(1);
  checker_.Add(At(500ms), Stalled{1, At(8s)});
  End(8s + 1ms, ErrorId::kDeadline);
  ExpectSound();
}

TEST_F(HistoryChecks, ADeadlineThatHasNotPassed) {
  Begin(1);
  End(999ms, ErrorId::kDeadline);
  ExpectOnly(Rule::kUnfitError);
}

TEST_F(HistoryChecks, ACancelThatNobodyAskedFor) {
  Begin(1);
  End(10ms, ErrorId::kCancelled);
  ExpectOnly(Rule::kUnfitError);
}

TEST_F(HistoryChecks, ACancelThatSomebodyAskedFor) {
  Begin(1);
  checker_.Add(At(5ms), Cancelled{1});
  End(10ms, ErrorId::kCancelled);
  ExpectSound();
}

TEST_F(HistoryChecks, AnErrorForNoReason) {
  for (const ErrorId id : {ErrorId::kPeerGone, ErrorId::kClosed, ErrorId::kRegionUnknown,
                           ErrorId::kPathFailed, ErrorId::kInternal}) {
    HistoryChecker checker;
    checker.Add(At(0s), Began{.operation = 1, .name = "write", .from = 1, .to = 2});
    checker.Add(At(10ms), Ended{1, ErrorOf(id), {}});
    ASSERT_EQ(checker.violations().size(), 1U) << ErrorName(id);
    EXPECT_EQ(checker.violations()[0].rule, Rule::kUnfitError);
  }
}

TEST_F(HistoryChecks, ErrorsWithAReason) {
  Begin(1);
  checker_.Add(At(5ms), Ending{2});
  End(10ms, ErrorId::kPeerGone);
  ExpectSound();
}

TEST_F(HistoryChecks, AnUnknownRegionWhoseOwnerUnregistersIt) {
  Begin(1);
  checker_.Add(At(5ms), RegionLeft{1});
  End(10ms, ErrorId::kRegionUnknown);
  ExpectSound();
}

TEST_F(HistoryChecks, SuccessWithTheDead) {
  checker_.Add(At(-1s), Gone{2});
  Begin(1);
  End(10ms);
  ExpectOnly(Rule::kDeadPeer);
}

TEST_F(HistoryChecks, SuccessWithOneWhoDiesMeanwhile) {
  Begin(1);
  checker_.Add(At(5ms), Gone{2});
  End(10ms);
  ExpectSound();
}

TEST_F(HistoryChecks, ANotificationThatIsWrong) {
  const std::array bad = {Heard{1, 3, 1, true}, Heard{1, 2, 3, true}, Heard{1, 2, {}, true},
                          Heard{1, 2, 1, false}};
  for (const Heard& heard : bad) {
    HistoryChecker checker;
    checker.Add(At(0s),
                Began{.operation = 1, .name = "write", .from = 1, .to = 2, .notifies = true});
    checker.Add(At(1ms), heard);
    ASSERT_EQ(checker.violations().size(), 1U);
    EXPECT_EQ(checker.violations()[0].rule, Rule::kNotification);
  }
}

TEST_F(HistoryChecks, ANotificationThatComesTwice) {
  Begin(1, Kind::kTransfer, true);
  checker_.Add(At(1ms), Heard{1, 2, 1, true});
  End(2ms);
  checker_.Add(At(3ms), Heard{1, 2, 1, true});
  ExpectOnly(Rule::kNotification);
}

TEST_F(HistoryChecks, ANotificationThatNeverComes) {
  Begin(1, Kind::kTransfer, true);
  End(2ms);
  ExpectOnly(Rule::kNotification);
}

TEST_F(HistoryChecks, TwoOwnersOfOnePlace) {
  for (const auto& [begin, end] : {std::pair{0, 11}, {15, 16}, {19, 40}, {5, 40}, {10, 20}}) {
    HistoryChecker checker;
    checker.Add(At(0s), Took{"memory", "one", 10, 20});
    checker.Add(At(0s), Took{"memory", "two", static_cast<std::uint64_t>(begin),
                             static_cast<std::uint64_t>(end)});
    ASSERT_EQ(checker.violations().size(), 1U) << begin;
    EXPECT_EQ(checker.violations()[0].rule, Rule::kTwoOwners);
  }
}

TEST_F(HistoryChecks, NeighboursAndSuccessorsAreNoSecondOwners) {
  checker_.Add(At(0s), Took{"memory", "one", 10, 20});
  checker_.Add(At(0s), Took{"memory", "two", 0, 10});
  checker_.Add(At(0s), Took{"memory", "three", 20, 30});
  checker_.Add(At(0s), Took{"another", "two", 10, 20});
  checker_.Add(At(1s), Gave{"memory", "one", 10});
  checker_.Add(At(2s), Took{"memory", "four", 10, 20});
  checker_.Add(At(3s), Dropped{"memory"});
  checker_.Add(At(3s), Gave{"another", "two", 10});
  ExpectSound();
}

TEST_F(HistoryChecks, WhatIsGivenBackTwice) {
  checker_.Add(At(0s), Took{"memory", "one", 10, 20});
  checker_.Add(At(1s), Gave{"memory", "one", 10});
  checker_.Add(At(2s), Gave{"memory", "one", 10});
  ExpectOnly(Rule::kTwoOwners);
}

TEST_F(HistoryChecks, WhatIsNeverGivenBack) {
  checker_.Add(At(0s), Took{"memory", "one", 10, 20});
  ExpectOnly(Rule::kNotGivenBack);
}

TEST_F(HistoryChecks, ARequestThatFailsInCalmWeather) {
  Begin(1, Kind::kRequest);
  End(10ms, ErrorId::kNoPartner);
  ExpectOnly(Rule::kUnfitError);
}

TEST_F(HistoryChecks, ARequestThatFailsAfterADeath) {
  checker_.Add(At(-5s), Gone{7});
  Begin(1, Kind::kRequest);
  End(10ms, ErrorId::kNoPartner);
  ExpectSound();
}

TEST_F(HistoryChecks, AWrongAnswerNeverFits) {
  checker_.Add(At(-5s), Gone{7});
  Begin(1, Kind::kRequest);
  End(10ms, ErrorId::kWrongAnswer);
  ExpectOnly(Rule::kUnfitError);
}

TEST_F(HistoryChecks, WhatAnObserverFound) {
  checker_.Add(At(0s), Found{Rule::kForeignBytes, "byte 3"});
  ExpectOnly(Rule::kForeignBytes);
}

}  // namespace
}  // namespace mooncake
