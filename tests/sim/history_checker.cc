#include "history_checker.h"

#include <fmt/format.h>

namespace mooncake {

using namespace history;

std::string_view ToString(Rule rule) noexcept {
  switch (rule) {
    case Rule::kWrongBytes:
      return "wrong bytes";
    case Rule::kForeignBytes:
      return "foreign bytes";
    case Rule::kEndedTwice:
      return "ended twice";
    case Rule::kNeverEnded:
      return "never ended";
    case Rule::kLate:
      return "late";
    case Rule::kUnfitError:
      return "unfit error";
    case Rule::kNotification:
      return "notification";
    case Rule::kDeadPeer:
      return "dead peer";
    case Rule::kTwoOwners:
      return "two owners";
    case Rule::kNotGivenBack:
      return "not given back";
    case Rule::kNotHealed:
      return "not healed";
    case Rule::kWarning:
      return "warning";
    case Rule::kCrashed:
      return "crashed";
    case Rule::kTooMuch:
      return "too much";
  }
  return "?";
}

void HistoryChecker::Add(Instant when, Event event) {
  now_ = when;
  std::visit([this](const auto& e) { On(e); }, event);
}

void HistoryChecker::Report(Rule rule, std::string text) {
  if (violations_.size() < kViolationsMax) violations_.push_back({rule, std::move(text)});
}

void HistoryChecker::On(const Began& event) {
  OperationState& state = operations_[event.operation];
  state.began = event;
  state.begun = now_;
  open_ += 1;
}

void HistoryChecker::On(const Cancelled& event) {
  operations_.at(event.operation).cancelled = true;
}

void HistoryChecker::On(const RegionLeft& event) {
  operations_.at(event.operation).region_left = true;
}

void HistoryChecker::On(const Ended& event) {
  OperationState& state = operations_.at(event.operation);
  if (state.orphaned) return;
  state.ends += 1;
  if (state.ends > 1) {
    return Report(Rule::kEndedTwice,
                  fmt::format("{} ended {} times", state.began.name, state.ends));
  }
  open_ -= 1;
  CheckTime(state);
  if (event.error) {
    CheckError(state, *event.error);
  } else {
    CheckSuccess(state, event.wrong);
  }
}

void HistoryChecker::On(const Orphaned& event) {
  OperationState& state = operations_.at(event.operation);
  if (state.ends == 0 && !std::exchange(state.orphaned, true)) open_ -= 1;
}

void HistoryChecker::On(const Heard& event) {
  OperationState& state = operations_.at(event.operation);
  const auto wrong = [&](std::string_view how) {
    Report(Rule::kNotification, fmt::format("the notification of {} {}", state.began.name, how));
  };
  state.heard += 1;
  if (state.heard > 1) wrong(fmt::format("arrived {} times", state.heard));
  if (!state.began.notifies) wrong("was never sent");
  if (state.began.to != event.by) wrong("arrived at somebody else");
  if (state.began.from != event.sender) wrong("names another sender");
  if (!event.bytes_there) wrong("arrived before its bytes");
}

void HistoryChecker::On(const Stalled& event) {
  Instant& until = processes_[event.process].stalled_until;
  until = std::max(until, event.until);
}

void HistoryChecker::On(const Ending& event) {
  ProcessState& state = processes_[event.process];
  state.ending = std::min(state.ending, now_);
  last_death_ = now_;
}

void HistoryChecker::On(const Gone& event) {
  ProcessState& state = processes_[event.process];
  state.ending = std::min(state.ending, now_);
  state.gone = std::min(state.gone, now_);
  last_death_ = now_;
}

void HistoryChecker::On(const Disturbed& event) {
  disturbed_until_ = std::max(disturbed_until_, event.until);
}

void HistoryChecker::On(const Took& event) {
  if (event.begin >= event.end) return;
  std::map<std::uint64_t, Holding>& space = holdings_[event.space];
  auto next = space.upper_bound(event.begin);
  if (next != space.begin() && std::prev(next)->second.end > event.begin) next = std::prev(next);
  if (next != space.end() && next->first < event.end) {
    return Report(Rule::kTwoOwners, fmt::format("{} takes [{}, {}) of {}, of which {} has [{}, {})",
                                                event.owner, event.begin, event.end, event.space,
                                                next->second.owner, next->first, next->second.end));
  }
  space.emplace(event.begin, Holding{event.end, event.owner});
}

void HistoryChecker::On(const Gave& event) {
  std::map<std::uint64_t, Holding>& space = holdings_[event.space];
  const auto found = space.find(event.begin);
  if (found != space.end() && found->second.owner == event.owner) {
    space.erase(found);
    return;
  }
  Report(Rule::kTwoOwners, fmt::format("{} gives back {} of {}, which it does not have",
                                       event.owner, event.begin, event.space));
}

void HistoryChecker::On(const Dropped& event) { holdings_.erase(event.space); }

void HistoryChecker::CheckTime(const OperationState& state) {
  if (state.began.deadline == kNever) return;
  const Instant catches_up = processes_[state.began.from].stalled_until;
  const Instant limit = After(std::max({state.began.deadline, catches_up, state.begun}), kLateMax);
  if (now_ <= limit) return;
  Report(Rule::kLate,
         fmt::format("{} of process {} ended {} us after its deadline", state.began.name,
                     state.began.from, (now_ - state.began.deadline).count() / 1000));
}

void HistoryChecker::CheckSuccess(const OperationState& state, const std::string& wrong) {
  const Began& began = state.began;
  if (!wrong.empty())
    Report(Rule::kWrongBytes, fmt::format("{} succeeded, but {}", began.name, wrong));
  if (began.moves_bytes && began.to && processes_[*began.to].gone < state.begun) {
    Report(Rule::kDeadPeer, fmt::format("{} succeeded with process {}, which had ended before",
                                        began.name, *began.to));
  }
  if (began.notifies && state.heard != 1) {
    Report(Rule::kNotification, fmt::format("{} succeeded, and its notification arrived {} times",
                                            began.name, state.heard));
  }
}

bool HistoryChecker::HasEnded(const std::optional<Process>& process) const {
  if (!process) return false;
  const auto found = processes_.find(*process);
  return found != processes_.end() && found->second.ending != kNever;
}

void HistoryChecker::CheckError(const OperationState& state, const Error& error) {
  const Began& began = state.began;
  const auto wrong = [&](std::string_view why) {
    Report(Rule::kUnfitError, fmt::format("{} failed {}: {}", began.name, why, error.Text()));
  };
  if (began.kind == Kind::kConnect) return;
  if (error.id == ErrorId::kCancelled && began.kind != Kind::kRequest && !state.cancelled)
    return wrong("though nobody cancelled it");
  switch (began.kind) {
    case Kind::kConnect:
      return;
    case Kind::kUnregister:
      if (error.id != ErrorId::kDeadline && !HasEnded(began.from)) wrong("for no good reason");
      return;
    case Kind::kTransfer:
      if (error.id == ErrorId::kDeadline && (began.deadline == kNever || now_ < began.deadline))
        return wrong("before its deadline");
      if (!FitsTransfer(state, error)) wrong("for no good reason");
      return;
    case Kind::kRequest:
      if (!FitsRequest(state, error)) wrong("for no good reason");
      return;
  }
}

bool HistoryChecker::FitsTransfer(const OperationState& state, const Error& error) const {
  const bool partner_ended = HasEnded(state.began.to);
  switch (error.id) {
    case ErrorId::kDeadline:
    case ErrorId::kCancelled:
      return true;  // looked at before
    case ErrorId::kClosed:
      return HasEnded(state.began.from) || partner_ended;
    case ErrorId::kRegionUnknown:
      return state.region_left || partner_ended;
    default:
      return partner_ended && error.code() == Errc::kPeerGone;
  }
}

bool HistoryChecker::FitsRequest(const OperationState& state, const Error& error) const {
  // How long a death or a cut is felt: leases, probes and suspicions have run out by then.
  constexpr Duration kAftermath = std::chrono::seconds(60);
  constexpr Duration kEarly = std::chrono::milliseconds(500);  // "too late to try again"
  const Instant trouble = std::max(last_death_, std::min(disturbed_until_, now_));
  const bool troubled = trouble != Instant{} && After(trouble, kAftermath) >= state.begun;
  const bool near_deadline = state.began.due != kNever && After(now_, kEarly) >= state.began.due;
  if (state.cancelled && error.code() != Errc::kCorrupt && error.code() != Errc::kInternal)
    return true;
  switch (error.code()) {
    case Errc::kCorrupt:
    case Errc::kInternal:
    case Errc::kInvalidArgument:
    case Errc::kDenied:
      return false;
    case Errc::kNoSpace:
    case Errc::kTryAgain:
      return true;  // the instances are small on purpose
    case Errc::kUnknownOutcome:
      return near_deadline || troubled;
    case Errc::kCancelled:
      return HasEnded(state.began.to) || troubled;
    default:
      return troubled || near_deadline || HasEnded(state.began.to);
  }
}

void HistoryChecker::Finish() {
  for (const auto& [number, state] : operations_) {
    if (state.ends == 0 && !state.orphaned)
      Report(Rule::kNeverEnded, fmt::format("{} has not ended", state.began.name));
  }
  for (const auto& [space, held] : holdings_) {
    for (const auto& [begin, holding] : held) {
      Report(Rule::kNotGivenBack,
             fmt::format("{} still has [{}, {}) of {}", holding.owner, begin, holding.end, space));
    }
  }
}

}  // namespace mooncake
