// What must hold of any history of processes that work with each other, whatever happens to them.
// Knows nothing of engines, networks or the simulator: events go in, violations come out.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/world.h"

namespace mooncake {

enum class Rule : std::uint8_t {
  kWrongBytes,    ///< Success, but the bytes are not there; or the answer is another one.
  kForeignBytes,  ///< Memory changed that nobody may change now.
  kEndedTwice,    ///< One operation, more than one end.
  kNeverEnded,    ///< An operation without an end.
  kLate,          ///< An end after the deadline.
  kUnfitError,    ///< An error that does not fit what happened.
  kNotification,  ///< Twice, to somebody else, from somebody else, before its bytes, or not at all.
  kDeadPeer,      ///< Success with somebody who had died before it began.
  kTwoOwners,     ///< Two have the same thing at once, or one gives back what it does not have.
  kNotGivenBack,  ///< Still held when everything has ended.
  kNotHealed,     ///< The faults are over, and something still does not work.
  kWarning,       ///< A warning was logged: a person was called for nothing.
  kCrashed,       ///< An assertion failed.
  kTooMuch,       ///< More events than any sound run has: something goes round in a circle.
};
[[nodiscard]] std::string_view ToString(Rule rule) noexcept;

struct Violation {
  Rule rule;
  std::string text;
};

namespace history {

using Process = std::size_t;  ///< One incarnation: a restart has another number.
using Operation = std::uint64_t;

/// What an operation is, which decides which errors fit.
enum class Kind : std::uint8_t {
  kTransfer,  ///< Bytes and notifications between engines: retried until the deadline.
  kConnect,   ///< May fail with whatever the way there fails with.
  kUnregister,
  kRequest,  ///< A completion, asked for by a client.
};

struct Began {
  Operation operation = 0;
  std::string name;  ///< For people: "write 12".
  Kind kind = Kind::kTransfer;
  Process from = 0;
  std::optional<Process> to;
  Instant deadline = kNever;  ///< By which it must have ended.
  Instant due = kNever;       ///< Of a request: when its instance gives it up.
  bool moves_bytes = false;
  bool notifies = false;
};
struct Cancelled {
  Operation operation = 0;
};
/// Memory that it uses at its partner is being unregistered.
struct RegionLeft {
  Operation operation = 0;
};
struct Ended {
  Operation operation = 0;
  std::optional<Error> error;  ///< Nothing: success.
  std::string wrong;           ///< Which bytes are not what they are to be, after a success.
};
/// Whoever began it is dead: it has no end, and none counts.
struct Orphaned {
  Operation operation = 0;
};
struct Heard {
  Operation operation = 0;
  Process by = 0;
  std::optional<Process> sender;  ///< That it names; nothing: nobody we know.
  bool bytes_there = true;
};
/// Nothing of the process runs until then, and it has a moment to catch up.
struct Stalled {
  Process process = 0;
  Instant until{};
};
/// It begins to stop, or dies.
struct Ending {
  Process process = 0;
};
/// It has stopped, or died: nothing that begins from now on succeeds with it.
struct Gone {
  Process process = 0;
};
/// The network between any two may fail, until then.
struct Disturbed {
  Instant until{};
};
/// [begin, end) of `space` belongs to `owner` alone from now on: pages of a memory, a lease.
struct Took {
  std::string space;
  std::string owner;
  std::uint64_t begin = 0;
  std::uint64_t end = 1;
};
struct Gave {
  std::string space;
  std::string owner;
  std::uint64_t begin = 0;
};
/// Whoever owned something there is dead.
struct Dropped {
  std::string space;
};
/// What only its observer can judge: memory that changed, a coroutine that is left.
struct Found {
  Rule rule;
  std::string text;
};

using Event = std::variant<Began, Cancelled, RegionLeft, Ended, Orphaned, Heard, Stalled, Ending,
                           Gone, Disturbed, Took, Gave, Dropped, Found>;

}  // namespace history

/// Events in the order in which they happened; `when` never goes back.
class HistoryChecker {
 public:
  void Add(Instant when, history::Event event);
  /// The history is over: what has not ended never will.
  void Finish();
  /// At most `kViolationsMax`, in the order in which they were found.
  [[nodiscard]] const std::vector<Violation>& violations() const noexcept { return violations_; }
  /// Operations without an end that somebody still waits for.
  [[nodiscard]] std::size_t open() const noexcept { return open_; }

  static constexpr std::size_t kViolationsMax = 20;
  static constexpr Duration kLateMax = std::chrono::milliseconds(5);

 private:
  struct OperationState {
    history::Began began;
    Instant begun{};
    bool cancelled = false;
    bool region_left = false;
    bool orphaned = false;
    int ends = 0;
    int heard = 0;
  };
  struct ProcessState {
    Instant stalled_until{};
    Instant ending = kNever;
    Instant gone = kNever;
  };
  struct Holding {
    std::uint64_t end;
    std::string owner;
  };

  void On(const history::Began& event);
  void On(const history::Cancelled& event);
  void On(const history::RegionLeft& event);
  void On(const history::Ended& event);
  void On(const history::Orphaned& event);
  void On(const history::Heard& event);
  void On(const history::Stalled& event);
  void On(const history::Ending& event);
  void On(const history::Gone& event);
  void On(const history::Disturbed& event);
  void On(const history::Took& event);
  void On(const history::Gave& event);
  void On(const history::Dropped& event);
  void On(const history::Found& event) { Report(event.rule, event.text); }
  void CheckTime(const OperationState& state);
  void CheckSuccess(const OperationState& state, const std::string& wrong);
  void CheckError(const OperationState& state, const Error& error);
  [[nodiscard]] bool FitsTransfer(const OperationState& state, const Error& error) const;
  [[nodiscard]] bool FitsRequest(const OperationState& state, const Error& error) const;
  [[nodiscard]] bool HasEnded(const std::optional<history::Process>& process) const;
  void Report(Rule rule, std::string text);

  Instant now_{};
  Instant disturbed_until_{};
  Instant last_death_{};
  std::map<history::Operation, OperationState> operations_;
  std::map<history::Process, ProcessState> processes_;
  std::map<std::string, std::map<std::uint64_t, Holding>> holdings_;  // by space, by begin
  std::size_t open_ = 0;
  std::vector<Violation> violations_;
};

}  // namespace mooncake
