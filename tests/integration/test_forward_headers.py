# SPDX-License-Identifier: Apache-2.0
"""What of a caller's headers reaches a worker, seen on the wire between the gateway and real workers."""

import contextlib
import re
import socket
import subprocess
import threading

import pytest
from conftest import BIN

from envgate.v1 import payload_pb2, session_service_pb2 as pb

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SENT = (
    ("authorization", "Bearer of-the-caller"),
    ("cookie", "a=b"),
    ("traceparent", TRACE),
    ("tracestate", "vendor=1"),
    ("x-user", "ann"),
    ("x-team", "red"),
    ("x-api-key", "callers-own"),
    ("x-other", "no"),
)


@contextlib.contextmanager
def worker(dialect):
    """A real worker behind a wire that keeps what the gateway sends: (its port, what was sent)."""
    command = [BIN, "worker", "echo", "--listen", "127.0.0.1:0", "--dialect", dialect, "--capacity", "10"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    target = int(re.search(rb":(\d+)", process.stdout.readline()).group(1))
    listener = socket.create_server(("127.0.0.1", 0))
    sent, ends = [], [listener]

    def pump(a, b, keep):
        with contextlib.suppress(OSError):
            while data := a.recv(65536):
                if keep:
                    sent.append(data)
                b.sendall(data)
        with contextlib.suppress(OSError):
            b.shutdown(socket.SHUT_WR)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                a, _ = listener.accept()
                b = socket.create_connection(("127.0.0.1", target))
                ends.extend((a, b))
                for pair in ((a, b, True), (b, a, False)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], sent
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        for s in ends:
            s.close()
        process.terminate()
        process.wait(20)
        process.stdout.close()


def static(port, **keys):
    env = {"static": {"urls": [f"http://127.0.0.1:{port}"]}, "sessions_per_worker": 10, "forward_headers": ["X-User", "x-team", "x-api-key"], **keys}
    return {"environments": {"e": {"headers": {"X-API-Key": "gateways-own", "Authorization": "Bearer of-the-worker"}, **env}}}


def heads(sent):
    """The requests' heads, by path, as lower-case names and values."""
    found = []
    for head in re.findall(rb"(?:GET|POST) (/\S*) HTTP/1.1\r\n(.*?)\r\n\r\n", b"".join(sent), re.S):
        lines = [line.split(": ", 1) for line in head[1].decode().split("\r\n")]
        found.append((head[0].decode(), [(name.lower(), value) for name, value in lines]))
    return found


def check(head, user="ann"):
    values = dict(head)
    assert len(values) == len(head), head  # nothing comes twice
    assert values.get("x-user") == user and values["x-api-key"] == "gateways-own" and values["authorization"] == "Bearer of-the-worker"
    assert not {"cookie", "x-other"} & set(values)
    return values


@pytest.mark.parametrize("threads", [1, 2])
def test_upgrade(gateway, threads):
    with worker("ws") as (port, sent):
        g = gateway(static(port), "--threads", str(threads))
        session = g.sessions.CreateSession(pb.CreateSessionRequest(environment="e", request_id="1"), metadata=SENT, timeout=30).name
        g.sessions.Reset(pb.ResetRequest(session=session), metadata=(("x-user", "bob"),), timeout=30)
        rest = g.post("/v1/sessions", {"environment": "e"}, headers=dict(SENT, **{"X-User": "ben"}))
        assert rest.status_code == 200, rest.text
        plain = g.sessions.CreateSession(pb.CreateSessionRequest(environment="e"), timeout=30)
        probe, *upgrades = [head for path, head in heads(sent) if path == "/ws"]  # the first asks whether the worker is one of WebSockets
        assert len(upgrades) == 3 and "traceparent" not in check(probe, None)
        first = check(upgrades[0])
        assert first["traceparent"] == TRACE and first["tracestate"] == "vendor=1" and first["x-team"] == "red"
        check(upgrades[1], "ben")
        assert "traceparent" not in check(upgrades[2], None) and plain
        assert b"of-the-caller" not in b"".join(sent) and b"callers-own" not in b"".join(sent)


@pytest.mark.parametrize("threads", [1, 2])
def test_each_request(gateway, threads):
    with worker("http") as (port, sent):
        g = gateway(static(port, sessions_per_worker=1), "--threads", str(threads))
        session = g.sessions.CreateSession(pb.CreateSessionRequest(environment="e", request_id="2"), metadata=SENT, timeout=30).name
        action = payload_pb2.Payload(json=b'{"message": "m"}')
        step = pb.StepRequest(session=session, action=action)
        g.sessions.Reset(pb.ResetRequest(session=session), metadata=SENT, timeout=30)
        g.sessions.Step(step, metadata=(("x-user", "bob"),), timeout=30)
        g.sessions.Step(step, timeout=30)
        g.sessions.GetState(pb.GetStateRequest(session=session), metadata=SENT, timeout=30)
        batch = g.sessions.StepBatch(pb.StepBatchRequest(items=[step]), metadata=SENT, timeout=30)
        assert batch.items[0].result.step_index == 3
        g.post(f"/v1/{session}/step", {"action": {"message": "m"}}, headers=dict(SENT, **{"X-User": "ben"}))
        got = [(path, head) for path, head in heads(sent) if path in ("/reset", "/step", "/state")]
        assert [path for path, _ in got] == ["/reset", "/step", "/step", "/state", "/step", "/step"]
        for (_, head), user in zip(got, ("ann", "bob", None, "ann", "ann", "ben")):
            values = check(head, user)
            assert ("traceparent" in values) == (user in ("ann", "ben"))
        assert b"of-the-caller" not in b"".join(sent) and b"callers-own" not in b"".join(sent)


@pytest.mark.parametrize("name", ["Authorization", "proxy-authorization", "Connection", "content-length", "Sec-WebSocket-Key", "host"])
def test_what_can_not_be_forwarded(tmp_path, name):
    path = tmp_path / "c.json"
    path.write_text('{"environments": {"e": {"builtin": {"environment": "echo"}, "forward_headers": ["%s"]}}}' % name)
    done = subprocess.run([BIN, "check", path], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and f"must not have {name}" in done.stderr + done.stdout
