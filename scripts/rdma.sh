# What needs RDMA devices runs in a virtual machine, tests/rdma/vm; docs/design/rdma-tests.md says why.
# ./run rdma [OPTIONS of tests/rdma/vm] -- COMMAND...: any command there, with this folder.
run_rdma() {
  install_packages "${rdma_packages[@]}"
  tests/rdma/vm "$@"
}

# "SECONDS PROGRAM [FILTER]": how long it may take there, a test executable with a filter of GoogleTest, or a file of Python tests. Code
# runs 15 to 35 times slower under emulation.
rdma_tests=(
  "60 build/tests/engine_test Each/PathContract.*/rdma"
  "120 tests/rdma/original_case_test.py"
)
rdma_checks=(
  "240 tests/rdma/faults_test.py"
  "60 tests/rdma/absent_test.py"
  "60 build/tests/engine_test Each/PathContract.*/any"
  "60 tests/rdma/resources_test.py"
  "60 tests/rdma/limits_test.py"
)
# Four devices, the first named as the original configuration files name it, with the address that they expect.
rdma_machine=(--cpus 2 --mem 4096 --devices 4 --names mlx5_0 --address 192.168.0.137/24)

# count_in_vm SECONDS ROW...: boots once and runs all of these one after the other, SECONDS in all; adds up what they counted. What was
# not reached or did not end counts as failed; where there can be no virtual machine, each as skipped.
count_in_vm() {
  local seconds="$1" reports=build/rdma why row file rc=0 p f s; shift
  if ! why=$(prepare_vm 2>&1); then
    echo "skipped, as they need RDMA devices in a virtual machine (${why##*$'\n'}):"
    for row in "$@"; do printf '        %s\n' "${row#* }"; done
    skipped=$((skipped + $#))
    return 0
  fi
  rm -rf "$reports"
  mkdir -p "$reports"
  tests/rdma/vm --timeout "$seconds" "${rdma_machine[@]}" -- bash -c 'source scripts/rdma.sh; run_rows "$@"' _ "$reports" "$@" || rc=$?
  for row in "$@"; do
    read -r _ file _ <<<"$row"
    row=$(row_name "$row")
    [ -f "$reports/$row.ended" ] || { echo 1 >"$reports/$row.rc"; echo "$file did not end" >>"$reports/$row.log"; }
    case "$file" in
      *.py)
        p=0 f=0 s=0
        [ -s "$reports/$row.counts" ] && read -r p f s <"$reports/$row.counts"
        [ ! -f "$reports/$row.rc" ] || { [ "$f" -gt 0 ] || f=1; cat "$reports/$row.log"; }
        grep -h '\.\.\. skipped' "$reports/$row.log" || true
        add_counts "$row" "$p" "$f" "$s" ;;
      *) add_gtest_report "$row" "$reports" ;;
    esac
  done
  [ "$rc" -eq 0 ] || { echo "the virtual machine ended with $rc"; failed=$((failed + 1)); }
}

# Fails where this machine can have no such guest; the last line says why.
prepare_vm() {
  [ "$(uname -m)" = x86_64 ] || { echo "this machine is not x86-64 but $(uname -m)"; return 1; }
  install_packages "${rdma_packages[@]}" || { echo "packages are missing that cannot be installed: ${rdma_packages[*]}"; return 1; }
  tests/rdma/vm --prepare
}

# The name of a row's reports.
row_name() {
  local file
  read -r _ file _ <<<"$1"
  basename "$file"
}

# In the guest: run_rows REPORTS ROW...
run_rows() {
  local reports="$1" row seconds file filter name rc begin sent; shift
  for row in "$@"; do
    read -r seconds file filter <<<"$row"
    name=$(row_name "$row")
    begin=$SECONDS rc=0 sent=$(packets_sent)
    case "$file" in
      # Debian's Python: what else may be first in PATH, such as a wrapper that chooses one of several, takes many seconds to start there.
      *.py) timeout -k 5 "$seconds" /usr/bin/python3 scripts/count_unittest.py "$file" "$reports/$name.counts" >"$reports/$name.log" 2>&1 || rc=$? ;;
      *) timeout -k 5 "$seconds" "$file" --gtest_brief=1 --gtest_filter="$filter" --gtest_output="xml:$reports/$name.xml" \
          >"$reports/$name.log" 2>&1 || rc=$? ;;
    esac
    ! grep -q '^\[=*\] 0 tests from' "$reports/$name.log" || { rc=1; echo "no test has a name like $filter" >>"$reports/$name.log"; }
    [ "$rc" -eq 0 ] || echo "$rc" >"$reports/$name.rc"
    [ "$rc" -ne 124 ] || echo "stopped at its limit of $seconds s" >>"$reports/$name.log"
    : >"$reports/$name.ended"
    # The packets show that the devices were used, and not something in their place.
    echo "        $file in the virtual machine: $((SECONDS - begin)) s, $(($(packets_sent) - sent)) packets of RDMA"
  done
}

# What all soft-RoCE devices have sent so far.
packets_sent() { cat /sys/class/infiniband/*/ports/1/hw_counters/sent_pkts | awk '{ n += $1 } END { print n + 0 }'; }
