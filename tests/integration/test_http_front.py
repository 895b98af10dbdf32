# SPDX-License-Identifier: Apache-2.0
"""The HTTP/1 front with real clients: REST, the gateway's own paths, connections."""

import json
import os
import signal
import socket
import subprocess
import threading
import time

import conftest
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

SLOW_STEP = {"fault": "slow", "ms": 600 * conftest.SLOW, "message": "slow"}


def connect(g):
    host, port = g.listen.rsplit(":", 1)
    s = socket.create_connection((host, int(port)), timeout=20 * conftest.SLOW)
    return s


def request(method, path, body=None, headers=()):
    """One request's bytes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: gateway", *headers]
    data = b"" if body is None else json.dumps(body).encode()
    if data:
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def read_replies(s, n):
    """The next n replies as (status, headers, body)."""
    f = s.makefile("rb")
    replies = []
    for _ in range(n):
        status = int(f.readline().split()[1])
        headers = {}
        while (line := f.readline().strip()) != b"":
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        replies.append((status, headers, f.read(int(headers["content-length"]))))
    return replies


def test_episode(shared_gateway):
    g = shared_gateway
    created = g.post("/v1/sessions", {"environment": "echo", "lease_s": 60})
    assert created.status_code == 200 and created.headers["content-type"] == "application/json"
    session = created.json()
    assert session["environment"] == "environments/echo" and session["state"] == "STATE_READY" and session["lease_s"] == 60
    path = "/v1/" + session["name"]

    first = g.post(path + "/reset", {"seed": 7, "episode_id": "e-1"}).json()
    assert first["episode_id"] == "e-1" and first["step_index"] == "0" and first["done"] is False
    step = g.post(path + "/step", {"action": {"message": "hello"}}).json()
    assert step["observation"]["echoed_message"] == "hello" and step["step_index"] == "1" and step["done"] is False
    assert isinstance(step["reward"], float)

    state = g.get(path + "/state").json()
    assert state["episode_id"] == "e-1" and state["step_count"] == 1
    assert g.get(path).json()["step_index"] == "1"
    assert session["name"] in [s["name"] for s in g.get("/v1/sessions?environment=echo&pageSize=1000").json()["sessions"]]

    assert g.delete(path).json() == {}
    gone = g.get(path)
    assert gone.status_code == 404 and gone.json()["error"]["status"] == "NOT_FOUND"


def test_environments(shared_gateway):
    listed = shared_gateway.get("/v1/environments").json()["environments"]
    assert [e["name"] for e in listed] == ["environments/cartpole", "environments/echo", "environments/pixels"]
    assert shared_gateway.get("/v1/environments/echo").json()["provider"] == "builtin"
    schema = shared_gateway.get("/v1/environments/echo/schema").json()
    assert set(schema) == {"action", "observation", "state"}


def test_curl(shared_gateway):
    """A client that was not written in Python, with a body that it sends chunked."""
    command = ["curl", "-s", "-f", "-H", "Content-Type: application/json", "-H", "Transfer-Encoding: chunked", "-d", '{"environment": "echo"}']
    done = subprocess.run([*command, shared_gateway.url + "/v1/sessions"], capture_output=True, timeout=60)
    assert done.returncode == 0 and json.loads(done.stdout)["environment"] == "environments/echo"


def test_head(shared_gateway):
    for path in ("/healthz", "/v1/environments"):
        got, head = shared_gateway.get(path), shared_gateway.http.head(shared_gateway.url + path, timeout=20)
        assert head.status_code == 200 and head.content == b""
        assert head.headers["content-length"] == str(len(got.content)) and head.headers["content-type"] == got.headers["content-type"]


def test_request_id(shared_gateway):
    """The caller's own is kept where it is harmless, since it goes to the log; otherwise the gateway makes one."""
    reply = shared_gateway.get("/v1/environments", headers={"x-request-id": "trainer-7.a:b"})
    assert reply.headers["x-request-id"] == "trainer-7.a:b"
    for bad in ("x" * 200, 'a"b', "a b"):
        made = shared_gateway.get("/v1/environments", headers={"x-request-id": bad}).headers["x-request-id"]
        assert made != bad and 8 <= len(made) < 32
    assert shared_gateway.get("/v1/nothing").headers["x-request-id"]


# --- the gateway's own paths


def test_own_paths(shared_gateway):
    g = shared_gateway
    assert g.get("/healthz").text == "ok\n"
    assert g.get("/readyz").status_code == 200
    assert "openapi.json" in g.get("/").text
    metrics = g.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    names = {family.name for family in text_string_to_metric_families(metrics.text)}
    assert {"envgate_connections", "envgate_sessions"} <= names
    refused = g.post("/healthz")
    assert refused.status_code == 405 and refused.headers["allow"] == "GET, HEAD"


def test_connections_are_counted(gateway):
    g = gateway()
    held = [connect(g) for _ in range(5)]
    for s in held:
        s.sendall(request("GET", "/healthz"))
        assert read_replies(s, 1)[0][0] == 200
    assert g.metric("envgate_connections") == 6  # and the one that asks
    for s in held:
        s.close()
    g.wait_for(lambda: g.metric("envgate_connections") == 1, what="the connections' end")


# --- connections


def test_keep_alive_and_pipelining(shared_gateway):
    """Replies come in the order of the requests, also when one of them waits for a worker."""
    path = shared_gateway.create("echo")
    assert shared_gateway.post(path + "/reset").status_code == 200
    with connect(shared_gateway) as s:
        s.sendall(
            request("GET", "/healthz")
            + request("POST", path + "/step", {"action": {"message": "one"}})
            + request("GET", "/nothing")
            + request("POST", path + "/step", {"action": {"message": "two"}})
        )
        replies = read_replies(s, 4)
        assert [status for status, _, _ in replies] == [200, 200, 404, 200]
        assert [json.loads(replies[i][2])["observation"]["echoed_message"] for i in (1, 3)] == ["one", "two"]


def test_slow_sender(shared_gateway):
    """A request that comes byte by byte is a request like any other."""
    with connect(shared_gateway) as s:
        for byte in request("POST", "/v1/sessions", {"environment": "echo"}):
            s.sendall(bytes([byte]))
        assert read_replies(s, 1)[0][0] == 200


def test_many_at_once(gateway):
    """Steps of many sessions run side by side over as many connections."""
    g = gateway({"environments": {"echo": conftest.builtin("echo", "--capacity", "32", "--faults", max_workers=1, sessions_per_worker=32)}})
    paths = [g.create("echo") for _ in range(32)]
    took = []

    def work(path):
        with requests.Session() as http:
            assert http.post(g.url + path + "/reset", json={}, timeout=60).status_code == 200
            began = time.monotonic()
            reply = http.post(g.url + path + "/step", json={"action": SLOW_STEP}, timeout=60)
            took.append(time.monotonic() - began)
            assert reply.status_code == 200, reply.text

    threads = [threading.Thread(target=work, args=(path,)) for path in paths]
    began = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(took) == 32
    assert time.monotonic() - began < 32 * SLOW_STEP["ms"] / 1000 / 4


def test_large_messages(shared_gateway):
    """Bodies that libmicrohttpd's buffers do not hold, both ways."""
    path = shared_gateway.create("echo")
    shared_gateway.post(path + "/reset")
    text = "äx" * 400_000
    step = shared_gateway.post(path + "/step", {"action": {"message": text}})
    assert step.status_code == 200 and step.json()["observation"]["echoed_message"] == text


@pytest.mark.parametrize("half", [False, True], ids=["close", "half-close"])
def test_disconnect_cancels(gateway, half):
    """A caller that leaves while its call runs has it cancelled; the session goes on."""
    g = gateway({"environments": {"echo": conftest.builtin("echo", "--faults")}})
    path = g.create("echo")
    assert g.post(path + "/reset").status_code == 200
    s = connect(g)
    s.sendall(request("POST", path + "/step", {"action": SLOW_STEP}))
    g.wait_for(lambda: g.get(path).json()["state"] == "STATE_BUSY", what="the step's beginning")
    if half:
        s.shutdown(socket.SHUT_WR)
    else:
        s.close()
    g.wait_for(lambda: g.metric("envgate_calls_total", code="CANCELLED") == 1 or "CANCELLED" in g.log_text(), what="the cancellation")
    assert g.metric("envgate_calls_in_flight") == 0
    s.close()
    step = g.post(path + "/step", {"action": {"message": "next"}})
    assert step.status_code == 200 and step.json()["observation"]["echoed_message"] == "next"


def test_disconnect_before_the_body_is_whole(gateway):
    g = gateway()
    s = connect(g)
    s.sendall(request("POST", "/v1/sessions", {"environment": "echo"})[:-3])
    s.close()
    g.wait_for(lambda: g.metric("envgate_connections") == 1, what="the connection's end")
    assert g.get("/v1/sessions").json()["sessions"] == []


def test_idle_connections_are_closed(gateway):
    g = gateway(None, "--idle-connection-s", "1")
    with connect(g) as s:
        s.sendall(request("GET", "/healthz"))
        assert read_replies(s, 1)[0][0] == 200
        began = time.monotonic()
        assert s.recv(1) == b""
        assert 0.5 < time.monotonic() - began < 5 * conftest.SLOW


def test_unix_socket(gateway, tmp_path):
    g = gateway(None, "--listen", f"unix:{tmp_path}/g.sock")
    assert g.get("/healthz").text == "ok\n"
    path = g.create("echo")
    assert g.post(path + "/reset").status_code == 200


def test_drain(gateway):
    """On SIGTERM a running call still gets its answer, on a connection that then closes; idle connections close at once."""
    g = gateway({"environments": {"echo": conftest.builtin("echo", "--faults")}})
    path = g.create("echo")
    assert g.post(path + "/reset").status_code == 200
    idle, busy = connect(g), connect(g)
    idle.sendall(request("GET", "/healthz"))
    assert read_replies(idle, 1)[0][0] == 200
    busy.sendall(request("POST", path + "/step", {"action": SLOW_STEP}))
    g.wait_for(lambda: g.get(path).json()["state"] == "STATE_BUSY", what="the step's beginning")
    os.kill(g.pid, signal.SIGTERM)
    assert idle.recv(1) == b""
    status, headers, body = read_replies(busy, 1)[0]
    assert status == 200 and headers["connection"] == "close" and json.loads(body)["observation"]["echoed_message"] == "slow"
    assert busy.recv(1) == b""
    idle.close()
    busy.close()


def test_calls_under_way_at_the_end(gateway):
    """A call that outlives the grace period is given up with ABORTED, and the daemon ends cleanly (the fixture looks)."""
    g = gateway({"environments": {"echo": conftest.builtin("echo", "--faults", stop_grace_s=1)}}, "--shutdown-grace-s", "0.3")
    path = g.create("echo")
    assert g.post(path + "/reset").status_code == 200
    with connect(g) as s:
        s.sendall(request("POST", path + "/step", {"action": {"fault": "hang", "message": "x"}}))
        g.wait_for(lambda: g.get(path).json()["state"] == "STATE_BUSY", what="the step's beginning")
        os.kill(g.pid, signal.SIGTERM)
        status, _, body = read_replies(s, 1)[0]
        assert status == 409 and json.loads(body)["error"]["details"][0]["reason"] == "SESSION_CLOSED"
