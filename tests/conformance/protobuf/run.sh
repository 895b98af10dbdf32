#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs Google's protobuf conformance tests, required and recommended, binary and JSON, on gateway/transcode, and closes with "N passed, N failed". A test
# that is expected to fail (failures.txt, docs/CONFORMANCE.md) counts as failed only when it passes.
#
# usage: tests/conformance/protobuf/run.sh [OUT]    OUT: build (the default), build/asan, build/tsan
#
# The runner is built once, in build/conformance/protobuf, from Debian's source package of the libprotobuf that is installed; that takes about 25 s.
set -eu
cd "$(dirname "$0")/../../.."
out=${1:-build}
here=tests/conformance/protobuf
work=build/conformance/protobuf
mkdir -p "$work"
case $out in
*/asan) san=(SAN=asan CC=clang) ;;
*/tsan) san=(SAN=tsan) ;;
*) san=() ;;
esac

# Debian's source of the installed version, checked by apt's signatures. The machine's own lists have binary packages only, so this uses lists of its own.
get_source() {
  local version list parts=$work/apt/sources.list.d
  version=$(dpkg-query -W -f '${source:Version}' libprotobuf-dev)
  upstream=${version%-*}
  root=$work/protobuf-$upstream
  [ -e "$root/ready" ] && return 0
  mkdir -p "$parts" "$work/apt/lists/partial"
  for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    if [ -e "$list" ]; then
      sed -e 's/^Types:.*/Types: deb-src/' -e 's/^deb /deb-src /' "$list" | sed 's/^deb-src-src/deb-src/' >"$parts/$(basename "${list/%sources.list/main.list}")"
    fi
  done
  local apt=(apt-get -qq -o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$PWD/$parts" -o "Dir::State::Lists=$PWD/$work/apt/lists"
    -o APT::Sandbox::User=root)
  (
    "${apt[@]}" update || : # a list without sources fails; whether ours is there, the next line says
    cd "$work"
    "${apt[@]}" source --download-only "protobuf=$version"
  ) >"$work/apt.log" 2>&1 || { tail -n 20 "$work/apt.log" >&2; return 1; }
  tar -xf "$work/protobuf_$upstream.orig.tar.gz" -C "$work"
  touch "$root/ready"
}

# Debian's library, and the test's own sources.
build_runner() {
  [ "$work/runner" -nt "$root/ready" ] && return 0
  mkdir -p "$work/cpp"
  protoc -I "$root/conformance" -I "$root/src" --cpp_out="$work/cpp" conformance.proto google/protobuf/test_messages_proto{2,3}.proto
  printf '%s\n' "$root"/conformance/{conformance_test*.cc,*_suite.cc,third_party/jsoncpp/jsoncpp.cpp} "$work"/cpp/*.cc "$work"/cpp/google/protobuf/*.cc |
    xargs -P "$(nproc)" -I{} sh -c 'g++ -std=c++17 -O0 -w -I "$1/cpp" -I "$2/conformance" -idirafter "$2/src" -c {} -o "$1/cpp/$(basename {}).o"' _ "$work" "$root"
  g++ "$work"/cpp/*.o -lprotobuf -lpthread -o "$work/runner"
}

# protoc-gen-c crashes on groups, which proto3 has not: they are left out, so they are unknown fields.
build_testee() {
  local c=$work/c protos=$work/protos
  mkdir -p "$c" "$protos/google/protobuf"
  sed '/optional group .*{/,/}/d' "$root/src/google/protobuf/test_messages_proto2.proto" >"$protos/google/protobuf/test_messages_proto2.proto"
  cp "$root/src/google/protobuf/test_messages_proto3.proto" "$protos/google/protobuf"
  cp "$root/conformance/conformance.proto" "$protos"
  protoc -I "$protos" -I /usr/include --plugin=protoc-gen-c=tools/protoc-gen-c --c_out="$c" conformance.proto \
    google/protobuf/test_messages_proto{2,3}.proto
  make --no-print-directory -s -j"$(nproc)" "${san[@]}" "TESTEE_GEN=$c" "$out/tests/protobuf_testee"
}

tools/deps.sh debian gcc g++ libc6-dev make protobuf-compiler libprotobuf-dev protobuf-c-compiler libprotobuf-c-dev
get_source
build_runner
build_testee
log=$work/run-${out//\//-}.log
status=0
(cd "$work" && ASAN_OPTIONS=detect_leaks=1 ./runner --enforce_recommended --failure_list "$OLDPWD/$here/failures.txt" "$OLDPWD/$out/tests/protobuf_testee") >"$log" 2>&1 ||
  status=$?
grep -q 'Sanitizer\|runtime error:' "$log" && { grep -A 40 'Sanitizer\|runtime error:' "$log" | head -n 60; status=1; }
# The first suite's line: binary and JSON. The second's is for the text format, which the gateway has not.
line=$(grep -m 1 '^CONFORMANCE SUITE ' "$log") || { tail -n 20 "$log"; exit 1; }
count() { grep -oE "[0-9]+ $1" <<<"$line" | grep -oE '^[0-9]+'; }
passed=$(count successes) expected=$(count 'expected failures') skipped=$(count skipped) unexpected=$(count 'unexpected failures')
[ "$status" = 0 ] || grep -E '^  (Required|Recommended)\.' "$log" || tail -n 20 "$log"
failed=$((unexpected + skipped))
if [ "$status" != 0 ] && [ "$failed" = 0 ]; then failed=1; fi
echo "protobuf conformance: $expected of $((passed + expected + unexpected + skipped)) fail as documented"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -ge 1900 ]
