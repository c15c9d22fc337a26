// Requests of the completions API.
#include "fuzzer.h"
#include "instance/completions.h"

MOONCAKE_FUZZER(completions) {
  using namespace mooncake;
  constexpr std::uint32_t kVocabulary = 1000;
  const Result<CompletionRequest> request =
      ParseCompletionRequest(TextOf(input), "tiny", kVocabulary);
  if (!request) {
    MC_FUZZ_CHECK(HttpStatusOf(request.error()) >= 400 && !ErrorJson(request.error()).empty());
    return;
  }
  MC_FUZZ_CHECK(!request->prompt.empty());
  for (const Token token : request->prompt) MC_FUZZ_CHECK(token < kVocabulary);
}
