# SPDX-License-Identifier: Apache-2.0
"""The same session by every protocol: Connect, gRPC-Web and REST beside gRPC, on HTTP/1.1 and HTTP/2, in both codecs, compressed or not."""

import base64
import gzip
import json
import socket
import urllib.parse

import pytest
from conftest import builtin
from envgate.v1 import session_service_pb2
from google.protobuf import json_format
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from h2_client import CHECK, Client, message

SERVICE = "/envgate.v1.SessionService/"
CARRIERS = ["http1", "http2"]
CODECS = ["proto", "json"]


class Caller:
    """Requests on either carrier; a reply is (status, headers, body)."""

    def __init__(self, g, carrier):
        self.g, self.carrier = g, carrier
        self.h2 = Client(g.target) if carrier == "http2" else None
        if self.h2:  # it keeps to the window, which is small before the gateway's settings come
            self.h2.pump(lambda: self.h2.h2.remote_settings.initial_window_size > 65535)

    def __call__(self, method, path, headers=None, body=b""):
        if self.h2:
            stream = self.h2.start(path, headers=[(k, v) for k, v in (headers or {}).items()], method=method, end=not body)
            if body:
                self.h2.send(stream, body, end=True)
            reply = self.h2.finish(stream)
            assert reply.ended and not reply.trailers
            return int(reply.headers[":status"]), reply.headers, reply.data
        reply = self.g.http.request(method, self.g.url + path, headers=headers, data=body, timeout=30)
        return reply.status_code, {k.lower(): v for k, v in reply.headers.items()}, reply.content


@pytest.fixture(params=CARRIERS)
def call(shared_gateway, request):
    caller = Caller(shared_gateway, request.param)
    yield caller
    if caller.h2:
        caller.h2.socket.close()


def encode(codec, m):
    return m.SerializeToString() if codec == "proto" else json_format.MessageToJson(m).encode()


def decode(codec, kind, data):
    return kind.FromString(data) if codec == "proto" else json_format.Parse(data, kind())


def frames(data):
    out = []
    while data:
        n = int.from_bytes(data[1:5], "big")
        assert len(data) >= 5 + n
        out.append((data[0], data[5 : 5 + n]))
        data = data[5 + n :]
    return out


def connect(call, codec, name, request, reply, zipped=False, headers=None):
    """A unary call: the reply, or the error as a dict."""
    body = encode(codec, request)
    headers = {"content-type": f"application/{codec}", "connect-protocol-version": "1", "accept-encoding": "identity", **(headers or {})}
    if zipped:
        headers["content-encoding"] = "gzip"
        body = gzip.compress(body)
    status, fields, data = call("POST", SERVICE + name, headers, body)
    assert fields["x-request-id"]
    if status != 200:
        assert fields["content-type"] == "application/json"
        return json.loads(data)
    assert fields["content-type"] == f"application/{codec}"
    if fields.get("content-encoding") == "gzip" and call.h2:
        data = gzip.decompress(data)
    return decode(codec, reply, data)


def web(call, codec, name, request, reply, zipped=False, text=False, headers=None):
    """A unary call by gRPC-Web: the reply and the trailers."""
    body = encode(codec, request)
    kind = "application/grpc-web" + ("-text" if text else "") + "+" + codec
    headers = {"content-type": kind, "x-grpc-web": "1", **(headers or {})}
    if zipped:
        headers["grpc-encoding"] = "gzip"
        body = gzip.compress(body)
    data = message(body, flag=1 if zipped else 0)
    status, fields, data = call("POST", SERVICE + name, headers, base64.b64encode(data) if text else data)
    assert status == 200 and fields["content-type"] == kind
    if text:
        data = base64.b64decode(data)
    *messages, (flag, last) = frames(data)
    assert flag == 0x80
    trailers = dict(line.split(": ", 1) for line in last.decode().splitlines())
    if trailers["grpc-status"] != "0":
        assert not messages
        return None, trailers
    [(flag, m)] = messages
    return decode(codec, reply, gzip.decompress(m) if flag else m), trailers


def session_by(unary):
    """Creates, resets, steps, reads the state of and closes a session; `unary(name, request, reply)` calls."""
    s = unary("CreateSession", session_service_pb2.CreateSessionRequest(environment="cartpole"), session_service_pb2.Session)
    assert s.name.startswith("sessions/")
    first = unary("Reset", session_service_pb2.ResetRequest(session=s.name, seed=1), session_service_pb2.StepResult)
    assert not first.done
    for i in range(3):
        step = session_service_pb2.StepRequest(session=s.name)
        step.action.json = b'{"action":1}'
        result = unary("Step", step, session_service_pb2.StepResult)
        assert result.step_index == i + 1 and result.reward == 1
    state = unary("GetState", session_service_pb2.GetStateRequest(session=s.name), session_service_pb2.GetStateResponse)
    assert state.HasField("state")
    unary("CloseSession", session_service_pb2.CloseSessionRequest(name=s.name), session_service_pb2.CloseSessionResponse)


def health(codec, m=None):
    return encode(codec, m or health_pb2.HealthCheckRequest())


# --- whole sessions


@pytest.mark.parametrize("zipped", [False, True])
def test_connect_session(call, zipped):
    session_by(lambda name, request, reply: connect(call, "proto", name, request, reply, zipped))


@pytest.mark.parametrize("zipped,text", [(False, False), (True, False), (False, True)])
def test_grpc_web_session(call, zipped, text):
    session_by(lambda name, request, reply: web(call, "proto", name, request, reply, zipped, text)[0])


def test_rest_session(call):
    """REST is on HTTP/2, too: proxies that speak it to what is behind them expect that."""

    def rest(method, path, body=None):
        status, fields, data = call(method, path, {"content-type": "application/json"} if body is not None else {}, json.dumps(body).encode() if body is not None else b"")
        assert status == 200 and fields["content-type"] == "application/json", data
        return json.loads(data)

    path = "/v1/" + rest("POST", "/v1/sessions", {"environment": "cartpole"})["name"]
    rest("POST", path + "/reset", {})
    assert rest("POST", path + "/step", {"action": {"action": 0}})["reward"] == 1
    assert rest("GET", path + "/state")["step_count"] == 1
    assert rest("DELETE", path) == {}
    status, fields, data = call("GET", path)
    assert status == 404 and json.loads(data)["error"]["status"] == "NOT_FOUND"


def test_own_paths(call):
    for path in ("/", "/healthz", "/readyz", "/metrics", "/openapi.json"):
        status, fields, data = call("GET", path)
        assert status == 200 and data, path
        status, _, data = call("HEAD", path)
        assert status == 200 and not data, path
    status, fields, _ = call("POST", "/healthz")
    assert status == 405 and fields["allow"] == "GET, HEAD"


# --- codecs, GET


@pytest.mark.parametrize("codec", CODECS)
def test_codecs(call, codec):
    request = session_service_pb2.CreateSessionRequest(environment="echo")
    s = connect(call, codec, "CreateSession", request, session_service_pb2.Session)
    got, trailers = web(call, codec, "GetSession", session_service_pb2.GetSessionRequest(name=s.name), session_service_pb2.Session)
    assert got.name == s.name and trailers == {"grpc-status": "0"}
    connect(call, codec, "CloseSession", session_service_pb2.CloseSessionRequest(name=s.name), session_service_pb2.CloseSessionResponse)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("zipped", [False, True])
def test_get(call, codec, zipped):
    m = encode(codec, session_service_pb2.ListSessionsRequest(page_size=5))
    query = {"connect": "v1", "encoding": codec, "base64": "1"}
    if zipped:
        m, query["compression"] = gzip.compress(m), "gzip"
    query["message"] = base64.urlsafe_b64encode(m).decode().rstrip("=")
    status, fields, data = call("GET", SERVICE + "ListSessions?" + urllib.parse.urlencode(query))
    assert status == 200 and fields["content-type"] == f"application/{codec}"
    decode(codec, session_service_pb2.ListSessionsResponse, data)


def test_get_with_side_effects(call):
    status, fields, _ = call("GET", SERVICE + "CreateSession?encoding=json&message=%7B%7D")
    assert status == 405 and fields["allow"] == "POST"


@pytest.mark.parametrize("query", ["", "?encoding=json", "?encoding=json&message={", "?encoding=json&message=%7B%7D&base64=7", "?encoding=proto&message=%ff"])
def test_get_bad(call, query):
    status, _, data = call("GET", SERVICE + "ListSessions" + query)
    assert status == 400 and json.loads(data)["code"] == "invalid_argument"


# --- errors


def test_connect_error(call):
    error = connect(call, "proto", "GetSession", session_service_pb2.GetSessionRequest(name="sessions/nope"), session_service_pb2.Session)
    assert error["code"] == "not_found" and "nope" in error["message"]
    info = error_details_pb2.ErrorInfo()
    [detail] = [d for d in error["details"] if d["type"] == "google.rpc.ErrorInfo"]
    info.ParseFromString(base64.b64decode(detail["value"] + "=="))
    assert (info.reason, info.domain) == ("SESSION_NOT_FOUND", "envgate")


def test_grpc_web_error(call):
    _, trailers = web(call, "proto", "GetSession", session_service_pb2.GetSessionRequest(name="sessions/nope"), session_service_pb2.Session)
    assert trailers["grpc-status"] == "5" and "nope" in trailers["grpc-message"] and trailers["grpc-status-details-bin"]


def test_deadlines(gateway):
    g = gateway({"environments": {"echo": builtin("echo", "--delay-ms", "3000")}})
    for carrier in CARRIERS:
        call = Caller(g, carrier)
        s = connect(call, "proto", "CreateSession", session_service_pb2.CreateSessionRequest(environment="echo"), session_service_pb2.Session)
        connect(call, "proto", "Reset", session_service_pb2.ResetRequest(session=s.name), session_service_pb2.StepResult)
        step = session_service_pb2.StepRequest(session=s.name, request_id="one")
        step.action.json = b'{"message":"x"}'
        error = connect(call, "proto", "Step", step, session_service_pb2.StepResult, headers={"connect-timeout-ms": "100"})
        assert error["code"] == "deadline_exceeded"
        _, trailers = web(call, "proto", "Step", step, session_service_pb2.StepResult, headers={"grpc-timeout": "100m"})
        assert trailers["grpc-status"] == "4"
        result = connect(call, "proto", "Step", step, session_service_pb2.StepResult)  # it was done once
        assert result.step_index == 1


@pytest.mark.parametrize("kind", ["image/jpeg", "application/grpc", "application/connect+proto", "application/foo", None])
def test_media_types(call, kind):
    if call.h2 and kind == "application/grpc":
        return  # that is gRPC
    status, _, data = call("POST", CHECK, {"content-type": kind} if kind else {}, b"x")
    assert status == 415 and b"application/" in data


def test_paths(call):
    status, _, _ = call("POST", "/no.such.Service/Method", {"content-type": "application/proto"}, b"")
    assert status == 404
    status, _, data = call("POST", "/no.such.Service/Method", {"content-type": "application/grpc-web"}, message())
    assert status == 200 and b"grpc-status: 12\r\n" in data


# --- limits


def test_message_sizes(gateway):
    g = gateway(None, "--max-message-bytes", "65536")
    big = session_service_pb2.CreateSessionRequest(environment="e" * 70000)
    for carrier in CARRIERS:
        call = Caller(g, carrier)
        for zipped in (False, True):  # compressed it is small
            error = connect(call, "proto", "CreateSession", big, session_service_pb2.Session, zipped)
            assert error["code"] == "resource_exhausted" and "max_message_bytes" in error["message"]
            _, trailers = web(call, "proto", "CreateSession", big, session_service_pb2.Session, zipped)
            assert trailers["grpc-status"] == "8"
        error = connect(call, "proto", "GetSession", session_service_pb2.GetSessionRequest(name="sessions/x"), session_service_pb2.Session)
        assert error["code"] == "not_found"


def test_bomb(shared_gateway, call):
    bomb = gzip.compress(bytes(64 << 20))
    assert len(bomb) < 70000
    status, _, data = call("POST", SERVICE + "Step", {"content-type": "application/proto", "content-encoding": "gzip"}, bomb)
    assert status == 429 and json.loads(data)["code"] == "resource_exhausted"
    status, _, data = call("POST", SERVICE + "Step", {"content-type": "application/grpc-web", "grpc-encoding": "gzip"}, message(bomb, flag=1))
    assert status == 200 and b"grpc-status: 8\r\n" in data


@pytest.mark.parametrize("body", [b"", b"not gzip", gzip.compress(b"x", mtime=0)[:-3], gzip.compress(b"x", mtime=0) + b"y"], ids=["empty", "other", "cut", "more"])
def test_bad_gzip(call, body):
    status, _, data = call("POST", SERVICE + "ListSessions", {"content-type": "application/grpc-web", "grpc-encoding": "gzip"}, message(body, flag=1))
    assert status == 200 and (b"grpc-status: 0\r\n" if not body else b"grpc-status: 13\r\n") in data
    status, _, data = call("POST", SERVICE + "ListSessions", {"content-type": "application/grpc-web"}, message(gzip.compress(b""), flag=1))
    assert status == 200 and b"grpc-status: 13\r\n" in data


# --- streams


def watch(g, headers, body):
    """grpc.health.v1.Health/Watch on a plain HTTP/1.1 connection."""
    host, port = g.target.rsplit(":", 1)
    s = socket.create_connection((host, int(port)), timeout=20)
    head = "".join(f"{k}: {v}\r\n" for k, v in {"host": "x", "content-length": len(body), **headers}.items())
    s.sendall(f"POST /grpc.health.v1.Health/Watch HTTP/1.1\r\n{head}\r\n".encode() + body)
    return s


def read_until(s, what):
    data = b""
    while what not in data:
        more = s.recv(65536)
        assert more, data
        data += more
    return data


@pytest.mark.parametrize("kind", ["application/connect+proto", "application/grpc-web"])
def test_stream_on_http1(gateway, kind):
    """A message comes when it is sent, not when the stream ends; the end comes with a shutdown."""
    g = gateway()
    s = watch(g, {"content-type": kind}, message())
    data = read_until(s, message(b"\x08\x01"))
    assert b"HTTP/1.1 200" in data and b"chunked" in data.lower() and kind.encode() in data
    assert g.metric("envgate_calls_in_flight") == 1
    g.process.terminate()
    end = read_until(s, b"\r\n0\r\n\r\n")
    assert (b'"code":"unavailable"' if "connect" in kind else b"grpc-status: 14\r\n") in end
    s.close()


def test_stream_caller_leaves(gateway):
    g = gateway()
    for _ in range(3):
        s = watch(g, {"content-type": "application/connect+json"}, message(b"{}"))
        read_until(s, b"SERVING")
        s.close()
    g.wait_for(lambda: g.metric("envgate_calls_in_flight") == 0, what="the end of the calls")
    assert [line["protocol"] for line in g.log("call") if line["code"] == "CANCELLED"] == ["connect"] * 3


@pytest.mark.parametrize("kind", ["connect", "grpc-web"])
def test_stream_on_http2(shared_gateway, kind):
    with Client(shared_gateway.target) as c:
        content = "application/connect+proto" if kind == "connect" else "application/grpc-web+proto"
        stream = c.start("/grpc.health.v1.Health/Watch", headers=[("content-type", content)])
        c.send(stream, message(), end=True)
        c.pump(lambda: message(b"\x08\x01") in c.replies[stream].data)
        other = c.call()  # gRPC beside it
        assert other.status == 0 and not c.replies[stream].ended


def test_bidi_on_http2(shared_gateway):
    """Reflection by Connect, both ways at a time."""
    from grpc_reflection.v1alpha import reflection_pb2

    with Client(shared_gateway.target) as c:
        path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        stream = c.start(path, headers=[("content-type", "application/connect+proto")])
        ask = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
        for n in (1, 2, 3):
            c.send(stream, message(ask))
            c.pump(lambda n=n: len(c.replies[stream].data) and len(frames(c.replies[stream].data)) == n)
        c.send(stream, b"", end=True)
        reply = c.finish(stream)
        *messages, (flag, last) = frames(reply.data)
        assert flag == 2 and json.loads(last) == {} and len(messages) == 3
        assert b"envgate.v1.SessionService" in messages[0][1]


def test_grpc_compressed(shared_gateway):
    """grpcio's own compression, both ways."""
    import grpc
    from envgate.v1 import session_service_pb2_grpc

    with grpc.insecure_channel(shared_gateway.target, compression=grpc.Compression.Gzip) as channel:
        stub = session_service_pb2_grpc.SessionServiceStub(channel)
        s = stub.CreateSession(session_service_pb2.CreateSessionRequest(environment="echo"), timeout=20)
        stub.Reset(session_service_pb2.ResetRequest(session=s.name), timeout=20)
        step = session_service_pb2.StepRequest(session=s.name)
        step.action.json = json.dumps({"message": "m", "data": "x" * 100000}).encode()
        reply, rpc = stub.Step.with_call(step, timeout=20)
        assert b"x" * 100000 in reply.observation.json
        assert dict(rpc.initial_metadata()).get("grpc-encoding", "gzip") == "gzip"
        stub.CloseSession(session_service_pb2.CloseSessionRequest(name=s.name), timeout=20)
