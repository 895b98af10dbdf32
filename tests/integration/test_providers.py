# SPDX-License-Identifier: Apache-2.0
"""Workers that the gateway launches on this machine or is pointed at: real OpenEnv servers, and processes that misbehave."""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest
from conftest import BIN, ROOT, SLOW, VENVS, builtin, busy_machine, openenv_project, seconds_of

ENVS = ROOT / "tests/envs"
UV = ROOT / "build/venv/bin/uv"


def uvicorn(venv, app, **keys):
    """An environment: a real OpenEnv server as a process."""
    folder, module = app
    command = [str(VENVS[venv] / "bin/uvicorn"), module, "--host", "{host}", "--port", "{port}"]
    env_vars = {"PYTHONDONTWRITEBYTECODE": "1", **keys.pop("env_vars", {})}
    return {"process": {"command": command, "cwd": str(ENVS / folder)}, "env_vars": env_vars, "ready_timeout_s": 120, **keys}


ECHO = ("echo_env", "server.app:app")
LEGACY = ("legacy_env_0_1", "app:app")
SERVERS = {
    "openenv-0.10.0": ECHO,
    "openenv-0.2.0": ECHO,
    "openenv-core-0.1.0": LEGACY,
}


def shell(script, *args, **keys):
    """An environment whose worker is a shell script; $0 is the port."""
    return {"process": {"command": ["/bin/sh", "-c", script, "{port}", *args]}, **keys}


def config(**environments):
    return {"environments": environments}


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_gone(pids, seconds=10):
    end = time.monotonic() + seconds * SLOW
    while any(alive(p) for p in pids):
        assert time.monotonic() < end, [p for p in pids if alive(p)]
        time.sleep(0.01)


def pids_of(g):
    return [pid for pid, _ in g.children()]


def refused(g, environment, status="FAILED_PRECONDITION", reason="WORKER_START_FAILED"):
    """The message with which a session of that environment is refused."""
    reply = g.post("/v1/sessions", {"environment": environment})
    assert reply.status_code != 200, reply.text
    error = reply.json()["error"]
    assert (error["status"], error["details"][0]["reason"]) == (status, reason), error
    return error["message"]


def step(g, session, message="hi", **action):
    return g.post(session + "/step", {"action": {"message": message, **action}})


def episode(g, session, seeded=True):
    """Plays a short episode; returns the worker's process id."""
    reply = g.post(session + "/reset", {"seed": 7, "episode_id": "e1"} if seeded else {})
    assert reply.status_code == 200, reply.text
    assert reply.json()["observation"]["count"] == 0
    for count in (1, 2):
        result = step(g, session, "hello").json()
        assert result["observation"]["message"] == "hello"
        assert (result["observation"]["count"], result["reward"], result["done"]) == (count, 5, False)
    state = g.get(session + "/state").json()
    assert state["step_count"] == 2
    assert not seeded or state["episode_id"] == "e1"
    return result["observation"]["pid"]


# --- process


@pytest.mark.parametrize("venv", SERVERS)
def test_process_runs_real_openenv_servers(gateway, venv):
    g = gateway(config(e=uvicorn(venv, SERVERS[venv], env_vars={"ECHO_LABEL": "from port {port}"})))
    session = g.create("e")
    pid = episode(g, session, seeded=venv != "openenv-core-0.1.0")
    result = step(g, session).json()
    assert result["observation"]["label"].startswith("from port ")
    assert result["observation"]["label"].split()[-1].isdigit()
    boom = step(g, session, boom="bang")
    assert boom.json()["error"]["details"][0]["reason"] == "ENV_EXCEPTION"
    assert step(g, session).json()["observation"]["count"] == 4  # the session goes on
    assert g.delete(session).status_code == 200
    assert alive(pid)  # kept for the next session
    assert episode(g, g.create("e"), seeded=venv != "openenv-core-0.1.0") == pid
    assert g.stop() == 0
    wait_gone([pid], 1)


def test_workers_are_launched_up_to_the_limit(gateway):
    g = gateway(config(e=uvicorn("openenv-0.2.0", ECHO, max_workers=2)))
    sessions = [None] * 3
    threads = [threading.Thread(target=lambda i=i: sessions.__setitem__(i, g.create("e"))) for i in range(3)]
    for t in threads:
        t.start()
    g.wait_for(lambda: sum(s is not None for s in sessions) == 2, 60, "two sessions")
    time.sleep(0.3)
    first = [s for s in sessions if s]
    assert len(first) == 2
    pids = {episode(g, s) for s in first}
    assert len(pids) == 2
    g.delete(first[0])
    for t in threads:
        t.join(10 * SLOW)
    (third,) = [s for s in sessions if s not in first]
    assert episode(g, third) in pids
    assert g.metric("envgate_workers_started_total") == 2
    assert g.metric("envgate_workers", state="ready") == 2


def test_a_worker_with_several_slots_serves_several_sessions(gateway):
    g = gateway(config(e=uvicorn("openenv-0.2.0", ECHO, sessions_per_worker=3, env_vars={"ECHO_MAX_SESSIONS": "3"})))
    assert len({episode(g, g.create("e")) for _ in range(3)}) == 1


def test_a_worker_that_takes_fewer_sessions_than_configured_is_believed(gateway):
    g = gateway(config(e=uvicorn("openenv-0.2.0", ECHO, sessions_per_worker=4)))
    assert len({episode(g, g.create("e")) for _ in range(2)}) == 2
    assert g.metric("envgate_workers_started_total") == 2


def test_idle_workers_are_stopped(gateway):
    g = gateway(config(e=builtin("echo", worker_idle_s=0.2)))
    g.delete(g.create("e"))
    assert pids_of(g)
    g.wait_for(lambda: not pids_of(g), what="the worker's stop")
    assert g.log("worker.stopped")
    assert g.log("worker.exited") == []
    g.create("e")


def test_workers_get_a_clean_environment(gateway):
    script = 'env >&2; echo "stdin: $(cat)"; exit 9'
    env = {**os.environ, "SECRET_TOKEN": "hush", "LANG": "C.UTF-8"}
    g = gateway(config(e=shell(script, env_vars={"MINE": "{host}:{port}", "LANG": "de_DE"})), env=env)
    message = refused(g, "e")
    lines = message.splitlines()
    assert lines[0] == "the worker exited with code 9"
    names = {line.split("=")[0] for line in lines if "=" in line}
    assert "hush" not in message
    assert names - {"PWD", "OLDPWD", "SHLVL", "_"} <= {"PATH", "HOME", "LANG", "TMPDIR", "MINE"}
    assert "LANG=de_DE" in lines
    assert any(line.startswith("MINE=127.0.0.1:") for line in lines)
    assert lines[-1] == "stdin:" or lines[-1] == "stdin: "


# --- uv


@pytest.mark.timeout(600)
@pytest.mark.parametrize("version, app", [("0.10.0", None), ("0.2.0", "server.app:app")])
def test_uv_runs_a_real_project(gateway, version, app):
    uv = {"project": str(openenv_project(version)), "path": str(UV), **({"app": app} if app else {})}
    g = gateway(config(e={"uv": uv, "ready_timeout_s": 500}))
    reply = g.http.post(g.url + "/v1/sessions", json={"environment": "e"}, timeout=550)
    assert reply.status_code == 200, reply.text
    pid = episode(g, "/v1/" + reply.json()["name"])
    tree = g.children()
    assert any("supervise" in line for _, line in tree)
    assert pid in [p for p, _ in tree]
    assert g.stop() == 0
    wait_gone([p for p, _ in tree], 1)


def test_uv_that_is_missing_is_explained(gateway, uv_project):
    g = gateway(config(e={"uv": {"project": str(uv_project), "path": "uv-is-not-here"}}))
    message = refused(g, "e")
    assert "uv-is-not-here" in message
    assert "pip install uv" in message


def test_uv_project_that_is_missing_is_explained(gateway, tmp_path):
    g = gateway(config(e={"uv": {"project": str(tmp_path / "none"), "path": str(UV)}}))
    assert f"{tmp_path}/none: No such file or directory" in refused(g, "e")


# --- static


@pytest.fixture
def openenv_server():
    """Starts real OpenEnv servers that the gateway has not launched; gives their processes and URLs."""
    started = []

    def start(max_sessions=1):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        env = {**os.environ, "ECHO_MAX_SESSIONS": str(max_sessions), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [str(VENVS["openenv-0.2.0"] / "bin/uvicorn"), "server.app:app", "--port", str(port), "--log-level", "warning"]
        p = subprocess.Popen(command, cwd=ENVS / "echo_env", env=env)
        started.append(p)
        return p, f"http://127.0.0.1:{port}"

    yield start
    for p in started:
        p.kill()
        p.wait()


def test_static_workers_are_used_and_left_running(gateway, openenv_server):
    servers = [openenv_server() for _ in range(2)]
    g = gateway(config(e={"static": {"urls": [url for _, url in servers]}, "worker_idle_s": 0.1}))
    sessions = [g.create("e") for _ in range(2)]
    assert {episode(g, s) for s in sessions} == {p.pid for p, _ in servers}
    for s in sessions:
        g.delete(s)
    time.sleep(0.5)
    episode(g, g.create("e"))
    assert pids_of(g) == []
    assert g.stop() == 0
    assert all(p.poll() is None for p, _ in servers)


def test_a_static_worker_that_others_fill_is_no_capacity(gateway, openenv_server):
    _, url = openenv_server(max_sessions=2)
    environment = {"static": {"urls": [url]}, "sessions_per_worker": 2}
    first, second = gateway(config(e=environment)), gateway(config(e=environment))
    sessions = [first.create("e") for _ in range(2)]
    reply = second.post("/v1/sessions", {"environment": "e"})
    error = reply.json()["error"]
    assert (reply.status_code, error["status"]) == (429, "RESOURCE_EXHAUSTED")
    assert error["details"][0]["reason"] == "NO_CAPACITY"
    assert any("RetryInfo" in d["@type"] for d in error["details"])
    first.delete(sessions[0])
    second.wait_for(lambda: second.post("/v1/sessions", {"environment": "e"}).status_code == 200, what="the free slot")


def test_a_static_worker_that_is_down_is_named(gateway):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{s.getsockname()[1]}"
    g = gateway(config(e={"static": {"urls": [url]}, "ready_timeout_s": 0.5}))
    message = refused(g, "e", "UNAVAILABLE", "WORKER_UNREACHABLE")
    assert "/health" in message and "ready_timeout_s is 0.5" in message


# --- workers that do not start


def test_a_failed_start_says_why_and_leaves_nothing(gateway):
    script = "sleep 100 & setsid sleep 100 & echo loading; printf '\\033[31mno model\\033[0m\\n' >&2; exit 3"
    g = gateway(config(e=shell(script)))
    assert refused(g, "e") == "the worker exited with code 3\nIts last output:\nloading\nno model"
    assert pids_of(g) == []
    (failed,) = g.log("worker.failed")
    assert (failed["environment"], failed["level"], failed["cause"]) == ("e", "warn", "the worker exited with code 3")
    assert "no model" not in g.log_text()  # the worker's output is for the caller, not for the log
    assert g.metric("envgate_workers_failed_total") == 1


def test_a_command_that_is_not_there_is_named(gateway):
    g = gateway(config(e={"process": {"command": ["no-such-program", "{port}"]}}))
    assert "no-such-program: No such file or directory" in refused(g, "e")


def test_a_folder_that_is_not_there_is_named(gateway):
    g = gateway(config(e={"process": {"command": ["true", "{port}"], "cwd": "/no/such/folder"}}))
    assert "/no/such/folder" in refused(g, "e")


def test_a_worker_killed_at_start_is_told_by_its_signal(gateway):
    g = gateway(config(e=shell("kill -SEGV $$")))
    assert refused(g, "e").startswith("the worker was killed by signal 11")


def test_a_worker_that_is_not_ready_in_time_is_stopped(gateway):
    g = gateway(config(e=shell("echo still loading; sleep 1000 & exec sleep 1000", ready_timeout_s=0.5)))
    message = refused(g, "e")
    assert "ready_timeout_s is 0.5" in message
    assert message.endswith("Its last output:\nstill loading")
    g.wait_for(lambda: not pids_of(g), what="the worker's stop")


def test_failing_starts_do_not_spin(gateway):
    g = gateway(config(e=shell("exit 1")))
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        refused(g, "e")
    assert g.metric("envgate_workers_started_total") <= 6


def test_a_port_that_somebody_took_is_replaced_once(gateway, tmp_path):
    # The first launch finds its port taken by this test, as in a race, and ends; the second is a real worker.
    asked, held = tmp_path / "asked", tmp_path / "held"
    script = (
        f"if [ ! -e {asked} ]; then echo $0 >{asked}.new; mv {asked}.new {asked}; while [ ! -e {held} ]; do sleep 0.01; done; exit 1; fi;"
        f" cd {ENVS}/echo_env; exec {VENVS['openenv-0.2.0']}/bin/uvicorn server.app:app --port $0"
    )
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # who asks for just this port, and not for any free one, may have it

        def hold():
            while not asked.exists():
                time.sleep(0.01)
            holder.bind(("127.0.0.1", int(asked.read_text())))
            holder.listen()
            held.touch()

        helper = threading.Thread(target=hold, daemon=True)
        helper.start()
        g = gateway(config(e=shell(script, ready_timeout_s=60)))
        episode(g, g.create("e"))
        helper.join()
        assert g.metric("envgate_workers_failed_total") == 0


# --- workers that die, and a gateway that dies


def test_a_killed_worker_loses_its_session_only(gateway):
    g = gateway(config(e=uvicorn("openenv-0.2.0", ECHO, max_workers=2)))
    first, second = g.create("e"), g.create("e")
    pid, other = episode(g, first), episode(g, second)
    os.kill(pid, signal.SIGKILL)
    reply = step(g, first)
    error = reply.json()["error"]
    assert (reply.status_code, error["status"], error["details"][0]["reason"]) == (409, "ABORTED", "SESSION_LOST")
    assert step(g, second).json()["observation"]["count"] == 3
    g.wait_for(lambda: g.log("worker.exited"), what="the log line")
    (exited,) = g.log("worker.exited")
    assert exited["cause"] == "the worker was killed by signal 9 (Killed)"
    assert episode(g, g.create("e")) not in (pid, other)  # it is replaced
    assert g.metric("envgate_workers_exited_total") == 1


@pytest.mark.parametrize("load", [contextlib.nullcontext, busy_machine], ids=["idle", "busy"])
@pytest.mark.parametrize("environment", [shell(f"exec {BIN} worker echo --listen 127.0.0.1:$0"), builtin("echo")], ids=["process", "builtin"])
def test_a_death_is_known_at_once(gateway, environment, load):
    g = gateway(config(e=environment))
    took = []
    with load():
        for _ in range(7):
            session = g.create("e")
            worker = g.get(session).json()["worker"]
            (pid,) = [p for p, line in g.children() if " worker " in line and " supervise " not in line]
            killed = time.time()
            os.kill(pid, signal.SIGKILL)
            (line,) = g.wait_for(lambda: [x for x in g.log("worker.exited") if x["worker"] == worker], what="the log line")
            assert line["cause"] == "the worker was killed by signal 9 (Killed)"
            g.wait_for(lambda: g.get(session).json()["state"] == "STATE_LOST", what="the session's loss")
            g.delete(session)
            took.append(seconds_of(line) - killed)
    assert min(took) < 0.1 * SLOW, took


def test_a_worker_that_dies_in_a_step_loses_the_session(gateway):
    g = gateway(config(e=uvicorn("openenv-0.2.0", ECHO)))
    session = g.create("e")
    g.post(session + "/reset")
    error = step(g, session, exit_code=5).json()["error"]
    assert (error["status"], error["details"][0]["reason"]) == ("ABORTED", "SESSION_LOST")
    (exited,) = g.wait_for(lambda: g.log("worker.exited"), what="the log line")
    assert exited["cause"] == "the worker exited with code 5"


def test_a_killed_gateway_leaves_no_process(gateway):
    # A worker that ignores SIGTERM, with a child in a session of its own.
    script = f"trap '' TERM; setsid sleep 1000 & cd {ENVS}/echo_env; exec {VENVS['openenv-0.2.0']}/bin/uvicorn server.app:app --port $0"
    g = gateway(config(e=shell(script, ready_timeout_s=60), b=builtin("echo")))
    g.create("e")
    g.create("b")
    tree = pids_of(g)
    assert len(tree) >= 5
    g.expected_exit = -signal.SIGKILL
    g.stop(signal.SIGKILL)
    wait_gone(tree, 5)


def test_a_killed_supervisor_takes_its_worker_along(gateway):
    g = gateway(config(e=uvicorn("openenv-0.2.0", ECHO)))
    session = g.create("e")
    pid = episode(g, session)
    (supervisor,) = [p for p, line in g.children() if " supervise " in line]
    os.kill(supervisor, signal.SIGKILL)
    wait_gone([pid, supervisor], 5)
    (exited,) = g.wait_for(lambda: g.log("worker.exited"), what="the log line")
    assert exited["cause"] == "the worker was killed by signal 9 (Killed)"
    assert step(g, session).json()["error"]["details"][0]["reason"] == "SESSION_LOST"
    g.delete(session)
    episode(g, g.create("e"))


def test_sigterm_stops_all_workers(gateway):
    g = gateway(config(e=uvicorn("openenv-0.2.0", ECHO, max_workers=2), b=builtin("echo", max_workers=2)))
    for name in "eebb":
        g.create(name)
    tree = pids_of(g)
    assert len(tree) == 8
    assert g.stop() == 0
    assert not any(alive(p) for p in tree)


def test_sigterm_waits_no_longer_than_the_grace(gateway):
    script = f"trap '' TERM; cd {ENVS}/echo_env; {VENVS['openenv-0.2.0']}/bin/uvicorn server.app:app --port $0 & while :; do sleep 1; done"
    g = gateway(config(e=shell(script, stop_grace_s=1, ready_timeout_s=60)))
    g.create("e")
    tree = pids_of(g)
    before = time.monotonic()
    assert g.stop() == 0
    assert 0.9 < time.monotonic() - before < 5 * SLOW
    assert not any(alive(p) for p in tree)


def test_sockets_are_removed(gateway, tmp_path):
    # Short, since a socket's path has at most 107 bytes.
    state = pathlib.Path(f"/tmp/envgate-test-{os.getpid()}")
    try:
        g = gateway({**config(e=builtin("echo", max_workers=2)), "state_dir": str(state)})
        g.create("e")
        g.create("e")
        assert len(list(state.glob("*.sock"))) == 2
        assert state.stat().st_mode & 0o777 == 0o700
        assert g.stop() == 0
        assert [path.name for path in state.iterdir()] == ["lock"]
    finally:
        shutil.rmtree(state, ignore_errors=True)
