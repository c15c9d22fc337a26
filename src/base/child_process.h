// Another process of this program, for what needs two.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "base/world.h"

namespace mooncake {

/// Its standard input ends when this object does, or this process, however that happens: the sign
/// for it to end.
class ChildProcess {
 public:
  /// Runs a program of the search path; what it says of errors joins its standard output.
  /// kFileAccess: there is none of that name.
  [[nodiscard]] static Result<std::unique_ptr<ChildProcess>> Start(
      const std::string& program, const std::vector<std::string>& arguments);
  /// Runs this program's own file with `arguments`. kFileAccess.
  [[nodiscard]] static Result<std::unique_ptr<ChildProcess>> StartSelf(
      const std::vector<std::string>& arguments);
  ~ChildProcess();  ///< Ends its input and waits; kills it after 5 s.
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;
  /// The next line of its standard output. Blocks. kDeadline; kConnectionClosed when it has ended.
  [[nodiscard]] Result<std::string> ReadLine(Duration timeout);

 private:
  [[nodiscard]] static Result<std::unique_ptr<ChildProcess>> Spawn(
      const std::string& file, const std::string& name, const std::vector<std::string>& arguments,
      bool join_errors);
  ChildProcess(pid_t process, UniqueFd input, UniqueFd output)
      : process_(process), input_(std::move(input)), output_(std::move(output)) {}
  pid_t process_;
  UniqueFd input_;
  UniqueFd output_;
  std::string read_;  // beyond the last line that was returned
};

/// Returns when standard input has ended.
void AwaitEndOfInput() noexcept;

}  // namespace mooncake
