#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What `make lint` runs: each check prints what it found; the exit code is 0 only when none found anything.
#
# usage: tests/lint/lint.sh [CHECK…]   layers globals format tidy buf (all; globals wants the program built)
set -u
cd "$(dirname "$0")/../.."
failed=0
flags=(-std=gnu17 -D_GNU_SOURCE '-DENVGATE_VERSION="lint"' -Igateway -isystem build/gen -Wno-unknown-warning-option)
sources() { git ls-files --cached --others --exclude-standard 'gateway/*.[ch]' 'tests/unit/*.[ch]' 'tests/fuzz/*.[ch]' 'tests/conformance/*.[ch]' 'tests/clients/c/*.c' 'tools/stubs/c/*.[ch]'; }

layers() { python3 tests/lint/layers.py; }

format() {
  # shellcheck disable=SC2046
  clang-format --dry-run --Werror $(sources) && echo "format: ok"
}

# What the compiler put into writable sections of our own objects.
globals() {
  local found
  found=$(find build/obj -name '*.o' -not -path '*/gen/*' -exec objdump -t {} + |
    awk '/file format/ {file=$1} $0 ~ / O \.(data|bss|tdata|tbss)[ \t]/ {print file " " $NF}')
  [ -z "$found" ] && { echo "globals: ok"; return 0; }
  echo "mutable globals; hang them off the reactor or their owner:"
  echo "$found"
  return 1
}

# Files that have passed with the same bytes and headers are not looked at again (build/tidy).
tidy() {
  mkdir -p build/tidy
  local headers key file bad=0 list=()
  headers=$(cat .clang-tidy $(sources | grep '\.h$') | sha256sum)
  for file in $(sources | grep '^gateway/.*\.c$'); do
    key=build/tidy/$( (echo "$headers"; cat "$file") | sha256sum | cut -c1-32)
    [ -e "$key" ] || list+=("$file:$key")
  done
  printf '%s\n' "${list[@]}" | xargs -r -P "$(nproc)" -I{} bash -c '
    file=${1%:*} key=${1##*:}; shift
    if clang-tidy --quiet "$file" -- "$@" >"$key.log" 2>/dev/null; then touch "$key"; rm -f "$key.log"; else cat "$key.log"; exit 1; fi' _ {} "${flags[@]}" || bad=1
  [ $bad = 0 ] && echo "tidy: ok"
}

# The API may only grow: it is compared with each state of proto/ that has landed.
buf() {
  local image='build/gen/api.pb#format=binpb' tool=build/venv/bin/buf rev dir
  "$tool" lint "$image" || return 1
  dir=$(mktemp -d)
  trap 'rm -rf "$dir"' RETURN
  for rev in $(git log --format=%h -- proto 2>/dev/null); do
    mkdir -p "$dir/$rev"
    git archive "$rev" proto | tar -x -C "$dir/$rev" || return 1
    protoc -I "$dir/$rev/proto" -I /usr/include -I "$(build/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" --include_imports \
      -o "$dir/$rev.pb" $(cd "$dir/$rev/proto" && find . -name '*.proto' | sed 's|^\./||' | sort) || return 1
    "$tool" breaking "$image" --against "$dir/$rev.pb#format=binpb" || { echo "the API breaks what $rev promised"; return 1; }
  done
  echo "buf: ok"
}

[ $# != 0 ] || set -- layers globals format tidy buf
for check in "$@"; do
  "$check" || failed=1
done
exit $failed
