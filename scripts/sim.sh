# ./run sim [FLAGS of mooncake_sim]: the simulation of engines under faults; 200 seeds unless told otherwise.
# ./run sim --mutants [NAME ...]: plants faults in the product, one at a time; each must be found.
run_sim() {
  install_packages "${build_packages[@]}"
  build_preset dev mooncake_simulator
  if [ "${1:-}" = --mutants ]; then
    shift
    python3 scripts/mutants.py "$@"
  else
    build/bin/mooncake_sim "$@"
  fi
}

# Each mutant as a step of its own.
count_mutants() {
  local line
  while read -r line; do
    case "$line" in
      ok*) passed=$((passed + 1)); echo "$line" ;;
      FAILED*) failed=$((failed + 1)); echo "$line" ;;
      *) echo "        $line" ;;
    esac
  done < <(python3 scripts/mutants.py)
}
