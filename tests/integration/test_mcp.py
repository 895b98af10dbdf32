# SPDX-License-Identifier: Apache-2.0
"""ListTools and CallTool: OpenEnv's own MCP environment behind the gateway, and workers that have no tools."""

import json
import os
import signal
import time

import grpc
import pytest
from conftest import ROOT, SLOW, VENVS, Gateway, builtin, code_of
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from test_auth import File

from envgate.v1 import payload_pb2, session_service_pb2 as pb


def uvicorn(version, folder, app="app:app", **keys):
    command = [str(VENVS[version] / "bin/python"), "-m", "uvicorn", app, "--host", "{host}", "--port", "{port}"]
    return {"process": {"command": command, "cwd": str(ROOT / "tests/envs" / folder)}, "env_vars": {"ECHO_MAX_SESSIONS": "4"}, "sessions_per_worker": 4, **keys}


ENVIRONMENTS = {
    "tools": uvicorn("openenv-0.10.0", "tools_env"),
    "echo": uvicorn("openenv-0.10.0", "echo_env", "server.app:app"),
    "old": uvicorn("openenv-0.2.0", "echo_env", "server.app:app"),
    "legacy": uvicorn("openenv-core-0.1.0", "legacy_env_0_1", sessions_per_worker=1),
    "builtin": builtin("echo"),
}


@pytest.fixture(scope="module")
def g(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("mcp")
    file = File(tmp / "auth")
    for principal, scope in [("alice", "trainer"), ("bob", "agent")]:
        file.add(principal, scope)
    tokens = dict(file.tokens)
    file.add("alice", "agent")
    tokens["alice-agent"] = file.tokens["alice"]
    file.write()
    gateway = Gateway({"auth_file": str(file.path), "environments": ENVIRONMENTS}, tmp=tmp)
    gateway.tokens = tokens
    yield gateway
    gateway.check_end()


def by(g, who="alice"):
    return {"metadata": [("authorization", f"Bearer {g.tokens[who]}")], "timeout": 60 * SLOW}


def create(g, environment):
    return g.sessions.CreateSession(pb.CreateSessionRequest(environment=environment), **by(g)).name


@pytest.fixture
def session(g):
    name = create(g, "tools")
    yield name
    g.sessions.CloseSession(pb.CloseSessionRequest(name=name), **by(g))


def call(g, session, tool, arguments=None, who="alice", **fields):
    payload = payload_pb2.Payload(json=json.dumps(arguments).encode()) if arguments is not None else None
    return g.sessions.CallTool(pb.CallToolRequest(session=session, tool=tool, arguments=payload, **fields), **by(g, who))


def data(reply):
    return json.loads(reply.result.json)["data"]


def failure(g, *args, **kwargs):
    """(code, reason, JSON-RPC code) of a CallTool."""
    with pytest.raises(grpc.RpcError) as e:
        call(g, *args, **kwargs)
    info = error_details_pb2.ErrorInfo()
    rpc_status.from_call(e.value).details[0].Unpack(info)
    return *code_of(e.value), info.metadata.get("jsonrpc_code")


def test_tools_are_listed(g, session):
    reply = g.sessions.ListTools(pb.ListToolsRequest(session=session), **by(g))
    assert reply.session == session
    tools = {tool.name: tool for tool in reply.tools}
    assert [tool.name for tool in reply.tools] == ["add", "count", "fail"]
    assert tools["add"].description == "Adds two integers."
    schema = json.loads(tools["add"].input_schema.json)
    assert schema["required"] == ["a", "b"] and schema["properties"]["a"]["type"] == "integer"
    reply = g.sessions.ListTools(pb.ListToolsRequest(session=session, payload_format="PAYLOAD_FORMAT_VALUE"), **by(g))
    assert reply.tools[0].input_schema.value.struct_value["properties"]["b"]["type"] == "integer"


def test_a_tool_is_called(g, session):
    reply = call(g, session, "add", {"a": 2, "b": 40})
    assert reply.session == session and not reply.is_error
    result = json.loads(reply.result.json)
    assert result["data"] == 42 and result["content"][0]["text"] == "42"
    # in the session's own environment, and no step of the gateway's count
    g.sessions.Reset(pb.ResetRequest(session=session), **by(g))
    assert [data(call(g, session, "count")) for _ in range(3)] == [1, 2, 3]
    state = g.sessions.GetSession(pb.GetSessionRequest(name=session), **by(g))
    assert state.step_index == 0
    value = call(g, session, "count", payload_format="PAYLOAD_FORMAT_VALUE").result.value
    assert value.struct_value["data"] == 4


def test_within_a_stream(g, session):
    from test_interact import Stream

    with Stream(g, by(g)["metadata"]).first() as s:
        arguments = payload_pb2.Payload(json=b'{"a": 2, "b": 40}')
        assert data(s.ask(call_tool=pb.CallToolRequest(session=session, tool="add", arguments=arguments)).tool) == 42
        status = s.ask(call_tool=pb.CallToolRequest(session=session, tool="add", arguments=payload_pb2.Payload(json=b"[]"))).status
        assert status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        info = error_details_pb2.ErrorInfo()
        s.ask(call_tool=pb.CallToolRequest(session=session, tool="fail")).status.details[0].Unpack(info)
        assert (info.reason, info.metadata["jsonrpc_code"]) == ("TOOL_FAILED", "-32603")


def test_over_rest(g, session):
    headers = {"authorization": f"Bearer {g.tokens['alice-agent']}"}
    reply = g.get(f"/v1/{session}/tools", headers=headers)
    assert reply.status_code == 200, reply.text
    assert reply.json()["tools"][0]["input_schema"]["required"] == ["a", "b"]
    reply = g.post(f"/v1/{session}/tools:call", {"tool": "add", "arguments": {"a": 1, "b": 2}}, headers=headers)
    assert reply.status_code == 200 and reply.json()["result"]["data"] == 3 and reply.json()["is_error"] is False
    reply = g.post(f"/v1/{session}/tools:call", {"tool": "fail", "arguments": {"text": "ouch"}}, headers=headers)
    error = reply.json()["error"]
    assert reply.status_code == 500 and "ouch" in error["message"]
    assert error["details"][0]["reason"] == "TOOL_FAILED" and error["details"][0]["metadata"] == {"jsonrpc_code": "-32603"}


def test_failures(g, session):
    assert failure(g, session, "nobody") == ("NOT_FOUND", "TOOL_NOT_FOUND", "-32603")
    assert failure(g, session, "add", {"a": "x", "b": 1})[1:] == ("TOOL_FAILED", "-32603")
    assert failure(g, session, "fail", {"text": "ouch"}) == ("UNKNOWN", "TOOL_FAILED", "-32603")
    assert failure(g, session, "") == ("INVALID_ARGUMENT", "INVALID_REQUEST", None)
    assert failure(g, session, "add", [1, 2]) == ("INVALID_ARGUMENT", "INVALID_REQUEST", None)
    assert failure(g, session, "add", request_id="x" * 129) == ("INVALID_ARGUMENT", "INVALID_REQUEST", None)
    assert data(call(g, session, "add", {"a": 1, "b": 1})) == 2, "the session goes on"


def test_a_retry_calls_once(g, session):
    first = call(g, session, "count", request_id="one")
    assert call(g, session, "count", request_id="one") == first
    assert failure(g, session, "count", {"sleep_s": 0.0}, request_id="one")[:2] == ("FAILED_PRECONDITION", "REQUEST_ID_REUSED")
    assert data(call(g, session, "count")) == 2
    slow = {"sleep_s": 0.5 * SLOW}
    assert failure(g, session, "count", slow, request_id="two", timeout_s=0.1)[:2] == ("DEADLINE_EXCEEDED", "STEP_IN_PROGRESS")
    assert data(call(g, session, "count", slow, request_id="two")) == 3
    assert data(call(g, session, "count")) == 4


def test_an_agent_reaches_tools_and_nothing_else(g, session):
    assert data(call(g, session, "add", {"a": 1, "b": 2}, who="alice-agent")) == 3
    assert len(g.sessions.ListTools(pb.ListToolsRequest(session=session), **by(g, "alice-agent")).tools) == 3
    for refused in [
        lambda: g.sessions.Reset(pb.ResetRequest(session=session), **by(g, "alice-agent")),
        lambda: g.sessions.Step(pb.StepRequest(session=session), **by(g, "alice-agent")),
        lambda: g.sessions.GetState(pb.GetStateRequest(session=session), **by(g, "alice-agent")),
        lambda: g.sessions.CloseSession(pb.CloseSessionRequest(name=session), **by(g, "alice-agent")),
        lambda: g.sessions.ListSessions(pb.ListSessionsRequest(), **by(g, "alice-agent")),
        lambda: g.sessions.CreateSession(pb.CreateSessionRequest(environment="tools"), **by(g, "alice-agent")),
    ]:
        with pytest.raises(grpc.RpcError) as e:
            refused()
        assert code_of(e.value) == ("PERMISSION_DENIED", "SCOPE_DENIED")
    # another principal's session is none
    assert failure(g, session, "add", {"a": 1, "b": 2}, who="bob")[:2] == ("NOT_FOUND", "SESSION_NOT_FOUND")


@pytest.mark.parametrize("environment", ["echo", "old", "legacy", "builtin"])
def test_workers_without_tools(g, environment):
    name = create(g, environment)
    assert failure(g, name, "add")[:2] == ("UNIMPLEMENTED", "TOOLS_NOT_SUPPORTED")
    with pytest.raises(grpc.RpcError) as e:
        g.sessions.ListTools(pb.ListToolsRequest(session=name), **by(g))
    assert code_of(e.value) == ("UNIMPLEMENTED", "TOOLS_NOT_SUPPORTED")
    reset = g.sessions.Reset(pb.ResetRequest(session=name), **by(g))
    assert reset.observation.json, "the session goes on"
    g.sessions.CloseSession(pb.CloseSessionRequest(name=name), **by(g))


def cwd(pid):
    return os.readlink(f"/proc/{pid}/cwd").rsplit("/", 1)[-1]


def test_a_lost_worker(g):
    """The worker ends while a tool runs."""
    name = create(g, "tools")
    pid = next(pid for pid, line in g.children() if "uvicorn" in line and line.split()[0].startswith(str(VENVS["openenv-0.10.0"])) and cwd(pid) == "tools_env")
    waiting = g.sessions.CallTool.future(
        pb.CallToolRequest(session=name, tool="count", arguments=payload_pb2.Payload(json=b'{"sleep_s": 30}')), **by(g)
    )
    time.sleep(0.3 * SLOW)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(grpc.RpcError) as e:
        waiting.result()
    assert code_of(e.value) == ("ABORTED", "SESSION_LOST")
