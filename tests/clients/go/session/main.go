// SPDX-License-Identifier: Apache-2.0

// The scripted session (tests/clients/README.md) by grpc-go.
package main

import (
	"context"
	"fmt"
	"hash/fnv"
	"log"
	"os"
	"time"

	v1 "envgate.dev/envgate/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

var ctx = context.Background()

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func failure[T any](_ T, err error) *status.Status {
	if err == nil {
		log.Fatal("the call did not fail")
	}
	return status.Convert(err)
}

func payload(format string, args ...any) *v1.Payload {
	return &v1.Payload{Form: &v1.Payload_Json{Json: fmt.Appendf(nil, format, args...)}}
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

func show(what string, r *v1.StepResult) *v1.StepResult {
	fmt.Printf("%s %d reward %.2f done %d %s\n", what, r.StepIndex, r.GetReward(), bit(r.Done), r.Observation.GetJson())
	return r
}

func main() {
	conn := must(grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials())))
	defer conn.Close()
	sessions := v1.NewSessionServiceClient(conn)

	session := must(sessions.CreateSession(ctx, &v1.CreateSessionRequest{Environment: "cartpole"}))
	fmt.Println("create", session.Environment, int(session.State))
	reset := func(seed int64, episode string) *v1.StepResult {
		return show("reset", must(sessions.Reset(ctx, &v1.ResetRequest{Session: session.Name, Seed: &seed, EpisodeId: episode})))
	}
	result := reset(7, "episode-1")
	for i := range 50 {
		if result.Done {
			reset(8, "episode-2")
		}
		request := &v1.StepRequest{Session: session.Name, Action: payload(`{"action": %d}`, i%2), RequestId: fmt.Sprintf("step-%d", i)}
		result = show("step", must(sessions.Step(ctx, request)))
	}
	state := must(sessions.GetState(ctx, &v1.GetStateRequest{Session: session.Name}))
	fmt.Printf("state %s\n", state.State.GetJson())

	refused := failure(sessions.Step(ctx, &v1.StepRequest{Session: session.Name, Action: payload(`{"action": 7}`)}))
	info, bad := refused.Details()[0].(*errdetails.ErrorInfo), refused.Details()[1].(*errdetails.BadRequest)
	fmt.Println("invalid", int(refused.Code()), info.Reason, info.Domain, bad.FieldViolations[0].Field)

	slow := must(sessions.CreateSession(ctx, &v1.CreateSessionRequest{Environment: "slow"}))
	late := &v1.StepRequest{Session: slow.Name, Action: payload(`{"message": "late"}`), RequestId: "late"}
	short, stop := context.WithTimeout(ctx, 150*time.Millisecond)
	fmt.Println("deadline", int(failure(sessions.Step(short, late)).Code()))
	stop()
	fmt.Printf("collected %s\n", must(sessions.Step(ctx, late)).Metadata.GetJson())
	never := &v1.StepRequest{Session: slow.Name, Action: payload(`{"message": "never mind"}`), RequestId: "never"}
	cancelled, cancel := context.WithCancel(ctx)
	time.AfterFunc(150*time.Millisecond, cancel)
	fmt.Println("cancel", int(failure(sessions.Step(cancelled, never)).Code()))
	fmt.Printf("collected %s\n", must(sessions.Step(ctx, never)).Metadata.GetJson())

	echo := must(sessions.CreateSession(ctx, &v1.CreateSessionRequest{Environment: "echo"}))
	data := make([]byte, 3<<20)
	for i := range data {
		data[i] = byte('a' + i%26)
	}
	large := must(sessions.Step(ctx, &v1.StepRequest{Session: echo.Name, Action: payload(`{"message": "large", "data": %q}`, data)}))
	hash := fnv.New32a()
	hash.Write(large.Observation.GetJson())
	fmt.Printf("large %d %08x\n", len(large.Observation.GetJson()), hash.Sum32())

	for _, name := range []string{session.Name, slow.Name, echo.Name} {
		must(sessions.CloseSession(ctx, &v1.CloseSessionRequest{Name: name}))
	}
	gone := failure(sessions.GetSession(ctx, &v1.GetSessionRequest{Name: session.Name}))
	fmt.Println("closed", int(gone.Code()), gone.Details()[0].(*errdetails.ErrorInfo).Reason)
}
