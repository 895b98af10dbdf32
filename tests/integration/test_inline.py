# SPDX-License-Identifier: Apache-2.0
"""Sessions of sources that the caller names: what is allowed, who shares workers, and what goes away."""

import grpc
import pytest
from conftest import builtin, code_of
from test_providers import UV, config, episode

from envgate.v1 import session_service_pb2 as pb

NO_ENGINE = "unix:///nonexistent/docker.sock"


def allowing(**inline):
    return {**config(e=builtin("echo")), "inline_sources": inline}


def denied(g, **source):
    reply = g.post("/v1/sessions", {"source": source})
    error = reply.json()["error"]
    assert (reply.status_code, error["status"], error["details"][0]["reason"]) == (403, "PERMISSION_DENIED", "SOURCE_NOT_ALLOWED"), error
    return error["message"]


def invalid(g, body, field):
    error = g.post("/v1/sessions", body).json()["error"]
    assert error["status"] == "INVALID_ARGUMENT", error
    violations = [v["field"] for d in error["details"] for v in d.get("field_violations", [])]
    assert violations == [field], error


def test_inline_sources_are_off(gateway):
    g = gateway(config(e=builtin("echo")))
    assert "inline_sources.images" in denied(g, image="echo:1")
    assert "inline_sources.spaces" in denied(g, space="openenv/echo_env")
    assert "inline_sources.spaces" in denied(g, space="openenv/echo_env", runtime="RUNTIME_UV")
    assert "inline_sources.project_urls" in denied(g, project_url="git+https://example.com/x")
    assert "inline_sources.paths" in denied(g, path="/tmp")
    with pytest.raises(grpc.RpcError) as refused:
        g.sessions.CreateSession(pb.CreateSessionRequest(source=pb.EnvironmentSource(image="echo:1")))
    assert code_of(refused.value) == ("PERMISSION_DENIED", "SOURCE_NOT_ALLOWED")


def test_malformed_sources(gateway):
    g = gateway(allowing(images=["echo:1"], common={"docker": {"host": NO_ENGINE}}))
    invalid(g, {"source": {}}, "source")
    invalid(g, {"environment": "e", "source": {"image": "echo:1"}}, "source")
    invalid(g, {"source": {"image": "echo:1", "runtime": "RUNTIME_UV"}}, "source.runtime")
    invalid(g, {"source": {"image": "echo:1", "app": "a:b"}}, "source.app")
    invalid(g, {"source": {"image": "echo:1", "port": 70000}}, "source.port")
    invalid(g, {}, "environment")
    assert "env_vars does not allow PATH" in denied(g, image="echo:1", env_vars={"PATH": "/evil"})


def test_callers_of_a_source_share_real_workers(gateway, uv_project):
    g = gateway(
        allowing(
            paths=[str(uv_project)],
            env_vars=["ECHO_*"],
            common={"max_workers": 1, "sessions_per_worker": 2, "ready_timeout_s": 500, "env_vars": {"ECHO_MAX_SESSIONS": "2"}, "uv": {"path": str(UV)}},
        ),
        "--threads",
        "2",
    )
    source = {"path": str(uv_project), "env_vars": {"ECHO_LABEL": "mine"}}
    made = [g.post("/v1/sessions", {"source": source}).json() for _ in range(2)]
    paths = ["/v1/" + m["name"] for m in made]
    assert made[0]["environment"] == made[1]["environment"] and made[0]["environment"].startswith("environments/inline_")
    assert made[0]["worker"] == made[1]["worker"]
    assert episode(g, paths[0]) == episode(g, paths[1])  # one process
    assert g.post(paths[0] + "/step", {"action": {"message": "x"}}).json()["observation"]["label"] == "mine"
    listed = g.get("/v1/sessions?environment=" + made[0]["environment"].split("/")[1]).json()["sessions"]
    assert {s["name"] for s in listed} == {m["name"] for m in made}
    full = g.post("/v1/sessions", {"source": source, "timeout_s": 0.3}).json()["error"]
    assert full["details"][0]["reason"] == "NO_CAPACITY"
    assert g.metric("envgate_environment_sessions", environment="inline") == 2
    for path in paths:
        assert g.delete(path).status_code == 200


def test_an_allowed_image_goes_to_docker(gateway):
    g = gateway(allowing(images=["echo:*"], common={"docker": {"host": NO_ENGINE}}))
    for _ in range(4):
        error = g.post("/v1/sessions", {"source": {"image": "echo:1"}}).json()["error"]
        assert error["details"][0]["reason"] == "WORKER_START_FAILED" and "/nonexistent/docker.sock" in error["message"]
    assert any("RetryInfo" in d["@type"] for d in error["details"])  # the breaker is the source's own
    error = g.post("/v1/sessions", {"source": {"image": "echo:2"}}).json()["error"]
    assert "failed in a row" not in error["message"]
    assert g.get("/readyz").text == "ready\n"
    denied(g, image="evil:1")


def test_the_number_of_sources_is_limited(gateway, uv_project):
    g = gateway(
        allowing(paths=[str(uv_project)], env_vars=["ECHO_LABEL"], max_pools=1, common={"ready_timeout_s": 500, "worker_idle_s": 0, "uv": {"path": str(UV)}})
    )

    def ask(label):
        return g.post("/v1/sessions", {"source": {"path": str(uv_project), "env_vars": {"ECHO_LABEL": label}}, "timeout_s": 400})

    first = ask("a")
    assert first.status_code == 200, first.text
    error = ask("b").json()["error"]
    assert (error["status"], error["details"][0]["reason"]) == ("RESOURCE_EXHAUSTED", "NO_CAPACITY") and "max_pools" in error["message"]
    g.delete("/v1/" + first.json()["name"])
    g.wait_for(lambda: sum(g.metric("envgate_workers", state=s) for s in ("starting", "ready", "stopping")) == 0, 30, "the worker's end")
    second = ask("b")  # what nobody uses makes room
    assert second.status_code == 200, second.text
