# SPDX-License-Identifier: Apache-2.0
"""The scripted session (tests/clients/README.md) by grpcio."""

import json
import sys
import threading

import grpc
from envgate.v1 import payload_pb2, session_service_pb2 as v1, session_service_pb2_grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

channel = grpc.insecure_channel(sys.argv[1])
sessions = session_service_pb2_grpc.SessionServiceStub(channel)


def payload(value):
    return payload_pb2.Payload(json=json.dumps(value).encode())


def show(what, result):
    print(f"{what} {result.step_index} reward {result.reward:.2f} done {int(result.done)} {result.observation.json.decode()}")


def code(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    sys.exit("the call did not fail")


def fnv(data):
    h = 2166136261
    for byte in data:
        h = (h ^ byte) * 16777619 & 0xFFFFFFFF
    return h


def details(error, *types):
    found = []
    for any_detail in rpc_status.from_call(error).details:
        for message in types:
            if any_detail.Is(message.DESCRIPTOR):
                detail = message()
                any_detail.Unpack(detail)
                found.append(detail)
    return found


session = sessions.CreateSession(v1.CreateSessionRequest(environment="cartpole"))
print(f"create {session.environment} {session.state}")
result = sessions.Reset(v1.ResetRequest(session=session.name, seed=7, episode_id="episode-1"))
show("reset", result)
for i in range(50):
    if result.done:
        result = sessions.Reset(v1.ResetRequest(session=session.name, seed=8, episode_id="episode-2"))
        show("reset", result)
    result = sessions.Step(v1.StepRequest(session=session.name, action=payload({"action": i % 2}), request_id=f"step-{i}"))
    show("step", result)
print("state", sessions.GetState(v1.GetStateRequest(session=session.name)).state.json.decode())

error = code(lambda: sessions.Step(v1.StepRequest(session=session.name, action=payload({"action": 7}))))
info, bad = details(error, error_details_pb2.ErrorInfo, error_details_pb2.BadRequest)
print(f"invalid {error.code().value[0]} {info.reason} {info.domain} {bad.field_violations[0].field}")

slow = sessions.CreateSession(v1.CreateSessionRequest(environment="slow"))
late = v1.StepRequest(session=slow.name, action=payload({"message": "late"}), request_id="late")
print(f"deadline {code(lambda: sessions.Step(late, timeout=0.15)).code().value[0]}")
print(f"collected {sessions.Step(late).metadata.json.decode()}")
never = v1.StepRequest(session=slow.name, action=payload({"message": "never mind"}), request_id="never")
call = sessions.Step.future(never)
threading.Timer(0.15, call.cancel).start()
try:
    call.result()
except grpc.FutureCancelledError:
    print(f"cancel {call.code().value[0]}")
print(f"collected {sessions.Step(never).metadata.json.decode()}")

echo = sessions.CreateSession(v1.CreateSessionRequest(environment="echo"))
data = "".join(chr(97 + i % 26) for i in range(3 << 20))
result = sessions.Step(v1.StepRequest(session=echo.name, action=payload({"message": "large", "data": data})))
print(f"large {len(result.observation.json)} {fnv(result.observation.json):08x}")

for name in (session.name, slow.name, echo.name):
    sessions.CloseSession(v1.CloseSessionRequest(name=name))
error = code(lambda: sessions.GetSession(v1.GetSessionRequest(name=session.name)))
(info,) = details(error, error_details_pb2.ErrorInfo)
print(f"closed {error.code().value[0]} {info.reason}")
