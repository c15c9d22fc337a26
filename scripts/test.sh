# ./run test: unit, contract and integration tests of the dev preset, and what of RDMA is quick enough under emulation.
source scripts/rdma.sh

run_test() {
  install_packages "${build_packages[@]}" "${test_packages[@]}"
  build_preset dev
  count_gtest build/tests
  export MOONCAKE="$PWD/build/bin/mooncake"
  count_unittest tests/integration/*_test.py tests/faults/*_test.py
  TEST_PYTHON=$(client_python) count_unittest tests/python/*_test.py
  count_in_vm 200 "${rdma_tests[@]}"
  unset MOONCAKE
  summary
}
