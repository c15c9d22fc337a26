// Traces: what ParseTrace() takes it writes again, and its requests are what they promise.
#include "fuzzer.h"
#include "trace/trace.h"

MOONCAKE_FUZZER(trace) {
  using namespace mooncake;
  const Result<Trace> trace = ParseTrace(TextOf(input), "fuzz");
  if (!trace) return;
  for (const TraceRequest& request : *trace)
    MC_FUZZ_CHECK(request.hash_ids.size() == BlocksOf(request.input_tokens));
  const Result<Trace> again = ParseTrace(FormatTrace(*trace), "again");
  MC_FUZZ_CHECK(again && *again == *trace);
}
