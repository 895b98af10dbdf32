# SPDX-License-Identifier: Apache-2.0
"""30,000 malformed requests of every kind leave no memory, descriptor or connection behind, and a session beside them never notices."""

import json
import os
import pathlib
import random
import socket
import struct
import threading
import time

from conftest import SLOW, builtin
from h2_client import GRPC, PREFACE, dial, frame, message

from envgate.v1 import payload_pb2, session_service_pb2 as pb

REQUESTS = 30_000
BATCH = 50  # requests on a connection, where that survives them
GROWTH_KIB = 4096
STALL_S = 2.0 * SLOW  # the longest that a step of the other session may take

# --- HTTP/1.1


def post(body, path="/v1/sessions/{session}/step", media="application/json", length=None):
    length = len(body) if length is None else length
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {media}\r\nContent-Length: {length}\r\n\r\n".encode() + body


REFUSED = [  # with an error, after which the connection serves on
    post(b'{"action":'),
    post(b'{"action":{}} x'),
    post(b"[1,2]"),
    post(b'{"action":{"message":"\xff"}}'),
    post(b'{"action":{"message":' + b"[" * 200 + b"]" * 200 + b"}}"),
    post(b'{"a":' * 10_000),
    post(b'{"action":{"message":"' + b"\\ud800" * 2000 + b'"}}'),
    post(b'{"action":{"message":7}}'),
    post(b'{"acton":{}}'),
    post(b'{"action":{},"step_index":"99999999999999999999"}'),
    post(b'{"environment":"' + b"e" * 5000 + b'"}', "/v1/sessions"),
    post(b"{}", "/v1/sessions/nope/step"),
    post(b"{}", "/v1/nothing"),
    post(b"{}", media="text/plain"),
    post(b"{}", media="application/x-www-form-urlencoded"),
    b"PUT /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    b"GET /v1/sessions?page_size=x&nope=%zz HTTP/1.1\r\nHost: x\r\n\r\n",
]
CUT = [  # half of something, or nothing like HTTP; then the caller leaves
    b"",
    b"P",
    b"POST /v1/ses",
    b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Le",
    b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 3000,
    post(b'{"environment":', "/v1/sessions", length=100),
    post(b"x" * 100_000, "/v1/sessions", length=4_000_000),
    post(b"", length=4_194_305),
    post(b"", length=10**17),
    post(b"{}", length="nine"),
    b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n{",
    b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 40_000 + b"\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 4,
    bytes(1000),
]

# --- HTTP/2


def literal(name, value):
    """A header field in HPACK, of no table and without Huffman's code."""
    return b"\x00" + b"".join(bytes([len(s)]) + s.encode() for s in (name, value))


def grpc_headers(method="Step", fields=GRPC):
    path = f"/envgate.v1.SessionService/{method}".encode()
    return b"\x83\x86\x01\x01x\x04" + bytes([len(path)]) + path + b"".join(literal(*f) for f in fields)  # POST, http, authority "x"


def grpc_call(body, **keys):
    """A call's frames, as a function of its stream."""
    headers = grpc_headers(**keys)
    return lambda stream: frame(1, 4, stream, headers) + frame(0, 1, stream, body)


BAD_CALLS = [  # each refused on its stream
    grpc_call(message(b"\xff" * 20)),
    grpc_call(message(b"\x0a\x7fshort")),
    grpc_call(message(b"\x0a\x02\xff\xfe")),
    grpc_call(message(b"\x0b" * 2000)),
    grpc_call(message(b"\x12\x0d\x0a\x0b" + b'{"message":')),
    grpc_call(message(pb.StepRequest(session="sessions/x", action=payload_pb2.Payload(json=b"[" * 5000)).SerializeToString())),
    grpc_call(message(pb.StepRequest(session="nonsense").SerializeToString())),
    grpc_call(b"\0\0\0\0\x09abc"),
    grpc_call(b"\0\0"),
    grpc_call(b""),
    grpc_call(message() * 3),
    grpc_call(message(b"", 1)),
    grpc_call(b"\0\x7f\xff\xff\xff" + b"x" * 50),
    grpc_call(message(), method="Nope"),
    grpc_call(message(), fields=(("content-type", "text/plain"), ("te", "trailers"))),
    grpc_call(message(), fields=(*GRPC, ("grpc-timeout", "soon"))),
    grpc_call(message(), fields=(*GRPC, ("grpc-encoding", "gzip"))),
    grpc_call(message(b'{"session":'), fields=(("content-type", "application/grpc+json"), ("te", "trailers"))),
]
CUT_H2 = [  # ends the connection, or is left in the middle
    b"PRI * HT",
    PREFACE,
    PREFACE + frame(4) + b"garbage after the preface" * 40,
    PREFACE + b"\xff\xff\xff" + bytes(6),
    PREFACE + frame(4) + frame(1, 0, 1, grpc_headers()),
    PREFACE + frame(4) + frame(1, 4, 1, b"\xff" * 30),
    PREFACE + frame(4) + frame(1, 4, 1, grpc_headers())[:20],
    PREFACE + frame(4) + frame(1, 4, 1, grpc_headers()) + frame(0, 0, 1, b"\0\0\x30\0\0" + b"x" * 16_000),
    PREFACE + frame(4) + frame(1, 4, 1, grpc_headers()) + frame(3, 0, 1, b"\0\0\0\x08"),
    PREFACE + frame(4) + frame(0, 1, 7, b"x"),
    PREFACE + frame(4) + frame(8, 0, 0, b"\0\0\0\0"),
]


# --- sending them


def read_until(s, done):
    """Reads until done(all that came) or the peer closes."""
    got = bytearray()
    while not done(got):
        piece = s.recv(1 << 20)
        assert piece, f"closed early: {bytes(got[-200:])!r}"
        got += piece
    return got


def refused_by_http(g, rng):
    with dial(g.target) as s:
        s.sendall(b"".join(rng.choices(g.refused, k=BATCH)))
        got = read_until(s, lambda got: got.count(b"HTTP/1.1 ") >= BATCH)
        assert got.count(b"HTTP/1.1 2") == 0
    return BATCH


def ended_streams(got):
    """How many streams have ended in what has come, HTTP/2 frames."""
    at = ended = 0
    while at + 9 <= len(got):
        n, kind, flags = int.from_bytes(got[at : at + 3], "big"), got[at + 3], got[at + 4]
        at += 9 + n
        ended += at <= len(got) and kind in (0, 1) and flags & 1
        assert kind != 7, "GOAWAY"
    return ended


def refused_by_grpc(g, rng):
    with dial(g.target) as s:
        calls = rng.choices(BAD_CALLS, k=BATCH)
        s.sendall(PREFACE + frame(4) + b"".join(call(1 + 2 * i) for i, call in enumerate(calls)))
        read_until(s, lambda got: ended_streams(got) >= BATCH)
    return BATCH


def cut(g, rng):
    """Leaves at once or when the gateway has answered, with FIN or RST."""
    data, way = rng.choice(CUT + CUT_H2), rng.randrange(3)
    with dial(g.target) as s:
        try:
            s.sendall(data)
            if way == 1:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif way == 2:
                s.shutdown(socket.SHUT_WR)
                while s.recv(65536):
                    pass
        except TimeoutError:
            raise AssertionError(f"the gateway kept the connection of {data[:60]!r}") from None
        except OSError:
            pass  # the gateway was the first to leave
    return 1


def storm(g, requests, seed):
    """Of each eight requests, about four by HTTP/1.1, three by gRPC, and one that is cut off."""
    rng, sent, by = random.Random(seed), 0, []
    while sent < requests:
        for send, times in ((refused_by_http, 4), (refused_by_grpc, 3), (cut, BATCH)):
            by.append(sum(send(g, rng) for _ in range(times)))
            sent += by[-1]
    return sent


class Stepper(threading.Thread):
    """A session that steps all the time."""

    def __init__(self, g):
        super().__init__()
        self.stub, self.stop, self.steps, self.slowest, self.problem = g.sessions, threading.Event(), 0, 0.0, None
        self.session = self.stub.CreateSession(pb.CreateSessionRequest(environment="e"), timeout=60).name
        self.stub.Reset(pb.ResetRequest(session=self.session), timeout=60)

    def run(self):
        try:
            while not self.stop.wait(0.002):
                began, text = time.monotonic(), f"step {self.steps}"
                action = payload_pb2.Payload(json=json.dumps({"message": text}).encode())
                step = self.stub.Step(pb.StepRequest(session=self.session, action=action), timeout=60)
                self.slowest = max(self.slowest, time.monotonic() - began)
                self.steps += 1
                assert json.loads(step.observation.json)["echoed_message"] == text and step.step_index == self.steps
        except Exception as problem:
            self.problem = problem


def rss_kib(pid):
    (line,) = [x for x in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmRSS:")]
    return int(line.split()[1])


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_bad_input_leaves_nothing(gateway):
    g = gateway({"environments": {"e": builtin("echo", sessions_per_worker=2)}}, "--log-level", "error")
    stepper = Stepper(g)
    target = g.create("e").removeprefix("/v1/sessions/").encode()
    g.refused = [r.replace(b"{session}", target) for r in REFUSED]
    stepper.start()
    try:
        storm(g, REQUESTS // 5, 1)
        g.wait_for(lambda: g.metric("envgate_connections") <= 2, what="the connections' end")
        before, open_before, steps_before = rss_kib(g.pid), descriptors(g.pid), stepper.steps
        began = time.monotonic()
        sent = storm(g, REQUESTS, 2)
        took = time.monotonic() - began
        g.wait_for(lambda: g.metric("envgate_connections") <= 2, what="the connections' end")  # the stepper's and this one
        g.wait_for(lambda: descriptors(g.pid) <= open_before, what="the descriptors' end")
        after = rss_kib(g.pid)
    finally:
        stepper.stop.set()
        stepper.join()
    print(f"{sent} bad requests in {took:.1f} s; {before} KiB before, {after} KiB after; {stepper.steps} steps, the slowest {stepper.slowest * 1e3:.0f} ms")
    assert stepper.problem is None
    assert stepper.steps - steps_before > 100 and stepper.slowest < STALL_S
    if SLOW == 1:  # a sanitizer keeps freed memory for a while, and looks for leaks itself
        assert after - before < GROWTH_KIB
    assert g.metric("envgate_calls_in_flight") == 0 and g.metric("envgate_sessions") == 2
