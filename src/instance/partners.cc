#include "instance/partners.h"

#include <fmt/format.h>

#include "base/log.h"
#include "wire/messages.pb.h"

namespace mooncake {
namespace {

constexpr Duration kAgeMax = std::chrono::seconds(1);
constexpr Duration kFetchTimeout = std::chrono::seconds(3);
constexpr Duration kProbeTimeout = std::chrono::milliseconds(500);
constexpr Duration kSuspicion = std::chrono::seconds(2);
constexpr Duration kPause = std::chrono::milliseconds(100);
constexpr Duration kSilence = std::chrono::seconds(1);     // a request waits without a word
constexpr Duration kSaidEvery = std::chrono::seconds(30);  // why requests wait
constexpr std::size_t kAskedMax = 16;                      // candidates asked for one request

}  // namespace

bool Partners::Fits(const Record& record, Role role) const {
  if (record.identity.id == core_.engine.identity().id) return false;
  const auto attribute = [&record](const char* name) {
    const auto found = record.attributes.find(name);
    return found == record.attributes.end() ? std::string() : found->second;
  };
  const std::string theirs = attribute("role");
  return attribute("model") == core_.model_id &&
         (theirs == ToString(role) || theirs == ToString(Role::kBoth));
}

bool Partners::Knows(Role role) const {
  return std::any_of(records_.begin(), records_.end(),
                     [this, role](const Record& r) { return Fits(r, role); });
}

void Partners::Suspect(const InstanceId& id) {
  suspects_[id] = After(core_.world.clock.Now(), kSuspicion);
  stale_ = true;
}

bool Partners::is_fresh(Duration age_max) const {
  return !stale_ && core_.world.clock.Now() - fetched_ < age_max;
}

Task<Status> Partners::Refresh(Duration age_max, Instant deadline) {
  if (!is_fresh(age_max)) {
    const auto fetched = std::make_shared<OneShot<bool>>();
    waiting_.push_back(fetched);
    StartFetch();  // after that: it may be over at once
    auto wait = WaitUntil(core_.world.clock, core_.world.control, fetched, deadline);
    const bool in_time = co_await std::move(wait);
    if (!in_time) co_return Fail(ErrorId::kDeadline, "no answer from " + directory_.Describe());
  }
  if (last_error_) co_return Fail(*last_error_);
  co_return Status{};
}

void Partners::StartFetch() {
  if (std::exchange(fetching_, true)) return;
  Spawn(core_.world.control, Fetch());
}

Task<void> Partners::Fetch() {
  const TaskGroup::Pass pass(core_.tasks);
  stale_ = false;  // whoever finds out meanwhile that a record is wrong says so again
  Result<std::vector<Record>> records =
      co_await directory_.List(After(core_.world.clock.Now(), kFetchTimeout));
  fetching_ = false;
  fetched_ = core_.world.clock.Now();
  last_error_.reset();
  if (records) {
    records_ = std::move(*records);
    std::erase_if(suspects_, [this](const auto& entry) { return entry.second <= fetched_; });
  } else {
    last_error_ = records.error();  // what was known before stays: connected partners go on
  }
  for (const auto& waiting : std::exchange(waiting_, {})) waiting->Set(true);
}

// Those to ask: whoever failed lately, or has failed this request, only when nobody else is there.
std::vector<Record> Partners::Fitting(Role role, const std::set<InstanceId>& avoid) const {
  std::vector<Record> fitting;
  for (const Record& record : records_) {
    if (Fits(record, role)) fitting.push_back(record);
  }
  const auto trusted = [&, now = core_.world.clock.Now()](const Record& r) {
    const auto suspect = suspects_.find(r.identity.id);
    return !avoid.contains(r.identity.id) && (suspect == suspects_.end() || suspect->second <= now);
  };
  if (std::any_of(fitting.begin(), fitting.end(), trusted))
    std::erase_if(fitting, [&](const Record& r) { return !trusted(r); });
  return fitting;
}

Task<void> Partners::Ask(Record record, std::string body, InstanceId preferred, Instant deadline,
                         std::shared_ptr<Asked> asked,
                         std::shared_ptr<std::function<void()>> done) {
  const TaskGroup::Pass pass(core_.tasks);
  const InstanceId id = record.identity.id;
  auto connect = core_.engine.Connect(std::move(record), deadline);
  Result<PeerPtr> peer = co_await std::move(connect);
  Error failure;
  if (peer) {
    auto call = (*peer)->Call(Method::kProbe, std::move(body), deadline, {});
    const Result<Reply> reply = co_await std::move(call);
    pb::ProbeReply answer;
    if (reply && Parse(reply->body, answer)) {
      asked->peer = *peer;
      asked->answer = Candidate{
          .id = id,
          .tokens_cached = std::uint64_t{answer.pages_cached()} * core_.shape().page_tokens,
          .tokens_queued = answer.queued_tokens(),
          .queue_length = answer.queue_length(),
          .queue_max = answer.queue_max(),
          .draining = answer.draining(),
          .preferred = id == preferred};
      last_failures_.erase(id);
    } else {
      failure = reply ? Error{ErrorId::kBadFrame, "ProbeReply"} : reply.error();
    }
  } else {
    failure = peer.error();
  }
  if (!asked->answer) {
    Suspect(id);
    last_failures_[id] = failure.Text();
  }
  (*done)();
}

Task<Result<PeerPtr>> Partners::Choose(Role role, const std::vector<Chain>& page_ends,
                                       std::size_t prompt_tokens, std::set<InstanceId> avoid,
                                       InstanceId preferred, Instant deadline, AbandonPtr abandon) {
  pb::ProbeRequest request;
  for (const Chain chain : page_ends) request.add_page_chains(static_cast<std::uint64_t>(chain));
  const std::string body = request.SerializeAsString();
  std::string reason;
  const Instant begun = core_.world.clock.Now();
  for (;;) {
    if (core_.closing) co_return Fail(ErrorId::kClosed, "the instance stops");
    if (abandon->is_set())
      co_return Fail(core_.GivenUp(deadline, "while a partner was looked for"));
    // Who knows a partner does not wait for the directory.
    std::vector<Record> fitting = Fitting(role, avoid);
    if (fitting.empty()) {
      const Status refreshed = co_await Refresh(kAgeMax, deadline);
      static_cast<void>(refreshed);  // last_error_ tells
      fitting = Fitting(role, avoid);
    } else if (!is_fresh(kAgeMax)) {
      StartFetch();
    }
    if (fitting.size() > kAskedMax) {
      for (std::size_t i = 0; i < kAskedMax; ++i)
        std::swap(fitting[i], fitting[i + core_.world.random.Below(fitting.size() - i)]);
      fitting.resize(kAskedMax);
    }

    std::vector<std::shared_ptr<Asked>> answers;
    const auto all = std::make_shared<OneShot<bool>>();
    const auto left = std::make_shared<std::size_t>(fitting.size());
    const auto done = std::make_shared<std::function<void()>>([all, left] {
      if (--*left == 0) all->Set(true);
    });
    const Instant limit = std::min(deadline, After(core_.world.clock.Now(), kProbeTimeout));
    for (const Record& record : fitting) {
      answers.push_back(std::make_shared<Asked>());
      Spawn(core_.world.control, Ask(record, body, preferred, limit, answers.back(), done));
    }
    if (!fitting.empty()) co_await all->Get();
    std::vector<Candidate> candidates;
    std::vector<PeerPtr> peers;
    for (const auto& answer : answers) {
      if (!answer->answer) continue;
      candidates.push_back(*answer->answer);
      peers.push_back(answer->peer);
    }
    if (const std::optional<std::size_t> chosen = ChoosePartner(candidates, prompt_tokens))
      co_return peers[*chosen];

    if (fitting.empty()) {
      reason = fmt::format("no {} instance for {} is registered in {}", ToString(role),
                           core_.model_id, directory_.Describe());
    } else if (candidates.empty()) {
      const auto failure = last_failures_.find(fitting[0].identity.id);
      reason = fmt::format(
          "{} of {} {} instances answer; {}", 0, fitting.size(), ToString(role),
          failure == last_failures_.end() ? Describe(fitting[0].identity) : failure->second);
    } else {
      reason = fmt::format("all {} {} instances are full or draining", candidates.size(),
                           ToString(role));
    }
    if (last_error_) reason += "; " + last_error_->Text();
    const Instant now = core_.world.clock.Now();
    if (After(now, kPause) >= deadline) co_return Fail(ErrorId::kNoPartner, reason);
    if (candidates.empty() && now >= std::max(After(begun, kSilence), next_said_)) {
      MC_LOG(warn, "a request waits for a partner: {}", reason);
      next_said_ = After(now, kSaidEvery);
    }
    stale_ = true;
    co_await core_.world.clock.SleepFor(core_.world.control, kPause);
  }
}

}  // namespace mooncake
