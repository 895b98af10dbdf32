# SPDX-License-Identifier: Apache-2.0
"""The built-in worker (`envgate worker NAME`) against Gymnasium, OpenEnv's own clients and OpenEnv's own server."""

import asyncio
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import time

import gymnasium
import pytest
import requests
import requests_unixsocket
import websockets
from conftest import BIN, SLOW, VENVS
from websockets.sync.client import connect as ws_connect
from websockets.sync.client import unix_connect


class Worker:
    def __init__(self, name, *options, listen="127.0.0.1:0"):
        command = [str(BIN), "worker", name, "--listen", listen, *map(str, options)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        self.expected_exit = 0
        self.at = line.removeprefix("listening on ").strip()
        self.url = f"http://{self.at}"

    def open(self, **kwargs):
        return ws_connect(f"ws://{self.at}/ws", compression=None, max_size=None, close_timeout=5, **kwargs)

    def post(self, path, body):
        return requests.post(self.url + path, json=body, timeout=30)

    def get(self, path):
        return requests.get(self.url + path, timeout=30)

    def finish(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            out, err = self.process.communicate(timeout=20 * SLOW)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        assert "Sanitizer" not in err and "runtime error" not in err, err
        assert out == "", "one line on stdout and no more"
        assert self.process.returncode == self.expected_exit, err


@pytest.fixture
def worker():
    started = []

    def start(*args, **kwargs):
        started.append(Worker(*args, **kwargs))
        return started[-1]

    yield start
    for w in started:
        w.finish()


def ask(ws, message):
    ws.send(message if isinstance(message, (str, bytes)) else json.dumps(message))
    return json.loads(ws.recv(timeout=30 * SLOW))


def step(ws, message, **more):
    return ask(ws, {"type": "step", "data": {"message": message, **more}})


def close_code(ws):
    with pytest.raises(websockets.ConnectionClosed) as e:
        ws.recv(timeout=30 * SLOW)
    return e.value.rcvd.code if e.value.rcvd else None


# --- cartpole against Gymnasium ------------------------------------------------------------------------------------------------------------


def balance(o):
    return int(3 * o[2] + o[3] + 0.3 * o[0] + 0.3 * o[1] > 0)


@pytest.mark.parametrize("policy", ["random", "balance"])
def test_cartpole_is_gymnasiums(worker, policy):
    env = gymnasium.make("CartPole-v1")
    w = worker("cartpole")
    lengths = []
    with w.open() as ws:
        for seed in [*range(100 if policy == "random" else 15), 2**32, 2**63, 2**64 - 2]:
            draws = random.Random(seed)
            want, _ = env.reset(seed=seed)
            data = ask(ws, {"type": "reset", "data": {"seed": seed}})["data"]
            assert data["reward"] == 0 and data["done"] is False
            steps, over = 0, False
            while True:
                # The JSON numbers are the doubles that Python makes of Gymnasium's float32, to the last bit.
                assert data["observation"]["state"] == want.tolist(), (seed, steps)
                if over:
                    break
                action = draws.randrange(2) if policy == "random" else balance(want)
                want, reward, terminated, truncated, _ = env.step(action)
                steps, over = steps + 1, terminated or truncated
                data = ask(ws, {"type": "step", "data": {"action": action}})["data"]
                assert data["reward"] == reward and data["done"] is over
                assert data["metadata"] == {"terminated": terminated, "truncated": truncated}
            lengths.append(steps)
            want, _ = env.reset()  # goes on with the same generator
            assert ask(ws, {"type": "reset"})["data"]["observation"]["state"] == want.tolist()
    assert max(lengths) == 500 if policy == "balance" else min(lengths) < 30


def test_cartpole_starts_anew_without_a_seed(worker):
    w = worker("cartpole", "--dialect", "ws")
    states = [tuple(w.post("/reset", {}).json()["observation"]["state"]) for _ in range(4)]
    assert len(set(states)) == 4
    again = [w.post("/reset", {"seed": 3}).json()["observation"]["state"] for _ in range(2)]
    assert again[0] == again[1] and tuple(again[0]) not in states
    assert w.post("/step", {"action": {"action": 1}}).status_code == 500  # plain HTTP keeps nothing: there was no reset


# --- OpenEnv's clients ---------------------------------------------------------------------------------------------------------------------

CLIENT = """
import json, sys
from openenv.core.env_client import EnvClient
from openenv.core.client_types import StepResult

class Client(EnvClient):
    def _step_payload(self, action): return action
    def _parse_result(self, p): return StepResult(observation=p["observation"], reward=p["reward"], done=p["done"])
    def _parse_state(self, p): return p

client = Client(base_url=sys.argv[1])
if hasattr(client, "sync"):
    client = client.sync()
with client:
    r = client.reset(seed=7, episode_id="mine")
    assert r.observation["echoed_message"] == "Echo environment ready!" and r.reward == 0.0 and not r.done, r
    for i in range(50):
        r = client.step({"message": "m" * i})
        assert r.observation["message_length"] == i and abs(r.reward - i * 0.1) < 1e-9, r
    state = client.state()
    assert state["episode_id"] == "mine" and state["step_count"] == 50 and state["repeated_steps"] == 0, state
    try:
        client.step({"nonsense": 1})
    except RuntimeError as e:
        assert "VALIDATION_ERROR" in str(e), e
    else:
        raise AssertionError("a bad action passed")
    assert client.step({"message": "after"}).observation["echoed_message"] == "after"
print("done")
"""


@pytest.mark.parametrize("version", ["openenv-0.10.0", "openenv-0.2.0"])
def test_openenvs_own_client(worker, version, tmp_path):
    w = worker("echo")
    script = tmp_path / "client.py"
    script.write_text(CLIENT)
    python = VENVS[version] / "bin/python"
    done = subprocess.run([python, script, w.url], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr


# --- transcripts against OpenEnv's server --------------------------------------------------------------------------------------------------

SERVER = """
from uuid import uuid4
from pydantic import Field
from openenv.core.env_server.http_server import create_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State

class EchoAction(Action):
    message: str = Field(..., description="Message to echo back")

class EchoObservation(Observation):
    echoed_message: str = ""
    message_length: int = 0

class EchoEnvironment(Environment):
    SUPPORTS_CONCURRENT_SESSIONS = True
    def __init__(self):
        self.seen, self.total, self.repeated, self.last = {}, 0, 0, None
        self.episode, self.steps = str(uuid4()), 0
    def reset(self, seed=None, episode_id=None, **kwargs):
        self.episode, self.steps = episode_id or str(uuid4()), 0
        return EchoObservation(echoed_message="Echo environment ready!", reward=0.0)
    def step(self, action):
        m = self.last = action.message
        self.steps += 1
        self.total += 1
        self.repeated += m in self.seen
        self.seen[m] = self.seen.get(m, 0) + 1
        metadata = {"original_message": m, "step": self.steps, "executions": self.seen[m]}
        return EchoObservation(echoed_message=m, message_length=len(m), reward=len(m) * 0.1, metadata=metadata)
    @property
    def state(self):
        return State(episode_id=self.episode, step_count=self.steps, last_message=self.last, total_steps=self.total,
                     repeated_steps=self.repeated)

app = create_app(EchoEnvironment, EchoAction, EchoObservation, env_name="echo", max_concurrent_envs=1)
"""


@pytest.fixture(scope="module")
def openenv_server(tmp_path_factory):
    """OpenEnv 0.10.0's server with an environment that does what ours does; its host:port."""
    folder = tmp_path_factory.mktemp("openenv")
    (folder / "app.py").write_text(SERVER)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    log = open(folder / "log", "w")
    python = VENVS["openenv-0.10.0"] / "bin/python"
    process = subprocess.Popen([python, "-m", "uvicorn", "app:app", "--port", str(port)], cwd=folder, stdout=log, stderr=log)
    end = time.monotonic() + 90
    while True:
        try:
            requests.get(f"http://127.0.0.1:{port}/health", timeout=5)
            break
        except requests.ConnectionError:
            assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.1)
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait(20)
    log.close()


MESSAGES = [
    '{"type":"reset","data":{"seed":7,"episode_id":"e","foo":1}}',
    '{"type":"state"}',
    '{"type":"step","data":{"message":"hi"}}',
    '{"type":"step","data":{"message":"hi","metadata":{"a":1}}}',
    '{"type":"step","data":{"message":"h\\u00e9\\n \\ud83d\\ude00 / \\" é"}}',
    '{"type":"step","data":{"message":""}}',
    '{"type":"step","data":{"message":"a","message":"b"}}',
    '{"type":"step","data":{}}',
    '{"type":"step"}',
    '{"type":"step","data":5}',
    '{"type":"step","data":{"message":5,"x":[1,2],"metadata":3}}',
    '{"type":"step","data":{"message":"a"},"request_id":"x"}',
    '{"type":"step","data":7,"request_id":"x","timeout_s":1}',
    '{"type":"state","data":{}}',
    '{"type":"reset","data":null}',
    '{"type":"reset","data":{"episode_id":"f"},"x":1}',
    '{"type":"nope","x":1}',
    '{"type":5}',
    "{}",
    '{"type":"mcp","data":{"jsonrpc":"2.0","id":1,"method":"tools/list"}}',
    '{"type":"mcp","data":{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"x","arguments":{}}}}',
    '{"type":"mcp","data":{"jsonrpc":"2.0","id":1,"method":"foo"}}',
    '{"type":"mcp"}',
    '{"type":"mcp","data":5}',
    '{"type":"close","data":1}',
    '{"type":"state"}',
]


def without_url(text):
    """pydantic adds a link with its own version to each error."""
    return re.sub(r',"url":"https://errors.pydantic.dev/[^"]*"', "", text)


def transcript(at, messages):
    said = []
    with ws_connect(f"ws://{at}/ws", compression=None) as ws:
        for message in messages:
            ws.send(message)
            said.append(without_url(ws.recv(timeout=30)))
    return said


def test_websocket_transcript_is_openenvs(worker, openenv_server):
    w = worker("echo")
    ours, theirs = transcript(w.at, MESSAGES), transcript(openenv_server, MESSAGES)
    for message, our, their in zip(MESSAGES, ours, theirs, strict=True):
        assert our == their, message


@pytest.mark.parametrize("message", ["nonsense", "", '{"type":"state"} x', "{'type':1}"])
def test_invalid_json_is_named_alike(worker, openenv_server, message):
    w = worker("echo")
    for at in (w.at, openenv_server):  # the parsers' words differ
        with ws_connect(f"ws://{at}/ws", compression=None) as ws:
            reply = ask(ws, message)
            assert reply["type"] == "error" and reply["data"]["code"] == "INVALID_JSON"
            assert reply["data"]["message"].startswith("Invalid JSON: ")
            assert ask(ws, '{"type":"state"}')["type"] == "state"


@pytest.mark.parametrize("message", ["[1]", '"s"', "5", "5.5", "true", "null", b"\x01\x02"])
def test_the_session_ends_alike(worker, openenv_server, message):
    w = worker("echo")
    said = []
    for at in (w.at, openenv_server):
        with ws_connect(f"ws://{at}/ws", compression=None) as ws:
            ws.send(message)
            said.append((ws.recv(timeout=30), close_code(ws)))
        time.sleep(0.1)  # until OpenEnv's slot is free
    assert said[0] == said[1] and said[0][1] == 1000


def test_capacity_is_refused_alike(worker, openenv_server):
    w = worker("echo")
    said = []
    for at in (w.at, openenv_server):
        with ws_connect(f"ws://{at}/ws", compression=None) as first:
            assert ask(first, '{"type":"reset"}')["type"] == "observation"
            with ws_connect(f"ws://{at}/ws", compression=None) as second:
                said.append((second.recv(timeout=30), close_code(second)))
            assert ask(first, '{"type":"state"}')["type"] == "state"
        time.sleep(0.1)
    assert said[0] == said[1] and "CAPACITY_REACHED" in said[0][0]


REQUESTS = [
    ("GET", "/health", None),
    ("HEAD", "/health", None),
    ("POST", "/health", "{}"),
    ("GET", "/nope", None),
    ("GET", "/ws", None),
    ("GET", "/step", None),
    ("POST", "/reset", None),
    ("POST", "/reset", "{}"),
    ("POST", "/reset", '{"seed":-1,"episode_id":5}'),
    ("POST", "/reset", '{"seed":1.5}'),
    ("POST", "/reset", "[1]"),
    ("POST", "/step", '{"action":{"message":"hi"},"timeout_s":15,"request_id":"r","episode_id":"e"}'),
    ("POST", "/step", '{"action":{}}'),
    ("POST", "/step", '{"action":{"message":5,"z":1}}'),
    ("POST", "/step", "{}"),
    ("POST", "/step", '{"action":5,"timeout_s":-1,"request_id":4}'),
    ("POST", "/step", "[1]"),
    ("POST", "/step", None),
    ("POST", "/mcp", '{"jsonrpc":"2.0","id":1,"method":"tools/list"}'),
    ("POST", "/mcp", "{bad"),
]


@pytest.mark.parametrize("method,path,body", REQUESTS)
def test_http_is_openenvs(worker, openenv_server, method, path, body):
    w = worker("echo")
    headers = {"Content-Type": "application/json"} if body is not None else {}
    replies = [requests.request(method, f"http://{at}{path}", data=body, headers=headers, timeout=30) for at in (w.at, openenv_server)]
    ours, theirs = [(r.status_code, r.headers.get("Content-Type"), r.headers.get("Allow"), without_url(r.text)) for r in replies]
    assert ours == theirs


def test_http_wants_a_json_content_type(worker, openenv_server):
    w = worker("echo")
    for at in (w.at, openenv_server):
        reply = requests.post(f"http://{at}/step", data='{"action":{"message":"hi"}}', timeout=30)
        assert reply.status_code == 422 and reply.json()["detail"][0]["type"] == "model_attributes_type"


def test_schema_and_metadata(worker):
    for name in ("echo", "cartpole", "pixels"):
        w = worker(name)
        schema = w.get("/schema").json()
        assert set(schema) == {"action", "observation", "state"}
        assert all(part["type"] == "object" for part in schema.values())
        assert set(w.get("/metadata").json()) == {"name", "description", "readme_content", "version", "author", "documentation_url"}


# --- what it is for: tests and benchmarks --------------------------------------------------------------------------------------------------


def test_stateful_http_is_one_environment(worker):
    w = worker("echo", "--dialect", "http")
    assert w.post("/reset", {"episode_id": "e"}).json() == {
        "observation": {"echoed_message": "Echo environment ready!", "message_length": 0},
        "reward": 0.0,
        "done": False,
    }
    for i in range(3):
        w.post("/step", {"action": {"message": f"m{i}"}})
    assert w.get("/state").json() == {"episode_id": "e", "step_count": 3, "last_message": "m2", "total_steps": 3, "repeated_steps": 0}
    assert w.get("/schema").status_code == w.get("/metadata").status_code == 404
    with pytest.raises(websockets.InvalidStatus) as e:
        w.open()
    assert e.value.response.status_code == 404


def test_both_dialects(worker):
    w = worker("echo", "--dialect", "both")
    w.post("/step", {"action": {"message": "m"}})
    with w.open() as ws:
        assert ask(ws, {"type": "state"})["data"]["step_count"] == 0
        step(ws, "x")
    assert w.get("/state").json()["total_steps"] == 1


def test_frames_of_pixels(worker):
    w = worker("pixels")
    with w.open() as ws:
        first = ask(ws, {"type": "reset", "data": {"seed": 1}})["data"]
        assert first["reward"] is None and first["observation"]["shape"] == [84, 84]
        frame = first["observation"]["frame"]
        assert len(frame) == 84 and all(len(row) == 84 and all(0 <= v <= 255 for v in row) for row in frame)
        second = ask(ws, {"type": "step", "data": {"action": 1}})["data"]
        assert second["observation"]["frame"] != frame and second["reward"] == 1.0
        assert ask(ws, {"type": "reset", "data": {"seed": 1}})["data"] == first


@pytest.mark.parametrize("size", [400, 28000, 1 << 20])
def test_replies_of_a_size(worker, size):
    w = worker("echo", "--reply-bytes", size)
    with w.open() as ws:
        ws.send('{"type":"step","data":{"message":"a"}}')
        assert len(ws.recv(timeout=30)) == size
    assert len(w.post("/step", {"action": {"message": "a"}}).content) == size


def test_a_slow_step_blocks_nobody_else(worker):
    w = worker("echo", "--faults", "--capacity", 2)
    with w.open() as slow, w.open() as fast:
        start = time.monotonic()
        slow.send('{"type":"step","data":{"message":"s","fault":"slow","ms":1500}}')
        slow.send('{"type":"state"}')
        slow.send('{"type":"step","data":{"message":"t"}}')
        assert slow.ping().wait(1 * SLOW), "pings are answered during a step"
        for i in range(50):
            step(fast, f"m{i}")
        assert w.get("/health").json() == {"status": "healthy"}
        assert time.monotonic() - start < 1.4 * SLOW
        replies = [json.loads(slow.recv(timeout=30)) for _ in range(3)]
        assert time.monotonic() - start >= 1.5
        assert [r["type"] for r in replies] == ["observation", "state", "observation"]
        assert replies[1]["data"]["last_message"] == "s"


def test_a_step_holds_the_slot_until_it_ends(worker):
    w = worker("echo", "--faults")
    with w.open() as ws:
        ws.send('{"type":"step","data":{"message":"s","fault":"slow","ms":1000}}')
        ws.ping().wait(5)
    with w.open() as ws:
        assert json.loads(ws.recv(timeout=5))["data"]["code"] == "CAPACITY_REACHED"
    time.sleep(1.2)
    with w.open() as ws:
        assert ask(ws, {"type": "reset"})["type"] == "observation"


def test_delay(worker):
    w = worker("echo", "--delay-ms", 200)
    with w.open() as ws:
        start = time.monotonic()
        step(ws, "a")
        assert 0.2 <= time.monotonic() - start < 2 * SLOW
    start = time.monotonic()
    w.post("/step", {"action": {"message": "a"}})
    assert time.monotonic() - start >= 0.2


def test_faults_that_the_session_survives(worker):
    w = worker("echo", "--faults")
    with w.open() as ws:
        assert step(ws, "a", fault="error")["data"] == {"message": "the action asked for an error", "code": "EXECUTION_ERROR"}
        assert step(ws, "a", fault="validation")["data"]["code"] == "VALIDATION_ERROR"
        assert step(ws, "a", fault="nope")["data"]["errors"][0]["type"] == "literal_error"
        assert ask(ws, {"type": "state"})["data"]["total_steps"] == 0
        ws.send('{"type":"step","data":{"message":"b","fault":"garbage"}}')
        with pytest.raises(json.JSONDecodeError):
            json.loads(ws.recv(timeout=5))
        ws.send('{"type":"step","data":{"message":"c","fault":"binary"}}')
        assert json.loads(ws.recv(timeout=5, decode=False))["data"]["observation"]["echoed_message"] == "c"
        first = step(ws, "d", fault="desync_extra")
        assert json.loads(ws.recv(timeout=5)) == first
        ws.send('{"type":"step","data":{"message":"e","fault":"big","bytes":3000000}}')
        assert len(ws.recv(timeout=30)) == 3000000
        state = ask(ws, {"type": "state"})["data"]
        assert state["total_steps"] == 4 and state["repeated_steps"] == 0
        assert step(ws, "d")["data"]["metadata"]["executions"] == 2


def test_faults_that_end_the_session(worker):
    w = worker("echo", "--faults", "--capacity", 10)
    for fault, code in (({"fault": "close"}, 1011), ({"fault": "close", "code": 4001, "ms": 50}, 4001), ({"fault": "drop"}, None)):
        with w.open() as ws:
            ws.send(json.dumps({"type": "step", "data": {"message": "m", **fault}}))
            assert close_code(ws) == code
    with w.open() as ws:
        ws.send('{"type":"step","data":{"message":"m","fault":"hang"}}')
        with pytest.raises(TimeoutError):
            ws.recv(timeout=0.5)
        assert ws.ping().wait(5)
    assert w.get("/health").ok
    w.process.kill()  # it waits for the step that never ends
    w.expected_exit = -signal.SIGKILL


def test_faults_by_http(worker):
    w = worker("echo", "--faults")

    def post(**fault):
        return w.post("/step", {"action": {"message": "m", **fault}})

    assert (post(fault="error").status_code, post(fault="error").text) == (500, "Internal Server Error")
    assert post(fault="validation").status_code == 422
    assert post(fault="garbage").text.startswith("<html>")
    assert post(fault="binary").headers["Content-Type"] == "application/octet-stream"
    for fault in ("drop", "close"):
        with pytest.raises(requests.ConnectionError):
            post(fault=fault)
    with pytest.raises(requests.Timeout):
        requests.post(w.url + "/step", json={"action": {"message": "m", "fault": "hang"}}, timeout=0.5)
    assert post(fault="slow", ms=100).ok
    w.expected_exit = 5
    with pytest.raises(requests.ConnectionError):
        post(fault="exit", code=5)


def test_exit_fault(worker):
    w = worker("echo", "--faults")
    w.expected_exit = 3
    with w.open() as ws:
        ws.send('{"type":"step","data":{"message":"m","fault":"exit","code":3}}')
        assert close_code(ws) is None


def test_messages_of_up_to_16_mib(worker):
    w = worker("echo")
    with w.open() as ws:
        message = "x" * (15 << 20)
        assert step(ws, message)["data"]["observation"]["message_length"] == len(message)
    with w.open() as ws:
        try:
            ws.send(json.dumps({"type": "step", "data": {"message": "x" * (17 << 20)}}))
        except websockets.ConnectionClosed:
            pass
        assert close_code(ws) == 1009
    with w.open() as ws:  # in fragments
        ws.send(['{"type":"step",', '"data":{"message"', ':"joined"}}'])
        assert json.loads(ws.recv(timeout=5))["data"]["observation"]["echoed_message"] == "joined"


def handshake(w):
    s = socket.create_connection(w.at.split(":"), timeout=30)
    s.sendall(
        b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n" + frame(b'{"type":"state"}')
    )
    return s


def frame(payload, opcode=1):
    length = bytes([0x80 | len(payload)]) if len(payload) < 126 else bytes([0x80 | 126]) + struct.pack("!H", len(payload))
    return bytes([0x80 | opcode]) + length + bytes(4) + payload  # masked with zeros


def read_until(s, end):
    got = b""
    while end not in got:
        more = s.recv(65536)
        assert more, got
        got += more
    return got


def test_a_frame_behind_the_handshake_is_not_lost(worker):
    with handshake(worker("echo")) as s:
        got = read_until(s, b'"step_count":0')
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in got  # RFC 6455 section 1.3
        assert b"permessage-deflate" not in got


def test_replies_go_before_the_close(worker):
    with handshake(worker("echo")) as s:
        read_until(s, b'"step_count":0')
        s.sendall(frame(b'{"type":"step","data":{"message":"last words"}}') + frame(struct.pack("!H", 1000), opcode=8))
        assert b"last words" in read_until(s, b"\x88\x02\x03\xe8")


@pytest.mark.parametrize(
    "bytes_,code",
    [
        (b"\x81\x05hello", 1002),  # not masked
        (b"\x83\x80\0\0\0\0", 1002),  # a reserved opcode
        (b"\x81\x82\0\0\0\0\xff\xff", 1007),  # not UTF-8
    ],
)
def test_protocol_errors(worker, bytes_, code):
    with handshake(worker("echo")) as s:
        read_until(s, b'"step_count":0')
        s.sendall(bytes_)
        got = b""
        while more := s.recv(1000):
            got += more
        assert got[:1] == b"\x88" and struct.unpack("!H", got[2:4])[0] == code


def test_a_client_that_does_not_read(worker):
    """Replies pile up only so far; then it reads no further requests."""
    w = worker("echo", "--reply-bytes", 1 << 20, "--capacity", 2)
    with handshake(w) as s, w.open() as other:
        s.setblocking(False)
        sent = 0
        end = time.monotonic() + 3
        while time.monotonic() < end and sent < 64 << 20:
            try:
                sent += s.send(frame(b'{"type":"step","data":{"message":"a"}}') * 1000)
            except BlockingIOError:
                time.sleep(0.01)
        assert step(other, "b")["type"] == "observation"
        rss = int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{w.process.pid}/status").read())[1])
        assert rss < 400_000, f"{rss} kB for {sent} bytes sent"


def test_sigterm_says_goodbye(worker):
    w = worker("echo", "--capacity", 3)
    sockets = [w.open() for _ in range(3)]
    for ws in sockets:
        ask(ws, {"type": "reset"})
    w.process.send_signal(signal.SIGTERM)
    assert [close_code(ws) for ws in sockets] == [1012] * 3
    w.process.wait(10)


def test_sigterm_waits_for_a_step(worker):
    w = worker("echo", "--faults")
    with w.open() as ws:
        ws.send('{"type":"step","data":{"message":"s","fault":"slow","ms":2500}}')
        assert ws.ping().wait(5)
        w.process.send_signal(signal.SIGTERM)
        start = time.monotonic()
        assert close_code(ws) == 1012
        w.process.wait(20)
        assert time.monotonic() - start > 1.5


def test_unix_socket(worker, tmp_path):
    path = tmp_path / "w.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    w = worker("echo", listen=f"unix:{path}")
    with unix_connect(str(path), "ws://localhost/ws", compression=None) as ws:
        assert step(ws, "a")["type"] == "observation"
    at = "http+unix://" + str(path).replace("/", "%2F")
    with requests_unixsocket.Session() as http:
        assert http.get(at + "/health").json() == {"status": "healthy"}
    w.finish()
    assert not path.exists()


def test_launches_that_go_wrong(worker):
    assert worker("echo", "--no-ready").get("/health").status_code == 503
    start = time.monotonic()
    assert worker("echo", "--boot-ms", 600).get("/health").ok
    assert time.monotonic() - start >= 0.6
    start = time.monotonic()
    dead = worker("echo", "--boot-ms", 60000, "--exit-after-ms", 300, "--exit-code", 7)
    dead.expected_exit = 7
    assert dead.at == "" and dead.process.wait(20) == 7
    short = worker("echo", "--exit-after-ms", 500, "--exit-code", 9)
    short.expected_exit = 9
    with short.open() as ws:
        ask(ws, {"type": "reset"})
        assert close_code(ws) is None
    assert short.process.wait(20) == 9


def test_usage():
    bad = subprocess.run([BIN, "worker", "nope"], capture_output=True, text=True)
    assert bad.returncode == 2 and "echo, cartpole, pixels" in bad.stderr
    taken = subprocess.run([BIN, "worker", "echo", "--listen", "nowhere"], capture_output=True, text=True)
    assert taken.returncode == 1 and "cannot listen" in taken.stderr
    shown = subprocess.run([BIN, "worker", "--help"], capture_output=True, text=True)
    assert shown.returncode == 0 and "--reply-bytes N" in shown.stdout


def test_a_thousand_sessions(worker):
    w = worker("echo", "--capacity", 1000)

    async def one(i):
        async with websockets.connect(f"ws://{w.at}/ws", compression=None, open_timeout=60 * SLOW) as ws:
            for k in range(5):
                await ws.send(json.dumps({"type": "step", "data": {"message": f"{i}/{k}"}}))
                data = json.loads(await ws.recv())["data"]
                assert data["observation"]["echoed_message"] == f"{i}/{k}"
                assert data["metadata"]["step"] == k + 1 and data["metadata"]["executions"] == 1
            opened.append(i)
            while len(opened) < 1000:
                await asyncio.sleep(0.01)

    async def all_of_them():
        await asyncio.gather(*(one(i) for i in range(1000)))

    opened = []
    assert os.sysconf("SC_OPEN_MAX") > 1100
    asyncio.run(all_of_them())
    for _ in range(100):  # every slot is free again
        with w.open() as ws:
            if ask(ws, {"type": "state"})["type"] == "state":
                break
    else:
        raise AssertionError("no slot")
