# ./run soak [--minutes 60] [--seed N]: load, kills, stops, cuts and outages; all answers right, nothing held in the end that was not in the beginning.
run_soak() {
  install_packages "${build_packages[@]}" "${test_packages[@]}"
  build_preset dev mooncake
  python3 tests/soak/soak.py "$@"
}
