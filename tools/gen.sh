#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Generates code from the .proto files, the same bytes each time.
#
# usage: tools/gen.sh BUILD PYTHON
#
# BUILD/gen gets api.pb (a FileDescriptorSet with comments), protobuf-c code for each .proto, api.c (tools/gen_api.py), and openapi.json and
# openapi.c (tools/gen_openapi.py). PYTHON has protobuf, googleapis-common-protos, grpcio-health-checking and grpcio-reflection.
set -eu

build=$1
python=$2
root=$(cd "$(dirname "$0")/.." && pwd)
gen=$build/gen
version=$(sed -n 's/^VERSION := //p' "$root/Makefile")
packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
export PYTHONDONTWRITEBYTECODE=1

mkdir -p "$gen"

# Debian's google/protobuf goes first: it is the one of the protoc in use.
protoc -I "$root/proto" -I /usr/include -I "$packages" --include_imports --include_source_info \
  --descriptor_set_out="$gen/protoc.pb" \
  $(cd "$root/proto" && find . -name '*.proto' | sed 's|^\./||' | LC_ALL=C sort) \
  google/protobuf/any.proto google/protobuf/duration.proto google/protobuf/empty.proto google/protobuf/field_mask.proto \
  google/protobuf/struct.proto google/protobuf/timestamp.proto google/protobuf/wrappers.proto \
  google/rpc/error_details.proto google/rpc/status.proto
"$python" "$root/tools/descriptors.py" "$gen/protoc.pb" "$gen/api.pb"
rm "$gen/protoc.pb"

protoc --descriptor_set_in="$gen/api.pb" --plugin=protoc-gen-c="$root/tools/protoc-gen-c" --c_out="$gen" \
  $("$python" "$root/tools/descriptors.py" --list "$gen/api.pb")
"$python" "$root/tools/gen_api.py" "$gen/api.pb" "$gen/api.c" envgate_api envgate
"$python" "$root/tools/gen_openapi.py" "$gen/api.pb" "$version" "$gen/openapi.json" "$gen/openapi.c"
