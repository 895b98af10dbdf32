# SPDX-License-Identifier: Apache-2.0
"""Callers that break the rules of HTTP/2 or gRPC. Each gets its documented answer, and a well-behaved connection beside it never notices."""

import socket
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from h2_client import CHECK, GRPC, PREFACE, WATCH, Client, dial, frame, message

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
NO_ERROR, PROTOCOL_ERROR, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 0, 1, 7, 8, 11
INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 3, 8, 12, 13
SESSIONS = "/envgate.v1.SessionService/"


@pytest.fixture(autouse=True)
def bystander(shared_gateway):
    """A connection with a stream open over the whole test; both work afterwards."""
    channel = grpc.insecure_channel(shared_gateway.target, options=[("grpc.use_local_subchannel_pool", 1)])
    stub = health_pb2_grpc.HealthStub(channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    states = []
    channel.subscribe(states.append)
    yield
    assert watch.is_active()
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=10).status == health_pb2.HealthCheckResponse.SERVING
    assert grpc.ChannelConnectivity.TRANSIENT_FAILURE not in states
    watch.cancel()
    channel.close()


@pytest.fixture
def client(shared_gateway):
    with Client(shared_gateway.target) as c:
        yield c


def still_good(client):
    """The same connection serves on."""
    reply = client.call()
    assert reply.status == 0 and reply.messages() == [b"\x08\x01"]


# --- headers


@pytest.mark.parametrize("value", ["application/grpc+thrift", "application/grpcx", "application/connect+proto", "text/plain", None])
def test_content_type(client, value):
    headers = [("te", "trailers")] + ([("content-type", value)] if value else [])
    reply = client.call(headers=headers)
    assert reply.headers[":status"] == "415" and reply.headers["content-type"].startswith("text/plain")
    assert b"application/" in reply.data and "grpc-status" not in reply.fields()
    still_good(client)


def test_not_post(client):
    stream = client.start(method="GET", end=True)
    reply = client.finish(stream)
    assert reply.headers[":status"] == "405" and reply.headers["allow"] == "POST"
    still_good(client)


@pytest.mark.parametrize("te", [None, "gzip", ""])
def test_te(client, te):
    reply = client.call(headers=[("content-type", "application/grpc")] + ([] if te is None else [("te", te)]))
    if reply.reset is None:  # a TE that HTTP/2 forbids is a malformed request, which is reset
        assert (reply.status, reply.reason) == (INVALID_ARGUMENT, "INVALID_REQUEST")
    else:
        assert te is not None and reply.reset == PROTOCOL_ERROR
    still_good(client)


@pytest.mark.parametrize("value", ["1", "S", "1s", "-1S", "1.5S", "123456789S", "1 S", "soon"])
def test_timeout(client, value):
    reply = client.call(headers=GRPC + (("grpc-timeout", value),))
    assert (reply.status, reply.reason) == (INVALID_ARGUMENT, "INVALID_REQUEST") and "grpc-timeout" in reply.text
    assert not reply.trailers and not reply.data, "an error before any message is one HEADERS frame"
    still_good(client)


@pytest.mark.parametrize("value", ["br", "deflate", "nonsense"])
def test_encoding(client, value):
    reply = client.call(headers=GRPC + (("grpc-encoding", value),))
    assert (reply.status, reply.reason) == (UNIMPLEMENTED, "INVALID_REQUEST")
    assert reply.headers["grpc-accept-encoding"] == "gzip,identity"
    still_good(client)


@pytest.mark.parametrize("path", ["/no.such.Service/Method", "/grpc.health.v1.Health/Nope", "/", "*", "/" + "x" * 4000])
def test_no_such_method(client, path):
    reply = client.call(path)
    if reply.reset is None:
        assert (reply.status, reply.reason) == (UNIMPLEMENTED, "METHOD_NOT_FOUND")
    else:
        assert path == "*" and reply.reset == PROTOCOL_ERROR
    still_good(client)


@pytest.mark.parametrize("extra", [[("x-big", "v" * 17000)], [(f"x-{i}", "v") for i in range(600)], [("n" * 9000, "v" * 9000)]])
def test_headers_too_large(client, extra):
    reply = client.call(headers=list(GRPC) + extra)
    assert (reply.status, reply.reason) == (RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE") and "max_header_bytes" in reply.text
    still_good(client)


def test_malformed_headers(client):
    """What HTTP/2 itself forbids resets the stream, or is cut out; never more."""
    for extra in [[("Upper", "case")], [("connection", "close")], [(":path", "/again")], [("a", "b\nc")]]:
        reply = client.call(headers=list(GRPC) + extra)
        assert reply.reset == PROTOCOL_ERROR or reply.status == 0, extra
    still_good(client)


# --- messages


@pytest.mark.parametrize("flag", [1, 2, 255])
def test_compressed_flag(client, flag):
    reply = client.call(body=message(b"", flag))
    assert (reply.status, reply.reason) == (INTERNAL, "INVALID_REQUEST")
    still_good(client)


def test_message_too_large(client):
    """Refused by its prefix, before its bytes come; the rest is not wanted."""
    stream = client.start()
    client.send(stream, b"\0\x00\x40\x00\x01" + b"x" * 100)
    reply = client.replies[stream]
    client.pump(lambda: reply.reset is not None)
    assert reply.ended and reply.reset == NO_ERROR
    assert (reply.status, reply.reason) == (RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE") and "4194304" in reply.text
    still_good(client)


def test_largest_message_passes(client):
    """One of exactly max_message_bytes: the window is refilled on the way."""
    field = 4194304 - 5  # a tag and four bytes of length
    body = message(b"\x0a" + bytes([field & 127 | 128, field >> 7 & 127 | 128, field >> 14 & 127 | 128, field >> 21]) + b"x" * field)
    assert len(body) == 4194304 + 5
    stream = client.start()
    while body:
        client.pump(lambda: client.h2.local_flow_control_window(stream) > 0)
        n = min(len(body), 16384, client.h2.local_flow_control_window(stream))
        client.send(stream, body[:n], end=n == len(body))
        body = body[n:]
    assert client.finish(stream).status == 5  # NOT_FOUND: no service of that name
    still_good(client)


@pytest.mark.parametrize("count", [0, 2, 3])
def test_wrong_number_of_messages(client, count):
    reply = client.call(body=message() * count)
    assert (reply.status, reply.reason) == (UNIMPLEMENTED, "INVALID_REQUEST")
    still_good(client)


@pytest.mark.parametrize("body", [b"\0", b"\0\0\0\0", b"\0\0\0\0\5abc", message() + b"\0\0"])
def test_message_cut_off(client, body):
    reply = client.call(body=body)
    assert (reply.status, reply.reason) == (INVALID_ARGUMENT, "INVALID_REQUEST")
    still_good(client)


@pytest.mark.parametrize("body", [b"\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe", b"\x0b" * 1000, b"\x08" + b"\xff" * 20])
def test_not_protobuf(client, body):
    reply = client.call(body=message(body))
    assert (reply.status, reply.reason)[0] == INVALID_ARGUMENT
    still_good(client)


def test_cut_anywhere(client):
    """A call in single bytes, each a DATA frame of its own."""
    stream = client.start(headers=GRPC + (("grpc-timeout", "30S"),))
    for i, byte in enumerate(body := message(b"\x0a\x15grpc.health.v1.Health"[:2] + b"grpc.health.v1.Health")):
        client.send(stream, bytes([byte]), end=i == len(body) - 1)
    assert client.finish(stream).status == 0


# --- streams


def test_reset_mid_call(client):
    streams = [client.start(WATCH) for _ in range(20)]
    for s in streams:
        client.send(s, message(), end=True)
        client.pump(lambda: client.replies[s].data)
    for s in streams:
        client.h2.reset_stream(s, CANCEL)
    client.flush()
    still_good(client)


def test_reset_before_the_message_is_whole(client):
    for _ in range(20):
        s = client.start()
        client.send(s, b"\0\0\0\1\0abc")
        client.h2.reset_stream(s, CANCEL)
        client.flush()
    still_good(client)


def test_gone_mid_call(shared_gateway):
    for _ in range(20):
        with Client(shared_gateway.target) as c:
            c.send(c.start(WATCH), message(), end=True)
            c.start(CHECK)
    with Client(shared_gateway.target) as c:
        still_good(c)


def test_half_open_requests(shared_gateway, client):
    """As many calls as are allowed, none of them complete, on one connection; another is served."""
    for _ in range(128):
        client.send(client.start(), b"\0\0")
    with Client(shared_gateway.target) as other:
        still_good(other)


def test_too_many_streams(client):
    client.pump(lambda: client.h2.remote_settings.max_concurrent_streams == 128)
    client.h2.remote_settings.update({3: 1000})
    client.h2.remote_settings.acknowledge()
    streams = [client.start(WATCH) for _ in range(129)]
    client.pump(lambda: client.goaway is not None or client.replies[streams[-1]].reset is not None)
    assert client.goaway == PROTOCOL_ERROR or client.replies[streams[-1]].reset == REFUSED_STREAM


def test_closed_window(shared_gateway):
    """The reply waits for the peer's window, and goes when it opens."""
    with Client(shared_gateway.target, settings={4: 0}) as c:
        stream = c.start()
        c.send(stream, message(), end=True)
        c.pump(lambda: c.replies[stream].headers)
        assert not c.replies[stream].data
        c.raw(frame(WINDOW_UPDATE, 0, stream, (3).to_bytes(4, "big")))
        time.sleep(0.05)
        c.raw(frame(WINDOW_UPDATE, 0, stream, (1000).to_bytes(4, "big")))
        got = b""
        while b"grpc-status" not in got and len(got) < 7:  # h2 does not know of these updates and would object
            got = c.socket.recv(65536)
            assert got


# --- connections


def closed(s, seconds=20):
    s.settimeout(seconds)
    try:
        while s.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize("first", [b"PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n", b"PRIx" * 10, PREFACE[:-1] + b"x" * 20, PREFACE + b"GET / HTTP/1.1\r\n\r\n" * 10])
def test_wrong_preface(shared_gateway, first):
    with dial(shared_gateway.target) as s:
        s.sendall(first)
        assert closed(s)


@pytest.mark.parametrize("end", [1, 2, 3, 10, 23, 24, 30, 40, 60])
def test_cut_off_connection(shared_gateway, end):
    """The peer stops anywhere and goes."""
    whole = PREFACE + frame(SETTINGS) + frame(HEADERS, 4, 1, b"\x83\x86\x84\x0f\x10\x10application/grpc") + frame(DATA, 1, 1, message())
    with dial(shared_gateway.target) as s:
        s.sendall(whole[:end])
        time.sleep(0.03)


def test_preface_in_single_bytes(shared_gateway):
    with dial(shared_gateway.target) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in PREFACE + frame(SETTINGS):
            s.sendall(bytes([byte]))
            time.sleep(0.002)
        assert s.recv(9)[3] == SETTINGS


def test_silent_connection_is_closed(shared_gateway):
    with dial(shared_gateway.target) as silent, dial(shared_gateway.target) as slow:
        begun = time.monotonic()
        slow.sendall(b"PR")
        assert closed(silent) and closed(slow)
        assert 8 < time.monotonic() - begun < 15


@pytest.mark.parametrize(
    "bad",
    [
        frame(DATA, 0, 0, b"x"),
        frame(DATA, 0, 1, b"x"),
        frame(HEADERS, 4, 0, b"\x82"),
        frame(HEADERS, 4, 2, b"\x83\x86\x84"),
        frame(HEADERS, 4, 1, b"\xff\xff\xff\xff\xff"),
        frame(CONTINUATION, 4, 1, b""),
        frame(SETTINGS, 0, 0, b"x"),
        frame(SETTINGS, 0, 0, b"\0\4\xff\xff\xff\xff"),
        frame(PING, 0, 0, b"short"),
        frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\0"),
        frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"),
        frame(RST_STREAM, 0, 1, b"\0\0\0\0"),
        b"\xff\xff\xff" + bytes(6),
    ],
)
def test_broken_frames(client, bad):
    """A broken connection is told so by GOAWAY and closed."""
    client.raw(bad)
    client.pump(lambda: False)
    assert client.closed and client.goaway not in (None, NO_ERROR)


FLOODS = {
    "ping": lambda i: frame(PING, 0, 0, b"12345678"),
    "settings": lambda i: frame(SETTINGS),
    "priority": lambda i: frame(PRIORITY, 0, 1, b"\0\0\0\0\x10"),
    "rapid reset": lambda i: frame(HEADERS, 4, 1 + 2 * i, b"\x83\x86\x84\x01\x01x\x0f\x10\x10application/grpc") + frame(RST_STREAM, 0, 1 + 2 * i, b"\0\0\0\x08"),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_flood(client, kind):
    client.pump(lambda: client.h2.remote_settings.max_concurrent_streams == 128)
    try:
        for start in range(0, 20000, 100):
            client.raw(b"".join(FLOODS[kind](i) for i in range(start, start + 100)))
    except ConnectionError:
        pass
    client.pump(lambda: False)
    assert client.closed
    if client.goaway is not None:  # a reset of the connection may overtake it
        assert client.goaway == ENHANCE_YOUR_CALM


def test_empty_data_flood(client):
    stream = client.start()
    try:
        for _ in range(200):
            client.raw(frame(DATA, 0, stream) * 100)
    except ConnectionError:
        pass
    client.pump(lambda: False)
    assert client.closed and client.goaway in (None, ENHANCE_YOUR_CALM)


def test_continuation_flood(client):
    client.raw(frame(HEADERS, 0, 1, b"\x83\x86\x84"))
    try:
        for _ in range(1000):
            client.raw(frame(CONTINUATION, 0, 1, b"\x0f\x10\x10application/grpc"))
    except ConnectionError:
        pass
    client.pump(lambda: False)
    assert client.closed


def test_pings_are_answered(client):
    for _ in range(100):
        client.h2.ping(b"12345678")
    client.flush()
    client.pump(lambda: client.pings == 100)
    assert client.pings == 100 and client.goaway is None
    still_good(client)
