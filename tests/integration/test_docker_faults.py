# SPDX-License-Identifier: Apache-2.0
"""The provider docker when something dies: a worker, the gateway, the Engine. On an Engine of the tests' own, which they start anew."""

import contextlib
import json
import os
import pathlib
import signal
import statistics
import tempfile
import time

import docker_engine
import docker_support
import make_image
import pytest
from conftest import SLOW, busy_machine, seconds_of
from docker_support import SERVE, container_of, environment, none_left


@pytest.fixture(scope="module")
def engine():
    with docker_engine.own_engine() as e, docker_support.images(e):
        yield e


@pytest.fixture(autouse=True)
def nothing_is_left(engine):
    """When each test's gateways have ended: no container of theirs, in any state."""
    yield
    assert engine.containers("envgate.instance") == []


def with_state(config, path):
    return {**config, "state_dir": str(path)}


@pytest.fixture
def short_path():
    """pytest's own is too long for a state_dir, below which sockets lie."""
    with tempfile.TemporaryDirectory(prefix="eg-", dir="/tmp") as path:
        yield pathlib.Path(path)


@pytest.fixture
def state(short_path):
    return short_path / "s"


def containers(engine, **labels):
    return set(engine.containers(*(f"envgate.{key}={value}" for key, value in labels.items())))


def kill_gateway(g):
    g.expected_exit = -signal.SIGKILL
    g.process.kill()
    g.process.wait()


def lost(g, session):
    return g.wait_for(lambda: (s := g.get(session).json()).get("state") == "STATE_LOST" and s, 20, "the session's loss")


# --- workers -----------------------------------------------------------------------------------------------------------------------------


def worker_process(engine, worker):
    """The worker itself, not the init process above it."""
    pid = container_of(engine, worker)["State"]["Pid"]
    return int(open(f"/proc/{pid}/task/{pid}/children", encoding="ascii").read().split()[0])


def kill_worker(engine, g):
    """Its container, when its process was killed and when the gateway said so, with exit code and memory."""
    session = g.create("e")
    worker = g.get(session).json()["worker"]
    container = container_of(engine, worker)["Id"]
    process = worker_process(engine, worker)
    killed = time.time()
    os.kill(process, signal.SIGKILL)
    (line,) = g.wait_for(lambda: [x for x in g.log("worker.exited") if x["worker"] == worker], 20, "the worker's end in the log")
    assert line["cause"] == "the worker exited with code 137 (128 + signal 9, Killed), perhaps out of memory (memory_bytes is 4294967296)"
    assert lost(g, session)
    g.delete(session)
    return container, killed, seconds_of(line)


@pytest.mark.parametrize("load", [contextlib.nullcontext, busy_machine], ids=["idle", "busy"])
def test_a_death_is_known_at_once_with_its_cause(engine, gateway, load):
    """100 ms, of which an idle Engine takes some 50 until it tells; a busy one takes longer, and is not waited for."""
    g = gateway(environment(engine))
    began = time.time()
    with load():
        deaths = [kill_worker(engine, g) for _ in range(7)]
        none_left(engine, g)
    events = engine.event_times("die", began)
    took = [told - killed for _, killed, told in deaths]
    after_engine = [told - events[container] for container, _, told in deaths]
    assert min(took) < 0.1 * SLOW, (took, after_engine)
    assert statistics.median(after_engine) < 0.06 * SLOW, (took, after_engine)


def test_a_death_is_known_while_the_engine_hangs(engine, gateway):
    """By the kernel, which shows the container's first process as its end."""
    g = gateway(environment(engine))
    took = []
    for _ in range(3):
        session = g.create("e")
        process = worker_process(engine, g.get(session).json()["worker"])
        with engine.frozen():
            killed = time.time()
            os.kill(process, signal.SIGKILL)
            error = lost(g, session)["error"]["message"]
            took.append(seconds_of(g.log("worker.exited")[-1]) - killed)
        assert "exited with code 137" in error or "does not say how" in error  # the latter at times before Linux 6.15
        g.delete(session)
        none_left(engine, g)
    assert min(took) < 0.1 * SLOW, took


def test_log_tail_comes_with_the_death(engine, gateway):
    openenv = docker_support.load_openenv(engine, docker_support.OPENENV_LIGHT)
    argv = list(make_image.OPENENV_COMMAND[2:])  # from "uvicorn" on
    script = f"import sys, runpy; sys.argv = {argv!r}; runpy.run_module('uvicorn', run_name='__main__')"
    g = gateway(environment(engine, openenv, {"command": [make_image.PYTHON, "-c", script]}))
    session = g.create("e")
    g.post(session + "/reset")
    reply = g.post(session + "/step", {"action": {"message": "x", "exit_code": 3}})
    assert (reply.status_code, "SESSION_LOST" in reply.text) == (409, True), reply.text
    assert "exited with code 3" in lost(g, session)["error"]["message"] or "exited with code 3" in reply.text


def test_an_oom_kill_is_told_as_one(engine, gateway):
    openenv = docker_support.load_openenv(engine, docker_support.OPENENV_LIGHT)
    g = gateway(environment(engine, openenv, {"memory_bytes": "48MiB", "command": [make_image.PYTHON, "-c", "b = b'x' * 10**9"]}))
    reply = g.post("/v1/sessions", {"environment": "e"})
    assert "out of memory (memory_bytes is 50331648)" in reply.text
    none_left(engine, g)


# --- the gateway -------------------------------------------------------------------------------------------------------------------------


def test_workers_of_a_killed_gateway_are_adopted(engine, gateway, state):
    config = with_state(environment(engine, docker={"command": [*SERVE, "--capacity", "2"]}, sessions_per_worker=2, max_workers=2), state)
    first = gateway(config)
    sessions = [first.create("e") for _ in range(3)]
    workers = {first.get(s).json()["worker"] for s in sessions}
    before = containers(engine, environment="e")
    assert len(before) == len(workers) == 2
    kill_gateway(first)
    assert containers(engine, environment="e") == before

    second = gateway(config)
    second.wait_for(lambda: len(second.log("worker.ready")) == 2, 20, "the adopted workers' readiness")
    assert {line["worker"] for line in second.log("worker.adopted")} == workers
    began = time.monotonic()
    session = second.create("e")
    assert second.get(session).json()["worker"] in workers
    assert time.monotonic() - began < 0.25 * SLOW  # nothing was launched for it
    assert second.post(session + "/reset", {"seed": 1}).status_code == 200
    assert containers(engine, environment="e") == before
    # A later worker's id is none of theirs.
    for container in before:
        engine.docker("kill", container)
    second.wait_for(lambda: len(second.log("worker.exited")) == 2, 20, "the workers' end")
    fresh = second.create("e")
    assert second.get(fresh).json()["worker"] not in workers
    assert second.stop() == 0
    assert not containers(engine, environment="e")


def test_workers_of_another_configuration_are_removed(engine, gateway, state):
    first = gateway(with_state(environment(engine, env_vars={"A": "1"}), state))
    first.create("e")
    before = containers(engine, environment="e")
    kill_gateway(first)
    second = gateway(with_state(environment(engine, env_vars={"A": "2"}), state))
    second.wait_for(lambda: not containers(engine, environment="e"), 20, "the removal")
    assert second.log("worker.adopted") == []
    second.create("e")
    assert not containers(engine, environment="e") & before


def test_workers_that_are_ill_are_removed(engine, gateway, state):
    """One that does not run, one that was never started, one that runs and does not answer."""
    config = with_state(environment(engine, ready_timeout_s=2, max_workers=3), state)
    first = gateway(config)
    sessions = [first.create("e") for _ in range(2)]
    assert len(sessions) == 2
    running = sorted(containers(engine, environment="e"))
    kill_gateway(first)
    engine.docker("kill", running[0])
    pid = engine.inspect(running[1])["State"]["Pid"]
    children = open(f"/proc/{pid}/task/{pid}/children", encoding="ascii").read().split()
    os.kill(int(children[0]), signal.SIGSTOP)
    labels = [word for key, value in engine.inspect(running[1])["Config"]["Labels"].items() for word in ("--label", f"{key}={value}")]
    engine.docker("create", *labels, docker_support.WORKER, "true")
    second = gateway(config)
    second.wait_for(lambda: not containers(engine, environment="e"), 20, "the removal")
    assert [line["worker"] for line in second.log("worker.failed")] == [line["worker"] for line in second.log("worker.adopted")]
    second.create("e")


def test_without_state_dir_the_next_gateway_is_the_killed_one(engine, gateway, tmp_path):
    """Its folder below $XDG_RUNTIME_DIR, which nobody removed, says who it was."""
    env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    config = environment(engine)
    first = gateway(config, env=env)
    first.create("e")
    before = containers(engine, environment="e")
    living = gateway(config, env=env)  # the first still lives
    living.create("e")
    theirs = containers(engine, environment="e") - before
    assert len(theirs) == 1
    kill_gateway(first)
    third = gateway(config, env=env)
    third.wait_for(lambda: third.log("worker.ready"), 20, "the adopted worker's readiness")
    assert containers(engine, environment="e") == before | theirs
    assert third.stop() == 0
    assert containers(engine, environment="e") == theirs
    assert living.stop() == 0
    assert not list(tmp_path.glob("envgate-*"))


def test_two_gateways_on_one_engine_leave_each_other_alone(engine, gateway, short_path):
    config = environment(engine)
    a, b = (gateway(with_state(config, short_path / name)) for name in "ab")
    theirs = a.create("e")
    of_a = containers(engine, environment="e")
    b.create("e")
    of_b = containers(engine, environment="e") - of_a
    kill_gateway(b)
    with pytest.raises(RuntimeError, match="another gateway uses it"):
        gateway(with_state(config, short_path / "a"))
    c = gateway(with_state({"environments": {"f": config["environments"]["e"]}}, short_path / "b"))
    c.wait_for(lambda: not containers(engine, environment="e") & of_b, 20, "the removal of what the killed one left")
    assert c.stop() == 0
    assert containers(engine, environment="e") == of_a
    assert a.post(theirs + "/reset").status_code == 200


# --- the Engine --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["term", "kill"])
def test_the_engine_restarts(engine, gateway, state, how):
    g = gateway(with_state(environment(engine, max_workers=4), state))
    sessions = [g.create("e") for _ in range(2)]
    engine.stop(how)
    try:
        time.sleep(0.3)
        reply = g.post("/v1/sessions", {"environment": "e"}) if how == signal.SIGTERM else None
        assert reply is None or "no answer from the Docker Engine" in reply.text
    finally:
        engine.start()
    for session in sessions:
        lost(g, session)
        assert "SESSION_LOST" in g.post(session + "/step", {"action": {"message": "x"}}).text
    g.wait_for(lambda: not containers(engine, environment="e"), 30, "the removal of the dead containers")
    g.wait_for(lambda: g.post("/v1/sessions", {"environment": "e"}).status_code == 200, 40, "a new session")
    # And its end is known at once, so the stream of events is there again.
    (container,) = containers(engine, environment="e")
    engine.docker("kill", container)
    g.wait_for(lambda: any("exited with code 137" in json.dumps(line) for line in g.log("worker.exited")), 5, "the worker's end in the log")


def test_a_container_that_dies_while_the_engine_is_away(engine, gateway, state):
    """The stream of events breaks; what came meanwhile is found by looking."""
    g = gateway(with_state(environment(engine, docker={"command": [*SERVE]}), state))
    session = g.create("e")
    engine.stop(signal.SIGKILL)
    engine.start()
    lost(g, session)
    g.wait_for(lambda: g.log("docker.events_lost") and not containers(engine, environment="e"), 30, "the removal")
    assert len(g.log("worker.exited")) == 1
