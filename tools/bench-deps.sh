#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Gets and builds what envgate is compared with (tests/bench/peers), in build/peers: `make bench-peers` calls it. As root it installs what is
# missing of Debian's packages; otherwise it says what to install. Everything else is from PyPI, Go's proxy and crates.io, pinned by
# requirements.txt, go.sum and Cargo.lock. What is built already and not older than its source is left as it is.
#
# Needs Go 1.26 and Rust 1.88, or newer. The first build takes about four minutes on two cores.
set -eu
# In the background of whatever else the machine does.
[ "$(nice)" -ge 10 ] || exec nice -n 10 "$0" "$@"
cd "$(dirname "$0")/.."
peers=$PWD/tests/bench/peers
out=$PWD/build/peers
mkdir -p "$out/gen" "$out/bin"
# One build at a time.
exec 9>"$out/lock"
flock 9

toolchains() {
  for program in go cargo; do
    command -v $program >/dev/null || { echo "bench-deps: $program is missing" >&2; exit 1; }
  done
}

# The descriptors of bridge.proto, which the other generators and Envoy read, and Python's code.
generate() {
  [ "$out/gen/ready" -nt "$peers/bridge.proto" ] && [ "$out/gen/ready" -nt "$out/venv/ready" ] && return 0
  annotations=$("$out/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  protoc -I "$peers" -I /usr/include -I "$annotations" --include_imports --descriptor_set_out="$out/gen/bridge.pb" bridge.proto
  "$out/venv/bin/python" -m grpc_tools.protoc --descriptor_set_in="$out/gen/bridge.pb" --python_out="$out/gen" --grpc_python_out="$out/gen" bridge.proto
  touch "$out/gen/ready"
}

# Built in a copy, as generated code has to lie beside the sources.
go_bridge() {
  echo "Go bridge"
  mkdir -p "$out/go/bridgepb"
  rm -f "$out"/go/*.go
  cp "$peers"/go/* "$out/go"
  (
    cd "$out/go"
    export GOFLAGS=-mod=readonly GOTOOLCHAIN=local GOBIN="$out/bin"
    go install tool
    PATH=$out/bin:$PATH protoc --descriptor_set_in="$out/gen/bridge.pb" --go_out=bridgepb --go_opt=paths=source_relative \
      --go-grpc_out=bridgepb --go-grpc_opt=paths=source_relative bridge.proto
    go build -o "$out/bin/go-bridge" .
  )
}

rust_bridge() {
  echo "Rust bridge"
  BRIDGE_DESCRIPTORS=$out/gen/bridge.pb cargo build -q --release --locked --manifest-path "$peers/rust/Cargo.toml" --target-dir "$out/rust"
  cp "$out/rust/release/bridge" "$out/bin/rust-bridge"
}

tools/deps.sh debian nginx-light haproxy protobuf-compiler libprotobuf-dev python3-venv gcc libc6-dev
toolchains
tools/deps.sh venv build/peers/venv tests/bench/peers/requirements.txt # Envoy, gRPC and aiohttp for Python
generate
go_bridge
rust_bridge
