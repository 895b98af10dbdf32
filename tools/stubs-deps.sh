#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Gets the generators of `make stubs` (build/stubs-tools), and with `clients` what `make clients` builds the stubs with. As root it installs what is missing
# of Debian's packages; otherwise it says what to install. The rest is from PyPI, Go's proxy, npm and crates.io, pinned by the lock files of
# tools/stubs and tests/clients. What is there already and not older than its list is left as it is.
#
# Needs Go 1.26, Rust 1.88, Node 20 with npm, and for `clients` JDK 11 and Maven, or newer: Debian's are too old, so they are the machine's own.
#
# usage: tools/stubs-deps.sh [clients]
set -eu
cd "$(dirname "$0")/.."
what=${1:-stubs}
tools=$PWD/build/stubs-tools
mkdir -p "$tools/bin"

for program in go cargo node npm $([ "$what" != clients ] || echo java mvn); do
  command -v "$program" >/dev/null || { echo "stubs-deps: $program is missing" >&2; exit 1; }
done
tools/deps.sh debian python3 python3-venv protobuf-compiler libprotobuf-dev protobuf-compiler-grpc protobuf-compiler-grpc-java-plugin protobuf-c-compiler
if [ "$what" = clients ]; then
  tools/deps.sh debian gcc g++ make cmake pkg-config libgrpc++-dev libprotobuf-c-dev libcurl4-openssl-dev libcjson-dev chromium openssl
  tools/deps.sh grpcurl
fi

# newer TARGET SOURCE…: nothing to do for it.
newer() {
  target=$1
  shift
  for source in "$@"; do
    [ "$target" -nt "$source" ] || return 1
  done
}

if ! newer "$tools/bin/protoc-gen-go" tools/stubs/go/go.mod tools/stubs/go/go.sum; then
  echo "Go's generators into build/stubs-tools"
  (cd tools/stubs/go && GOBIN=$tools/bin GOFLAGS=-mod=readonly GOTOOLCHAIN=local go install tool)
  touch "$tools/bin/protoc-gen-go"
fi

if ! newer "$tools/node/node_modules/.package-lock.json" tools/stubs/typescript/package-lock.json; then
  echo "TypeScript's generator into build/stubs-tools"
  rm -rf "$tools/node"
  mkdir -p "$tools/node"
  for f in package.json package-lock.json; do sed "s/@VERSION@/0.0.0/" "tools/stubs/typescript/$f" >"$tools/node/$f"; done
  (cd "$tools/node" && npm ci --silent --no-audit --no-fund --ignore-scripts)
  touch "$tools/node/node_modules/.package-lock.json"
fi

if ! newer "$tools/bin/rust-generate" tools/stubs/rust-generator/Cargo.lock tools/stubs/rust-generator/Cargo.toml tools/stubs/rust-generator/src/main.rs; then
  echo "Rust's generator into build/stubs-tools"
  cargo build -q --locked --manifest-path tools/stubs/rust-generator/Cargo.toml --target-dir "$tools/rust"
  cp "$tools/rust/debug/generate" "$tools/bin/rust-generate"
fi
