# ./run check: what takes longer than the tests: lint, sanitizers, simulation, planted faults, fuzzing, a short soak, benchmarks with
# tiny inputs, the longer tests of RDMA.
# MOONCAKE_FUZZ_SECONDS (default 20) is the time of each fuzzer.
source scripts/bench.sh
source scripts/lint.sh
source scripts/rdma.sh
source scripts/sim.sh

run_check() {
  set +e  # every step is counted; one that fails does not end the others
  install_packages "${build_packages[@]}" "${test_packages[@]}" "${clang_packages[@]}" python3-venv
  count "lint" run_lint
  build_preset dev || { failed=$((failed + 1)); summary; return 1; }
  count "simulation, 500 seeds" build/bin/mooncake_sim --seeds 500
  count "simulation, a crash at every event" build/bin/mooncake_sim --crash-points
  count_mutants
  check_benchmarks
  MOONCAKE="$PWD/build/bin/mooncake" count_in_vm 480 "${rdma_checks[@]}"
  count "soak, 3 minutes" quietly python3 tests/soak/soak.py --minutes 3
  count "the wheel in an empty environment" quietly check_wheel
  if count "build of asan" build_preset asan; then check_sanitizer asan; check_fuzzers; fi
  if count "build of tsan" build_preset tsan; then check_sanitizer tsan; fi
  summary
}

# Each benchmark once, with inputs so small that only its correctness shows; tests/integration/bench_test.py does so with `mooncake bench`.
check_benchmarks() {
  count "copy_bench with tiny inputs" quietly build/bin/copy_bench --benchmark_min_time=0.0001
  count "bench/python with tiny inputs" quietly bench_python build --tiny
}

# Built and installed by pip alone, and used once.
check_wheel() {
  local folder rc=0
  folder=$(mktemp -d)
  python3 -m venv "$folder" && "$folder/bin/pip" install . &&
    (cd "$folder" && bin/python -c '
import mooncake, os
from mooncake.engine import TransferEngine
engine = TransferEngine()
assert engine.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "") == 0 and engine.get_rpc_port() > 0
assert os.access(mooncake.__path__[0] + "/transfer_engine_bench", os.X_OK)
mooncake.Engine().close()' && bin/transfer_engine_topology_dump && bin/transfer_engine_bench --version &&
      bin/mooncake_http_metadata_server --version) || rc=1
  rm -rf "$folder"
  return "$rc"
}

# The tests of a sanitizer's preset, and the tests of whole processes with fewer kills and requests.
check_sanitizer() {
  local preset="$1"
  export ASAN_OPTIONS=detect_stack_use_after_return=0:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1
  export ASAN_SYMBOLIZER_PATH=/usr/bin/llvm-symbolizer-19 TSAN_SYMBOLIZER_PATH=/usr/bin/llvm-symbolizer-19
  # ThreadSanitizer's wrapper of send() notes what was read only after the call: a receiver in the same process that goes on at once would be
  # taken for a race.
  export TSAN_OPTIONS="halt_on_error=1 second_deadlock_stack=1 intercept_send=0"
  count_gtest "build/$preset/tests"
  count "$preset: simulation, 50 seeds" "build/$preset/bin/mooncake_sim" --seeds 50
  # ThreadSanitizer slows whole processes down too much for tests that set them limits of seconds.
  local processes=(many_instances)
  [ "$preset" = tsan ] || processes+=(original_case kill bad_input trace)
  MOONCAKE="$PWD/build/$preset/bin/mooncake" MOONCAKE_TEST_KILLS=10 MOONCAKE_TEST_TRACE_REQUESTS=60 \
    count_unittest $(printf "tests/integration/%s_test.py " "${processes[@]}")
  unset ASAN_OPTIONS UBSAN_OPTIONS TSAN_OPTIONS ASAN_SYMBOLIZER_PATH TSAN_SYMBOLIZER_PATH
}

# Each fuzzer from its corpus, for a while, two at a time; what they find on the way stays in build/asan/fuzz.
check_fuzzers() {
  local seconds="${MOONCAKE_FUZZ_SECONDS:-20}" name fuzzers
  mapfile -t fuzzers < <(ls tests/fuzz/corpus)
  printf '%s\n' "${fuzzers[@]}" | xargs -P 2 -I{} bash -c '
    mkdir -p "build/asan/fuzz/corpus/{}"
    build/asan/bin/fuzz_{} -max_total_time="$1" -timeout=10 -rss_limit_mb=2048 -print_final_stats=0 -artifact_prefix=build/asan/fuzz/ \
      "build/asan/fuzz/corpus/{}" "tests/fuzz/corpus/{}" >"build/asan/fuzz/{}.log" 2>&1
    echo $? >"build/asan/fuzz/{}.rc"' _ "$seconds"
  for name in "${fuzzers[@]}"; do
    count "fuzz $name, $seconds s" fuzzer_lived "$name" || true
  done
}

# What it found, if anything: the input is in build/asan/fuzz.
fuzzer_lived() {
  local rc
  rc=$(cat "build/asan/fuzz/$1.rc")
  [ "$rc" -eq 0 ] || tail -n 80 "build/asan/fuzz/$1.log"
  return "$rc"
}
