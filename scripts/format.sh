# ./run format
run_format() {
  install_packages clang-format-19
  git ls-files 'src/*.h' 'src/*.cc' 'include/*.h' 'tests/*.cc' 'bench/*.cc' 'cmake/*.cc' 'cmake/*.h' | xargs clang-format-19 -i
}
