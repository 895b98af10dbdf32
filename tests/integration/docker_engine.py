# SPDX-License-Identifier: Apache-2.0
"""A real Docker Engine for the tests.

The one that answers at $DOCKER_HOST (unix:// only) or /var/run/docker.sock is used. Where there is none, dockerd is started for the tests alone: its own
data, socket, bridge and cgroup, no iptables rules, no change of sysctls. At the end nothing of it is left. Where that can't be done the tests fail.
"""

import contextlib
import fcntl
import ipaddress
import itertools
import json
import os
import pathlib
import shutil
import signal
import string
import subprocess
import tempfile
import time

DEFAULT_SOCKET = "/var/run/docker.sock"
LETTERS = itertools.cycle(string.ascii_lowercase)  # for the names of this process's Engines
# What dockerd and containerd make outside of the directories that they are told, beyond any option.
STRAYS = ("/etc/docker/key.json", "/etc/docker", "/run/docker", "/run/containerd")


class EngineError(Exception):
    pass


class Engine:
    """An Engine that answers at `host`, as the docker command line sees it."""

    def __init__(self, host):
        self.host = host

    def docker(self, *args, **kwargs):
        """Runs `docker ARGS…` and returns what it printed; raises EngineError with its stderr when it fails."""
        done = subprocess.run(["docker", "--host", self.host, *args], capture_output=True, text=True, timeout=120, **kwargs)
        if done.returncode != 0:
            raise EngineError(f"docker {' '.join(args)}: exit code {done.returncode}: {done.stderr.strip()}")
        return done.stdout.strip()

    def inspect(self, container):
        return json.loads(self.docker("container", "inspect", container))[0]

    def containers(self, *labels):
        """The ids of all containers, running or not, that have all these labels ("key" or "key=value")."""
        filters = [word for label in labels for word in ("--filter", f"label={label}")]
        return self.docker("ps", "--all", "--no-trunc", "--quiet", *filters).split()

    def event_times(self, action, since):
        """When that was last done to each container since then: {id: seconds of the wall clock}."""
        lines = self.docker("events", "--since", str(since), "--until", str(time.time()), "--filter", f"event={action}", "--format", "{{json .}}").splitlines()
        return {event["id"]: event["timeNano"] / 1e9 for event in map(json.loads, lines)}

    def load(self, tar, image, command, port=8000, env=()):
        """Makes a root filesystem's tar file an image."""
        changes = [f"CMD {json.dumps(command)}", f"EXPOSE {port}", *(f"ENV {e}" for e in env)]
        self.docker("import", *(word for change in changes for word in ("--change", change)), str(tar), image)

    def answers(self):
        try:
            self.docker("version", "--format", "{{.Server.Version}}")
        except EngineError:
            return False
        return True


def _run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _free_subnet():
    """A /24 that no interface and no route uses."""
    used = [ipaddress.ip_interface(a["local"] + "/" + str(a["prefixlen"])).network
            for link in json.loads(_run("ip", "-4", "-json", "address")) for a in link["addr_info"]]
    used += [ipaddress.ip_network(route["dst"]) for route in json.loads(_run("ip", "-4", "-json", "route")) if route["dst"] != "default"]
    for n in range(256):
        subnet = ipaddress.ip_network(f"10.213.{(os.getpid() + n) % 256}.0/24")
        if not any(subnet.overlaps(network) for network in used):
            return subnet
    raise EngineError("no free subnet in 10.213.0.0/16 for the test bridge")


@contextlib.contextmanager
def _bridge(name):
    _run("ip", "link", "add", name, "type", "bridge")
    try:
        # Two Engines that choose the same would reach each other's containers.
        with open(pathlib.Path(tempfile.gettempdir()) / "envgate-test-subnets.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            subnet = _free_subnet()
            _run("ip", "address", "add", f"{subnet[1]}/{subnet.prefixlen}", "dev", name)
            _run("ip", "link", "set", name, "up")
        yield
    finally:
        _run("ip", "link", "delete", name)


def _remove_tree_of_empty(path):
    for directory, _, _ in os.walk(path, topdown=False):
        with contextlib.suppress(OSError):  # in use by somebody else
            os.rmdir(directory)


@contextlib.contextmanager
def _remove_strays():
    new = [path for path in STRAYS if not os.path.exists(path)]
    try:
        yield
    finally:
        for path in new:
            if os.path.isfile(path):
                os.unlink(path)
            _remove_tree_of_empty(path)


def _remove_cgroups(name):
    root = pathlib.Path("/sys/fs/cgroup")
    for top in (root / name, *root.glob(f"*/{name}")):  # version 2; version 1, by controller
        for directory, _, _ in os.walk(top, topdown=False):
            os.rmdir(directory)


def _unmount_below(root):
    with open("/proc/mounts", encoding="utf-8") as mounts:
        points = [line.split()[1] for line in mounts]
    for point in sorted((p for p in points if p.startswith(f"{root}/")), reverse=True):
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)


class OwnEngine(Engine):
    """One that was started for the tests, and can be started anew. Whatever it has goes with it."""

    def __init__(self, host, command, log):
        super().__init__(host)
        self._command, self._log_path = command, log
        self._daemon = None

    def start(self):
        # Where nobody reaps the containerd of a dockerd that was killed, dockerd takes it to be alive.
        (self._log_path.parent / "exec/containerd/containerd.pid").unlink(missing_ok=True)
        with open(self._log_path, "a", encoding="utf-8") as log:
            self._daemon = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 60
        while not self.answers():
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                tail = "\n".join(self._log_path.read_text(encoding="utf-8").splitlines()[-20:])
                raise EngineError(f"dockerd does not answer (exit code {self._daemon.poll()}); the end of its log:\n{tail}")
            time.sleep(0.05)

    def stop(self, sig=signal.SIGTERM):
        if self._daemon is None:
            return
        self._daemon.send_signal(sig)
        try:
            self._daemon.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            self._daemon.wait()
        self._daemon = None

    @contextlib.contextmanager
    def frozen(self):
        """It does nothing meanwhile."""
        self._daemon.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._daemon.send_signal(signal.SIGCONT)

    def running(self):
        return self._daemon is not None and self._daemon.poll() is None


@contextlib.contextmanager
def own_engine():
    """Yields an OwnEngine."""
    for program in ("dockerd", "docker", "ip", "setpriv"):
        if not shutil.which(program):
            raise EngineError(f"the docker tests need {program}: run `make deps` (Debian: docker.io iproute2 util-linux)")
    if os.geteuid() != 0:
        raise EngineError(f"the docker tests need root to start dockerd, or an Engine at {DEFAULT_SOCKET} or $DOCKER_HOST that this user may use")
    name = f"envgate{os.getpid()}{next(LETTERS)}"  # an interface's name has at most 15 characters
    root = pathlib.Path(tempfile.mkdtemp(prefix="envgate-docker-", dir="/tmp"))  # short: a socket's path has at most 107
    host = f"unix://{root}/docker.sock"
    (root / "daemon.json").write_text("{}", encoding="utf-8")
    (root / "data").mkdir()
    command = [
        "setpriv", "--pdeathsig", "TERM",  # it ends even when the tests are killed
        "dockerd", "--config-file", f"{root}/daemon.json", "--host", host, "--data-root", f"{root}/data", "--exec-root", f"{root}/exec",
        "--pidfile", f"{root}/pid", "--bridge", name, "--cgroup-parent", f"/{name}", "--containerd-namespace", name,
        "--containerd-plugins-namespace", f"{name}-plugins", "--iptables=false", "--ip6tables=false", "--ip-masq=false", "--ip-forward=false",
    ]  # fmt: skip
    engine = OwnEngine(host, command, root / "log")
    try:
        # In memory: images come and go in a second, which on a slow disk is half a minute.
        _run("mount", "-t", "tmpfs", "-o", "size=8g", name, str(root / "data"))
        with _remove_strays(), _bridge(name):
            try:
                engine.start()
                yield engine
            finally:
                if engine.running() and (left := engine.docker("ps", "--all", "--quiet").split()):
                    engine.docker("rm", "--force", "--volumes", *left)
                engine.stop()
    finally:
        _unmount_below(root)
        _remove_cgroups(name)
        shutil.rmtree(root)


@contextlib.contextmanager
def engine():
    """Yields an Engine."""
    host = os.environ.get("DOCKER_HOST")
    if host:
        if not host.startswith("unix://") or not Engine(host).answers():
            raise EngineError(f"no Docker Engine answers at DOCKER_HOST={host}, or it is not a unix socket")
        yield Engine(host)
    elif os.path.exists(DEFAULT_SOCKET) and Engine(f"unix://{DEFAULT_SOCKET}").answers():
        yield Engine(f"unix://{DEFAULT_SOCKET}")
    else:
        with own_engine() as own:
            yield own
