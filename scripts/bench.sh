# ./run bench [ARGUMENTS of Google Benchmark]: every benchmark, each beside the limit of this machine in the same run.
run_bench() {
  install_packages "${build_packages[@]}"
  build_preset release
  local binary
  for binary in build/release/bin/*_bench; do "$binary" "$@"; done
}
