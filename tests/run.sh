#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs the tests and closes with one line, "N passed, M failed".
#
# usage: tests/run.sh                        all: both builds, both kinds (what `make test` runs)
#        tests/run.sh units OUT [NAME]       the cmocka programs of a build (OUT: build, build/asan, build/tsan)
#        tests/run.sh integration OUT […]    pytest against OUT/envgate, with pytest's arguments
#        tests/run.sh fuzz SECONDS           each fuzz target for so long
set -u
cd "$(dirname "$0")/.."
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
export LSAN_OPTIONS=suppressions="$PWD/tests/lsan.supp":print_suppressions=0 TSAN_OPTIONS=halt_on_error=0
jobs=$(nproc)
passed=0 failed=0

# Adds a cmocka program's counts from what it printed.
count_unit() {
  local ok bad
  ok=$(grep -c '^\[       OK \]' "$1")
  bad=$(grep -c '^\[  FAILED  \] [a-z]' "$1")
  passed=$((passed + ok))
  failed=$((failed + bad))
  if [ "$2" != 0 ] && [ "$bad" = 0 ]; then failed=$((failed + 1)); fi
}

units() {
  local out=$1 only=${2:-} program log
  make --no-print-directory -s -j"$jobs" "${MAKE_SAN[@]}" units || { failed=$((failed + 1)); return; }
  for program in "$out"/tests/test_*; do
    [ -x "$program" ] && [ -f "$program" ] || continue
    [ -z "$only" ] || [ "$(basename "$program")" = "$only" ] || continue
    log=$program.log
    timeout 300 "$program" >"$log" 2>&1
    local rc=$?
    count_unit "$log" $rc
    if [ $rc != 0 ]; then
      echo "FAILED $program (exit code $rc)"
      tail -n 40 "$log"
    fi
  done
}

integration() {
  local out=$1
  shift
  make --no-print-directory -s -j"$jobs" "${MAKE_SAN[@]}" "$out/envgate" "$out/tests/transcode_oracle" || { failed=$((failed + 1)); return; }
  ENVGATE_BUILD=$PWD/$out ENVGATE_BIN=$PWD/$out/envgate build/venv/bin/python -m pytest tests/integration -q -p no:cacheprovider --timeout=300 "$@" \
    2>&1 | tee "$out/pytest.log"
  local rc=${PIPESTATUS[0]} line
  line=$(grep -E '^(=+ )?[0-9]+ (passed|failed|error)' "$out/pytest.log" | tail -n 1)
  count_of() { echo "$line" | grep -oE "[0-9]+ $1" | grep -oE '[0-9]+' || echo 0; }
  passed=$((passed + $(count_of passed)))
  local bad=$(($(count_of failed) + $(count_of 'errors?') + $(count_of skipped) + $(count_of xfailed)))
  failed=$((failed + bad))
  if [ "$rc" != 0 ] && [ "$bad" = 0 ]; then failed=$((failed + 1)); fi
}

# Each fuzz target on its corpus, where earlier findings lie, too, and then for so many seconds (0: the corpus only).
fuzz() {
  local target name corpus new
  make --no-print-directory -s -j"$jobs" SAN=fuzz CC=clang fuzzers || { failed=$((failed + 1)); return; }
  for target in build/fuzz/targets/fuzz_*; do
    [ -x "$target" ] && [ -f "$target" ] || continue
    name=$(basename "$target")
    corpus=tests/fuzz/corpus/${name#fuzz_}
    new=build/fuzz/new/$name
    mkdir -p "$new"
    if [ -n "$(ls "$corpus" 2>/dev/null)" ] && "$target" -runs=0 "$corpus" >"$target.log" 2>&1 &&
      { [ "$1" = 0 ] || "$target" -max_total_time="$1" -print_final_stats=1 "$new" "$corpus" >"$target.log" 2>&1; }; then
      passed=$((passed + 1))
    else
      failed=$((failed + 1))
      echo "FAILED $target (or its corpus is empty)"
      tail -n 30 "$target.log"
    fi
  done
}

# The build directory says which sanitizer.
select_build() {
  case $1 in
  */asan) MAKE_SAN=(SAN=asan CC=clang) ;; # so that both compilers see every file
  */tsan) MAKE_SAN=(SAN=tsan) ;;
  *) MAKE_SAN=() ;;
  esac
}

section() {
  printf '\n== %s (%ss)\n' "$1" "$SECONDS"
}

case ${1:-all} in
units | integration)
  kind=$1 out=$2
  shift 2
  select_build "$out"
  "$kind" "$out" "$@"
  ;;
fuzz) fuzz "$2" ;;
all)
  for out in build build/asan; do
    select_build $out
    section "units of $out"
    units $out
    section "integration of $out"
    integration $out -n "$((jobs + 1))" --dist loadfile --no-loadscope-reorder
  done
  section "fuzz targets on their corpora"
  fuzz 0
  ;;
esac
printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ] && [ "$passed" != 0 ]
