# ./run test: unit, contract and integration tests of the dev preset.
run_test() {
  install_packages "${build_packages[@]}" "${test_packages[@]}"
  build_preset dev
  count_gtest build/tests
  local files=(tests/integration/*_test.py tests/faults/*_test.py tests/python/*_test.py)
  MOONCAKE="$PWD/build/bin/mooncake" count_unittest "${files[@]}"
  summary
}
