#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Writes a client of the API for each language into BUILD/stubs: a package to import, with its manifest, made of tools/stubs/LANGUAGE and of what the
# generators make of BUILD/gen/api.pb. docs/clients says how each is used.
#
# usage: tools/stubs.sh BUILD VERSION
set -eu
cd "$(dirname "$0")/.."
build=$1 version=$2
api=$PWD/$build/gen/api.pb
tools=$PWD/$build/stubs-tools
python=$PWD/$build/venv/bin/python
rm -rf "$build/stubs.new"
mkdir -p "$build/stubs.new"
out=$PWD/$build/stubs.new

# The API's own files, and those that it imports beside google/protobuf, which every language's library has.
ours=$("$python" tools/descriptors.py --list "$api" | grep '^envgate/')
shared="google/rpc/status.proto google/rpc/error_details.proto google/api/annotations.proto google/api/http.proto"

# What lies in tools/stubs/LANGUAGE, with the versions filled in.
template() {
  mkdir -p "$out/$1"
  cp -R "tools/stubs/$1/." "$out/$1"
  find "$out/$1" -type f -exec sed -i "s/@VERSION@/$version/" {} +
}

# shellcheck disable=SC2086
python_client() {
  mkdir -p "$out/python/envgate"
  cp clients/python/pyproject.toml clients/python/setup.py clients/python/README.md "$out/python"
  cp clients/python/envgate/*.py clients/python/envgate/py.typed "$out/python/envgate"
  "$python" -m grpc_tools.protoc --descriptor_set_in="$api" --python_out="$out/python" --pyi_out="$out/python" --grpc_python_out="$out/python" $ours
  touch "$out/python/envgate/v1/__init__.py"
}

# shellcheck disable=SC2086
go_client() {
  template go
  PATH=$tools/bin:$PATH protoc --descriptor_set_in="$api" --go_out="$out/go" --go_opt=module=envgate.dev/envgate \
    --go-grpc_out="$out/go" --go-grpc_opt=module=envgate.dev/envgate $ours
}

# shellcheck disable=SC2086
java_client() {
  template java
  mkdir -p "$out/java/src/main/java"
  protoc --descriptor_set_in="$api" --java_out="$out/java/src/main/java" --plugin=protoc-gen-grpc-java=/usr/bin/grpc_java_plugin \
    --grpc-java_out="$out/java/src/main/java" $ours
  # An annotation that JDKs since 11 have no class for.
  find "$out/java" -name '*Grpc.java' -exec sed -i '/^@javax\.annotation\.Generated($/,/)$/d' {} +
}

# shellcheck disable=SC2086
typescript_client() {
  template typescript
  protoc --descriptor_set_in="$api" --plugin=protoc-gen-es="$tools/node/node_modules/.bin/protoc-gen-es" \
    --es_out="$out/typescript" --es_opt=target=js+dts,import_extension=js $ours $shared
}

rust_client() {
  template rust
  "$tools/bin/rust-generate" "$api" "$out/rust/src"
}

# shellcheck disable=SC2086
cpp_client() {
  template cpp
  mkdir -p "$out/cpp/src"
  protoc --descriptor_set_in="$api" --cpp_out="$out/cpp/src" $ours $shared
  protoc --descriptor_set_in="$api" --plugin=protoc-gen-grpc=/usr/bin/grpc_cpp_plugin --grpc_out="$out/cpp/src" $(echo "$ours" | grep _service)
}

# shellcheck disable=SC2046
c_client() {
  template c
  protoc --descriptor_set_in="$api" --plugin=protoc-gen-c=tools/protoc-gen-c --c_out="$out/c/src" \
    $("$python" tools/descriptors.py --list "$api" | grep -v '^grpc/')
}

python_client
go_client
java_client
typescript_client
rust_client
cpp_client
c_client
rm -rf "$build/stubs"
mv "$out" "$build/stubs"
