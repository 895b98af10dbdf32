// SPDX-License-Identifier: Apache-2.0

// A bridge from gRPC to an OpenEnv worker: grpc-go in front, net/http or gorilla/websocket behind.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"runtime/debug"
	"strings"

	"google.golang.org/grpc"

	"envgate.dev/bench/bridge/bridgepb"
)

const (
	// Goroutines that take calls in turn: one made for each call would have its stack grown each time.
	streamWorkers = 256
	// The live heap is a few MiB, so that at Go's 100 % it would be collected hundreds of times a second.
	gcPercent = 400
)

func main() {
	debug.SetGCPercent(gcPercent)
	listen := flag.String("listen", "127.0.0.1:0", "where to listen")
	worker := flag.String("worker", "", "http://HOST:PORT or ws://HOST:PORT/ws")
	flag.Parse()
	var bridge bridgepb.BridgeServer
	switch {
	case strings.HasPrefix(*worker, "http://"):
		bridge = newHTTPBridge(*worker)
	case strings.HasPrefix(*worker, "ws://"):
		bridge = newSocketBridge(*worker)
	default:
		log.Fatal("--worker: an http:// or ws:// URL is needed")
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(grpc.NumStreamWorkers(streamWorkers))
	bridgepb.RegisterBridgeServer(server, bridge)
	fmt.Println("listening on", listener.Addr())
	log.Fatal(server.Serve(listener))
}
