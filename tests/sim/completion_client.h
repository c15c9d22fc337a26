// A client of an instance's completions API: one request, and what came back.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/synthetic_model.h"
#include "wire/http.h"

namespace mooncake {

struct CompletionAsk {
  std::vector<Token> prompt;
  std::uint32_t tokens_max = 1;
  bool stream = false;
  Duration timeout{};  ///< That the instance is told.
};

struct CompletionSeen {
  std::vector<Token> tokens;   ///< As far as they came.
  std::optional<Error> error;  ///< Nothing: the answer is complete.
  bool from_instance = false;  ///< The error is the instance's own, and not the way's.
};

/// Until `deadline`, or until somebody closes the client.
[[nodiscard]] Task<CompletionSeen> Complete(std::shared_ptr<HttpClient> client, CompletionAsk ask,
                                            Instant deadline);

}  // namespace mooncake
