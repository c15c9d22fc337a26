# ./run demo [TRACE] [--etcd], ./run demo --python
demo_usage() {
  cat <<'TEXT'
./run demo [TRACE] [--etcd]
./run demo --python

Starts a prefill and a decode instance on this machine, replays requests against them, compares every answer with that of
one undivided computation, and shows how the KV cache moved. Whatever it starts is stopped at the end.

  TRACE    the requests: a file as `mooncake trace generate` writes it; without one, a trace is made
  --etcd   the instances find each other in an etcd of their own instead of this host's directory
  --python two Python processes exchange a tensor, and show the path that it takes and the speed

Exit codes: 0 every answer was right, 1 something failed, 2 the command line or the trace cannot be used.
TEXT
}

run_demo() {
  local called_from="$OLDPWD" trace= etcd= python= word
  for word in "$@"; do
    case "$word" in
      --help|-h) demo_usage; return 0 ;;
      --etcd) etcd=--etcd ;;
      --python) python=1 ;;
      -*) echo "run demo: there is no flag \"$word\"; ./run demo --help lists them" >&2; return 2 ;;
      *)
        [ -z "$trace" ] || { echo "run demo: one trace at a time: \"$trace\" or \"$word\"" >&2; return 2; }
        trace="$word"
        # ./run works in its own folder; a path is meant from where it was called.
        case "$trace" in /*) ;; *) trace="$called_from/$trace" ;; esac
        [ -f "$trace" ] && [ -r "$trace" ] || { echo "run demo: \"$word\" is no file that can be read" >&2; return 2; } ;;
    esac
  done
  if [ -n "$python" ]; then
    [ -z "$trace$etcd" ] || { echo "run demo: --python stands alone" >&2; return 2; }
    demo_python
    return
  fi
  local packages=("${build_packages[@]}")
  [ -z "$etcd" ] || packages+=(etcd-server)
  install_packages "${packages[@]}"
  echo "building (the first time takes some minutes)"
  build_preset dev mooncake
  scripts/demo_session.sh build/bin/mooncake $etcd ${trace:+"$trace"}
}

demo_python() {
  install_packages "${build_packages[@]}" python3 python3-venv
  echo "building (the first time takes some minutes)"
  build_preset dev mooncake_engine_module
  MC_LOG_LEVEL=WARNING PYTHONPATH="$PWD/build/python:$PWD/python" "$(client_python)" examples/python/exchange.py
}
