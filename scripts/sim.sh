# ./run sim [--seeds N] [--seed N [-v]]: the simulation of engines under faults; 200 seeds unless told otherwise.
run_sim() {
  install_packages "${build_packages[@]}"
  build_preset dev mooncake_simulator
  build/bin/mooncake_sim "$@"
}
