#include "base/child_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <array>
#include <cerrno>

extern char** environ;

namespace mooncake {
namespace {

constexpr Duration kEndTimeout = std::chrono::seconds(5);

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};

Result<Pipe> MakePipe() {
  std::array<int, 2> fds{};
  if (::pipe2(fds.data(), O_CLOEXEC) != 0) return Fail(ErrorId::kFileAccess, "a pipe", errno);
  return Pipe{UniqueFd(fds[0]), UniqueFd(fds[1])};
}

// Whether there is something to read, an end included.
bool Readable(int fd, Duration timeout) noexcept {
  pollfd wanted{fd, POLLIN, 0};
  const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(timeout).count();
  int ready = 0;
  do {
    ready = ::poll(&wanted, 1, static_cast<int>(milliseconds));
  } while (ready < 0 && errno == EINTR);
  return ready > 0;
}

}  // namespace

Result<std::unique_ptr<ChildProcess>> ChildProcess::StartSelf(
    const std::vector<std::string>& arguments) {
  return Spawn("/proc/self/exe", "mooncake", arguments, false);
}

Result<std::unique_ptr<ChildProcess>> ChildProcess::Start(
    const std::string& program, const std::vector<std::string>& arguments) {
  return Spawn(program, program, arguments, true);
}

Result<std::unique_ptr<ChildProcess>> ChildProcess::Spawn(const std::string& file,
                                                          const std::string& name,
                                                          const std::vector<std::string>& arguments,
                                                          bool join_errors) {
  MC_TRY(Pipe input, MakePipe());
  MC_TRY(Pipe output, MakePipe());
  std::vector<std::string> words = {name};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, input.read.get(), STDIN_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, output.write.get(), STDOUT_FILENO);
  if (join_errors) ::posix_spawn_file_actions_adddup2(&actions, output.write.get(), STDERR_FILENO);
  pid_t process = 0;
  const int failed =
      ::posix_spawnp(&process, file.c_str(), &actions, nullptr, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) return Fail(ErrorId::kFileAccess, "starting " + file, failed);
  return std::unique_ptr<ChildProcess>(
      new ChildProcess(process, std::move(input.write), std::move(output.read)));
}

ChildProcess::~ChildProcess() {
  input_.Reset();
  // Its output ends with it. What it still says is read, so that a full pipe does not hold it up.
  std::array<char, 4096> rest{};
  bool ended = false;
  while (!ended && Readable(output_.get(), kEndTimeout))
    ended = ::read(output_.get(), rest.data(), rest.size()) <= 0;
  if (!ended) ::kill(process_, SIGKILL);
  while (::waitpid(process_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

Result<std::string> ChildProcess::ReadLine(Duration timeout) {
  for (;;) {
    if (const std::size_t end = read_.find('\n'); end != std::string::npos) {
      std::string line = read_.substr(0, end);
      read_.erase(0, end + 1);
      return line;
    }
    if (!Readable(output_.get(), timeout))
      return Fail(ErrorId::kDeadline, fmt::format("a line from process {}", process_));
    std::array<char, 4096> some{};
    const ssize_t count = ::read(output_.get(), some.data(), some.size());
    if (count <= 0)
      return Fail(ErrorId::kConnectionClosed, fmt::format("process {} has ended", process_));
    read_.append(some.data(), static_cast<std::size_t>(count));
  }
}

void AwaitEndOfInput() noexcept {
  std::array<char, 256> ignored{};
  for (;;) {
    const ssize_t count = ::read(STDIN_FILENO, ignored.data(), ignored.size());
    if (count == 0 || (count < 0 && errno != EINTR)) return;
  }
}

}  // namespace mooncake
