# SPDX-License-Identifier: Apache-2.0
"""Starts the real daemon for a test, and gives it real clients.

The program under test is build/envgate, or what ENVGATE_BIN names (as for the sanitizers). Every daemon that a test starts must end by itself
on SIGTERM, with exit code 0 and without a sanitizer's report; that is checked for each.
"""

import contextlib
import datetime
import importlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import grpc
import pytest
import requests
import requests_unixsocket

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("ENVGATE_BUILD", ROOT / "build"))
BIN = pathlib.Path(os.environ.get("ENVGATE_BIN", BUILD / "envgate"))
GRPCURL = pathlib.Path(os.environ.get("GRPCURL", ROOT / "build/tools/grpcurl"))
VENVS = {
    "openenv-0.10.0": ROOT / "build/venv-openenv-0.10.0",
    "openenv-0.2.0": ROOT / "build/venv-openenv-0.2.0",
    "openenv-core-0.1.0": ROOT / "build/venv-openenv-core-0.1.0",
}
SLOW = 4 if "asan" in str(BIN) or "tsan" in str(BIN) else 1  # a sanitizer's slowness, for time limits


def stubs():
    """The package envgate of clients/python in build/py: its modules, and the API's by protoc from proto/."""
    out = ROOT / "build/py"
    protos = sorted((ROOT / "proto").rglob("*.proto"))
    newest = max(p.stat().st_mtime for p in protos)
    done = out / "ready"
    if not done.exists() or done.stat().st_mtime < newest:
        out.mkdir(parents=True, exist_ok=True)
        import grpc_tools
        from grpc_tools import protoc

        site = pathlib.Path(grpc_tools.__file__).parent
        args = ["protoc", f"-I{ROOT / 'proto'}", f"-I{site / '_proto'}", f"-I{site.parent}", f"--python_out={out}", f"--grpc_python_out={out}"]
        assert protoc.main(args + [str(p.relative_to(ROOT / "proto")) for p in protos]) == 0
        done.touch()
    for source in (ROOT / "clients/python/envgate").iterdir():
        link = out / "envgate" / source.name
        if source.suffix == ".py" and not link.is_symlink():
            with contextlib.suppress(FileExistsError):  # another pytest was faster
                link.symlink_to(source)
    if str(out) not in sys.path:
        sys.path.insert(0, str(out))
    return importlib


def pytest_configure(config):
    stubs()


# The files that take longest. xdist's workers take file by file in this order, so that none of these is begun last, while the others have nothing left to do.
LONGEST = ("chaos", "docker_faults", "launch", "large_payloads", "pools", "docker_images", "soak", "step_batch", "docker", "providers", "schemathesis")


def pytest_collection_modifyitems(items):
    place = {f"test_{name}": at for at, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))  # stable


class Gateway:
    """A running daemon."""

    def __init__(self, config, *args, tmp, env=None, ca=None, client=None):
        self.log_path = tmp / f"gateway-{time.monotonic_ns()}.log"
        self.socket = tmp / f"g{time.monotonic_ns() % 10**9}.sock"
        command = [str(BIN), "serve"]
        if config is not None:
            path = tmp / f"config-{time.monotonic_ns()}.json"
            path.write_text(json.dumps(config))
            command += ["--config", str(path)]
        if "--listen" not in args:
            command += ["--listen", "127.0.0.1:0"]
        command += ["--log-format", "json", *args]
        self.log_file = open(self.log_path, "wb")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log_file, stdin=subprocess.DEVNULL, env=env)
        self.expected_exit = 0
        line = self.process.stdout.readline().decode()
        if " serves on " not in line:
            self.process.wait(10)
            raise RuntimeError(f"the gateway did not start: {line!r} {self.log_text()[-3000:]}")
        self.listen = line.split(" serves on ")[1].split(": ")[0].rstrip(":\n ").strip()
        if self.listen.startswith("unix:"):
            self.http = requests_unixsocket.Session()
            self.url = "http+unix://" + self.listen[5:].replace("/", "%2F")
            self.target = self.listen
        else:
            self.http = requests.Session()
            self.url = ("https://" if ca else "http://") + self.listen
            self.target = self.listen
        self.ca, self.client = ca, client
        if ca:
            self.http.trust_env = False  # REQUESTS_CA_BUNDLE would win
            self.http.verify = str(ca)
            self.http.cert = client and (str(client.cert), str(client.key))
        self.pid = self.process.pid
        self._channel = None

    # --- clients

    @property
    def channel(self):
        if self._channel is None:
            self._channel = self.new_channel(self.client)
        return self._channel

    def new_channel(self, client=None, **options):
        """A channel of its own, over TLS when the gateway has a certificate, with a client's certificate if one is given."""
        options = {"grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1, **options}
        if not self.ca:
            return grpc.insecure_channel(self.target, options=list(options.items()))
        pem = [self.ca.read_bytes(), client and client.key.read_bytes(), client and client.cert.read_bytes()]
        return grpc.secure_channel(self.target, grpc.ssl_channel_credentials(*pem), options=list(options.items()))

    @property
    def sessions(self):
        from envgate.v1 import session_service_pb2_grpc

        return session_service_pb2_grpc.SessionServiceStub(self.channel)

    @property
    def environments(self):
        from envgate.v1 import environment_service_pb2_grpc

        return environment_service_pb2_grpc.EnvironmentServiceStub(self.channel)

    def post(self, path, body=None, **kwargs):
        return self.http.post(self.url + path, json={} if body is None else body, timeout=60, **kwargs)

    def get(self, path, **kwargs):
        return self.http.get(self.url + path, timeout=60, **kwargs)

    def delete(self, path, **kwargs):
        return self.http.delete(self.url + path, timeout=60, **kwargs)

    def create(self, environment, **fields):
        """A new session's REST path, "/v1/sessions/…"."""
        reply = self.post("/v1/sessions", {"environment": environment, **fields})
        assert reply.status_code == 200, reply.text
        return "/v1/" + reply.json()["name"]

    # --- what it says of itself

    def log_text(self):
        return self.log_path.read_text(errors="replace")

    def log(self, event=None):
        """The log's lines, parsed; those of one event if it is given."""
        lines = []
        for line in self.log_text().splitlines(keepends=True):
            if line.startswith("{") and line.endswith("\n"):  # the last may be half written
                fields = json.loads(line)
                if event is None or fields["event"] == event:
                    lines.append(fields)
        return lines

    def metric(self, name, **labels):
        """The sum of a metric's samples that have these labels."""
        from prometheus_client.parser import text_string_to_metric_families

        text = self.get("/metrics").text
        return sum(
            s.value
            for family in text_string_to_metric_families(text)
            for s in family.samples
            if s.name == name and all(s.labels.get(k) == v for k, v in labels.items())
        )

    def wait_for(self, condition, seconds=10, what="the condition"):
        end = time.monotonic() + seconds * SLOW
        while time.monotonic() < end:
            value = condition()
            if value:
                return value
            time.sleep(0.01)
        raise AssertionError(f"{what} did not come true in {seconds * SLOW} s; log:\n{self.log_text()[-4000:]}")

    def children(self):
        """The processes that descend from it, as (pid, command line)."""
        found, level = [], [self.pid]
        while level:
            parent = level.pop()
            try:
                tasks = os.listdir(f"/proc/{parent}/task")
            except FileNotFoundError:
                continue
            for task in tasks:
                try:
                    pids = pathlib.Path(f"/proc/{parent}/task/{task}/children").read_text().split()
                except FileNotFoundError:
                    continue
                for pid in map(int, pids):
                    try:
                        found.append((pid, pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()))
                    except FileNotFoundError:
                        continue
                    level.append(pid)
        return found

    # --- its end

    def stop(self, sig=signal.SIGTERM, seconds=30):
        """Ends it and returns its exit code."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(sig)
            try:
                self.process.wait(seconds * SLOW)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"the gateway did not end in {seconds * SLOW} s; log:\n{self.log_text()[-4000:]}") from None
        self.process.stdout.close()
        self.log_file.close()
        return self.process.returncode

    def check_end(self):
        code = self.stop()
        text = self.log_text()
        assert "Sanitizer" not in text and "runtime error:" not in text, text[-8000:]
        assert code == self.expected_exit, f"exit code {code}; log:\n{text[-4000:]}"


@pytest.fixture
def gateway(tmp_path):
    """gateway(config, *args) starts a daemon; config None means the built-in environments. With `ca` its clients speak TLS, with the certificate
    `client` if they have one."""
    started = []

    def start(config=None, *args, env=None, ca=None, client=None):
        g = Gateway(config, *args, tmp=tmp_path, env=env, ca=ca, client=client)
        started.append(g)
        return g

    yield start
    problems = []
    for g in started:
        try:
            g.check_end()
        except AssertionError as problem:
            problems.append(str(problem))
    assert not problems, "\n".join(problems)


@pytest.fixture(scope="module")
def shared_gateway(tmp_path_factory):
    """One daemon with the built-in environments for a module's tests that leave it as it was."""
    g = Gateway(None, tmp=tmp_path_factory.mktemp("gateway"))
    yield g
    g.check_end()


@pytest.fixture(scope="session")
def engine():
    """A Docker Engine with the image "worker"."""
    import docker_engine
    import docker_support

    with docker_engine.engine() as e, docker_support.images(e):
        yield e


@pytest.fixture(scope="session")
def openenv_image(engine):
    import docker_support

    return docker_support.load_openenv(engine)


@pytest.fixture(scope="session")
def light_image(engine):
    """An OpenEnv server that boots fast; for whatever needs Python in an image, too."""
    import docker_support

    return docker_support.load_openenv(engine, docker_support.OPENENV_LIGHT)


@pytest.fixture
def no_container_left(engine):
    """When the test's gateways have ended, none of their containers is there, in any state; nor of others that were not there before."""
    before = set(engine.containers("envgate.instance"))
    yield
    assert set(engine.containers("envgate.instance")) <= before


def seconds_of(line):
    """When a line of the log was written: seconds of the wall clock."""
    return datetime.datetime.fromisoformat(line["ts"].replace("Z", "+00:00")).timestamp()


@contextlib.contextmanager
def busy_machine():
    """Meanwhile two programs a core want all of it."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * os.cpu_count())]
    try:
        yield
    finally:
        for b in burners:
            b.kill()
            b.wait()


def openenv_project(version):
    """tests/envs/echo_env as a project on that version of openenv, which keeps its environment from run to run, so that its packages are installed once."""
    folder = ROOT / f"build/uv-project/{version}/echo_env"
    shutil.copytree(ROOT / "tests/envs/echo_env", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", ".venv", "pyproject.toml"))
    description = (ROOT / "tests/envs/echo_env/pyproject.toml").read_text()
    assert '"openenv==0.10.0"' in description
    description = description.replace('"openenv==0.10.0"', f'"openenv=={version}"')
    if not (folder / "pyproject.toml").exists() or (folder / "pyproject.toml").read_text() != description:
        (folder / "pyproject.toml").write_text(description)
    return folder


@pytest.fixture(scope="session")
def uv_project():
    """On the version that boots in a second."""
    return openenv_project("0.2.0")


def builtin(name, *args, **keys):
    """An environment of the configuration with the reference worker."""
    return {"provider": "builtin", "builtin": {"environment": name, "args": list(args)}, **keys}


def code_of(error):
    """(status code's name, reason) of a grpc.RpcError."""
    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    status = rpc_status.from_call(error)
    reason = ""
    if status is not None:
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                reason = info.reason
    return error.code().name, reason
