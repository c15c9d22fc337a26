// The instances that this one works with: found in the directory, asked what they have, chosen.
#pragma once

#include <map>
#include <set>

#include "conductor/partner_choice.h"
#include "directory/directory.h"
#include "instance/core.h"

namespace mooncake {

class Partners {
 public:
  Partners(InstanceCore& core, Directory& directory) : core_(core), directory_(directory) {}

  /// An instance of `role` (or both) with the same model that answers and has room: the one that
  /// will be ready first. Waits for one until `deadline`, at most `wait_max`. `avoid` names those
  /// that failed this request already; they are taken again when nobody else is there. kNoPartner
  /// says why; kCancelled, kClosed.
  [[nodiscard]] Task<Result<PeerPtr>> Choose(Role role, const std::vector<Chain>& page_ends,
                                             std::size_t prompt_tokens, std::set<InstanceId> avoid,
                                             InstanceId preferred, Instant deadline,
                                             AbandonPtr abandon);
  /// Live records of this cluster as last seen.
  [[nodiscard]] const std::vector<Record>& records() const noexcept { return records_; }
  /// Fetches them if they are older than `age_max`; one fetch serves everybody who waits for it.
  /// Errors leave what was known: that of the last fetch, or kDeadline.
  [[nodiscard]] Task<Status> Refresh(Duration age_max, Instant deadline);
  [[nodiscard]] bool Knows(Role role) const;
  /// It has just failed: it is asked last for a while, and its record is fetched again.
  void Suspect(const InstanceId& id);

 private:
  struct Asked {
    PeerPtr peer;
    std::optional<Candidate> answer;
  };
  [[nodiscard]] bool Fits(const Record& record, Role role) const;
  [[nodiscard]] std::vector<Record> Fitting(Role role, const std::set<InstanceId>& avoid) const;
  [[nodiscard]] bool is_fresh(Duration age_max) const;
  void StartFetch();
  Task<void> Fetch();
  Task<void> Ask(Record record, std::string body, InstanceId preferred, Instant deadline,
                 std::shared_ptr<Asked> asked, std::shared_ptr<std::function<void()>> done);

  InstanceCore& core_;
  Directory& directory_;
  std::vector<Record> records_;
  Instant fetched_{};
  bool stale_ = true;
  bool fetching_ = false;
  std::vector<std::shared_ptr<OneShot<bool>>> waiting_;  // for the fetch under way
  std::optional<Error> last_error_;
  std::map<InstanceId, Instant> suspects_;  // until when
  std::map<InstanceId, std::string> last_failures_;
  Instant next_said_{};  // when the log may say again why requests wait
};

}  // namespace mooncake
