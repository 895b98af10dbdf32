# SPDX-License-Identifier: Apache-2.0
"""OpenEnv's HTTP API at an environment of the gateway: its own clients, unmodified, see there what they see at a worker."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest
import requests
from certificates import make_ca, make_leaf
from conftest import ROOT, SLOW, VENVS, Gateway, builtin
from test_auth import File
from test_mcp import ENVIRONMENTS
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

SCENARIO = ROOT / "tests/integration/dropin_scenario.py"
CLIENTS = {
    "legacy": VENVS["openenv-core-0.1.0"] / "bin/python",
    "ws": VENVS["openenv-0.10.0"] / "bin/python",
    "mcp": VENVS["openenv-0.10.0"] / "bin/python",
    "mcp-http": VENVS["openenv-0.10.0"] / "bin/python",
    "http": sys.executable,
    "mcp-ws": sys.executable,
}
APPS = {"echo": ("openenv-0.10.0", "echo_env", "server.app:app"), "old": ("openenv-0.2.0", "echo_env", "server.app:app")}
APPS |= {"tools": ("openenv-0.10.0", "tools_env", "app:app"), "legacy": ("openenv-core-0.1.0", "legacy_env_0_1", "app:app")}


def transcript(kind, url):
    done = subprocess.run([str(CLIENTS[kind]), str(SCENARIO), kind, url], capture_output=True, text=True, timeout=120 * SLOW)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    """worker(name): the URL of a real worker that no gateway has anything to do with."""
    running = {}

    def start(name):
        if name not in running:
            version, folder, app = APPS[name]
            with socket.create_server(("127.0.0.1", 0)) as s:
                port = s.getsockname()[1]
            command = [str(VENVS[version] / "bin/python"), "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
            process = subprocess.Popen(command, cwd=ROOT / "tests/envs" / folder, env={**os.environ, "ECHO_MAX_SESSIONS": "4"}, stderr=subprocess.DEVNULL)
            running[name] = process, f"http://127.0.0.1:{port}"
            end = time.monotonic() + 60 * SLOW
            while time.monotonic() < end:
                try:
                    requests.get(running[name][1] + "/health", timeout=5)
                    break
                except requests.ConnectionError:
                    assert process.poll() is None
                    time.sleep(0.1)
        return running[name][1]

    yield start
    for process, _ in running.values():
        process.terminate()
        process.wait(30 * SLOW)


@pytest.fixture(scope="module")
def one_gateway(tmp_path_factory):
    gateway = Gateway({"environments": ENVIRONMENTS}, tmp=tmp_path_factory.mktemp("dropin"))
    yield gateway
    gateway.check_end()


@pytest.fixture
def g(one_gateway):
    """The gateway, without sessions."""
    yield one_gateway
    for environment in ENVIRONMENTS:
        for session in sessions(one_gateway, environment):
            one_gateway.delete("/v1/" + session["name"])


def at(g, environment):
    """The base URL of an environment that has a worker: OpenEnv's clients give up after some seconds, which a launch may take."""
    if environment in ENVIRONMENTS and not any(w["environment"] == f"environments/{environment}" for w in g.get("/v1/workers").json().get("workers", [])):
        g.delete(g.create(environment))
    return f"{g.url}/v1/environments/{environment}"


# --- the same transcript -------------------------------------------------------------------------------------------------------------------


def test_openenv_core_0_1_0(g, worker):
    direct, through = transcript("legacy", worker("legacy")), transcript("legacy", at(g, "legacy"))
    assert direct == through
    assert [entry[1:] for entry in direct if entry[1] == "raises"] == [["raises", "HTTPError", 500]] * 2


@pytest.mark.parametrize("environment", ["echo", "old", "builtin"])
def test_openenv_core_0_1_0s_client_with_newer_workers(g, environment):
    """Where a bare worker's HTTP makes a new environment for each request, the gateway has the episode."""
    seen = transcript("legacy", at(g, environment))
    states = [entry[1]["step_count"] for entry in seen if entry[0] == "state"]
    assert states == ([2, 4, 1] if environment != "builtin" else states), seen
    assert [entry[3] for entry in seen if entry[1] == "raises"] == [500, 422] if environment != "builtin" else True


@pytest.mark.parametrize("name", ["echo", "old"])
def test_the_http_endpoints(g, worker, name):
    direct, through = transcript("http", worker(name)), transcript("http", at(g, name))
    known = [i for i, entry in enumerate(direct) if name != "old" or entry[1] != 404]  # 0.2.0 has no /mcp
    assert len(direct) == len(through) and len(known) == (18 if name != "old" else 11), direct
    for i in known:
        assert direct[i] == through[i]


@pytest.mark.parametrize("kind", ["mcp-http", "mcp"])
def test_the_mcp_client(g, worker, kind):
    direct, through = transcript(kind, worker("tools")), transcript(kind, at(g, "tools"))
    assert direct == through
    assert ["add", 42] in direct and [entry[1] for entry in direct if entry[0] == "count"] == [1, 2, 3]
    assert g.wait_for(lambda: not sessions(g, "tools"), what="the client's session closed")


def test_mcp_by_websocket(g, worker):
    direct, through = transcript("mcp-ws", worker("tools")), transcript("mcp-ws", at(g, "tools"))
    for a, b in zip(direct, through, strict=True):
        assert a == b
    assert [reply["result"]["data"] for reply in direct if "data" in (reply.get("result") or {})] == [1, 2, 3]
    assert g.wait_for(lambda: not sessions(g, "tools"), what="the socket's session closed")
    session = g.create("tools")
    seen = transcript("mcp-ws", g.url + session)
    assert seen[1]["result"]["data"] == 1 and sessions(g, "tools"), "a session that is there stays"


# --- the session in a cookie ------------------------------------------------------------------------------------------------------------------


def sessions(g, environment, **kwargs):
    return g.get(f"/v1/sessions?environment={environment}", **kwargs).json().get("sessions", [])


def test_the_cookie(g):
    http, url = requests.Session(), at(g, "echo")
    reply = http.post(url + "/step", json={"action": {"message": "x"}}, timeout=60)
    assert reply.status_code == 400 and "reset" in reply.json()["detail"]
    assert reply.json()["error"]["details"][0]["reason"] == "SESSION_NOT_FOUND"
    assert http.get(url + "/state", timeout=60).status_code == 400
    assert not sessions(g, "echo")
    reply = http.post(url + "/reset", json={"seed": 7}, timeout=60)
    assert reply.status_code == 200 and reply.json()["observation"]["message"] == "seed 7" and reply.json()["done"] is False
    name, session_id = http.cookies.items()[0]
    cookie = reply.headers["set-cookie"]
    assert name == "envgate_session" and cookie == f"envgate_session={session_id}; Path=/v1/environments/echo; HttpOnly; SameSite=Lax"
    assert [s["name"] for s in sessions(g, "echo")] == [f"sessions/{session_id}"]
    reply = http.post(url + "/step", json={"action": {"message": "two"}, "timeout_s": 15}, timeout=60)
    assert reply.json()["observation"]["count"] == 1 and "set-cookie" not in reply.headers
    assert http.get(url + "/state", timeout=60).json()["step_count"] == 1
    reply = http.post(url + "/reset", timeout=60)  # no body, and the same session
    assert reply.status_code == 200 and "set-cookie" not in reply.headers and len(sessions(g, "echo")) == 1
    # another client is another session
    other = requests.Session()
    other.post(url + "/reset", json={}, timeout=60)
    assert len(sessions(g, "echo")) == 2
    # a session that has ended
    g.delete(f"/v1/sessions/{session_id}")
    assert http.post(url + "/step", json={"action": {"message": "x"}}, timeout=60).status_code == 400
    reply = http.post(url + "/reset", json={}, timeout=60)
    assert reply.status_code == 200 and http.cookies["envgate_session"] != session_id
    for odd in ("", "x", "../../x", "a/b", "x" * 500, "00" + "0" * 24, "\x7f"):
        reply = requests.post(url + "/step", json={"action": {"message": "x"}}, headers={"cookie": f"a=b; envgate_session={odd}"}, timeout=60)
        assert reply.status_code == 400, odd


def test_a_request_id_makes_a_retry_safe(g):
    http, url = requests.Session(), at(g, "echo")
    http.post(url + "/reset", json={}, timeout=60)
    body = {"action": {"message": "once"}, "request_id": "r1"}
    first, second = (http.post(url + "/step", json=body, timeout=60).json() for _ in range(2))
    assert first == second and http.get(url + "/state", timeout=60).json()["step_count"] == 1
    slow = {"action": {"message": "slow", "sleep_s": 0.6 * SLOW}, "request_id": "r2", "timeout_s": 0.2}
    reply = http.post(url + "/step", json=slow, timeout=60)
    assert reply.status_code == 504 and reply.json()["error"]["details"][0]["reason"] == "STEP_IN_PROGRESS"
    reply = http.post(url + "/step", json=slow | {"timeout_s": 30}, timeout=60)
    assert reply.status_code == 200 and reply.json()["observation"]["count"] == 2


def test_a_reset_that_fails_leaves_no_session(g):
    url = at(g, "echo")
    for body in ({"seed": "x"}, {"seed": -1}, {"seed": 1.5}, {"episode_id": 7}, [1]):
        reply = requests.post(url + "/reset", json=body, timeout=60)
        assert reply.status_code == 422 and reply.json()["detail"][0]["loc"][0] == "body", reply.text
    reply = requests.post(url + "/reset", data=b"{", headers={"content-type": "application/json"}, timeout=60)
    assert reply.status_code == 422 and reply.json()["detail"][0]["type"] == "json_invalid"
    reply = requests.post(url + "/reset", data=b"{}", headers={"content-type": "text/plain"}, timeout=60)
    assert reply.status_code == 415
    # a page of another origin, which may not send what needs no preflight
    assert requests.post(url + "/reset", headers={"origin": "https://evil.example"}, timeout=60).status_code == 415
    assert requests.post(at(g, "nobody") + "/reset", json={}, timeout=60).status_code == 404
    assert requests.get(at(g, "nobody") + "/health", timeout=60).status_code == 404
    assert requests.get(url + "/reset", timeout=60).status_code == 405
    assert not sessions(g, "echo")


def test_a_lost_worker(g):
    http, url = requests.Session(), at(g, "legacy")
    http.post(url + "/reset", json={}, timeout=60)
    before = http.cookies["envgate_session"]
    reply = http.post(url + "/step", json={"action": {"message": "x", "exit_code": 3}}, timeout=60)
    assert reply.status_code == 400 and "has ended" in reply.json()["detail"]
    assert http.post(url + "/reset", json={}, timeout=60).status_code == 200
    assert http.cookies["envgate_session"] != before


def test_a_caller_that_leaves(g):
    """It never learns of its session, so there is none when it is gone."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "count", "arguments": {"sleep_s": 20}}})
    host, port = g.listen.rsplit(":", 1)
    with socket.create_connection((host, int(port))) as s:
        s.sendall(
            f"POST /v1/environments/tools/mcp HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        g.wait_for(lambda: [s["state"] for s in sessions(g, "tools")] == ["STATE_BUSY"], what="the call runs")
    g.wait_for(lambda: not sessions(g, "tools"), what="its session is closed")


# --- MCP -----------------------------------------------------------------------------------------------------------------------------------------


def rpc(url, method, params=None, **kwargs):
    reply = requests.post(url + "/mcp", json={"jsonrpc": "2.0", "id": 3, "method": method, "params": params or {}}, timeout=60, **kwargs)
    assert reply.status_code == 200, reply.text
    assert reply.json()["jsonrpc"] == "2.0" and reply.json()["id"] == 3
    return reply.json()


def test_mcp_without_a_session_has_one_for_itself(g):
    url = at(g, "tools")
    for _ in range(2):
        assert rpc(url, "tools/call", {"name": "count", "arguments": {}})["result"]["data"] == 1
    g.wait_for(lambda: not sessions(g, "tools"), what="the sessions closed")
    http = requests.Session()
    http.post(url + "/reset", json={}, timeout=60)
    body = {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": "count", "arguments": {}}}
    counts = [http.post(url + "/mcp", json=body, timeout=60).json()["result"]["data"] for _ in range(2)]
    assert counts == [1, 2], "a cookie's session is the caller's, for tools, too"


def test_mcp_in_a_session(g):
    session = g.create("tools")
    url = g.url + session
    assert rpc(url, "tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}})["result"]["data"] == 3
    assert rpc(url, "openenv/session/create")["error"]["code"] == -32600
    assert rpc(at(g, "tools"), "tools/call", {"name": "count", "arguments": {}, "session_id": session.rsplit("/", 1)[-1]})["result"]["data"] == 1
    assert requests.get(url + "/health", timeout=60).json() == {"status": "healthy"}
    assert set(requests.get(url + "/schema", timeout=60).json()) >= {"action", "observation", "state"}
    assert requests.get(url + "/metadata", timeout=60).json()["name"] == "ToolsEnvironment"
    g.delete(session)
    assert rpc(url, "tools/list")["error"]["data"]["reason"] == "SESSION_NOT_FOUND"
    assert requests.get(url + "/health", timeout=60).status_code == 404


def test_mcp_of_workers_that_have_none(g):
    for environment in ("old", "legacy"):
        assert rpc(at(g, environment), "tools/list")["error"]["data"]["reason"] == "TOOLS_NOT_SUPPORTED"


# --- below a session: REST, as OpenEnv's clients take it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("environment", ["echo", "legacy"])
def test_a_session_is_a_base_url(g, environment):
    session = g.create(environment)
    seen = transcript("legacy", g.url + session)
    assert [entry[1]["step_count"] for entry in seen if entry[0] == "state"] == [2, 4, 1]
    assert [entry[1]["observation"]["message"] for entry in seen if entry[0] == "step" and entry[1] != "raises"] == [
        "one", "two, ünï ✓", "three", "four", "again"
    ]  # fmt: skip
    g.delete(session)


# --- who may -------------------------------------------------------------------------------------------------------------------------------------


def test_credentials(tmp_path):
    file = File(tmp_path / "auth")
    for principal, scope in (("alice", "trainer"), ("bob", "trainer"), ("robot", "agent")):
        file.add(principal, scope)
    file.write()
    g = Gateway({"auth_file": str(file.path), "environments": {"tools": ENVIRONMENTS["tools"]}}, tmp=tmp_path)
    alice, bob, robot = ({"authorization": f"Bearer {file.tokens[who]}"} for who in ("alice", "bob", "robot"))
    url = f"{g.url}/v1/environments/tools"
    reply = requests.post(url + "/reset", json={}, timeout=60)
    assert reply.status_code == 401 and reply.json()["detail"] and reply.headers["www-authenticate"] == "Bearer"
    http = requests.Session()
    assert http.post(url + "/reset", json={}, headers=alice, timeout=60).status_code == 200
    cookie = http.cookies["envgate_session"]
    # the cookie is no credential
    assert http.get(url + "/state", timeout=60).status_code == 401
    assert http.get(url + "/state", headers=robot, timeout=60).status_code == 403
    assert http.get(url + "/state", headers=alice, timeout=60).status_code == 200
    # another's cookie is none: no step in a foreign session, and reset makes one's own
    stolen = {**bob, "cookie": f"envgate_session={cookie}"}
    assert requests.get(url + "/state", headers=stolen, timeout=60).status_code == 400
    reply = requests.post(url + "/reset", json={}, headers=stolen, timeout=60)
    assert reply.status_code == 200 and reply.cookies["envgate_session"] != cookie
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"session_id": cookie}}
    assert "result" in requests.post(url + "/mcp", json=call, headers=alice, timeout=60).json()
    assert requests.post(url + "/mcp", json=call, headers=bob, timeout=60).json()["error"]["message"] == f"Unknown session_id: {cookie}"
    assert requests.post(url + "/mcp", json=call | {"method": "openenv/session/create", "params": {}}, headers=robot, timeout=60).status_code == 403
    # an agent's tools by WebSocket, in its trainer's session and in no other
    ws = f"ws://{g.listen}/v1/sessions/{cookie}/mcp"
    file.add("alice", "agent")
    file.write()
    agent = {"authorization": f"Bearer {file.tokens['alice']}"}
    g.wait_for(lambda: requests.get(url + "/state", headers=agent, timeout=60).status_code == 403, what="the file is read")
    with connect(ws, additional_headers=agent) as socket_of_agent:
        socket_of_agent.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "add", "arguments": {"a": 1, "b": 2}}}))
        assert json.loads(socket_of_agent.recv(timeout=60))["result"]["data"] == 3
    with connect(ws, additional_headers=robot) as socket_of_stranger:
        assert "Unknown session_id" in socket_of_stranger.recv(timeout=60)
    for path in (ws[: -len("mcp")] + "ws", f"ws://{g.listen}/v1/environments/tools/mcp"):
        with pytest.raises(InvalidStatus) as refused:
            connect(path, additional_headers=agent)
        assert refused.value.response.status_code == 403
    close = call | {"method": "openenv/session/close"}
    assert requests.post(url + "/mcp", json=close, headers=bob, timeout=60).json()["error"]["code"] == -32602
    assert requests.post(url + "/mcp", json=close, headers=alice, timeout=60).json()["result"] == {"session_id": cookie, "closed": True}
    assert requests.get(url + "/health", timeout=60).json() == {"status": "healthy"}, "as grpc.health.v1: for everybody"
    g.check_end()


def test_over_tls_the_cookie_is_secure(tmp_path):
    ca = make_ca(tmp_path, "ca")
    leaf = make_leaf(ca, "server")
    config = {"tls_cert_file": str(leaf.cert), "tls_key_file": str(leaf.key), "environments": {"echo": builtin("echo")}}
    g = Gateway(config, tmp=tmp_path, ca=ca.cert)
    reply = g.post("/v1/environments/echo/reset")
    assert reply.status_code == 200 and reply.headers["set-cookie"].endswith("; SameSite=Lax; Secure")
    g.check_end()
