#include "drop_in/report.h"

#include "base/log.h"
#include "drop_in/transfer_engine.h"

namespace mooncake::drop_in {
namespace {

thread_local CaughtError* innermost = nullptr;

}  // namespace

CaughtError::CaughtError() noexcept : outer_(innermost) { innermost = this; }

CaughtError::~CaughtError() { innermost = outer_; }

int Report(std::string_view what, const Error& error) {
  if (innermost == nullptr) {
    MC_LOG(warn, "{}: {}", what, error.Text());
  } else if (!innermost->error_) {
    innermost->error_ = error;
  }
  return kFailed;
}

}  // namespace mooncake::drop_in
