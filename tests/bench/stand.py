# SPDX-License-Identifier: Apache-2.0
"""The test stand: workers, nginx and the gateway on their cores, sessions, and the load.

What is measured, the process in the middle, has the first core alone; the load and the worker share the second.
"""

import contextlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent
ENVGATE = pathlib.Path(os.environ.get("ENVGATE_BIN", ROOT / "build/envgate"))
LOAD = ROOT / "build/bench/load"
CAPACITY = 10000


class Payload:
    """What steps carry: an environment of the reference worker, its action, and about how many bytes a reply has."""

    def __init__(self, title, environment, action, reply_bytes, *args):
        self.title, self.environment, self.action, self.reply_bytes, self.args = title, environment, action, reply_bytes, args


def echo(title, reply_bytes):
    return Payload(title, "echo", '{"message":"hello"}', reply_bytes, "--reply-bytes", reply_bytes)


# A frame is an array of 7,056 numbers, where the 28 KB are one long string.
PAYLOADS = {
    "small": echo("226 B", 226),
    "28k": echo("28 KB", 28 << 10),
    "frame": Payload("a frame of 84×84 numbers (25 KB)", "pixels", '{"action":1}', 25 << 10),
}


def cores():
    """The core of the process in the middle, and that of all else."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise SystemExit("bench: two cores are needed; this process may use one only")
    return allowed[0], allowed[1]


MIDDLE, REST = cores() if hasattr(os, "sched_getaffinity") else (0, 1)


def build_load():
    """Compiles the load generator if it is older than its source."""
    source = HERE / "load.c"
    if LOAD.exists() and LOAD.stat().st_mtime >= source.stat().st_mtime:
        return
    LOAD.parent.mkdir(parents=True, exist_ok=True)
    command = f"{os.environ.get('CC', 'cc')} -std=gnu17 -D_GNU_SOURCE -O2 -g -Wall -Wextra".split()
    subprocess.run([*command, source, "-lnghttp2", "-o", LOAD], check=True)


def pin(core):
    return lambda: os.sched_setaffinity(0, {core})


def start(core, command, err=subprocess.STDOUT):
    """A program on a core, with its output in a pipe."""
    command = [str(c) for c in command]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err, preexec_fn=pin(core), text=True)


class Process:
    """A program on a core, which ends with the block that it is for."""

    def __init__(self, core, command, log):
        self.command, self.log = [str(c) for c in command], log
        with open(log, "ab") as err:
            self.process = start(core, command, err)

    @property
    def pid(self):
        return self.process.pid

    def first_line(self, having):
        line = self.process.stdout.readline()
        if having not in line:
            self.stop()
            raise SystemExit(f"bench: {' '.join(self.command)} did not start: {line.strip()} {pathlib.Path(self.log).read_text()[-2000:]}")
        return line

    def pids(self):
        """It and its children."""
        children = pathlib.Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [self.pid, *map(int, children)]

    def rss_mib(self):
        kib = 0
        for pid in self.pids():
            for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    kib += int(line.split()[1])
        return kib / 1024

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()
        return self.process.returncode


class Worker(Process):
    """The built-in reference worker. `url` is as the provider static takes it."""

    def __init__(self, folder, payload, dialect, unix=False):
        self.payload = payload
        at = f"unix:{folder}/{payload.environment}-{payload.reply_bytes}-{dialect}.sock" if unix else "127.0.0.1:0"
        command = [ENVGATE, "worker", payload.environment, "--listen", at, "--dialect", dialect, "--capacity", CAPACITY, *payload.args]
        super().__init__(REST, command, folder / "worker.log")
        self.address = self.first_line("listening on ").split("listening on ")[1].strip()
        self.url = self.address if unix else f"http://{self.address}"


class Nginx(Process):
    def __init__(self, folder, worker):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        text = (HERE / "nginx.conf").read_text()
        for name, value in {"DIR": folder, "WORKER": worker.address, "PORT": port}.items():
            text = text.replace(f"@{name}@", str(value))
        conf = folder / "nginx.conf"
        conf.write_text(text)
        super().__init__(MIDDLE, [shutil.which("nginx") or "/usr/sbin/nginx", "-c", conf], folder / "nginx.out")
        end = time.monotonic() + 10
        while time.monotonic() < end and self.process.poll() is None:
            if len(self.pids()) == 2:  # it listens before it has its worker process
                return
            time.sleep(0.01)
        raise SystemExit(f"bench: nginx did not start: {(folder / 'nginx.out').read_text()}")


class Gateway(Process):
    """envgate with one environment, `bench`, whose workers run already. A worker of the older dialect serves one session, so it is listed once for each."""

    def __init__(self, folder, worker, sessions, older=False, launcher=(), args=("--threads", 1)):
        environment = {"static": {"urls": [worker.url] * (sessions if older else 1)}, "sessions_per_worker": CAPACITY, "queue_limit": 10000}
        config = folder / "gateway.json"
        config.write_text(json.dumps({"listen": "127.0.0.1:0", "access_log": False, "environments": {"bench": environment}}))
        command = [*launcher, ENVGATE, "serve", "--config", config, *args]
        super().__init__(MIDDLE, command, folder / "gateway.log")
        self.address = self.first_line(" serves on ").split(" serves on ")[1].split(": ")[0].strip()
        self.http = http.client.HTTPConnection(self.address, timeout=30)

    def ask(self, method, path, body=None):
        self.http.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        reply = self.http.getresponse()
        text = reply.read()
        if reply.status != 200:
            raise SystemExit(f"bench: {method} {path}: {reply.status} {text.decode()[:500]}")
        return text

    @contextlib.contextmanager
    def sessions(self, n, shared=False):
        """So many sessions, each reset, as a file of their names. Shared: one for all."""
        names = []
        for _ in range(1 if shared else n):
            name = json.loads(self.ask("POST", "/v1/sessions", {"environment": "bench"}))["name"]
            self.ask("POST", f"/v1/{name}/reset", {})
            names.append(name)
        with tempfile.NamedTemporaryFile("w", suffix=".sessions") as f:
            f.write("".join(name + "\n" for name in (names * n if shared else names)))
            f.flush()
            yield f.name
        for name in names:
            self.ask("DELETE", f"/v1/{name}")

    def calls(self):
        """Calls of Step that it has answered, by grpc-status' name."""
        counts = {}
        for line in self.ask("GET", "/metrics").decode().splitlines():
            if line.startswith("envgate_calls_total{") and "Step" in line:
                code = line.split('code="')[1].split('"')[0]
                counts[code] = counts.get(code, 0) + int(float(line.rsplit(" ", 1)[1]))
        return counts

    def stop(self):
        self.http.close()
        return super().stop()


def load(mode, address, payload, connections, streams, seconds, warmup, sessions=None, watch=(), path=None, more=()):
    """Runs the load generator and returns its report. With a gRPC `path`, `sessions` is a file of messages that are made already, one for each caller, and no
    payload is needed. `more`: further arguments."""
    shape = ["--connections", connections, "--streams", streams, "--seconds", seconds, "--warmup", warmup]
    command = [LOAD, mode, address, *shape]
    command += ["--path", path] if path else ["--action", payload.action]
    command += ["--sessions", sessions] if sessions else []
    command += more
    for pid in watch:
        command += ["--watch", pid]
    running = start(REST, command, subprocess.PIPE)
    out, err = running.communicate()
    if running.returncode:
        return {"calls": 0, "errors": 1, "first_error": err.strip()}
    return json.loads(out)
