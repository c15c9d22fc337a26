# ./run lint [--tidy]: formatting and our own rules, over files that git knows; with --tidy also clang-tidy, some ten minutes.
run_lint() {
  [ $# -eq 0 ] || [ "$*" = --tidy ] || { echo "run lint: there is no flag \"$*\" but --tidy" >&2; return 2; }
  install_packages "${build_packages[@]}" "${clang_packages[@]}"
  if [ "${1:-}" = --tidy ]; then
    # Each file by itself, as it is written; of the build only the generated and the precompiled headers.
    cmake --preset asan -B build/tidy -DCMAKE_UNITY_BUILD=OFF >/dev/null &&
      ninja -C build/tidy mooncake_wire mooncake_pch &&
      run-clang-tidy-19 -quiet -p build/tidy "$PWD/(src|tests)/.*" || return 1
  fi
  local files
  mapfile -t files < <(git ls-files 'src/*.h' 'src/*.cc' 'include/*.h' 'tests/*.cc' 'bench/*.cc' 'cmake/*.cc' 'cmake/*.h')
  clang-format-19 --dry-run --Werror "${files[@]}" && lint_tidy
}

# The world is an argument: clocks, chance, sockets and the environment are reached in base alone. No dead files, no
# leftover debugging, no path of somebody's machine.
lint_tidy() {
  local status=0
  if git grep -nE 'steady_clock::now\(\)|system_clock::now\(\)|std::rand\(|[^_a-zA-Z]getenv\(|random_device' -- 'src/*.cc' 'src/*.h' \
      | grep -vE '^src/base/|_test\.cc:'; then
    echo "the world is reached around World (above)" >&2; status=1
  fi
  if git grep -nE '\b(TODO|FIXME|XXX)\b|std::cout|printf\("DEBUG' -- 'src/*' 'tests/*' 'bench/*'; then
    echo "leftovers (above)" >&2; status=1
  fi
  # GCC 12 destroys twice what is made by braces within the operand of co_await and bound to a reference: name it before.
  if git grep -nE 'co_await [^;]*\((|.*[ ,(])(Error|Introduction|Handshake|Record|Identity|HttpUrl|DataBody)\{' -- 'src/*' 'tests/*.cc'; then
    echo "a temporary within co_await (above)" >&2; status=1
  fi
  local file
  while read -r file; do
    # A fuzzer stands in its list by its name alone.
    grep -rqF "$(basename "$file" _fuzz.cc)" --include=CMakeLists.txt --include='*.cmake' . || { echo "$file is built by nothing" >&2; status=1; }
  done < <(git ls-files 'src/*.cc' 'tests/*.cc' 'bench/*.cc')
  for file in tests/sim/mutants/*.patch; do
    patch -p1 --dry-run --force --fuzz=0 --silent <"$file" || { echo "$file does not apply: what it breaks has changed" >&2; status=1; }
  done
  return $status
}
