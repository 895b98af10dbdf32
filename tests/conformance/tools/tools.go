// SPDX-License-Identifier: Apache-2.0

//go:build tools

// The programs that run.sh builds; go.mod and go.sum pin them and all that they are made of.
package main

import (
	_ "connectrpc.com/conformance/cmd/connectconformance"
	_ "github.com/summerwind/h2spec/cmd/h2spec"
	_ "google.golang.org/grpc/interop/client"
)
