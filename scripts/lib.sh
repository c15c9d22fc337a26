# Helpers of ./run: packages, building, counting.

build_packages=(build-essential cmake ninja-build pkg-config ccache mold libboost1.81-dev libprotobuf-dev protobuf-compiler
  libfmt-dev libspdlog-dev libcli11-dev libgflags-dev libexpected-dev libxxhash-dev prometheus-cpp-dev libgtest-dev libgmock-dev
  libbenchmark-dev libssl-dev pybind11-dev python3-dev libibverbs-dev libhwloc-dev)
test_packages=(binutils etcd-server iproute2 openssl python3 python3-venv redis-server)
clang_packages=(clang-19 clang-tidy-19 clang-format-19 libclang-rt-19-dev llvm-19)
rdma_packages=(qemu-system-x86 xz-utils iproute2 ibverbs-utils ibverbs-providers perftest)

# Installs the packages that are missing; does nothing, and needs no right, where all are there.
install_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  local sudo=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "run: install these packages first: ${missing[*]}" >&2; return 1; }
    sudo=(sudo)
  fi
  echo "installing ${missing[*]}"
  "${sudo[@]}" apt-get update -qq
  # etcd-server and redis-server would start services of their own, which nobody here asked for.
  local policy=/usr/sbin/policy-rc.d made=
  if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee $policy >/dev/null; "${sudo[@]}" chmod +x $policy; made=1; fi
  DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  [ -z "$made" ] || "${sudo[@]}" rm -f $policy
}

# build PRESET [TARGET ...]
build_preset() {
  local preset="$1"; shift
  local folder=build
  [ "$preset" = dev ] || folder="build/$preset"
  if ! cmake --preset "$preset" >"/tmp/mooncake-cmake-$$.log" 2>&1; then
    cat "/tmp/mooncake-cmake-$$.log" >&2; rm -f "/tmp/mooncake-cmake-$$.log"; return 1
  fi
  rm -f "/tmp/mooncake-cmake-$$.log"
  ninja -C "$folder" "$@" | { grep -v '^\[.*Building\|^ninja: Entering' || true; }
  return "${PIPESTATUS[0]}"
}

passed=0 failed=0 skipped=0

# count NAME COMMAND...: one step that passes or fails as a whole.
count() {
  local name="$1"; shift
  local begin=$SECONDS
  if "$@"; then
    passed=$((passed + 1)); echo "ok      $name ($((SECONDS - begin)) s)"
  else
    failed=$((failed + 1)); echo "FAILED  $name ($((SECONDS - begin)) s)"
    return 1
  fi
}

# quietly COMMAND...: its output only if it fails.
quietly() {
  local log rc=0
  log=$(mktemp)
  "$@" >"$log" 2>&1 || rc=$?
  [ "$rc" -eq 0 ] || tail -n 80 "$log"
  rm -f "$log"
  return "$rc"
}

# count_gtest FOLDER: every test executable in it, two at a time; adds up what they counted.
count_gtest() {
  local folder="$1" reports
  reports=$(mktemp -d)
  find "$folder" -maxdepth 1 -name '*_test' -type f -executable | sort | xargs -P 2 -I{} bash -c '
    name=$(basename "{}")
    if timeout 600 "{}" --gtest_brief=1 --gtest_output="xml:$1/$name.xml" >"$1/$name.log" 2>&1; then :; else echo $? >"$1/$name.rc"; fi' _ "$reports"
  local binary
  while read -r binary; do
    add_gtest_report "$(basename "$binary")" "$reports"
  done < <(find "$folder" -maxdepth 1 -name '*_test' -type f -executable | sort)
  rm -rf "$reports"
}

# add_gtest_report NAME FOLDER: adds up NAME.xml, what one test executable counted; with NAME.rc, its status, and NAME.log if it failed.
add_gtest_report() {
  local name="$1" reports="$2" p=0 f=0 s=0
  if [ -f "$reports/$name.xml" ]; then
    read -r p f s < <(python3 scripts/count_gtest.py "$reports/$name.xml")
  fi
  if [ -f "$reports/$name.rc" ]; then
    [ "$f" -gt 0 ] || f=1
    tail -n 60 "$reports/$name.log"
    # What was expected and which tests it was: what was logged after it may be longer than that.
    { grep -aA 8 ': Failure$' "$reports/$name.log" || true; } | head -n 60
    { grep -aoE '^\[  FAILED  \] [^ ,]+|\w+_Test::TestBody' "$reports/$name.log" || true; } | sort -u | head -n 20
  fi
  grep -h '^\(.*\)Skipped$\|SKIPPED' -A1 "$reports/$name.log" | head -n 20 || true
  add_counts "$name" "$p" "$f" "$s"
}

# add_counts NAME PASSED FAILED SKIPPED
add_counts() {
  printf '%-8s%s: %d passed, %d failed, %d skipped\n' "$([ "$3" -eq 0 ] && echo ok || echo FAILED)" "$@"
  passed=$((passed + $2)); failed=$((failed + $3)); skipped=$((skipped + $4))
}

# The Python that runs tests and benchmarks of the Python package: one with what clients of it use, where pip can bring that.
client_python() {
  local folder=build/venv
  if [ ! -e $folder/complete ]; then
    if ! { python3 -m venv $folder && $folder/bin/pip install -q --disable-pip-version-check numpy pyzmq msgpack && touch $folder/complete; } >&2; then
      echo "no numpy, pyzmq and msgpack from pip: tests that need them are skipped" >&2
      command -v python3
      return
    fi
  fi
  echo "$PWD/$folder/bin/python"
}

# count_unittest FILE...: Python test files, one process each, by $TEST_PYTHON if that is set.
count_unittest() {
  local file report p f s
  for file in "$@"; do
    report=$(mktemp)
    local rc=0
    timeout 600 "${TEST_PYTHON:-python3}" scripts/count_unittest.py "$file" "$report" || rc=$?
    p=0 f=0 s=0
    [ -s "$report" ] && read -r p f s <"$report"
    [ "$rc" -eq 0 ] || [ "$f" -gt 0 ] || f=1
    add_counts "$file" "$p" "$f" "$s"
    rm -f "$report"
  done
}

# The closing line; the exit status says whether all is well.
summary() {
  echo "$passed passed, $failed failed, $skipped skipped"
  [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}
