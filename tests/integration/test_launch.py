# SPDX-License-Identifier: Apache-2.0
"""How workers are launched on this machine: real uv with real openenv projects, secrets by reference, and what is left when anything is killed."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import textwrap
import threading
import time

import pytest
from conftest import BIN, SLOW, builtin
from drain_support import a_step_does_not_end_in_a_drain, a_step_ends_in_a_drain
from test_providers import ECHO, UV, alive, config, episode, pids_of, refused, shell, step, uvicorn, wait_gone

TOKEN = "hush-8f1c2e"


@pytest.fixture(scope="module")
def installed(uv_project):
    subprocess.run([UV, "sync", "--quiet", "--project", uv_project], check=True, timeout=500)
    return uv_project


def uv(project, env=None, **settings):
    return {"uv": {"project": str(project), "path": str(UV), **settings}, "ready_timeout_s": 200, **(env or {})}


def command_lines(g):
    return [line for _, line in g.children()]


def server_of(g):
    """(pid, command line) of the Python process that serves."""
    return next((pid, line) for pid, line in g.children() if "python" in line.split()[0] and "server" in line)


# --- uv


def test_uv_app_listens_on_a_unix_socket(gateway, installed):
    g = gateway(config(e=uv(installed)))
    session = g.create("e")
    pid = episode(g, session)
    served, line = server_of(g)
    assert served == pid and "server.app:app --uds " in line  # the project has server/app.py
    path = line.split("--uds ")[1].split()[0]
    assert pathlib.Path(path).parent.stat().st_mode & 0o777 == 0o700
    listening = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    assert f"pid={pid}," not in listening
    tree = pids_of(g)
    assert g.stop() == 0
    assert not any(alive(p) for p in tree)
    assert not pathlib.Path(path).parent.exists()


def test_uv_script_listens_on_a_port_that_is_held(gateway, installed, tmp_path):
    # Without server/app.py of its own: the folder is only where uv finds what to install.
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "outer"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["openenv-echo-env"]\n'
        f'[tool.uv.sources]\nopenenv-echo-env = {{ path = "{installed}", editable = true }}\n'
    )
    g = gateway(config(e=uv(tmp_path)))
    episode(g, g.create("e"))
    _, line = server_of(g)
    port = int(line.split("--port ")[1].split()[0])
    assert "--host 127.0.0.1" in line
    with socket.socket() as s, pytest.raises(OSError, match="in use"):
        s.bind(("127.0.0.1", port))


def test_uv_host_port_and_workers(gateway, installed):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    g = gateway(config(e=uv(installed, env={"sessions_per_worker": 2}, host="0.0.0.0", port=port, workers=2, server_args=["--log-level", "warning"])))
    pid = episode(g, g.create("e"))
    # The project takes one session a process. Which one is asked for the second is the kernel's choice, so a full one is no answer.
    assert episode(g, g.create("e")) != pid
    line = next(line for line in command_lines(g) if "uvicorn server.app:app" in line and "python" in line.split()[0])
    assert f"--host 0.0.0.0 --port {port} --workers 2 --log-level warning" in line
    assert len([p for p, line in g.children() if "spawn_main" in line]) == 2
    assert pid in pids_of(g)
    tree = pids_of(g)
    assert g.stop() == 0
    assert not any(alive(p) for p in tree)


def test_uv_connect_host_and_ipv6(gateway, installed):
    g = gateway(config(e=uv(installed, host="[::]", connect_host="localhost", extra_env={"ECHO_LABEL": "extra"}, env={"env_vars": {"ECHO_LABEL": "plain"}})))
    session = g.create("e")
    episode(g, session)
    assert step(g, session).json()["observation"]["label"] == "extra"
    assert any("--host :: --port" in line for line in command_lines(g))


def test_uv_reload_serves_the_new_code(gateway, installed, tmp_path):
    copy = tmp_path / "echo_env"
    shutil.copytree(installed, copy, ignore=shutil.ignore_patterns(".venv", "__pycache__"))
    g = gateway(config(e=uv(copy, reload=True, env={"env_vars": {"UV_PROJECT_ENVIRONMENT": str(installed / ".venv"), "ECHO_LABEL": "x"}}, args=["--no-sync"])))
    first = episode(g, g.create("e"))
    source = copy / "server/echo_environment.py"
    source.write_text(source.read_text() + "\n# changed\n")
    g.wait_for(lambda: first not in pids_of(g), 30, "the reload")

    def plays():
        reply = g.post("/v1/sessions", {"environment": "e"})
        return reply.status_code == 200 and g.post(f"/v1/{reply.json()['name']}/reset").status_code == 200

    g.wait_for(plays, 60, "a session on the new code")


def test_uv_a_port_that_is_taken_is_named(gateway, installed):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        g = gateway(config(e=uv(installed, port=s.getsockname()[1])))
        assert f"the worker's port {s.getsockname()[1]}: Address already in use" in refused(g, "e")


def test_uv_that_cannot_install_says_so(gateway, tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "p"\nversion = "1"\ndependencies = ["openenv==99.99"]\n')
    (tmp_path / "uv.toml").write_text("offline = true\n")
    g = gateway(config(e=uv(tmp_path, args=["--offline"])))
    message = refused(g, "e")
    assert message.startswith("the worker exited with code 1\nIts last output:\n")
    assert "openenv==99.99" in message


def test_uv_that_takes_too_long_to_install_is_stopped(gateway, tmp_path):
    """Its build waits for something that never comes."""
    (tmp_path / "backend.py").write_text("import time\n\ndef build_editable(*args):\n    time.sleep(1000)\n")
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "p"\nversion = "1"\n[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    g = gateway(config(e=uv(tmp_path, install_timeout_s=3)))
    assert refused(g, "e") == "the worker was not installed in time; install_timeout_s is 3"
    assert pids_of(g) == []


def test_uv_space_and_project_url(gateway, installed, tmp_path):
    """A space is a git repository; git is told that the hub lies here."""
    hub = tmp_path / "hub/spaces/someone/echo_env"
    shutil.copytree(installed, hub, ignore=shutil.ignore_patterns(".venv", "__pycache__", "*.egg-info", "build", "uv.lock"))
    git = ["git", "-C", hub, "-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    (tmp_path / "gitconfig").write_text(f'[url "file://{tmp_path}/hub/"]\n\tinsteadOf = https://huggingface.co/\n')
    env_vars = {"GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig")}
    g = gateway(
        config(
            space={"uv": {"space": "someone/echo_env", "path": str(UV)}, "env_vars": env_vars, "ready_timeout_s": 200},
            url={"uv": {"project_url": f"git+file://{hub}", "app": "echo_env.server.app:app", "path": str(UV)}, "ready_timeout_s": 200},
        )
    )
    for environment in ("space", "url"):
        episode(g, g.create(environment))
    lines = command_lines(g)
    assert any("--with git+https://huggingface.co/spaces/someone/echo_env -- " in line and " server --host 127.0.0.1 --port " in line for line in lines)
    assert any("uvicorn echo_env.server.app:app --uds " in line for line in lines)


def victim(g, who):
    """The pid of one of the processes of a uv worker: the supervisor, uv, or the server."""
    for pid, line in g.children():
        words = line.split()
        if (who == "supervisor" and " supervise " in line) or (who == "uv" and words[0].endswith("/uv")) or (who == "server" and "python" in words[0]):
            return pid
    raise AssertionError(g.children())


@pytest.mark.parametrize("who", ["supervisor", "uv", "server"])
def test_uv_nothing_outlives_a_kill(gateway, installed, who):
    g = gateway(config(e=uv(installed)))
    session = g.create("e")
    episode(g, session)
    tree = pids_of(g)
    assert len(tree) == 3
    killed = time.time()
    os.kill(victim(g, who), signal.SIGKILL)
    wait_gone(tree, 5)
    (exited,) = g.wait_for(lambda: g.log("worker.exited"), what="the log line")
    assert time.time() - killed < 2 * SLOW
    assert "killed by signal 9" in exited["cause"] or exited["cause"].endswith("code 137")
    assert step(g, session).json()["error"]["details"][0]["reason"] == "SESSION_LOST"


def test_uv_nothing_outlives_the_gateway(gateway, installed):
    g = gateway(config(e=uv(installed)))
    episode(g, g.create("e"))
    tree = pids_of(g)
    g.expected_exit = -signal.SIGKILL
    g.stop(signal.SIGKILL)
    wait_gone(tree, 5)


@pytest.mark.parametrize("grace, course", [(20, a_step_ends_in_a_drain), (6, a_step_does_not_end_in_a_drain)], ids=["in-time", "too-long"])
def test_uv_sigterm_while_a_worker_steps(gateway, installed, grace, course):
    g = gateway({**config(e=uv(installed, env={"stop_grace_s": 1, "min_workers": 2, "max_workers": 2})), "shutdown_grace_s": grace}, "--threads", "2")
    g.wait_for(lambda: g.metric("envgate_workers", state="ready") == 2, 60, "both workers")
    tree = pids_of(g)
    course(g, "e")
    wait_gone(tree, 0.5)


# --- ends


# Starts a grandchild that has left the session and its parents, and writes its pid into a file.
DAEMON = textwrap.dedent("""
    import os, sys, time
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            with open(sys.argv[1] + ".part", "w") as f:
                f.write(str(os.getpid()))
            os.rename(sys.argv[1] + ".part", sys.argv[1])
            time.sleep(1000)
        os._exit(0)
    os.wait()
""")


def daemonizing(tmp_path):
    """An environment whose worker leaves a daemon, and the file with that one's pid."""
    (tmp_path / "daemon.py").write_text(DAEMON)
    script = f"python3 {tmp_path}/daemon.py {tmp_path}/pid; exec {BIN} worker echo --listen 127.0.0.1:$0"
    return shell(script), tmp_path / "pid"


@pytest.mark.parametrize("who", ["gateway", "supervisor", "worker"])
def test_daemons_of_a_worker_end_with_it(gateway, tmp_path, who):
    environment, pid_file = daemonizing(tmp_path)
    g = gateway(config(e=environment))
    g.create("e")
    daemon = int(pid_file.read_text())
    tree = [*pids_of(g), daemon]
    assert alive(daemon)
    if who == "gateway":
        g.expected_exit = -signal.SIGKILL
        g.stop(signal.SIGKILL)
    else:
        os.kill(next(p for p, line in g.children() if (" supervise " in line) == (who == "supervisor") and p != daemon), signal.SIGKILL)
        g.wait_for(lambda: g.log("worker.stopped"), what="the worker's end")
        assert not any(alive(p) for p in tree)
    wait_gone(tree, 5)


def test_a_gateway_that_a_shell_became_leaves_its_other_children_alone(tmp_path):
    """What was a child of the process before it was the gateway is not a worker's orphan."""
    (tmp_path / "c.json").write_text(json.dumps(config(e=builtin("echo"))))
    script = f"sleep 1000 & echo $!; exec {BIN} serve --config {tmp_path}/c.json --listen unix:{tmp_path}/g.sock"
    with open(tmp_path / "log", "wb") as log, subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE, stderr=log, text=True) as p:
        sleeper = int(p.stdout.readline())
        try:
            assert " serves on " in p.stdout.readline()
            subprocess.run(
                ["curl", "-sf", "--unix-socket", f"{tmp_path}/g.sock", "--json", '{"environment": "e"}', "http://g/v1/sessions"], check=True, timeout=60
            )
            children = pathlib.Path(f"/proc/{p.pid}/task/{p.pid}/children").read_text().split()
            (supervisor,) = [int(c) for c in children if b"supervise" in pathlib.Path(f"/proc/{c}/cmdline").read_bytes()]
            os.kill(supervisor, signal.SIGKILL)
            end = time.monotonic() + 10 * SLOW
            while "worker.stopped" not in (tmp_path / "log").read_text():
                assert time.monotonic() < end
                time.sleep(0.01)
            assert alive(sleeper)
        finally:
            p.terminate()
            p.wait(30 * SLOW)
            os.kill(sleeper, signal.SIGKILL)


def test_an_end_is_known_within_100_ms(gateway):
    """With its exit code and its last output; by the waiting call, which is answered at the worker's death."""
    took = []
    for _ in range(10):
        g = gateway(config(e=shell("echo bye >&2; date +%s%N >&2; exit 7")))
        message = refused(g, "e")
        told = time.time()
        lines = message.splitlines()
        assert lines[0] == "the worker exited with code 7" and lines[2] == "bye"
        took.append(told - int(lines[3]) / 1e9)
        g.stop()
    assert sorted(took)[len(took) // 2] < 0.1 * SLOW, took


def test_stopping_is_graceful(gateway, tmp_path):
    script = f"trap 'kill $w; wait $w; echo well >{tmp_path}/end; exit' TERM; {BIN} worker echo --listen 127.0.0.1:$0 & w=$!; wait"
    g = gateway(config(e=shell(script)))
    g.create("e")
    assert g.stop() == 0
    assert (tmp_path / "end").read_text() == "well\n"


def test_a_port_is_held_while_its_worker_boots(gateway, tmp_path):
    """Nobody who asks for any free port gets it meanwhile, nor who asks for it and does not share."""
    script = f"echo $0 >{tmp_path}/part; mv {tmp_path}/part {tmp_path}/port; exec sleep 1000"
    g = gateway({**config(e=shell(script, ready_timeout_s=30)), "shutdown_grace_s": 0})
    waiting = threading.Thread(target=g.post, args=["/v1/sessions", {"environment": "e"}])
    waiting.start()
    g.wait_for((tmp_path / "port").exists, what="the port")
    with socket.socket() as s, pytest.raises(OSError, match="in use"):
        s.bind(("127.0.0.1", int((tmp_path / "port").read_text())))
    g.stop()
    waiting.join()


def test_a_server_that_cannot_share_its_port_gets_one_that_is_not_held(gateway, tmp_path):
    """SO_REUSEADDR is what a held port can be bound with; who does not set it is launched once more, on a port that nobody holds."""
    server = tmp_path / "server.py"
    server.write_text(
        "import socket, sys, subprocess\ns = socket.socket()\ns.bind(('127.0.0.1', int(sys.argv[1])))\ns.close()\n"
        f"sys.exit(subprocess.call(['{BIN}', 'worker', 'echo', '--listen', '127.0.0.1:' + sys.argv[1]]))\n"
    )
    g = gateway(config(e={"process": {"command": ["python3", str(server), "{port}"]}}))
    g.create("e")
    assert g.metric("envgate_workers_failed_total") == 0


# --- the folder of sockets


def runtime(tmp_path):
    folder = pathlib.Path(f"/tmp/egt-{os.getpid()}-{tmp_path.name[-8:]}")  # short, for the sockets in it
    folder.mkdir(mode=0o700)
    return folder


def test_the_folder_of_a_killed_gateway_is_removed_by_the_next(gateway, tmp_path):
    base = runtime(tmp_path)
    env = {**os.environ, "XDG_RUNTIME_DIR": str(base)}
    try:
        living = gateway(config(e=builtin("echo")), env=env)
        living.create("e")
        dead = gateway(config(e=builtin("echo")), env=env)
        dead.create("e")
        assert len(list(base.glob("envgate-*"))) == 2
        tree = pids_of(dead)
        dead.expected_exit = -signal.SIGKILL
        dead.stop(signal.SIGKILL)
        wait_gone(tree, 5)
        strange = base / "envgate-strang"  # nothing of ours, so it stays
        strange.mkdir()
        (strange / "data").touch()
        (base / "envgate-linked").symlink_to(strange)
        third = gateway(config(e=builtin("echo")), env=env)
        third.create("e")
        folders = sorted(p.name for p in base.glob("envgate-??????"))
        assert len(folders) == 4 and (strange / "data").exists()
        living.create("e")  # its sockets are as they were
        assert living.stop() == 0 and third.stop() == 0
        assert sorted(p.name for p in base.iterdir()) == ["envgate-linked", "envgate-strang"]
    finally:
        shutil.rmtree(base)


def test_a_state_dir_belongs_to_one_gateway(gateway, tmp_path):
    base = runtime(tmp_path)
    try:
        settings = {**config(e=builtin("echo")), "state_dir": str(base / "state")}
        g = gateway(settings)
        g.create("e")
        with pytest.raises(RuntimeError, match="another gateway uses it"):
            gateway(settings)
        tree = pids_of(g)
        g.expected_exit = -signal.SIGKILL
        g.stop(signal.SIGKILL)
        wait_gone(tree, 5)
        assert list((base / "state").glob("*.sock"))
        next_one = gateway(settings)
        assert not list((base / "state").glob("*.sock"))
        next_one.create("e")
        assert next_one.stop() == 0
        assert [path.name for path in (base / "state").iterdir()] == ["lock"]
    finally:
        shutil.rmtree(base)


# --- secrets


def everything_of(g):
    """Command lines of the gateway and all its processes, and its log."""
    own = pathlib.Path(f"/proc/{g.pid}/cmdline").read_bytes().decode()
    return "\n".join([own, *command_lines(g), g.log_text()])


def test_secrets_reach_the_worker_and_nothing_else(gateway, tmp_path):
    secret = tmp_path / "token"
    secret.write_text(TOKEN + "{port}\n")
    env = {**os.environ, "GATEWAY_TOKEN": TOKEN + "-env"}
    keys = uvicorn("openenv-0.2.0", ECHO, env_vars={"ECHO_LABEL": {"file": str(secret)}, "OTHER": {"env": "GATEWAY_TOKEN"}})
    g = gateway(config(e=keys), "--log-level", "debug", env=env)
    session = g.create("e")
    pid = episode(g, session)
    assert step(g, session).json()["observation"]["label"] == TOKEN + "{port}"  # as it is, without placeholders
    environ = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert f"OTHER={TOKEN}-env".encode() in environ
    assert not any(e.startswith(b"GATEWAY_TOKEN=") for e in environ)
    secret.write_text("second")
    os.kill(pid, signal.SIGKILL)
    g.wait_for(lambda: g.log("worker.stopped"), what="the worker's end")
    session = g.create("e")
    episode(g, session)
    assert step(g, session).json()["observation"]["label"] == "second"  # read at each launch
    assert TOKEN not in everything_of(g)
    checked = subprocess.run([BIN, "check", *tmp_path.glob("config-*.json")], capture_output=True, text=True, check=True)
    assert TOKEN not in checked.stdout + checked.stderr


def test_secrets_that_are_missing_are_named(gateway, tmp_path):
    secret = tmp_path / "token"
    g = gateway(config(f=builtin("echo", env_vars={"A": {"file": str(secret)}}), e=builtin("echo", env_vars={"A": {"env": "NOT_THERE"}})))
    assert refused(g, "f") == f"env_vars.A: the file {secret} cannot be read: No such file or directory"
    assert refused(g, "e") == "env_vars.A: the environment variable NOT_THERE is not set in the gateway's environment"
    secret.write_text("there now")
    g.wait_for(lambda: g.post("/v1/sessions", {"environment": "f"}).status_code == 200, what="a session")


def test_secret_headers(gateway, tmp_path):
    """A worker behind a token: sent with the probe, the upgrade and every request, and read anew for each worker."""
    secret = tmp_path / "token"
    secret.write_text(f"Bearer {TOKEN}\n")
    heads = []
    stop = threading.Event()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.1)

        def serve():
            while not stop.is_set():
                try:
                    peer, _ = listener.accept()
                except TimeoutError:
                    continue
                with peer:
                    head = b""
                    while b"\r\n\r\n" not in head and (piece := peer.recv(65536)):
                        head += piece
                    heads.append(head.decode())
                    peer.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            g = gateway(config(e={"static": {"urls": [url]}, "headers": {"Authorization": {"file": str(secret)}}, "ready_timeout_s": 0.5}), "--log-level", "debug")
            message = refused(g, "e", "UNAVAILABLE", "WORKER_UNREACHABLE")
            assert f"\r\nAuthorization: Bearer {TOKEN}\r\n" in heads[0]
            secret.write_text("a\nb")
            message = g.wait_for(lambda: "authorization" in (m := g.post("/v1/sessions", {"environment": "e"}).text).lower() and m, what="the refusal")
            assert f"headers.Authorization: the file {secret} holds what the setting may not have" in message
            assert TOKEN not in everything_of(g)
        finally:
            stop.set()
            thread.join()


def test_pass_env_names_what_workers_inherit(gateway):
    env = {**os.environ, "SECRET_TOKEN": "hush", "APP_ONE": "1", "APP_TWO": "2", "UV_PUBLISH_TOKEN": "hush"}
    g = gateway(config(e=shell("env; exit 9", pass_env=["APP_*", "NOT_THERE"]), u=uv("/", args=["--help"], env={"pass_env": ["APP_ONE"]})), env=env)
    lines = refused(g, "e").splitlines()
    assert "APP_ONE=1" in lines and "APP_TWO=2" in lines
    assert not any("hush" in line for line in lines)


def test_rlimits_of_processes(gateway):
    g = gateway(config(e={"process": {"command": ["/bin/sh", "-c", "ulimit -n; ulimit -d; exit 9", "{port}"], "memory_bytes": "64MiB", "open_files": 77}}))
    assert refused(g, "e").splitlines()[2:] == ["77", "65536"]
