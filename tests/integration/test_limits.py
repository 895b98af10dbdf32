# SPDX-License-Identifier: Apache-2.0
"""The bounds on what one request may be, as options: each is set small and exceeded by every protocol that it holds for, just not exceeded, and named in the answer.
Time limits are in test_slow_callers.py, floods in test_grpc_bad_input.py, connections in test_grpc_front.py, quotas in test_auth.py, queues in test_exactly_once.py."""

import gzip
import json

import pytest
from envgate.v1 import payload_pb2, session_service_pb2
from google.protobuf import struct_pb2
from h2_client import CHECK, WATCH, Client, message
from test_protocols import CARRIERS, SERVICE, Caller

RESOURCE_EXHAUSTED, INVALID_ARGUMENT = 8, 3
REFUSED_STREAM, PROTOCOL_ERROR = 7, 1
JSON = {"content-type": "application/json"}
STEP = SERVICE + "Step"


@pytest.fixture(scope="module")
def g(tmp_path_factory):
    from conftest import Gateway

    options = ("--max-streams", "3", "--max-header-bytes", "2KiB", "--max-message-bytes", "4KiB", "--max-json-depth", "5")
    g = Gateway(None, *options, tmp=tmp_path_factory.mktemp("gateway"))
    yield g
    g.check_end()


@pytest.fixture(params=CARRIERS)
def call(g, request):
    caller = Caller(g, request.param)
    yield caller
    if caller.h2:
        caller.h2.socket.close()


@pytest.fixture
def h2(g):
    with Client(g.target) as client:
        yield client


@pytest.fixture(scope="module")
def session(g):
    path = g.create("echo")
    assert g.post(path + "/reset").status_code == 200
    return path


def step(session, **action):
    return session_service_pb2.StepRequest(session=session.removeprefix("/v1/"), action=payload_pb2.Payload(**action)).SerializeToString()


def deep(n):
    """JSON of that depth."""
    return {} if n == 1 else {"a": deep(n - 1)}


def test_max_streams(h2):
    h2.pump(lambda: h2.h2.remote_settings.max_concurrent_streams == 3)
    h2.h2.remote_settings.update({3: 1000})
    h2.h2.remote_settings.acknowledge()
    streams = [h2.start(WATCH) for _ in range(4)]
    h2.pump(lambda: h2.goaway is not None or h2.replies[streams[-1]].reset is not None)
    assert h2.goaway == PROTOCOL_ERROR or h2.replies[streams[-1]].reset == REFUSED_STREAM


def test_max_header_bytes(call):
    """They count together, not each."""
    few, many = ({f"x-{i}": "v" * 100 for i in range(n)} for n in (10, 20))
    for verb, path, body in (("GET", "/v1/environments", b""), ("POST", SERVICE + "ListSessions", b"{}"), ("GET", "/healthz", b"")):
        assert call(verb, path, {**few, **JSON}, body)[0] == 200
        status, _, text = call(verb, path, {**many, **JSON}, body)
        assert status == 431 and b"max_header_bytes" in text


def test_max_header_bytes_of_grpc(h2):
    fields = (("content-type", "application/grpc"), ("te", "trailers"), *((f"x-{i}", "v" * 100) for i in range(20)))
    stream = h2.start(CHECK, headers=list(fields))
    h2.send(stream, message(), end=True)
    reply = h2.finish(stream)
    assert reply.status == RESOURCE_EXHAUSTED and "max_header_bytes" in reply.text


@pytest.mark.parametrize("zipped", [False, True])
def test_max_message_bytes(call, session, zipped):
    """A message is as large as it is when it is decompressed."""
    for size, fits in ((3000, True), (4097, False)):
        body = step(session, json=json.dumps({"message": "m", "data": "x" * size}).encode())
        packed = gzip.compress(body) if zipped else body
        headers = {"content-type": "application/proto", **({"content-encoding": "gzip"} if zipped else {})}
        status, _, text = call("POST", STEP, headers, packed)
        assert status == (200 if fits else 429) and fits != (b"max_message_bytes" in text)
        headers = {"content-type": "application/grpc-web", **({"grpc-encoding": "gzip"} if zipped else {})}
        status, _, text = call("POST", STEP, headers, message(packed, flag=int(zipped)))
        assert status == 200 and (b"grpc-status: %d\r\n" % (0 if fits else 8)) in text
        if not zipped:
            status, _, text = call("POST", session + "/step", JSON, json.dumps({"action": {"message": "m", "data": "x" * size}}).encode())
            assert status == (200 if fits else 413) and fits != (b"max_message_bytes" in text)


def test_max_message_bytes_of_grpc(h2, session):
    for size, zipped in ((4097, False), (4097, True)):
        body = step(session, json=json.dumps({"message": "m", "data": "x" * size}).encode())
        fields = [("content-type", "application/grpc"), ("te", "trailers"), *([("grpc-encoding", "gzip")] if zipped else [])]
        stream = h2.start(STEP, headers=fields)
        h2.send(stream, message(gzip.compress(body) if zipped else body, flag=int(zipped)), end=True)
        reply = h2.finish(stream)
        assert reply.status == RESOURCE_EXHAUSTED and reply.reason == "MESSAGE_TOO_LARGE" and "max_message_bytes" in reply.text


def test_max_json_depth(call, session):
    """Of a payload the depth is its own; of other JSON the whole body's."""
    for depth, fits in ((4, True), (5, False)):  # the action is one deep itself
        action = {"message": "m", "data": deep(depth)}
        status, _, text = call("POST", session + "/step", JSON, json.dumps({"action": action}).encode())
        assert status == (200 if fits else 400) and fits != (b"deeper than 5" in text), text
        request = {"session": session.removeprefix("/v1/"), "action": action}
        status, _, text = call("POST", STEP, JSON, json.dumps(request).encode())
        assert status == (200 if fits else 400) and fits != (b"deeper than 5" in text), text
        value = struct_pb2.Value()
        value.struct_value.update(action)
        for form in ({"json": json.dumps(action).encode()}, {"value": value}):
            status, _, text = call("POST", STEP, {"content-type": "application/proto"}, step(session, **form))
            assert status == (200 if fits else 400) and fits != (b"deeper than 5" in text), (form, text)
