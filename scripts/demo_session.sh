#!/usr/bin/env bash
# What ./run demo does once the program is built: demo_session.sh MOONCAKE [--etcd] [TRACE]
set -euo pipefail

mooncake="$1"; shift
etcd= trace=
for word in "$@"; do
  case "$word" in --etcd) etcd=1 ;; *) trace="$word" ;; esac
done

folder=$(mktemp -d "${TMPDIR:-/tmp}/mooncake-demo.XXXXXX")
pids=()

# Stops what was started, newest first; shows the logs where something failed.
finish() {
  local status=$? pid log
  trap - EXIT
  trap '' INT TERM  # a second Ctrl-C must not leave something behind
  [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
  for pid in "${pids[@]}"; do
    timeout 10 tail --pid="$pid" -s 0.05 -f /dev/null || kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  case "$status" in
    0|2|130|143) ;;  # done, wrong input, interrupted
    *)
      for log in "$folder"/*.log; do
        [ -s "$log" ] || continue
        echo "--- the last lines of $(basename "$log" .log):" >&2
        tail -n 30 "$log" >&2
      done ;;
  esac
  rm -rf "$folder"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# start NAME COMMAND...: in the background; returns when it has said on its standard output that it is ready, with that line
# in $ready.
start() {
  local name="$1"; shift
  mkfifo "$folder/$name.fifo"
  "$@" >"$folder/$name.fifo" 2>>"$folder/$name.log" &
  pids=($! "${pids[@]}")
  local fifo
  exec {fifo}<"$folder/$name.fifo"  # stays open: the program may say more
  ready=
  read -r -t 30 ready <&"$fifo" || { echo "demo: $name did not start" >&2; return 1; }
}

# An etcd prints much before it is ready: pass on the one line that counts. Its gateway needs a port that is written down,
# so one is drawn, and another if it is taken: the bind is the test.
start_etcd() {
  local attempt port
  for attempt in 1 2 3 4 5; do
    port=$((20000 + RANDOM % 10000))
    local name="etcd-$attempt"
    local say="http://127.0.0.1:0"
    mkfifo "$folder/$name.fifo"
    etcd --name demo --data-dir "$folder/$name" --listen-client-urls "http://127.0.0.1:$port" \
      --advertise-client-urls "http://127.0.0.1:$port" --listen-peer-urls $say --initial-advertise-peer-urls $say \
      --initial-cluster demo=$say > >(while IFS= read -r line; do
        printf '%s\n' "$line" >>"$folder/etcd.log"
        case "$line" in *"serving insecure client requests"*) echo ready ;; esac
      done >"$folder/$name.fifo") 2>&1 &
    pids=($! "${pids[@]}")
    local fifo
    exec {fifo}<"$folder/$name.fifo"
    if read -r -t 30 ready <&"$fifo"; then
      directory="etcd://127.0.0.1:$port"
      return 0
    fi
  done
  echo "demo: etcd did not start" >&2
  return 1
}

if [ -n "$trace" ]; then
  # Somebody's trace may last for hours and hold long prompts: as fast as it goes, for a while, with a small share of the
  # model's bytes.
  "$mooncake" trace inspect "$trace" || exit $?
  scale=0.015625 memory=1GiB
  replay=(--speed 0 --concurrency 8 --duration 25s)
else
  trace="$folder/trace.jsonl"
  "$mooncake" trace generate --requests 300 --rate 12 --conversations 60 --system-blocks 1 --mean-input 2048 --mean-output 48 \
    --out "$trace"
  "$mooncake" trace inspect "$trace"
  scale=0.0625 memory=512MiB
  replay=(--duration 40s)
fi

directory="this host's own"
[ -z "$etcd" ] || start_etcd
common=(--cluster "demo-$$" --host 127.0.0.1 --port 0 --scale "$scale" --kv-memory "$memory" --drain-timeout 3s)
[ -z "$etcd" ] || common+=(--directory "$directory")
start prefill "$mooncake" instance --role prefill --label prefill "${common[@]}"
prefill="${ready##* at }"
start decode "$mooncake" instance --role decode --label decode "${common[@]}"
decode="${ready##* at }"
cat <<TEXT

prefill instance    $prefill
decode instance     $decode
directory           $directory
live page           $decode/   (in a browser, while the replay runs)
live in a terminal  $mooncake status $decode --watch

TEXT

# In the background, so that a signal ends the demo at once and not after the replay.
"$mooncake" replay --trace "$trace" --to "$prefill,$decode" --verify "${replay[@]}" &
pids=($! "${pids[@]}")
status=0
wait "${pids[0]}" || status=$?
pids=("${pids[@]:1}")
[ "$status" -eq 0 ] && echo && echo "All answers were right." || echo "demo: the replay failed" >&2
exit "$status"
