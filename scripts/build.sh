# ./run build [PRESET]
run_build() {
  install_packages "${build_packages[@]}"
  build_preset "${1:-dev}"
}
