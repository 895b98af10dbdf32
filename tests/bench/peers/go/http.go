// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"envgate.dev/bench/bridge/bridgepb"
)

// observation is what a step led to.
type observation struct {
	Observation map[string]any `json:"observation"`
	Reward      *float64       `json:"reward"`
	Done        bool           `json:"done"`
	Metadata    map[string]any `json:"metadata"`
}

func (o *observation) reply() (*bridgepb.StepReply, error) {
	observation, err := structpb.NewStruct(o.Observation)
	if err != nil {
		return nil, unreadable(err)
	}
	metadata, err := structpb.NewStruct(o.Metadata)
	if err != nil {
		return nil, unreadable(err)
	}
	return &bridgepb.StepReply{Observation: observation, Reward: o.Reward, Done: o.Done, Metadata: metadata}, nil
}

// httpBridge takes steps by POST /step, on connections that are kept alive and pooled.
type httpBridge struct {
	bridgepb.UnimplementedBridgeServer
	client http.Client
	step   string
}

func newHTTPBridge(worker string) *httpBridge {
	return &httpBridge{
		client: http.Client{Transport: &http.Transport{
			MaxIdleConnsPerHost: 4096,
			IdleConnTimeout:     4 * time.Second, // workers close a connection that was idle for 5 s
			DisableCompression:  true,
		}},
		step: worker + "/step",
	}
}

func (b *httpBridge) post(ctx context.Context, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, b.step, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	reply, err := b.client.Do(request)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	defer reply.Body.Close()
	text, err := readAll(reply)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	switch reply.StatusCode {
	case http.StatusOK:
		return text, nil
	case http.StatusUnprocessableEntity:
		return nil, status.Error(codes.InvalidArgument, string(text))
	default:
		return nil, status.Error(codes.Internal, "the worker answered "+reply.Status)
	}
}

// readAll is io.ReadAll without its growing and copying, as the worker says how long its replies are.
func readAll(reply *http.Response) ([]byte, error) {
	if reply.ContentLength < 0 {
		return io.ReadAll(reply.Body)
	}
	text := make([]byte, reply.ContentLength)
	_, err := io.ReadFull(reply.Body, text)
	return text, err
}

func (b *httpBridge) Step(ctx context.Context, request *bridgepb.StepRequest) (*bridgepb.StepReply, error) {
	action, err := json.Marshal(request.Action.AsMap())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	text, err := b.post(ctx, wrap(`{"action":`, action))
	if err != nil {
		return nil, err
	}
	var o observation
	if err := json.Unmarshal(text, &o); err != nil {
		return nil, unreadable(err)
	}
	return o.reply()
}

func (b *httpBridge) StepBytes(ctx context.Context, request *bridgepb.StepBytesRequest) (*bridgepb.StepBytesReply, error) {
	reply, err := b.post(ctx, wrap(`{"action":`, request.Action))
	if err != nil {
		return nil, err
	}
	return &bridgepb.StepBytesReply{Reply: reply}, nil
}

// wrap makes an object whose last member is JSON that is there already.
func wrap(before string, value []byte) []byte {
	text := make([]byte, 0, len(before)+len(value)+1)
	text = append(text, before...)
	text = append(text, value...)
	return append(text, '}')
}

// unreadable: the worker's reply is not what OpenEnv says.
func unreadable(err error) error {
	return status.Error(codes.Internal, fmt.Sprintf("the worker's reply is not understood: %v", err))
}
