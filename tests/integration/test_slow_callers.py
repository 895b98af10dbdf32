# SPDX-License-Identifier: Apache-2.0
"""Callers that send slowly: each limit of time is met, and nobody else notices."""

import json
import time

import pytest
from conftest import SLOW
from h2_client import GRPC, PREFACE, Client, dial, frame, message

LIMITS = ("--header-timeout-s", "0.5", "--body-timeout-s", "0.5")


def ends(s, seconds):
    """Whether the gateway closes the connection in that time, and what it said."""
    s.settimeout(seconds * SLOW)
    data = b""
    try:
        while more := s.recv(65536):
            data += more
    except TimeoutError:
        return False, data
    except ConnectionError:
        pass
    return True, data


@pytest.mark.parametrize("first", [b"", b"G", b"PR", b"GET / HT", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-", PREFACE[:10], PREFACE])
def test_header_does_not_come(gateway, first):
    g = gateway(None, *LIMITS)
    with dial(g.target) as s:
        s.sendall(first)
        assert ends(s, 5)[0]
    assert g.get("/healthz").status_code == 200


def test_header_comes_byte_by_byte(gateway):
    g = gateway(None, *LIMITS)
    with dial(g.target) as s:
        begin = time.monotonic()
        try:
            for byte in b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 200:
                s.sendall(bytes([byte]))
                time.sleep(0.05)
        except ConnectionError:
            pass
        assert time.monotonic() - begin < 5 * SLOW
        assert ends(s, 5)[0]


def test_http2_header_without_its_end(gateway):
    g = gateway(None, *LIMITS)
    with Client(g.target) as c:
        c.pump(lambda: c.h2.remote_settings.initial_window_size > 65535)
        c.raw(frame(1, 0, 1, b"\x82"))  # HEADERS without END_HEADERS
        assert ends(c.socket, 5)[0]


def test_http1_body_does_not_come(gateway):
    g = gateway(None, *LIMITS)
    with dial(g.target) as s:
        s.sendall(b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        assert ends(s, 10)[0]


@pytest.mark.parametrize(
    "path,headers,body,answer",
    [
        ("/grpc.health.v1.Health/Check", GRPC, b"\0\0", lambda r: r.status == 4 and "body_timeout_s" in r.text),
        ("/grpc.health.v1.Health/Check", [("content-type", "application/grpc-web")], b"\0\0", lambda r: b"grpc-status: 4\r\n" in r.data),
        ("/grpc.health.v1.Health/Check", [("content-type", "application/proto")], b"\0", lambda r: json.loads(r.data)["code"] == "deadline_exceeded"),
        ("/v1/sessions", [("content-type", "application/json")], b"{", lambda r: r.headers[":status"] == "408"),
    ],
)
def test_http2_body_does_not_come(gateway, path, headers, body, answer):
    g = gateway(None, *LIMITS)
    with Client(g.target) as c:
        stream = c.start(path, headers=headers)
        c.send(stream, body)
        assert answer(c.finish(stream))
        assert c.call().status == 0  # the connection serves on


def test_client_streams_last(gateway):
    """Silence is no fault of a stream's."""
    from grpc_reflection.v1alpha import reflection_pb2

    g = gateway(None, *LIMITS)
    ask = message(reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString())
    for kind in ("application/grpc", "application/connect+proto"):
        with Client(g.target) as c:
            stream = c.start("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", headers=[("content-type", kind), ("te", "trailers")])
            time.sleep(1.5)
            c.send(stream, ask, end=True)
            reply = c.finish(stream)
            assert reply.ended and b"grpc.health.v1.Health" in reply.data


def test_kept_connections_last(gateway):
    """A connection without a request is not late: it is kept for idle_connection_s."""
    g = gateway(None, *LIMITS)
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with dial(g.target) as s, Client(g.target) as c:
        for _ in range(2):
            s.sendall(request)
            assert b"ok\n" in s.recv(65536)
            assert c.call().status == 0
            time.sleep(1.5)
