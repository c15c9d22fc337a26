# ./run bench: every benchmark, each beside the limit of this machine in the same run.
# ./run bench transfer [FLAGS of mooncake bench transfer], ./run bench copy [FLAGS of Google Benchmark]: one of them.
run_bench() {
  install_packages "${build_packages[@]}"
  build_preset release copy_bench mooncake
  local what="${1:-all}"
  [ $# -eq 0 ] || shift
  case "$what" in
    transfer) build/release/bin/mooncake bench transfer "$@" ;;
    copy) build/release/bin/copy_bench "$@" ;;
    all) build/release/bin/copy_bench && build/release/bin/mooncake bench transfer ;;
    *) echo "run bench: \"$what\" is neither transfer nor copy" >&2; return 2 ;;
  esac
}
