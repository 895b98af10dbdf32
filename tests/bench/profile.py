# SPDX-License-Identifier: Apache-2.0
"""Where the gateway's time goes: the hottest functions, the system calls and the allocations a call. Needs perf and root.

build/venv/bin/python tests/bench/profile.py [ROW] [SHAPE] [PAYLOAD]     for example: grpc-ws 16x1 small
"""

import argparse
import contextlib
import pathlib
import re
import signal
import subprocess
import tempfile
import time

import bench
import stand

LIBC = "/lib/x86_64-linux-gnu/libc.so.6"
ALLOCATORS = ("malloc", "calloc", "realloc", "free")


def run(*command):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True)


class Bench:
    """A row of bench.py that stands ready to be loaded."""

    def __init__(self, stack, row, shape, payload):
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="envgate-profile-")))
        self.row = row
        self.connections, self.streams = bench.SHAPES[shape]
        self.worker = stand.Worker(folder, payload, row.dialect, row.unix)
        stack.callback(self.worker.stop)
        self.gateway = stand.Gateway(folder, self.worker, self.connections * self.streams, older=row.dialect == "http")
        stack.callback(self.gateway.stop)
        self.sessions = stack.enter_context(self.gateway.sessions(self.connections * self.streams))

    def load_while(self, *watcher):
        """Runs the load while a perf command watches the gateway. Returns what that says, and how many calls there were."""
        command = ["perf", *watcher, "-p", self.gateway.pid]
        before = self.gateway.calls().get("OK", 0)
        with subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as watching:
            time.sleep(1)  # it is a while until it watches
            report = stand.load(
                self.row.mode, self.gateway.address, self.worker.payload, self.connections, self.streams, 2, 0.2, self.sessions
            )
            watching.send_signal(signal.SIGINT)
            text = watching.communicate()[0]
        if report["errors"]:
            raise SystemExit(f"profile: {report['errors']} calls failed: {report['first_error']}")
        return text, self.gateway.calls().get("OK", 0) - before

    def counts(self, *events):
        """How often each event happens a call."""
        names = [arg for event in events for arg in ("-e", event)]
        text, calls = self.load_while("stat", "-x,", *names)
        found = re.findall(r"^(\d+),,([\w:]+),", text, re.MULTILINE)
        return sorted(((int(n) / calls, name.split(":")[1]) for n, name in found if int(n)), reverse=True)


def functions(stand_, lines):
    with tempfile.NamedTemporaryFile(suffix=".perf") as data:
        text, _ = stand_.load_while("record", "-q", "-e", "cpu-clock", "-F", 4999, "-o", data.name)
        objects = run("perf", "report", "-i", data.name, "--stdio", "-q", "--sort", "dso")
        symbols = run("perf", "report", "-i", data.name, "--stdio", "-q", "--sort", "dso,symbol")
    if not symbols.stdout.strip():
        raise SystemExit(f"profile: perf recorded nothing: {text}{symbols.stderr}")
    print("Time by program and library\n")
    print("\n".join(line for line in objects.stdout.splitlines() if line.strip()))
    print("\nTime by function\n")
    print("\n".join([line for line in symbols.stdout.splitlines() if line.strip()][:lines]))


def system_calls(stand_):
    print("\nSystem calls a call\n")
    for n, name in stand_.counts("syscalls:sys_enter_*"):
        if n >= 0.001:
            print(f"{n:8.3f}  {name.removeprefix('sys_enter_')}")


def allocations(stand_):
    """Counted by probes in the C library, which are the whole machine's while they are there."""
    names = [f"envgate_{name}" for name in ALLOCATORS]
    for name, function in zip(names, ALLOCATORS):
        run("perf", "probe", "-q", "-x", LIBC, f"{name}={function}")
    try:
        print("\nAllocations a call\n")
        for n, name in stand_.counts(*(f"probe_libc:{name}" for name in names)):
            print(f"{n:8.3f}  {name.removeprefix('envgate_')}")
    finally:
        for name in names:
            run("perf", "probe", "-q", "-d", f"probe_libc:{name}")


def main():
    rows = {row.key: row for row in bench.ROWS if row.middle == "gateway" and not row.check}
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("row", nargs="?", default="grpc-ws", choices=rows)
    p.add_argument("shape", nargs="?", default="16x1", choices=bench.SHAPES)
    p.add_argument("payload", nargs="?", default="small", choices=stand.PAYLOADS)
    p.add_argument("--lines", type=int, default=60, help="functions shown [%(default)s]")
    options = p.parse_args()
    stand.build_load()
    with contextlib.ExitStack() as stack:
        stand_ = Bench(stack, rows[options.row], options.shape, stand.PAYLOADS[options.payload])
        functions(stand_, options.lines)
        system_calls(stand_)
        allocations(stand_)


if __name__ == "__main__":
    main()
