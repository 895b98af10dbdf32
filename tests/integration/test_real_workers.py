# SPDX-License-Identifier: Apache-2.0
"""One scripted session on every kind of real worker, by every kind of real client."""

import json
import subprocess

import grpc
import pytest
from conftest import GRPCURL, ROOT, VENVS, builtin, code_of

from envgate.v1 import environment_service_pb2 as env_pb, payload_pb2, session_service_pb2 as pb

ENVS = ROOT / "tests/envs"


def openenv(version):
    python = VENVS[f"openenv-{version}"] / "bin/python"
    return {
        "process": {"command": [str(python), "-m", "uvicorn", "server.app:app", "--host", "{host}", "--port", "{port}"], "cwd": str(ENVS / "echo_env")},
        "env_vars": {"ECHO_LABEL": "from-the-config", "ECHO_MAX_SESSIONS": "2"},
        "sessions_per_worker": 2,
    }


WORKERS = {
    "openenv-0.10.0-process": lambda: openenv("0.10.0"),
    "openenv-0.2.0-process": lambda: openenv("0.2.0"),
    "openenv-core-0.1.0-process": lambda: {
        "process": {
            "command": [str(VENVS["openenv-core-0.1.0"] / "bin/python"), "-m", "uvicorn", "app:app", "--host", "{host}", "--port", "{port}"],
            "cwd": str(ENVS / "legacy_env_0_1"),
        }
    },
    "builtin-ws": lambda: builtin("echo"),
    "builtin-http": lambda: builtin("echo", "--dialect", "http"),
}
LEGACY = {"openenv-core-0.1.0-process", "builtin-http"}


@pytest.fixture(scope="module", params=list(WORKERS))
def worker(request, tmp_path_factory):
    from conftest import Gateway

    g = Gateway({"environments": {"e": WORKERS[request.param]()}}, tmp=tmp_path_factory.mktemp("gateway"))
    g.kind = request.param
    yield g
    g.check_end()


def grpcurl(g, method, request, fails=False):
    done = subprocess.run(
        [str(GRPCURL), "-plaintext", "-d", json.dumps(request), g.target, f"envgate.v1.SessionService/{method}"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr if fails else json.loads(done.stdout)


def curl(g, verb, path, body=None):
    command = ["curl", "-s", "-S", "-X", verb, g.url + path]
    if body is not None:
        command += ["--json", json.dumps(body)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def said(observation):
    """What an echo says, whichever of the environments it is."""
    return observation.get("message", observation.get("echoed_message"))


def test_grpcio(worker):
    g = worker
    s = g.sessions
    session = s.CreateSession(pb.CreateSessionRequest(environment="environments/e"), timeout=60)
    assert session.state == pb.Session.STATE_READY and session.name.startswith("sessions/")
    reset = s.Reset(pb.ResetRequest(session=session.name, seed=7, episode_id="ep-1"))
    assert (reset.step_index, reset.session) == (0, session.name)
    if g.kind not in LEGACY:
        assert reset.episode_id == "ep-1"
    for i in range(1, 6):
        action = payload_pb2.Payload(json=json.dumps({"message": "x" * i}).encode())
        step = s.Step(pb.StepRequest(session=session.name, action=action))
        assert said(json.loads(step.observation.json)) == "x" * i
        assert step.step_index == i and step.HasField("reward") and not step.done
        assert step.timings.worker_us > 0
    as_value = s.Step(pb.StepRequest(session=session.name, action=action, payload_format=payload_pb2.PAYLOAD_FORMAT_VALUE))
    fields = as_value.observation.value.struct_value.fields
    assert (fields.get("message") or fields["echoed_message"]).string_value == "xxxxx"
    state = json.loads(s.GetState(pb.GetStateRequest(session=session.name)).state.json)
    assert state["step_count"] == 6
    with pytest.raises(grpc.RpcError) as bad:
        s.Step(pb.StepRequest(session=session.name, action=payload_pb2.Payload(json=b'{"message": 5, "no_such_field": 1}')))
    if g.kind == "openenv-core-0.1.0-process":  # answers a bad action with a bare 500
        assert code_of(bad.value) == ("UNKNOWN", "ENV_EXCEPTION")
    else:
        assert code_of(bad.value) == ("INVALID_ARGUMENT", "INVALID_ACTION")
    assert s.GetSession(pb.GetSessionRequest(name=session.name)).step_index == 6
    assert session.name in [x.name for x in s.ListSessions(pb.ListSessionsRequest(environment="e")).sessions]
    s.CloseSession(pb.CloseSessionRequest(name=session.name))
    with pytest.raises(grpc.RpcError) as gone:
        s.GetSession(pb.GetSessionRequest(name=session.name))
    assert code_of(gone.value) == ("NOT_FOUND", "SESSION_NOT_FOUND")


def test_curl(worker):
    g = worker
    name = curl(g, "POST", "/v1/sessions", {"environment": "e"})["name"]
    reset = curl(g, "POST", f"/v1/{name}/reset", {"seed": 3})
    assert reset["done"] is False and "observation" in reset
    # Exactly what OpenEnv's own HTTP client sends.
    step = curl(g, "POST", f"/v1/{name}/step", {"action": {"message": "hé"}, "timeout_s": 15.0})
    assert said(step["observation"]) == "hé" and step["step_index"] == "1" and isinstance(step["reward"], (int, float))
    assert curl(g, "GET", f"/v1/{name}/state")["step_count"] == 1
    assert curl(g, "GET", f"/v1/{name}")["state"] == "STATE_READY"
    assert curl(g, "DELETE", f"/v1/{name}") == {}
    assert curl(g, "GET", f"/v1/{name}")["error"]["status"] == "NOT_FOUND"


def test_grpcurl(worker):
    g = worker
    name = grpcurl(g, "CreateSession", {"environment": "e"})["name"]
    grpcurl(g, "Reset", {"session": name})
    step = grpcurl(g, "Step", {"session": name, "action": {"value": {"message": "hi"}}, "payload_format": "PAYLOAD_FORMAT_VALUE"})
    assert said(step["observation"]["value"]) == "hi"
    assert "NotFound" in grpcurl(g, "GetSession", {"name": "sessions/none"}, fails=True)
    grpcurl(g, "CloseSession", {"name": name})


def test_schema(worker):
    g = worker
    if g.kind in LEGACY:
        with pytest.raises(grpc.RpcError) as error:
            g.environments.GetSchema(env_pb.GetSchemaRequest(environment="e"), timeout=60)
        assert code_of(error.value) == ("UNIMPLEMENTED", "SCHEMA_NOT_PUBLISHED")
        return
    schema = json.loads(g.environments.GetSchema(env_pb.GetSchemaRequest(environment="e"), timeout=60).schema.json)
    assert set(schema) >= {"action", "observation", "state"} and "message" in schema["action"]["properties"]
    assert curl(g, "GET", "/v1/environments/e/schema") == schema


def test_environments_are_listed(worker):
    g = worker
    listed = g.environments.ListEnvironments(env_pb.ListEnvironmentsRequest()).environments
    assert [e.name for e in listed] == ["environments/e"]
    one = curl(g, "GET", "/v1/environments/e")
    assert one["provider"] in ("process", "builtin")


# What parsers of JSON change: numbers beyond a double, spellings, duplicate keys and their order, escapes, spaces.
VERBATIM = {
    "int64": "9007199254740993",
    "int64-ends": "[9223372036854775807,-9223372036854775808,18446744073709551616]",
    "beyond-double": "[1e400,-1E+400,1e-400]",
    "zeros": "[-0.0,-0,0e0,1.10,1E+2,100000000000000000000000.000]",
    "digits": "0." + "123456789" * 40,
    "duplicate-keys": '{"k":1,"k":[2],"k":1,"":0,"":1}',
    "key-order": '{"z":1,"a":{"y":2,"b":3},"10":4,"9":5}',
    "escapes": r'"\u00e9\u00E9\ud83d\ude00\/\n\u0000\u001f\"\\"',
    "utf8": '"é😀\u2028\ufeff\U0010ffff"',
    "spaces": '{ "a" :\t[ 1 ,\r\n 2 ] }',
    "names-of-ours": '{"observation":1,"reward":2,"done":true,"type":"error","data":{"code":"X"}}',
    "literals": "[null,true,false,{},[]]",
    "large": "[" + ",".join(f"{i}.50" for i in range(200_000)) + "]",
}
DEPTH = 64  # max_json_depth's default; the action itself is one level


def nested(levels, open, close):
    return open * levels + "1" + close * levels


VERBATIM["deepest"] = nested(DEPTH - 1, "[", "]")
VERBATIM["deepest-object"] = nested(DEPTH - 1, '{"a":', "}")


@pytest.fixture(scope="module", params=["ws", "http"])
def echo(request, tmp_path_factory):
    """A gateway with a session on an echo, by dialect."""
    from conftest import Gateway

    g = Gateway({"environments": {"e": builtin("echo", "--dialect", request.param)}}, tmp=tmp_path_factory.mktemp("gateway"))
    g.path = g.create("e")
    g.session = g.path.removeprefix("/v1/")
    g.sessions.Reset(pb.ResetRequest(session=g.session))
    yield g
    g.check_end()


def step_by_rest(g, action):
    return g.http.post(g.url + g.path + "/step", data=b'{"action":' + action + b"}", headers={"content-type": "application/json"}, timeout=60)


def step_by_grpc(g, action):
    return g.sessions.Step(pb.StepRequest(session=g.session, action=payload_pb2.Payload(json=action)), timeout=60).observation.json


@pytest.mark.parametrize("data", VERBATIM.values(), ids=list(VERBATIM))
def test_payloads_pass_untouched(echo, data):
    """What the worker gets are the caller's bytes, and what the caller gets are the worker's, in every codec and dialect."""
    action = b'{"message":"m", "data":' + data.encode() + b"}"
    end = b'"echoed_message":"m","message_length":1,"data":' + data.encode() + b"}"
    by_rest = step_by_rest(echo, action)
    assert by_rest.status_code == 200, by_rest.text[:500]
    assert by_rest.content.count(b'"observation":{') >= 1 and by_rest.content.count(end) == 1
    by_grpc = step_by_grpc(echo, action)
    assert by_grpc.startswith(b"{") and by_grpc.endswith(end)


@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a":', "}")], ids=["array", "object"])
def test_one_level_too_deep(echo, brackets):
    action = b'{"message":"m","data":' + nested(DEPTH, *brackets).encode() + b"}"
    by_rest = step_by_rest(echo, action)
    error = by_rest.json()["error"]
    assert by_rest.status_code == 400 and error["details"][0]["reason"] == "JSON_TOO_DEEP" and "action" in error["message"]
    with pytest.raises(grpc.RpcError) as by_grpc:
        step_by_grpc(echo, action)
    assert code_of(by_grpc.value) == ("INVALID_ARGUMENT", "JSON_TOO_DEEP") and "action" in by_grpc.value.details()
    assert step_by_rest(echo, b'{"message":"after"}').status_code == 200
