# SPDX-License-Identifier: Apache-2.0
"""The Python package clients/python: that pip installs it, and its EnvClient, which is shaped as OpenEnv's."""

import asyncio
import os
import re
import subprocess
import sys
import time

import envgate
import pytest
from conftest import ROOT, SLOW, builtin
from cut import Cut

ECHO = {"environments": {"e": builtin("echo", "--faults", sessions_per_worker=16)}}


@pytest.fixture
def echo(gateway):
    return gateway(ECHO)


@pytest.fixture
def cut(echo):
    c = Cut(echo.target)
    yield c
    c.close()


# --- the package ---------------------------------------------------------------------------------------------------------------------------


def test_pip_installs_it(echo, tmp_path):
    """From the checkout, with its stubs inside; it works with nothing else of the project in sight, and its stubs want no NumPy."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--target", str(tmp_path)]
    subprocess.run([*pip, str(ROOT / "clients/python")], check=True, timeout=300)
    program = f"""
import sys, envgate
from envgate.v1 import session_service_pb2
assert envgate.__file__.startswith({str(tmp_path)!r}) and session_service_pb2.__file__.startswith({str(tmp_path)!r})
with envgate.EnvClient({echo.target!r}, "e").sync() as env:
    env.reset(seed=1)
    print(env.step({{"message": "installed"}}).observation["echoed_message"])
assert "numpy" not in sys.modules and "gymnasium" not in sys.modules
"""
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout == "installed\n", done.stderr


def test_its_versions_are_the_projects():
    text = (ROOT / "clients/python/pyproject.toml").read_text()
    assert re.search(r'^version = "(.*)"$', text, re.M)[1] == re.search(r"^VERSION := (.*)$", (ROOT / "Makefile").read_text(), re.M)[1]
    pinned = dict(line.split("==") for line in (ROOT / "tools/requirements.txt").read_text().splitlines() if "==" in line)
    for name, version in re.findall(r'"([\w-]+)>=([\d.]+)"', text):
        if name in pinned and name not in ("gymnasium", "numpy"):  # what generates the stubs says which library they need
            assert pinned[name] == version, name


def test_names():
    assert set(envgate.__all__) <= set(dir(envgate))
    for name in envgate.__all__:
        assert getattr(envgate, name).__doc__
    with pytest.raises(AttributeError):
        envgate.no_such_name  # noqa: B018


# --- EnvClient -----------------------------------------------------------------------------------------------------------------------------


def check_first(reset, step, state):
    assert reset.observation["echoed_message"] and not reset.done and reset.step_index == 0 and reset.episode_id == "ep"
    assert step.observation["echoed_message"] == "hello" and step.reward == pytest.approx(0.5) and step.step_index == 1 and step.metadata["executions"] == 1
    assert state["step_count"] == 1 and state["episode_id"] == "ep"


def test_sync(echo):
    with envgate.EnvClient(echo.url + "/v1/environments/e", lease_s=77).sync() as env:
        assert echo.get("/v1/" + env.session).json()["lease_s"] == 77
        check_first(env.reset(seed=1, episode_id="ep"), env.step({"message": "hello"}), env.state())
        name = env.session
    assert echo.get("/v1/" + name).status_code == 404 and env.session == ""
    env.close()
    # It is opened anew by the next call.
    assert env.reset().step_index == 0
    env.close()


def test_async(echo):
    async def play():
        async with envgate.EnvClient(echo.target, "e") as env:
            check_first(await env.reset(seed=1, episode_id="ep"), await env.step({"message": "hello"}), await env.state())
            name = env.session
        assert echo.get("/v1/" + name).status_code == 404
        env = await envgate.EnvClient.from_env("e", base_url=echo.target)
        others = [envgate.EnvClient.from_env("e", base_url=echo.target) for _ in range(7)]
        began = time.monotonic()
        results = await asyncio.gather(*(c.step({"message": "m", "fault": "slow", "ms": 500}) for c in (env, *others)))
        assert time.monotonic() - began < 0.5 * 4 * SLOW and [r.metadata["executions"] for r in results] == [1] * 8
        await asyncio.gather(*(c.close() for c in (env, *others)))

    asyncio.run(play())
    assert echo.get("/v1/sessions").json().get("sessions", []) == []


def test_addresses():
    at = envgate.Gateway
    assert (at("h:1").target, at("h:1").tls, at("h:1").environment) == ("h:1", False, None)
    assert (at("https://h").target, at("https://h").tls) == ("h:443", True)
    assert (at("ws://h:5/v1/environments/e/").target, at("ws://h:5/v1/environments/e/").environment) == ("h:5", "e")
    assert at("unix:/run/x").target == "unix:/run/x"
    for bad in ("ftp://h", "http://h/v2", "http://h/v1/environments/", "http://h/v1/environments/a/b"):
        with pytest.raises(ValueError):
            at(bad)
    with pytest.raises(ValueError, match="which environment"):
        envgate.EnvClient("h:1")


class Said:
    """A client's class of OpenEnv's shape: typed actions and observations."""

    def __init__(self, text):
        self.text = text


class TypedClient(envgate.EnvClient):
    def _step_payload(self, action):
        return {"message": action.text}

    def _parse_result(self, payload):
        payload["observation"] = Said(payload["observation"]["echoed_message"])
        return super()._parse_result(payload)

    def _parse_state(self, payload):
        return payload["step_count"]


def test_typed(echo):
    with TypedClient(echo.target, "e").sync() as env:
        env.reset()
        assert env.step(Said("typed")).observation.text == "typed" and env.state() == 1


def test_errors(echo):
    with envgate.EnvClient(echo.target, "e").sync() as env:
        env.reset()
        with pytest.raises(envgate.Error) as bad:
            env.step({"message": 5})
        assert (bad.value.code, bad.value.reason) == ("INVALID_ARGUMENT", "INVALID_ACTION")
        echo.delete("/v1/" + env.session)
        with pytest.raises(envgate.SessionLost):
            env.step({"message": "gone"})
    with pytest.raises(envgate.Error) as none:
        envgate.EnvClient(echo.target, "none").sync().connect()
    assert none.value.reason == "ENVIRONMENT_NOT_FOUND"


def test_a_timeout_loses_nothing(echo):
    with envgate.EnvClient(echo.target, "e", message_timeout_s=0.3 * SLOW).sync() as env:
        env.reset()
        slow = {"message": "late", "fault": "slow", "ms": 900 * SLOW}
        with pytest.raises(envgate.Timeout) as late:
            env.step(slow, request_id="one")
        assert late.value.reason == "STEP_IN_PROGRESS" and isinstance(late.value, TimeoutError)

        def collected():
            try:
                return env.step(slow, request_id="one")
            except envgate.Timeout:
                return None

        result = echo.wait_for(collected, 10)
        assert result.observation["echoed_message"] == "late" and result.step_index == 1 and env.state()["total_steps"] == 1


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_reply_that_is_lost_on_the_way(echo, cut, kind):
    """The step was taken, its reply never came: the client asks again, and gets the same reply."""

    async def play():
        async with envgate.EnvClient(cut.address, "e") as env:
            await env.reset()
            cut.arm()
            result = await env.step({"message": "x" * 100})
            return result, await env.state()

    if kind == "sync":
        with envgate.EnvClient(cut.address, "e").sync() as env:
            env.reset()
            cut.arm()
            result, state = env.step({"message": "x" * 100}), env.state()
    else:
        result, state = asyncio.run(play())
    assert cut.cuts == 1
    assert result.step_index == 1 and result.metadata["executions"] == 1 and state["total_steps"] == 1


def test_it_waits_for_a_worker(gateway):
    """Where every worker is full, it asks again until its time is over."""
    g = gateway({"environments": {"e": builtin("echo", sessions_per_worker=1, max_workers=1)}})
    first = envgate.EnvClient(g.target, "e").sync().connect()
    with pytest.raises(envgate.Error) as full:
        envgate.EnvClient(g.target, "e", connect_timeout_s=0.5).sync().connect()
    assert full.value.reason == "NO_CAPACITY"
    first.close()
    second = envgate.EnvClient(g.target, "e", connect_timeout_s=30).sync().connect()
    second.close()
