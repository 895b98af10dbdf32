# SPDX-License-Identifier: Apache-2.0
"""OpenEnv's own WebSocket at the gateway: its clients see what they see of a worker."""

import concurrent.futures
import json
import os
import re
import signal
import subprocess
import threading
import time

import pytest
from conftest import BIN, ROOT, SLOW, VENVS, builtin
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from ws_client import BINARY, PING, PONG, TEXT, dial

ENVS = ROOT / "tests/envs"
UVICORN = ["-m", "uvicorn", "--host", "{host}", "--port", "{port}"]


def uvicorn(version, app="server.app:app", folder="echo_env", **keys):
    """An environment of the configuration with real workers."""
    command = [str(VENVS[version] / "bin/python"), *UVICORN, app]
    return {"process": {"command": command, "cwd": str(ENVS / folder)}, "env_vars": {"ECHO_MAX_SESSIONS": "8"}, "sessions_per_worker": 8, **keys}


WORKERS = {
    "openenv-0.10.0": lambda: uvicorn("openenv-0.10.0", max_workers=1),
    "openenv-0.2.0": lambda: uvicorn("openenv-0.2.0", max_workers=1),
    "builtin": lambda: builtin("echo", "--capacity", "8", sessions_per_worker=8, max_workers=1),
}


def path(environment):
    return f"/v1/environments/{environment}/ws"


def reset(**data):
    return json.dumps({"type": "reset", "data": data} if data else {"type": "reset"})


def step(message="m", **more):
    return json.dumps({"type": "step", "data": {"message": message, **more}})


STATE = '{"type":"state"}'
CLOSE = '{"type":"close"}'


def open_ws(g, environment="e", query="", **keys):
    return connect(f"ws://{g.listen}{path(environment)}{query}", compression=None, max_size=None, close_timeout=5, legacy=True, **keys)


def ask(ws, message):
    ws.send(message)
    return json.loads(ws.recv(timeout=60 * SLOW))


def said(reply):
    observation = reply["data"]["observation"]
    return observation.get("message", observation.get("echoed_message"))


def error(reply):
    assert reply["type"] == "error", reply
    return reply["data"]["code"]


def sessions(g):
    return g.get("/v1/sessions").json()["sessions"]


def none_left(g):
    g.wait_for(lambda: not sessions(g) and g.metric("envgate_websockets") == 0, what="every socket and session is gone")


# --- byte for byte ---------------------------------------------------------------------------------------------------------------------------

# Each is one socket's messages; bytes are binary frames. What ends the socket is last.
SCRIPTS = [
    [reset(), step("hi"), step("hé €"), STATE, CLOSE],
    [reset(seed=7, episode_id="ep-1"), STATE, step("x" * 3000), reset(seed=8, episode_id="ep-2"), STATE, CLOSE],
    [step("before a reset"), STATE],
    [reset(unknown=1, more=[1, {"a": None}]), '{"data":{"message":"m"},"type":"step"}', ' \n{ "type" : "step" , "data" : { "message" : "sp\\u0061ce" } } '],
    [reset(), step("m", no_such_field=1), step(5), '{"type":"step","data":{}}', '{"type":"step","data":[1]}', '{"type":"step","data":null}', '{"type":"step"}', STATE],
    [reset(), '{"type":"step","data":{"message":"m"},"request_id":"r"}', '{"type":"state","data":{}}', '{"type":"reset","extra":1}', '{"type":"reset","data":5}'],
    [reset(), '{"type":"close","extra":1}', '{"type":"close","data":{}}', STATE, CLOSE],
    ["{", "", "not json", '{"type":"step","data":{"message":"m"}', '{"type":"step","data":{"message":"m"}} x', "{'type':'step'}", STATE],
    ['{"type":"nope"}', '{"type":"Step","data":{"message":"m"}}', "{}", '{"type":""}', '{"type":"a\\"b\\u00e9"}', '{"data":{}}', STATE],
    ['{"type":"nope","type":"state"}', '{"type":"state","type":"nope"}', STATE],
    [reset(), '{"type":"mcp","data":{"jsonrpc":"2.0","id":1,"method":"tools/list"}}', '{"type":"mcp","data":{"jsonrpc":"2.0","id":"x","method":"no/such"}}'],
    [reset(), '{"type":"mcp","data":{"id":1}}', '{"type":"mcp"}', STATE],
    [reset(), "[1]"],
    [reset(), '"text"'],
    ["17"],
    ["null"],
    ["1.5e3"],
    [reset(), b"binary"],
    [b""],
]
REAL_ONLY = [  # what only Python does
    [reset(), '{"type":"step","data":{"message":"m","sleep_s":NaN}}', '{"type":"step","data":{"message":"m","boom":"bang"}}', step("after")],
    [reset(), step("m", boom="ünï \"quoted\""), step("m", sleep_s=-1), STATE],
]
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
# Nothing that a client looks at: the place of an error in text, and which pydantic said it.
WORDS = re.compile(r"https://errors\.pydantic\.dev/[0-9.]+")


def transcript(at, script):
    """What a socket hears, texts and the close code, for a script."""
    heard = []
    s = dial(at[0]).open(at[1])
    try:
        for message in script:
            s.send(BINARY if isinstance(message, bytes) else TEXT, message if isinstance(message, bytes) else message.encode())
            if message != CLOSE:
                opcode, payload = s.frame()
                heard.append((opcode, UUID.sub("a uuid", payload.decode(errors="replace")) if opcode == TEXT else payload))
        ends = script[-1] == CLOSE or script[-1] in ("[1]", '"text"', "17", "null", "1.5e3") or isinstance(script[-1], bytes)
        heard.append(s.closed() if ends else "open")
    finally:
        s.close()
    return heard


@pytest.fixture(scope="module", params=list(WORKERS))
def pair(request, tmp_path_factory):
    """A gateway, with the address of its only worker."""
    from conftest import Gateway

    g = Gateway({"environments": {"e": {**WORKERS[request.param](), "min_workers": 1}}}, tmp=tmp_path_factory.mktemp("gateway"))
    g.kind = request.param
    worker = g.wait_for(lambda: [w for w in g.get("/v1/workers").json()["workers"] if w["state"] == "STATE_READY"], seconds=60, what="the worker is ready")[0]
    g.worker = worker
    yield g
    g.check_end()


def direct(g):
    """Where the gateway's worker listens."""
    return (g.worker["address"], "/ws")


@pytest.mark.parametrize("i", range(len(SCRIPTS) + len(REAL_ONLY)))
def test_the_same_bytes_as_a_worker(pair, i):
    g = pair
    if i >= len(SCRIPTS) and g.kind == "builtin":
        return  # no Python there
    script = (SCRIPTS + REAL_ONLY)[i]
    assert transcript((g.listen, path("e")), script) == transcript(direct(g), script)
    none_left(g)


# --- OpenEnv's own clients -------------------------------------------------------------------------------------------------------------------

CLIENT = """
import asyncio, json, sys
sys.path.insert(0, {env!r})
from models import EchoAction, EchoObservation
from openenv.core.env_client import EnvClient
from openenv.core.client_types import StepResult
from openenv.core.env_server.types import State

class Echo(EnvClient):
    def _step_payload(self, action):
        return action.model_dump(exclude_defaults=True)
    def _parse_result(self, payload):
        o = payload["observation"]
        return StepResult(observation=EchoObservation(**o), reward=payload["reward"], done=payload["done"])
    def _parse_state(self, payload):
        return State(**payload)

said = []
def note(r):
    said.append([r.observation.message, r.observation.count, r.reward, r.done])
def note_state(s):
    said.append([s.episode_id, s.step_count])
def fault(e):
    said.append([type(e).__name__, str(e)])

def sync(env):
    with env:
        note(env.reset(seed=7, episode_id="ep"))
        for i in range(50):
            note(env.step(EchoAction(message="m" * i)))
        note_state(env.state())
        try:
            env.step(EchoAction(message="m", boom="bang"))
        except RuntimeError as e:
            fault(e)
        note(env.step(EchoAction(message="x" * 700000)))
        note(env.reset())
        note(env.step(EchoAction(message="again")))

async def anew(url):
    async with Echo(base_url=url) as env:
        note(await env.reset(seed=7, episode_id="ep"))
        for i in range(50):
            note(await env.step(EchoAction(message="m" * i)))
        note_state(await env.state())
        try:
            await env.step(EchoAction(message="m", boom="bang"))
        except RuntimeError as e:
            fault(e)
        note(await env.step(EchoAction(message="x" * 700000)))
        note(await env.reset())
        note(await env.step(EchoAction(message="again")))
    async with Echo(base_url=url) as a, Echo(base_url=url) as b:
        await asyncio.gather(a.reset(seed=1), b.reset(seed=2))
        for i in range(20):
            for r in await asyncio.gather(a.step(EchoAction(message="a")), b.step(EchoAction(message="bb"))):
                note(r)

def all_of(url, kinds):
    for kind in kinds:
        if kind == "async":
            asyncio.run(anew(url))
        else:
            sync(Echo(base_url=url).sync() if kind == "wrapped" else Echo(base_url=url))

kinds, *urls = sys.argv[1:]
transcripts = []
for url in urls:
    said = []
    all_of(url, kinds.split(","))
    transcripts.append(said)
print(json.dumps(transcripts))
"""

KINDS = {"openenv-0.10.0": "async,wrapped", "openenv-0.2.0": "sync"}


def test_unmodified_clients(pair):
    g = pair
    if g.kind not in KINDS:
        return  # another environment than the script's
    script = CLIENT.replace("{env!r}", repr(str(ENVS / "echo_env")))
    urls = [f"{g.url}/v1/environments/e", g.worker["address"]]
    done = subprocess.run([VENVS[g.kind] / "bin/python", "-c", script, KINDS[g.kind], *urls], capture_output=True, text=True, timeout=150 * SLOW)
    assert done.returncode == 0, done.stderr[-3000:]
    by_gateway, by_worker = json.loads(done.stdout)
    assert by_gateway == by_worker
    assert len(by_gateway) >= 55 and by_gateway[0] == ["seed 7", 0, 0.0, False]
    none_left(g)


# --- capacity --------------------------------------------------------------------------------------------------------------------------------


def test_a_bare_worker_refuses_the_second(pair):
    if pair.kind != "builtin":
        return
    sockets = [dial(direct(pair)[0]).open("/ws") for _ in range(8)]
    for s in sockets:
        s.text(STATE)
    ninth = dial(direct(pair)[0]).open("/ws")
    assert error(json.loads(ninth.frame()[1])) == "CAPACITY_REACHED"
    assert ninth.closed() == 1000
    for s in [*sockets, ninth]:
        s.close()


def test_64_sockets_on_workers_that_take_one_each(gateway):
    """Eight workers of one session each, behind the process provider: 64 clients take turns, and none is refused."""
    command = [str(BIN), "worker", "echo", "--listen", "{host}:{port}"]
    g = gateway({"environments": {"e": {"process": {"command": command}, "sessions_per_worker": 1, "max_workers": 8}}})
    most, lock, open_now = 0, threading.Lock(), 0

    def episode(i):
        nonlocal most, open_now
        with open_ws(g, open_timeout=60) as ws:
            assert ask(ws, reset(seed=i))["type"] == "observation"
            with lock:
                open_now += 1
                most = max(most, open_now)
            heard = [said(ask(ws, step(f"{i}-{k}"))) for k in range(20)]
            with lock:
                open_now -= 1
        return heard == [f"{i}-{k}" for k in range(20)]

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        assert all(pool.map(episode, range(64)))
    assert 2 <= most <= 8
    assert g.metric("envgate_sessions_created_total") == 64
    none_left(g)


def test_64_sockets_at_once(gateway):
    g = gateway({"environments": {"e": builtin("echo", sessions_per_worker=1, max_workers=64)}, "max_launches": 8})
    sockets = [open_ws(g, open_timeout=60) for _ in range(64)]
    for i, ws in enumerate(sockets):
        ws.send(reset(seed=i))
    for ws in sockets:
        assert json.loads(ws.recv(timeout=60 * SLOW))["type"] == "observation"
    for k in range(5):
        for i, ws in enumerate(sockets):
            ws.send(step(f"{i}-{k}"))
        assert [said(json.loads(ws.recv(timeout=60 * SLOW))) for ws in sockets] == [f"{i}-{k}" for i in range(64)]
    assert g.metric("envgate_sessions", state="ready") == 64
    for ws in sockets:
        ws.close()
    none_left(g)


def test_full_until_the_deadline(gateway):
    g = gateway({"environments": {"e": builtin("echo", sessions_per_worker=1, max_workers=1)}})
    first = open_ws(g)
    ask(first, reset())
    second = open_ws(g, query="?timeout_s=0.3")
    refusal = json.loads(second.recv(timeout=10 * SLOW))
    assert refusal["data"] == {
        "message": "Server at capacity: 1/1 sessions active. Cannot accept new connections.",
        "code": "CAPACITY_REACHED",
        "active_sessions": 1,
        "max_sessions": 1,
    }
    with pytest.raises(ConnectionClosed):
        second.recv(timeout=10)
    assert second.close_code == 1000
    # Whoever waits gets the slot as soon as the first goes, with what was sent meanwhile.
    third = open_ws(g, query="?timeout_s=30")
    third.send(reset(seed=3))
    third.send(step("waited"))
    time.sleep(0.2)
    first.close()
    assert json.loads(third.recv(timeout=10 * SLOW))["type"] == "observation"
    assert said(json.loads(third.recv(timeout=10 * SLOW))) == "waited"
    third.close()
    none_left(g)


def test_who_leaves_while_it_waits_takes_no_slot(gateway):
    g = gateway({"environments": {"e": builtin("echo", sessions_per_worker=1, max_workers=1)}})
    first = open_ws(g)
    ask(first, reset())
    for _ in range(5):
        waiting = dial(g.listen).open(path("e"))
        waiting.close()
    first.close()
    with open_ws(g) as ws:
        assert ask(ws, reset())["type"] == "observation"
    none_left(g)
    assert g.metric("envgate_sessions_created_total") == 2


def test_launches_that_fail_are_told(gateway):
    g = gateway({"environments": {"e": {"process": {"command": ["/bin/sh", "-c", "exit 3", "{port}"]}}}})
    ws = open_ws(g)
    told = json.loads(ws.recv(timeout=30 * SLOW))
    assert error(told) == "SESSION_ERROR" and "exit" in told["data"]["message"]
    with pytest.raises(ConnectionClosed):
        ws.recv(timeout=10)
    assert ws.close_code == 1011
    none_left(g)


# --- ends ------------------------------------------------------------------------------------------------------------------------------------

FAULTY = {"environments": {"e": builtin("echo", "--faults", "--capacity", "20", sessions_per_worker=20, max_workers=1)}}


@pytest.fixture
def faulty(gateway):
    return gateway(FAULTY)


def ends_with(ws, code):
    with pytest.raises(ConnectionClosed):
        ws.recv(timeout=20 * SLOW)
    assert ws.close_code == code


def test_a_worker_that_dies_in_a_step(faulty):
    g = faulty
    with open_ws(g) as ws, open_ws(g) as idle:
        ask(ws, reset())
        ask(idle, reset())
        told = ask(ws, step("m", fault="exit", code=9))
        assert error(told) == "SESSION_ERROR" and "exit" in told["data"]["message"], told
        ends_with(ws, 1011)
        # Who was idle learns it as the answer to its next request, not by a socket that is closed: OpenEnv's client would open another and step on without a reset.
        time.sleep(0.5)
        assert idle.protocol.state.name == "OPEN"
        told = ask(idle, step("on"))
        assert error(told) == "SESSION_ERROR" and "lost" in told["data"]["message"], told
        ends_with(idle, 1011)
    none_left(g)
    with open_ws(g) as ws:  # a new one has a new worker
        assert ask(ws, reset())["type"] == "observation"


def test_a_worker_that_closes_and_one_that_talks_nonsense(faulty):
    for fault in ({"fault": "close", "code": 1001}, {"fault": "drop"}, {"fault": "garbage"}, {"fault": "binary"}, {"fault": "desync_extra"}):
        with open_ws(faulty) as ws:
            ask(ws, reset())
            first = ask(ws, step("m", **fault))
            told = ask(ws, STATE) if first["type"] != "error" else first
            assert error(told) == "SESSION_ERROR", (fault, told)
            ends_with(ws, 1011)
    none_left(faulty)


def test_a_session_that_is_closed_by_another_hand(faulty):
    g = faulty
    with open_ws(g) as ws:
        ask(ws, reset())
        (session,) = sessions(g)
        assert g.delete("/v1/" + session["name"]).status_code == 200
        told = ask(ws, step("m"))
        assert error(told) == "SESSION_ERROR" and "closed" in told["data"]["message"]
        ends_with(ws, 1011)
    with open_ws(g) as ws:
        ask(ws, reset())
        ws.send(step("m", fault="slow", ms=3000))
        g.wait_for(lambda: g.metric("envgate_sessions", state="busy") == 1, what="it steps")
        (session,) = sessions(g)
        assert g.delete("/v1/" + session["name"]).status_code == 200
        assert error(json.loads(ws.recv(timeout=2 * SLOW))) == "SESSION_ERROR"
        ends_with(ws, 1011)
    none_left(g)


def test_a_step_that_takes_too_long(gateway):
    g = gateway({"environments": {"e": builtin("echo", "--faults", step_timeout_s=0.5)}})
    with open_ws(g) as ws:
        ask(ws, reset())
        told = ask(ws, step("m", fault="hang"))
        assert error(told) == "SESSION_ERROR" and "step_timeout_s" in told["data"]["message"]
        ends_with(ws, 1011)


def test_no_lease_runs_out_but_idleness_does(gateway):
    g = gateway({"environments": {"e": builtin("echo", lease_s=0.4), "idle": builtin("echo", idle_timeout_s=0.4)}})
    with open_ws(g) as ws, open_ws(g, "idle") as idle:
        ask(ws, reset())
        ask(idle, reset())
        time.sleep(1.5)
        assert said(ask(ws, step("still there"))) == "still there"
        assert error(ask(idle, step("too late"))) == "SESSION_ERROR"
    none_left(g)


def test_the_gateway_shuts_down(gateway):
    g = gateway(FAULTY)
    idle, busy = open_ws(g), open_ws(g)
    ask(idle, reset())
    ask(busy, reset())
    busy.send(step("slow", fault="slow", ms=1000))
    g.wait_for(lambda: g.metric("envgate_sessions", state="busy") == 1, what="it steps")
    started = time.monotonic()
    g.process.send_signal(signal.SIGTERM)
    ends_with(idle, 1012)
    assert time.monotonic() - started < 0.9 * SLOW
    assert said(json.loads(busy.recv(timeout=10 * SLOW))) == "slow"
    ends_with(busy, 1012)


def test_a_silent_peer_is_found_by_pings(faulty):
    """About 41 s: one that answers nothing has ended by then, and one that answers pings has not."""
    g = faulty
    dead, alive = dial(g.listen).open(path("e")), dial(g.listen).open(path("e"))
    for s in (dead, alive):
        s.s.settimeout(60)
        s.text(reset())
    assert alive.any_frame() == (PING, b"")
    alive.send(PONG, b"")
    g.wait_for(lambda: len(sessions(g)) == 1, seconds=25, what="the dead one's session is gone")
    assert "observation" in alive.text(step("alive"))
    alive.close()
    assert [line["code"] for line in g.wait_for(lambda: len(g.log("websocket.closed")) == 2 and g.log("websocket.closed"))] == [1011, 1006]
    dead.close()


# --- a session that is there -----------------------------------------------------------------------------------------------------------------


def test_attaching(gateway):
    g = gateway(FAULTY, "--threads", "4")
    for _ in range(8):  # by connections of several reactors
        session = g.create("e")
        assert g.post(session + "/reset", {"episode_id": "mine"}).status_code == 200
        for k in range(2):
            with connect(f"ws://{g.listen}{session}/ws") as ws:
                assert ask(ws, STATE)["data"]["episode_id"] == "mine"
                assert said(ask(ws, step(f"attached {k}"))) == f"attached {k}"
        assert g.get(session).json()["step_index"] == "2"
        assert g.post(session + "/step", {"action": {"message": "on"}}).json()["step_index"] == "3"
        with connect(f"ws://{g.listen}{session}/ws") as ws:
            ask(ws, STATE)
            assert g.delete(session).status_code == 200
            assert error(ask(ws, STATE)) == "SESSION_ERROR"
            ends_with(ws, 1011)
        with connect(f"ws://{g.listen}{session}/ws") as ws:
            told = json.loads(ws.recv(timeout=10))
            assert told["data"] == {"message": "Unknown session_id: " + session.removeprefix("/v1/sessions/"), "code": "SESSION_ERROR"}
            ends_with(ws, 1000)
    none_left(g)


def test_several_doors_of_one_session(gateway):
    """Exactly once and in order, whoever asks: sockets and calls share the session's queue."""
    g = gateway(FAULTY, "--threads", "2")
    session = g.create("e")
    g.post(session + "/reset")
    steps = 40

    def by_socket(i):
        with connect(f"ws://{g.listen}{session}/ws") as ws:
            for k in range(steps):
                assert said(ask(ws, step(f"{i}-{k}"))) == f"{i}-{k}"

    def by_call(i):
        for k in range(steps):
            reply = g.http.post(g.url + session + "/step", json={"action": {"message": f"{i}-{k}"}}, timeout=30).json()
            assert reply["observation"]["echoed_message"] == f"{i}-{k}"

    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        for done in [*(pool.submit(by_socket, i) for i in range(4)), pool.submit(by_call, 9)]:
            done.result()
    assert g.get(session).json()["step_index"] == str(5 * steps)
    assert g.get(session + "/state").json()["step_count"] == 5 * steps


# --- workers without WebSockets --------------------------------------------------------------------------------------------------------------

LEGACY = {
    "builtin": lambda: builtin("echo", "--dialect", "http"),
    "openenv-core-0.1.0": lambda: {k: v for k, v in uvicorn("openenv-core-0.1.0", "app:app", "legacy_env_0_1").items() if k != "sessions_per_worker"},
}


@pytest.mark.parametrize("kind", list(LEGACY))
def test_plain_http_workers(gateway, kind):
    g = gateway({"environments": {"e": LEGACY[kind]()}})
    with open_ws(g, open_timeout=30) as ws:
        first = ask(ws, reset(seed=1))
        assert first["type"] == "observation" and set(first["data"]) == {"observation", "reward", "done"}
        assert said(ask(ws, step("hé"))) == "hé"
        state = ask(ws, STATE)
        assert state["type"] == "state" and state["data"]["step_count"] == 1
        assert error(ask(ws, "{")) == "INVALID_JSON"
        assert error(ask(ws, '{"type":"nope \\u00e9"}')) == "UNKNOWN_TYPE"
        assert error(ask(ws, '{"type":"mcp","data":{}}')) == "UNKNOWN_TYPE"
        for invalid in ('{"type":"step"}', '{"type":"step","data":{"message":"m"},"x":1}', '{"type":"state","data":{}}', '{"type":"reset","data":5}'):
            assert error(ask(ws, invalid)) == "VALIDATION_ERROR", invalid
        bad = error(ask(ws, step("m", no_such_field=1)))
        assert bad == ("VALIDATION_ERROR" if kind == "builtin" else "EXECUTION_ERROR")
        assert said(ask(ws, step("after"))) == "after"
        ws.send(CLOSE)
        ends_with(ws, 1000)
    none_left(g)


def test_tools(gateway):
    g = gateway({"environments": {"e": uvicorn("openenv-0.10.0", "app:app", "tools_env", max_workers=1)}})
    with open_ws(g, open_timeout=60) as ws:
        ask(ws, reset())
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "add", "arguments": {"a": 2, "b": 40}}}
        reply = ask(ws, json.dumps({"type": "mcp", "data": call}))
        assert reply["type"] == "mcp" and reply["data"]["id"] == 1 and "42" in json.dumps(reply["data"]["result"])
        listed = ask(ws, json.dumps({"type": "mcp", "data": {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}}))
        assert {t["name"] for t in listed["data"]["result"]["tools"]} >= {"add", "count"}


# --- who may ---------------------------------------------------------------------------------------------------------------------------------


def token(principal, scope, *args):
    done = subprocess.run([BIN, "token", "new", "--principal", principal, "--scope", scope, *args], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.splitlines()


def bearer(token):
    return {"additional_headers": {"Authorization": f"Bearer {token}"}}


def test_credentials_scopes_and_quotas(gateway, tmp_path):
    alice, alice_line = token("alice", "trainer", "--sessions", "2")
    bob, bob_line = token("bob", "trainer", "--calls-per-s", "50")
    agent, agent_line = token("agent", "agent")
    file = tmp_path / "auth"
    file.write_text("\n".join([alice_line, bob_line, agent_line]) + "\n")
    g = gateway(FAULTY, "--auth-file", str(file), "--metrics-open")

    def refused(status, **keys):
        with pytest.raises(InvalidStatus) as e:
            open_ws(g, **keys)
        assert e.value.response.status_code == status

    refused(401)
    refused(401, **bearer("x" * 40))
    refused(403, **bearer(agent))
    first, second = open_ws(g, **bearer(alice)), open_ws(g, **bearer(alice))
    for ws in (first, second):
        assert ask(ws, reset())["type"] == "observation"
    third = open_ws(g, **bearer(alice))
    told = json.loads(third.recv(timeout=10))
    assert error(told) == "CAPACITY_REACHED" and "sessions" in told["data"]["message"]
    ends_with(third, 1000)
    second.close()
    # Another's session is none.
    headers = {"Authorization": f"Bearer {alice}"}
    (session,) = g.wait_for(lambda: len(s := g.get("/v1/sessions", headers=headers).json()["sessions"]) == 1 and s)
    with connect(f"ws://{g.listen}/v1/{session['name']}/ws", **bearer(bob)) as ws:
        assert "Unknown session_id" in json.loads(ws.recv(timeout=10))["data"]["message"]
    with connect(f"ws://{g.listen}/v1/{session['name']}/ws", **bearer(alice)) as ws:
        assert ask(ws, STATE)["type"] == "state"
    # Who is over the pace waits.
    with open_ws(g, **bearer(bob)) as ws:
        ask(ws, reset())
        started = time.monotonic()
        for i in range(120):
            assert said(ask(ws, step(str(i)))) == str(i)
        assert time.monotonic() - started > 1
    # Who has been taken out of the file is refused from the next request on.
    file.with_suffix(".new").write_text(bob_line + "\n")
    os.rename(file.with_suffix(".new"), file)
    told = g.wait_for(lambda: (reply := ask(first, STATE))["type"] == "error" and reply, what="every reactor knows")
    assert "token" in told["data"]["message"]
    ends_with(first, 1008)
    g.wait_for(lambda: g.metric("envgate_websockets") == 0, what="every socket is gone")
