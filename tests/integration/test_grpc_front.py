# SPDX-License-Identifier: Apache-2.0
"""The gRPC front and the listener with real clients: grpcio, grpcurl, and single frames where those hide what matters."""

import json
import os
import signal
import socket
import stat
import struct
import subprocess
import threading
import time

import conftest
import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from h2_client import CHECK, GRPC, WATCH, Client, dial, frame, message

from envgate.v1 import payload_pb2, session_service_pb2

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
ENVIRONMENTS = {"echo": conftest.builtin("echo")}
SERVICES = {
    "envgate.v1.EnvironmentService",
    "envgate.v1.SessionService",
    "envgate.v1.WorkerService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}


def health(g):
    return health_pb2_grpc.HealthStub(g.channel)


def grpcurl(g, *args):
    address = ["-unix", g.target[5:]] if g.target.startswith("unix:") else [g.target]
    options, rest = [a for a in args if a.startswith("-")], [a for a in args if not a.startswith("-")]
    return subprocess.run([conftest.GRPCURL, "-plaintext", *options, *address, *rest], capture_output=True, text=True, timeout=60)


# --- health


@pytest.mark.parametrize("service", ["", *sorted(SERVICES)])
def test_health_check(shared_gateway, service):
    assert health(shared_gateway).Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status == SERVING


def test_health_check_of_no_service(shared_gateway):
    with pytest.raises(grpc.RpcError) as failed:
        health(shared_gateway).Check(health_pb2.HealthCheckRequest(service="nope"), timeout=10)
    assert failed.value.code() == grpc.StatusCode.NOT_FOUND


def test_health_watch_of_no_service(shared_gateway):
    """As the protocol has it: the stream stays open, since the service may come."""
    watch = health(shared_gateway).Watch(health_pb2.HealthCheckRequest(service="nope"), timeout=10)
    assert next(watch).status == SERVICE_UNKNOWN and watch.is_active()
    watch.cancel()


def test_health_list(shared_gateway):
    statuses = health(shared_gateway).List(health_pb2.HealthListRequest(), timeout=10).statuses
    assert set(statuses) == SERVICES | {"", "environments/echo", "environments/cartpole", "environments/pixels"} and {s.status for s in statuses.values()} == {SERVING}


def test_drain_tells_watchers(gateway):
    g = gateway(None)
    watch = health(g).Watch(health_pb2.HealthCheckRequest(), timeout=60)
    assert next(watch).status == SERVING
    g.process.send_signal(signal.SIGTERM)
    assert next(watch).status == NOT_SERVING
    with pytest.raises(grpc.RpcError) as failed:
        next(watch)
    assert conftest.code_of(failed.value) == ("UNAVAILABLE", "DRAINING")
    assert g.process.wait(20) == 0


# --- reflection


def test_grpcurl_lists_and_describes(shared_gateway):
    listed = grpcurl(shared_gateway, "list")
    assert listed.returncode == 0 and set(listed.stdout.split()) == SERVICES, listed.stderr
    described = grpcurl(shared_gateway, "describe", "envgate.v1.SessionService.Step")
    assert described.returncode == 0 and "rpc Step ( .envgate.v1.StepRequest ) returns ( .envgate.v1.StepResult )" in described.stdout, described.stderr


def test_grpcurl_describes_everything(shared_gateway):
    """Every service with all that it uses: each import can be had, options too."""
    described = grpcurl(shared_gateway, "describe")
    assert described.returncode == 0, described.stderr
    assert "option (.google.api.http)" in described.stdout
    for name in [".google.rpc.Status", ".envgate.v1.Payload", ".google.protobuf.Value"]:
        one = grpcurl(shared_gateway, "describe", name)
        assert one.returncode == 0 and "is a message" in one.stdout, one.stderr


def test_grpcurl_calls(shared_gateway):
    reply = grpcurl(shared_gateway, "grpc.health.v1.Health/Check")
    assert reply.returncode == 0 and json.loads(reply.stdout) == {"status": "SERVING"}, reply.stderr
    reply = grpcurl(shared_gateway, '-d={"service": "nope"}', "-format-error", "grpc.health.v1.Health/Check")
    assert reply.returncode == 64 + 5 and "METHOD_NOT_FOUND" in reply.stderr, reply.stderr


def ask(g, *requests):
    stub = reflection_pb2_grpc.ServerReflectionStub(g.channel)
    return list(stub.ServerReflectionInfo(iter(requests), timeout=10))


def test_reflection_alpha(shared_gateway):
    request = reflection_pb2.ServerReflectionRequest
    listed, by_name, by_symbol, again, extension, numbers = ask(
        shared_gateway,
        request(list_services="", host="h"),
        request(file_by_filename="google/rpc/status.proto"),
        request(file_containing_symbol="envgate.v1.Payload"),
        request(file_by_filename="google/rpc/status.proto"),
        request(file_containing_extension=reflection_pb2.ExtensionRequest(containing_type="google.protobuf.MethodOptions", extension_number=72295728)),
        request(all_extension_numbers_of_type="google.protobuf.MethodOptions"),
    )
    assert {s.name for s in listed.list_services_response.service} == SERVICES
    assert listed.original_request.host == listed.valid_host == "h"
    assert len(by_name.file_descriptor_response.file_descriptor_proto) == 2, "with its import, google/protobuf/any.proto"
    assert by_symbol.original_request.file_containing_symbol == "envgate.v1.Payload"
    assert b"envgate/v1/payload.proto" in by_symbol.file_descriptor_response.file_descriptor_proto[0]
    assert len(again.file_descriptor_response.file_descriptor_proto) == 1, "the import was sent before"
    assert b"google/api/annotations.proto" in extension.file_descriptor_response.file_descriptor_proto[0]
    assert list(numbers.all_extension_numbers_response.extension_number) == [72295728]


def test_reflection_finds_nothing(shared_gateway):
    request = reflection_pb2.ServerReflectionRequest
    replies = ask(
        shared_gateway,
        request(file_by_filename="nope.proto"),
        request(file_containing_symbol="envgate.v1.Nope"),
        request(file_containing_extension=reflection_pb2.ExtensionRequest(containing_type="envgate.v1.Payload", extension_number=1)),
        request(all_extension_numbers_of_type="nope"),
        request(),
    )
    assert [r.error_response.error_code for r in replies] == [5, 5, 5, 5, 3]


def test_client_without_stubs(shared_gateway):
    """All that a client needs comes from reflection."""
    pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(shared_gateway.channel))
    method = pool.FindMethodByName("envgate.v1.SessionService.GetSession")
    request, reply = (message_factory.GetMessageClass(t) for t in (method.input_type, method.output_type))
    call = shared_gateway.channel.unary_unary(
        "/envgate.v1.SessionService/GetSession", request_serializer=request.SerializeToString, response_deserializer=reply.FromString
    )
    with pytest.raises(grpc.RpcError) as failed:
        call(request(name="sessions/0nope"), timeout=10)
    assert failed.value.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)


# --- calls


def test_request_id(shared_gateway):
    check = health(shared_gateway).Check
    _, call = check.with_call(health_pb2.HealthCheckRequest(), metadata=[("x-request-id", "my-id.1")], timeout=10)
    assert dict(call.initial_metadata())["x-request-id"] == "my-id.1"
    _, call = check.with_call(health_pb2.HealthCheckRequest(), metadata=[("x-request-id", "not sane\\")], timeout=10)
    made = dict(call.initial_metadata())["x-request-id"]
    assert made and "not sane" not in made
    with pytest.raises(grpc.RpcError) as failed:
        check(health_pb2.HealthCheckRequest(service="nope"), metadata=[("x-request-id", "my-id.2")], timeout=10)
    assert dict(failed.value.trailing_metadata())["x-request-id"] == "my-id.2", "errors have it, too"


def test_shape_of_replies(shared_gateway):
    with Client(shared_gateway.target) as c:
        good = c.call()
        assert good.headers[":status"] == "200" and good.headers["content-type"] == "application/grpc" and good.trailers == {"grpc-status": "0"}
        bad = c.call(body=message(b"\x0a\x01?"))
        assert bad.headers["grpc-status"] == "5" and not bad.trailers and not bad.data and bad.reason == "METHOD_NOT_FOUND"


@pytest.mark.parametrize("codec", ["application/grpc+proto", "application/grpc;charset=utf-8"])
def test_content_types(shared_gateway, codec):
    with Client(shared_gateway.target) as c:
        reply = c.call(headers=[("content-type", codec), ("te", "trailers")])
        assert reply.status == 0 and reply.messages() == [b"\x08\x01"]


def test_json_codec(shared_gateway):
    with Client(shared_gateway.target) as c:
        reply = c.call(body=message(b'{"service": "grpc.health.v1.Health"}'), headers=[("content-type", "application/grpc+json"), ("te", "trailers")])
        assert reply.status == 0 and reply.headers["content-type"] == "application/grpc+json"
        assert [json.loads(m) for m in reply.messages()] == [{"status": "SERVING"}]


def test_many_calls_at_once(shared_gateway):
    """1000 on one connection, four times what the gateway allows at a time: the client waits, none fails."""
    stub = health(shared_gateway)
    calls = [stub.Check.future(health_pb2.HealthCheckRequest(service="grpc.health.v1.Health"), timeout=30) for _ in range(1000)]
    assert {c.result().status for c in calls} == {SERVING}


def test_many_streams_at_once(shared_gateway):
    stub = health(shared_gateway)
    watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=30) for _ in range(100)]
    assert [next(w).status for w in watches] == [SERVING] * 100
    for w in watches:
        w.cancel()


def test_cancelled_streams_leave_nothing(shared_gateway):
    g = shared_gateway
    before = g.metric("envgate_calls_in_flight")
    watches = [health(g).Watch(health_pb2.HealthCheckRequest()) for _ in range(50)]
    for w in watches:
        next(w)
    g.wait_for(lambda: g.metric("envgate_calls_in_flight") >= before + 50)
    for w in watches:
        w.cancel()
    g.wait_for(lambda: g.metric("envgate_calls_in_flight") <= before)


@pytest.mark.parametrize("how", ["reset", "close", "abort"])
def test_caller_that_leaves_cancels(gateway, how):
    """By RST_STREAM, FIN or a TCP reset: the call is cancelled, the session goes on."""
    g = gateway({"environments": {"e": conftest.builtin("echo", "--faults")}})
    path = g.create("e")
    assert g.post(path + "/reset").status_code == 200
    action = json.dumps({"message": "slow", "fault": "slow", "ms": 600 * conftest.SLOW}).encode()
    request = session_service_pb2.StepRequest(session=path.removeprefix("/v1/"), action=payload_pb2.Payload(json=action))
    with Client(g.target) as c:
        stream = c.start("/envgate.v1.SessionService/Step")
        c.send(stream, message(request.SerializeToString()), end=True)
        g.wait_for(lambda: g.get(path).json()["state"] == "STATE_BUSY", what="the step's beginning")
        if how == "reset":
            c.h2.reset_stream(stream, 8)
            c.flush()
        elif how == "abort":
            c.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if how != "reset":
            c.socket.close()
        g.wait_for(lambda: g.metric("envgate_calls_total", method="envgate.v1.SessionService/Step", code="CANCELLED") == 1, what="the cancellation")
        assert g.metric("envgate_calls_in_flight") == 0
    step = g.post(path + "/step", {"action": {"message": "next"}})
    assert step.status_code == 200 and step.json()["observation"]["echoed_message"] == "next"


def test_deadline(shared_gateway):
    """Kept by the gateway, too: the client here does not watch it."""
    with Client(shared_gateway.target) as c:
        begun = time.monotonic()
        reply = c.call(WATCH, headers=GRPC + (("grpc-timeout", "300m"),))
        assert reply.status == 4 and reply.reason == "DEADLINE" and 0.25 < time.monotonic() - begun < 5
        assert reply.messages() == [b"\x08\x01"]
        assert c.call(headers=GRPC + (("grpc-timeout", "99999999H"),)).status == 0


def test_slow_reader_holds_up_nobody(shared_gateway):
    """A peer that asks for megabytes and reads none of them."""
    ask_all = b"".join(message(b"\x22\x1eenvgate.v1.SessionService.Step") for _ in range(100))
    with Client(shared_gateway.target, settings={4: 2**31 - 1}) as c:
        c.h2.increment_flow_control_window(2**30)
        c.flush()
        c.pump(lambda: c.h2.outbound_flow_control_window > 65535)
        streams = [c.start("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo") for _ in range(20)]
        for s in streams:
            c.send(s, ask_all)
        for _ in range(50):
            assert health(shared_gateway).Check(health_pb2.HealthCheckRequest(), timeout=10).status == SERVING
        for s in streams:
            c.send(s, b"", end=True)
        for s in streams:
            reply = c.finish(s)
            assert reply.status == 0 and len(reply.messages()) == 100


# --- connections


def test_both_protocols_on_one_port(shared_gateway):
    for _ in range(3):
        assert shared_gateway.get("/healthz").status_code == 200
        assert health(shared_gateway).Check(health_pb2.HealthCheckRequest(), timeout=10).status == SERVING


def test_connections_are_counted(gateway):
    g = gateway(None)
    opened = g.metric("envgate_connections_opened_total")
    peers = [Client(g.target) for _ in range(10)]
    for p in peers:
        assert p.call().status == 0
    assert g.metric("envgate_connections") >= 10 and g.metric("envgate_connections_opened_total") >= opened + 10
    for p in peers:
        p.socket.close()
    g.wait_for(lambda: g.metric("envgate_connections") <= 2)


def test_idle_connection_is_closed(gateway):
    g = gateway({"idle_connection_s": 1, "environments": ENVIRONMENTS})
    with Client(g.target) as idle, Client(g.target) as busy, Client(g.target) as half:
        assert idle.call().status == 0
        watch = busy.start(WATCH)
        busy.send(watch, message(), end=True)
        half.send(half.start(), b"\0")  # a request that never comes
        begun = time.monotonic()
        idle.pump(lambda: False)
        assert idle.closed and idle.goaway == 0 and 0.8 < time.monotonic() - begun < 4 * conftest.SLOW
        half.pump(lambda: False)
        assert half.closed
        assert busy.call().status == 0, "a call keeps its connection"


def test_drain_lets_calls_finish(gateway):
    """After GOAWAY a call that is half there still completes; then the connection closes."""
    g = gateway(None)
    with Client(g.target) as c:
        stream = c.start()
        c.send(stream, message()[:3])
        g.wait_for(lambda: g.metric("envgate_calls_in_flight") >= 1)
        g.process.send_signal(signal.SIGTERM)
        c.pump(lambda: c.goaway is not None)
        assert c.goaway == 0
        c.h2.state_machine.state = type(c.h2.state_machine.state).CLIENT_OPEN  # h2 has it that GOAWAY ends everything
        c.send(stream, message()[3:], end=True)
        reply = c.finish(stream)
        assert reply.status == 0
        c.pump(lambda: False)
        assert c.closed
    assert g.process.wait(20) == 0


def test_max_connections(gateway):
    """Those beyond wait to be accepted, and are served when there is room."""
    g = gateway({"max_connections": 8, "environments": ENVIRONMENTS})
    first = [Client(g.target) for _ in range(8)]
    for c in first:
        assert c.call().status == 0
    with Client(g.target) as late:
        stream = late.start()
        late.send(stream, message(), end=True)
        with pytest.raises(AssertionError):
            late.pump(lambda: late.replies[stream].ended, seconds=0.5)
        for c in first:
            c.socket.close()
        assert late.finish(stream).status == 0


def test_out_of_descriptors(gateway):
    """accept() fails for a while: no spinning, and service afterwards."""
    g = gateway({"environments": ENVIRONMENTS})
    with Client(g.target) as c:
        assert c.call().status == 0
        used = len(os.listdir(f"/proc/{g.pid}/fd"))
        subprocess.run(["prlimit", f"--nofile={used}:4096", f"--pid={g.pid}"], check=True)
        waiting = [dial(g.target) for _ in range(5)]
        before = os.times(), cpu(g.pid)
        time.sleep(1)
        assert cpu(g.pid) - before[1] < 0.3, "it spins"
        assert c.call().status == 0
        subprocess.run(["prlimit", "--nofile=1024:4096", f"--pid={g.pid}"], check=True)
        with Client(g.target) as late:
            assert late.call().status == 0
        for s in waiting:
            s.close()


def cpu(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_idle_gateway_sleeps(gateway):
    g = gateway({"environments": ENVIRONMENTS})
    with Client(g.target) as c, dial(g.target) as half:
        assert c.call().status == 0
        half.sendall(b"P")
        before = cpu(g.pid)
        time.sleep(1)
        assert cpu(g.pid) - before < 0.1 * conftest.SLOW


# --- where it listens


def test_unix_socket(gateway, tmp_path):
    path = tmp_path / "gateway.sock"
    g = gateway(None, "--listen", f"unix:{path}")
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert health(g).Check(health_pb2.HealthCheckRequest(), timeout=10).status == SERVING
    listed = grpcurl(g, "-authority=localhost", "list")  # without it, it sends the path as :authority, which HTTP/2 forbids
    assert listed.returncode == 0, listed.stderr
    with Client(g.target) as c:
        assert c.call().status == 0
    for _ in range(20):  # every reactor shares the socket
        with Client(g.target) as c:
            assert c.call().status == 0
    assert g.stop() == 0 and not path.exists()


def test_stale_unix_socket_is_replaced(gateway, tmp_path):
    path = tmp_path / "stale.sock"
    s = socket.socket(socket.AF_UNIX)
    s.bind(str(path))
    s.close()
    g = gateway(None, "--listen", f"unix:{path}")
    assert health(g).Check(health_pb2.HealthCheckRequest(), timeout=10).status == SERVING


def test_address_in_use(gateway, tmp_path):
    """A second gateway does not steal half of the connections by SO_REUSEPORT, nor a socket file."""
    first = gateway(None)
    with pytest.raises(RuntimeError, match="in use"):
        gateway(None, "--listen", first.listen)
    path = tmp_path / "live.sock"
    second = gateway(None, "--listen", f"unix:{path}")
    with pytest.raises(RuntimeError, match="in use"):
        gateway(None, "--listen", f"unix:{path}")
    plain = tmp_path / "file"
    plain.write_text("precious")
    with pytest.raises(RuntimeError, match="exists"):
        gateway(None, "--listen", f"unix:{plain}")
    assert plain.read_text() == "precious"
    for g in (first, second):
        assert health(g).Check(health_pb2.HealthCheckRequest(), timeout=10).status == SERVING


def test_ipv6(gateway):
    g = gateway(None, "--listen", "[::1]:0")
    assert g.listen.startswith("[::1]:")
    assert health(g).Check(health_pb2.HealthCheckRequest(), timeout=10).status == SERVING


def test_connections_come_and_go(shared_gateway):
    """Half of them without a word, from many threads."""

    def storm():
        for i in range(50):
            s = dial(shared_gateway.target)
            if i % 2:
                s.sendall(frame(4))
            s.close()

    threads = [threading.Thread(target=storm) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    with Client(shared_gateway.target) as c:
        assert c.call(CHECK).status == 0
