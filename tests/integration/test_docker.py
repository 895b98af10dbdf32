# SPDX-License-Identifier: Apache-2.0
"""The provider docker, on a real Docker Engine.

The image "openenv" is a real OpenEnv 0.10.0 server with tests/envs/echo_env, "worker" this gateway's own reference worker.
"""

import contextlib
import json
import re
import socket
import subprocess
import threading
import time

import docker_engine
import docker_support
import grpc
import make_image
import pytest
import requests
from conftest import BIN, SLOW, code_of
from docker_support import SERVE, WORKER, container_of, environment, none_left
from drain_support import a_step_does_not_end_in_a_drain, a_step_ends_in_a_drain
from test_cli_remote import start
from test_control import data_of, log_over_rest, message, preload, workers_stub

from envgate.v1 import payload_pb2, session_service_pb2 as pb

pytestmark = pytest.mark.usefixtures("no_container_left")


def create_or_lose(g):
    """Asks for a session, which the gateway may not live to answer."""
    with contextlib.suppress(requests.ConnectionError):
        g.post("/v1/sessions", {"environment": "e"})


def create_refused(g):
    reply = g.post("/v1/sessions", {"environment": "e"})
    assert reply.status_code != 200
    return reply


def play_over_rest(g):
    session = g.create("e")
    assert g.post(session + "/reset", {"seed": 7, "episode_id": "ep"}).json()["observation"]["message"] == "seed 7"
    for n in (1, 2):
        reply = g.post(session + "/step", {"action": {"message": "hi"}})
        assert reply.status_code == 200, reply.text
        assert (reply.json()["observation"]["message"], reply.json()["observation"]["count"], reply.json()["reward"]) == ("hi", n, 2.0)
    assert g.get(session + "/state").json() == {"episode_id": "ep", "step_count": 2}
    return session


def play_over_grpc(g):
    session = g.sessions.CreateSession(pb.CreateSessionRequest(environment="e"), timeout=60 * SLOW).name
    g.sessions.Reset(pb.ResetRequest(session=session, seed=7, episode_id="ep"))
    result = g.sessions.Step(pb.StepRequest(session=session, action=payload_pb2.Payload(json=b'{"message": "hi"}')))
    assert json.loads(result.observation.json)["count"] == 1
    assert json.loads(g.sessions.GetState(pb.GetStateRequest(session=session)).state.json)["step_count"] == 1
    g.sessions.CloseSession(pb.CloseSessionRequest(name=session))


def test_openenv_at_its_address(engine, openenv_image, gateway):
    g = gateway(environment(engine, openenv_image, sessions_per_worker=4, env_vars={"ECHO_LABEL": 'a="b" c'}))
    session = play_over_rest(g)
    assert g.post(session + "/step", {"action": {"message": "x"}}).json()["observation"]["label"] == 'a="b" c'
    assert g.delete(session).status_code == 200
    play_over_grpc(g)
    container = container_of(engine)
    assert container["HostConfig"]["PortBindings"] in (None, {})
    assert container["State"]["Running"]


def test_openenv_at_a_published_port(engine, openenv_image, gateway):
    g = gateway(environment(engine, openenv_image, {"publish": True}, sessions_per_worker=4))
    assert g.delete(play_over_rest(g)).status_code == 200
    play_over_grpc(g)
    (binding,) = container_of(engine)["NetworkSettings"]["Ports"]["8000/tcp"]
    assert binding["HostIp"] == "127.0.0.1"


def test_openenv_dies_in_a_step(engine, openenv_image, gateway):
    g = gateway(environment(engine, openenv_image))
    session = play_over_rest(g)
    reply = g.post(session + "/step", {"action": {"message": "x", "exit_code": 3}})
    assert reply.status_code == 409
    assert "SESSION_LOST" in reply.text


def test_limits_labels_and_init(engine, gateway):
    docker = {"labels": {"team": "rl"}, "memory_bytes": "128MiB", "cpus": 0.5, "pids_limit": 50, "port": 8123, "command": [*SERVE[:-1], "0.0.0.0:8123"]}
    g = gateway(environment(engine, docker=docker))
    g.create("e")
    container = container_of(engine)
    host, labels = container["HostConfig"], container["Config"]["Labels"]
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (128 << 20, 500_000_000, 50)
    assert host["Init"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert not host["AutoRemove"] and not host["Privileged"] and not host["PublishAllPorts"]
    assert labels["team"] == "rl"
    assert labels["envgate.environment"] == "e"
    assert re.fullmatch(f"/envgate-e-{labels['envgate.worker']}-[0-9a-f]{{8}}", container["Name"])
    assert re.fullmatch("[0-9a-f]{16}", labels["envgate.instance"])
    assert re.fullmatch("[0-9a-f]{32}", labels["envgate.config"])


def test_without_init(engine, gateway):
    g = gateway(environment(engine, docker={"init": False}, stop_grace_s=5))
    g.create("e")
    assert container_of(engine)["HostConfig"]["Init"] is False


def test_network_of_the_host(engine, gateway):
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]  # free in a moment
    g = gateway(environment(engine, docker={"network": "host", "port": port, "command": [*SERVE[:-1], f"127.0.0.1:{port}"]}))
    g.create("e")
    assert container_of(engine)["HostConfig"]["NetworkMode"] == "host"


def test_network_of_its_own(engine, gateway):
    engine.docker("network", "create", "envgate-test")
    try:
        g = gateway(environment(engine, docker={"network": "envgate-test"}))
        g.create("e")
        assert list(container_of(engine)["NetworkSettings"]["Networks"]) == ["envgate-test"]
        assert g.stop() == 0
    finally:
        engine.docker("network", "rm", "envgate-test")


def test_network_that_is_not_there(engine, gateway):
    g = gateway(environment(engine, docker={"network": "envgate-missing"}))
    assert "network envgate-missing not found" in create_refused(g).text
    none_left(engine, g)


def test_network_without_address(engine, gateway):
    g = gateway(environment(engine, docker={"network": "none"}))
    assert 'no address in network \\"none\\"' in create_refused(g).text


def test_exit_at_start(engine, gateway):
    g = gateway(environment(engine, docker={"command": [SERVE[0], "worker", "no-such-environment"]}))
    reply = create_refused(g)
    assert "WORKER_START_FAILED" in reply.text
    assert "exited with code 2" in reply.text
    assert "Its last output:\\nenvgate worker: " in reply.text
    none_left(engine, g)


def test_command_that_is_not_there(engine, gateway):
    g = gateway(environment(engine, docker={"command": ["/no/such/program"], "init": False}))
    reply = create_refused(g)
    assert "WORKER_START_FAILED" in reply.text
    assert "/no/such/program" in reply.text
    none_left(engine, g)


def test_out_of_memory(engine, openenv_image, gateway):
    command = [make_image.PYTHON, "-c", "b = b'x' * 10**9"]
    g = gateway(environment(engine, openenv_image, {"memory_bytes": "32MiB", "command": command}))
    # "perhaps", where the Engine misses the kernel's word on it
    assert re.search(r"exited with code 137 .*, (perhaps )?out of memory \(memory_bytes is 33554432\)", create_refused(g).text)


def test_image_that_is_not_there(engine, gateway):
    g = gateway(environment(engine, "127.0.0.1:1/missing:2"))
    reply = create_refused(g)
    assert "WORKER_START_FAILED" in reply.text
    assert "docker pull 127.0.0.1:1/missing:2" in reply.text
    assert "connection refused" in reply.text  # the Engine's words on the pull


def test_engine_that_is_not_there(gateway, engine, tmp_path):
    g = gateway(environment(engine, docker={"host": f"unix://{tmp_path}/docker.sock"}))
    with pytest.raises(grpc.RpcError) as raised:
        g.sessions.CreateSession(pb.CreateSessionRequest(environment="e"), timeout=60)
    assert code_of(raised.value)[1] == "WORKER_START_FAILED"
    assert f"unix://{tmp_path}/docker.sock" in raised.value.details()
    assert "No such file or directory" in raised.value.details()


@pytest.mark.parametrize(
    "how, code",
    [(["kill"], 137), (["kill", "--signal", "TERM"], 0), (["rm", "--force"], 137)],
    ids=["kill", "term", "rm"],
)
def test_container_ends_in_a_session(engine, gateway, how, code):
    g = gateway(environment(engine))
    session = g.create("e")
    first = container_of(engine)["Id"]
    engine.docker(*how, first)
    g.wait_for(lambda: g.get(session).json().get("state") == "STATE_LOST", 10, "the session's loss")
    reply = g.post(session + "/step", {"action": {"message": "x"}})
    assert reply.status_code == 409
    assert "SESSION_LOST" in reply.text
    with pytest.raises(grpc.RpcError) as raised:
        g.sessions.Step(pb.StepRequest(session=session.removeprefix("/v1/"), action=payload_pb2.Payload(json=b'{"message": "x"}')))
    assert code_of(raised.value) == ("ABORTED", "SESSION_LOST")
    g.wait_for(lambda: first not in engine.containers("envgate.environment=e"), 20, "the container's removal")
    (exited,) = g.wait_for(lambda: g.log("worker.exited"), 5, "the worker's end in the log")
    assert exited["cause"].startswith(f"the worker exited with code {code}")
    g.create("e")  # another worker takes its place
    assert container_of(engine)["Id"] != first


def test_workers_start_side_by_side(engine, gateway):
    g = gateway(environment(engine, max_workers=4))
    threads = [threading.Thread(target=g.create, args=["e"]) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(engine.containers("envgate.environment=e")) == 4


def test_idle_worker_goes(engine, gateway):
    g = gateway(environment(engine, worker_idle_s=0.2))
    g.delete(g.create("e"))
    g.wait_for(lambda: not engine.containers("envgate.environment=e"), 20, "the idle worker's removal")


def test_sigterm_while_a_container_starts(engine, gateway):
    """Whatever it is at, nothing is left (see no_container_left)."""
    for delay in (0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5):
        g = gateway(environment(engine))
        creation = threading.Thread(target=create_or_lose, args=[g])
        creation.start()
        time.sleep(delay)
        g.process.terminate()
        g.process.wait(30 * SLOW)
        creation.join()
        assert not engine.containers("envgate.environment=e"), delay


@pytest.mark.parametrize("grace, course", [(20, a_step_ends_in_a_drain), (6, a_step_does_not_end_in_a_drain)], ids=["in-time", "too-long"])
def test_sigterm_while_a_worker_steps(engine, light_image, gateway, grace, course):
    g = gateway({**environment(engine, light_image, stop_grace_s=1, min_workers=2, max_workers=2), "shutdown_grace_s": grace}, "--threads", "2")
    course(g, "e")
    assert not engine.containers("envgate.environment=e")


# --- logs

# A real server that writes beside what it does.
TALKS = """
import os, runpy, sys, threading, time
def talk():
    for n in range(10 ** 6):
        os.write(1 + n % 2, b"tick %d\\n" % n)
        time.sleep(0.02)
threading.Thread(target=talk, daemon=True).start()
sys.argv = ARGV
runpy.run_module("uvicorn", run_name="__main__")
"""


def ticks(text):
    return [int(line.split()[1]) for line in text.splitlines() if line.startswith(b"tick ") and line[5:].isdigit()]


def in_order(numbers):
    """Sorted. Each of the two streams keeps its order; between them the Engine does not."""
    assert numbers and all([n for n in numbers if n % 2 == k] == sorted(n for n in numbers if n % 2 == k) for k in (0, 1)), numbers
    return sorted(numbers)


def cli_logs(g, *args):
    return subprocess.run([BIN, "logs", *args, "--server", g.url], capture_output=True, check=True, timeout=60)


def test_logs_of_a_container(engine, light_image, gateway):
    """The last lines, what comes, and all of it after the worker's end: by the API and by `envgate logs`, standard output and standard error."""
    command = [make_image.PYTHON, "-c", TALKS.replace("ARGV", repr(["uvicorn", *make_image.OPENENV_COMMAND[3:]]))]
    g = gateway(environment(engine, light_image, {"command": command}), "--threads", "2")
    (w,) = preload(g, "e")
    stub = workers_stub(g.channel)

    last = cli_logs(g, "-n", "3", w).stdout
    assert last.count(b"\n") == 3 and ticks(last)
    tail = data_of(log_over_rest(g, w, tail_lines=3))
    assert tail.count(b"\n") == 3 and max(ticks(tail)) >= max(ticks(last))

    follower = start(g, "logs", "-f", "-n", "0", w)
    expected, streamed, times = None, b"", []
    for m in stub.StreamLogs(message("StreamLogsRequest", worker=w, follow=True, tail_lines=0)):
        assert expected in (None, m.offset) and not m.skipped
        expected = m.offset + len(m.data)
        streamed += m.data
        times.append(m.time.ToNanoseconds())
        if len(ticks(streamed)) > 50:
            break
    assert min(ticks(streamed)) > min(ticks(last)) and times == sorted(times) and abs(times[-1] / 1e9 - time.time()) < 5 * SLOW

    engine.docker("kill", container_of(engine)["Id"])
    out, errors = follower.communicate(timeout=30 * SLOW)
    assert follower.returncode == 0 and errors.startswith(f"envgate: worker {w}: the worker exited with code 137".encode()), errors
    followed = in_order(ticks(out))
    assert followed == list(range(followed[0], followed[-1] + 1)) and set(followed) > set(ticks(streamed)[5:-5])

    g.wait_for(lambda: g.get(f"/v1/workers/{w}").json()["state"] == "STATE_ENDED", what="the worker's end")
    text = cli_logs(g, w).stdout
    whole = in_order(ticks(text))
    assert whole == list(range(whole[-1] + 1)) and whole[-1] == followed[-1]
    assert b"".join(m.data for m in stub.StreamLogs(message("StreamLogsRequest", worker=w))) == text
    assert cli_logs(g, "-f", "-n1", w).stdout == text.splitlines(keepends=True)[-1]
