#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs the conformance suites of others and closes with one line, "N passed, M failed":
#   connectconformance   gRPC, gRPC-Web and Connect on HTTP/1.1 and HTTP/2, plain, TLS and client certificates, against tests/conformance/server.c
#   grpc-go's interop    the client's cases, against the same
#   h2spec               HTTP/2, against the gateway itself, which must pass as many as nghttpd beside it
#
# usage: tests/conformance/run.sh OUT     (OUT: build, or build/asan for those programs of ours)
set -u
cd "$(dirname "$0")/../.."
out=$1 bin=build/conformance/bin
logs=$out/conformance/logs
passed=0 failed=0
mkdir -p "$logs"

# Adds a suite's counts: count NAME PASSED FAILED LOG. The log is shown when something failed.
count() {
  printf '%-44s %5d passed, %d failed (%ss)\n' "$1" "$2" "$3" "$SECONDS"
  passed=$((passed + $2))
  failed=$((failed + $3))
  [ "$3" = 0 ] || tail -n 60 "$4"
}

number() {
  grep -oE "[0-9]+ $1" | tail -n 1 | grep -oE '[0-9]+' || echo 0
}

# Starts a program in the background, and waits for its address: start VARIABLE COMMAND…. The process is $started.
start() {
  local -n address=$1
  shift
  "$@" >"$logs/server.out" 2>"$logs/server.err" &
  started=$!
  address=
  for _ in $(seq 100); do
    address=$(grep -oE '127\.0\.0\.1:[0-9]+' "$logs/server.out" | head -n 1)
    [ -n "$address" ] && return 0
    sleep 0.1
  done
  echo "$1 did not start:"
  cat "$logs/server.err"
  failed=$((failed + 1))
  return 1
}

# Ends it; what a sanitizer found is a failure.
stop() {
  kill "$started"
  wait "$started"
  local code=$?
  if [ $code != 0 ] && [ $code != 143 ] || grep -qE 'Sanitizer|runtime error' "$logs/server.err"; then
    echo "the server ended with $code:"
    tail -n 40 "$logs/server.err"
    failed=$((failed + 1))
  fi
}

suite() {
  local least=3820 log=$logs/suite.log ok bad code
  "$bin/connectconformance" --mode server -v --conf tests/conformance/features.yaml -- "$out/conformance/server" >"$log" 2>&1
  code=$?
  ok=$(number passed <"$log")
  bad=$(number failed <"$log")
  sed -nE 's/^Running ([0-9]+ tests) with (.*)-client for server config #[0-9]+ \{(.*)\}.*/  \3: \1 (\2)/p' "$log"
  if grep -qE 'Sanitizer|runtime error' "$log"; then # the suite shows what its server writes
    echo "a sanitizer found something"
    bad=$((bad + 1))
  fi
  if [ "$bad" = 0 ] && { [ $code != 0 ] || [ "$ok" -lt $least ]; }; then
    echo "exit code $code, $ok cases; there should be $least"
    bad=1
  fi
  count "connectconformance" "$ok" "$bad" "$log"
}

interop() {
  local case at ok=0 bad=0
  start at "$out/conformance/server" --plain || return
  for case in empty_unary large_unary client_streaming server_streaming ping_pong empty_stream timeout_on_sleeping_server cancel_after_begin \
    cancel_after_first_response status_code_and_message special_status_message custom_metadata unimplemented_method unimplemented_service \
    pick_first_unary rpc_soak channel_soak; do
    if timeout 60 "$bin/client" --server_host "${at%:*}" --server_port "${at##*:}" --test_case $case >"$logs/interop-$case.log" 2>&1; then
      ok=$((ok + 1))
    else
      bad=$((bad + 1))
      echo "FAILED interop $case"
      cat "$logs/interop-$case.log" >>"$logs/interop-failed.log"
    fi
  done
  stop
  count "grpc-go interop client" $ok $bad "$logs/interop-failed.log"
}

h2spec() {
  local at port ok bad best
  # nghttpd first: what it passes is what there is to pass.
  mkdir -p "$logs/www"
  echo hello >"$logs/www/index.html"
  port=$(/usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  nghttpd --no-tls -a 127.0.0.1 -d "$logs/www" "$port" >"$logs/nghttpd.out" 2>&1 &
  started=$!
  sleep 0.5
  timeout 120 "$bin/h2spec" -h 127.0.0.1 -p "$port" -o 2 >"$logs/h2spec-nghttpd.log" 2>&1
  kill $started
  wait $started
  best=$(number passed <"$logs/h2spec-nghttpd.log")
  start at "$out/envgate" serve --listen 127.0.0.1:0 || return
  timeout 120 "$bin/h2spec" -h "${at%:*}" -p "${at##*:}" -o 2 >"$logs/h2spec.log" 2>&1
  stop
  ok=$(number passed <"$logs/h2spec.log")
  bad=$(number failed <"$logs/h2spec.log")
  echo "h2spec: the gateway passes $ok, nghttpd $best"
  sed -n '/^Failures/,$p' "$logs/h2spec.log" | grep '×'
  # The suite is of RFC 7540, so one that nghttp2's own server fails may fail here.
  if [ "$best" != 0 ] && [ "$ok" -ge "$best" ]; then bad=0; fi
  count "h2spec" "$ok" "$bad" "$logs/h2spec.log"
}

suite
interop
h2spec
printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ] && [ "$passed" != 0 ]
