// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/gorilla/websocket"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"envgate.dev/bench/bridge/bridgepb"
)

// socketBridge takes steps by WebSocket: each session has a socket of its own to the worker, opened and reset by its first call.
type socketBridge struct {
	bridgepb.UnimplementedBridgeServer
	worker   string
	sessions sync.Map // of *session by name
}

// session: its lock is held from a request to its reply, so that calls cannot mix.
type session struct {
	sync.Mutex
	socket *websocket.Conn // nil: not opened yet, or lost
}

// fault is the data of a worker's error.
type fault struct {
	Message string `json:"message"`
	Code    string `json:"code"`
}

func (f *fault) err() error {
	if f.Code == "VALIDATION_ERROR" {
		return status.Error(codes.InvalidArgument, f.Message)
	}
	return status.Error(codes.Internal, fmt.Sprintf("%s: %s", f.Code, f.Message))
}

func newSocketBridge(worker string) *socketBridge {
	return &socketBridge{worker: worker}
}

func (b *socketBridge) session(name string) *session {
	// LoadOrStore alone would make a session for each call.
	if s, ok := b.sessions.Load(name); ok {
		return s.(*session)
	}
	s, _ := b.sessions.LoadOrStore(name, new(session))
	return s.(*session)
}

// call sends one frame to the session's worker and returns the one that answers it.
func (b *socketBridge) call(ctx context.Context, name string, text []byte) ([]byte, error) {
	s := b.session(name)
	s.Lock()
	defer s.Unlock()
	if s.socket == nil {
		socket, err := b.open(ctx)
		if err != nil {
			return nil, err
		}
		s.socket = socket
	}
	reply, err := exchange(ctx, s.socket, text)
	if err != nil {
		s.socket.Close()
		s.socket = nil
	}
	return reply, err
}

func (b *socketBridge) open(ctx context.Context) (*websocket.Conn, error) {
	socket, _, err := websocket.DefaultDialer.DialContext(ctx, b.worker, nil)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	reply, err := exchange(ctx, socket, []byte(`{"type":"reset"}`))
	if err == nil {
		_, err = data(reply)
	}
	if err != nil {
		socket.Close()
		return nil, err
	}
	return socket, nil
}

// exchange fails when the socket is lost.
func exchange(ctx context.Context, socket *websocket.Conn, text []byte) ([]byte, error) {
	// A call that is cancelled takes the socket with it, for its reply may still come.
	stop := context.AfterFunc(ctx, func() { socket.Close() })
	err := socket.WriteMessage(websocket.TextMessage, text)
	var reply []byte
	if err == nil {
		_, reply, err = socket.ReadMessage()
	}
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return reply, nil
}

// data is an observation's, as it is.
func data(reply []byte) (json.RawMessage, error) {
	var frame struct {
		Type string          `json:"type"`
		Data json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(reply, &frame); err != nil {
		return nil, unreadable(err)
	}
	if frame.Type == "observation" {
		return frame.Data, nil
	}
	var f fault
	if err := json.Unmarshal(frame.Data, &f); err != nil {
		return nil, unreadable(err)
	}
	return nil, f.err()
}

func (b *socketBridge) Step(ctx context.Context, request *bridgepb.StepRequest) (*bridgepb.StepReply, error) {
	action, err := json.Marshal(request.Action.AsMap())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	reply, err := b.call(ctx, request.Session, wrap(`{"type":"step","data":`, action))
	if err != nil {
		return nil, err
	}
	// Either's members, so that one pass over the text is enough.
	var frame struct {
		Type string `json:"type"`
		Data struct {
			observation
			fault
		} `json:"data"`
	}
	if err := json.Unmarshal(reply, &frame); err != nil {
		return nil, unreadable(err)
	}
	if frame.Type != "observation" {
		return nil, frame.Data.err()
	}
	return frame.Data.reply()
}

func (b *socketBridge) StepBytes(ctx context.Context, request *bridgepb.StepBytesRequest) (*bridgepb.StepBytesReply, error) {
	reply, err := b.call(ctx, request.Session, wrap(`{"type":"step","data":`, request.Action))
	if err != nil {
		return nil, err
	}
	observation, err := data(reply)
	if err != nil {
		return nil, err
	}
	return &bridgepb.StepBytesReply{Reply: observation}, nil
}
