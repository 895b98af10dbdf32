#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds what the conformance suites are made of, below BUILD/conformance:
#   bin/   the suites themselves, from the Go module proxy, as tools/go.mod pins them
#   gen/   the code of the two services that tests/conformance/server.c serves
#
# usage: tests/conformance/gen.sh BUILD PYTHON
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
out=$(mkdir -p "$1/conformance" && cd "$1/conformance" && pwd)
python=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir -p "$out/bin" "$out/gen"

cd "$here/tools"
GOBIN="$out/bin" GOFLAGS=-mod=readonly go install connectrpc.com/conformance/cmd/connectconformance google.golang.org/grpc/interop/client \
  github.com/summerwind/h2spec/cmd/h2spec
GOFLAGS=-mod=readonly go run descriptors.go >"$out/gen/testing.pb"
suite=$(GOFLAGS=-mod=readonly go list -m -f '{{.Dir}}' connectrpc.com/conformance)

protos="connectrpc/conformance/v1/config.proto connectrpc/conformance/v1/service.proto connectrpc/conformance/v1/server_compat.proto"
# shellcheck disable=SC2086
protoc -I "$suite/proto" -I /usr/include -I "$packages" --include_imports --descriptor_set_out="$out/gen/suite.pb" $protos google/protobuf/duration.proto \
  google/rpc/error_details.proto google/rpc/status.proto
cat "$out/gen/suite.pb" "$out/gen/testing.pb" >"$out/gen/api.pb" # a set of both, as protobuf merges
# shellcheck disable=SC2086
protoc --descriptor_set_in="$out/gen/api.pb" --plugin=protoc-gen-c="$root/tools/protoc-gen-c" --c_out="$out/gen" $protos grpc/testing/empty.proto \
  grpc/testing/messages.proto grpc/testing/test.proto
"$python" "$root/tools/gen_api.py" "$out/gen/api.pb" "$out/gen/api.c" conformance_api
