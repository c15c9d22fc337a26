# ./run check: what takes longer than the tests: lint, sanitizers, simulation, planted faults, fuzzing, benchmarks with tiny inputs.
# MOONCAKE_FUZZ_SECONDS (default 10) is the time of each fuzzer.
source scripts/lint.sh
source scripts/sim.sh

run_check() {
  set +e  # every step is counted; one that fails does not end the others
  install_packages "${build_packages[@]}" "${test_packages[@]}" "${clang_packages[@]}"
  count "lint" run_lint
  build_preset dev || { failed=$((failed + 1)); summary; return 1; }
  count "simulation, 500 seeds" build/bin/mooncake_sim --seeds 500
  count "simulation, a crash at every event" build/bin/mooncake_sim --crash-points
  count_mutants
  check_benchmarks
  local preset
  for preset in asan tsan; do
    if count "build of $preset" build_preset "$preset"; then check_sanitizer "$preset"; fi
  done
  local fuzzers
  mapfile -t fuzzers < <(ls tests/fuzz/corpus)
  if count "build of fuzz" build_preset fuzz "${fuzzers[@]/#/bin/fuzz_}"; then check_fuzzers "${fuzzers[@]}"; fi
  summary
}

# Each benchmark once, with inputs so small that only its correctness shows.
check_benchmarks() {
  local binary
  for binary in build/bin/*_bench; do
    count "$(basename "$binary") with tiny inputs" quietly "$binary" --benchmark_min_time=0.0001
  done
}

# The tests of a sanitizer's preset, and the tests of whole processes with fewer kills and requests.
check_sanitizer() {
  local preset="$1"
  export ASAN_OPTIONS=detect_stack_use_after_return=0:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1
  export TSAN_OPTIONS="halt_on_error=1 second_deadlock_stack=1"
  count_gtest "build/$preset/tests"
  count "$preset: simulation, 50 seeds" "build/$preset/bin/mooncake_sim" --seeds 50
  # ThreadSanitizer slows whole processes down too much for tests that set them limits of seconds.
  local processes=(many_instances)
  [ "$preset" = tsan ] || processes+=(original_case kill bad_input trace)
  MOONCAKE="$PWD/build/$preset/bin/mooncake" MOONCAKE_TEST_KILLS=10 MOONCAKE_TEST_TRACE_REQUESTS=60 \
    count_unittest $(printf "tests/integration/%s_test.py " "${processes[@]}")
  unset ASAN_OPTIONS UBSAN_OPTIONS TSAN_OPTIONS
}

# check_fuzzers NAME...: each from its corpus, for a while; what it finds on the way stays in build/fuzz.
check_fuzzers() {
  local seconds="${MOONCAKE_FUZZ_SECONDS:-10}" binary name
  for name in "$@"; do
    binary="build/fuzz/bin/fuzz_$name"
    mkdir -p "build/fuzz/corpus/$name"
    count "fuzz $name, $seconds s" quietly "$binary" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=0 \
      -artifact_prefix="build/fuzz/" "build/fuzz/corpus/$name" "tests/fuzz/corpus/$name"
  done
}
