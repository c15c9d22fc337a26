# ./run bench: every benchmark, each beside the limit of this machine in the same run.
# ./run bench transfer [FLAGS of mooncake bench transfer], ./run bench copy [FLAGS of Google Benchmark], ./run bench python [FLAGS of
# bench/python/transfer_bench.py]: one of them.
run_bench() {
  install_packages "${build_packages[@]}"
  build_preset release copy_bench mooncake mooncake_engine_module
  local what="${1:-all}"
  [ $# -eq 0 ] || shift
  case "$what" in
    transfer) build/release/bin/mooncake bench transfer "$@" ;;
    copy) build/release/bin/copy_bench "$@" ;;
    python) bench_python build/release "$@" ;;
    all) build/release/bin/copy_bench && build/release/bin/mooncake bench transfer && bench_python build/release ;;
    *) echo "run bench: \"$what\" is none of transfer, copy and python" >&2; return 2 ;;
  esac
}

# bench_python BUILD [FLAGS]
bench_python() {
  local build="$1"; shift
  PYTHONPATH="$PWD/$build/python:$PWD/python" python3 bench/python/transfer_bench.py --mooncake "$build/bin/mooncake" "$@"
}
