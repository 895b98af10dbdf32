# SPDX-License-Identifier: Apache-2.0
"""What a call costs, side by side: the worker directly, nginx, and envgate's ways. `make bench` runs it; docs/BENCHMARKS.md explains it.
With --peers, as `make bench-peers` runs it, other proxies and bridges stand beside them.

All rows are measured in turn, several rounds, each time with a new process in the middle; the figures are medians of the rounds.
"""

import argparse
import contextlib
import json
import os
import pathlib
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import stand
from peers import peers

SHAPES = {"1x1": (1, 1), "16x1": (16, 1), "128x1": (128, 1), "8x16": (8, 16)}  # connections × calls at a time on each
LARGE_SHAPES = ("16x1",)  # of the large payloads, unless --full
PEER_LINES = (("16x1", "small"), ("8x16", "small"), ("16x1", "28k"))  # of the peers, unless --full
BATCH_ITEMS = 64


class Row:
    """A way to the worker. `middle` is "", "nginx", "gateway" or "peer"; `check`: all callers use one session, by load.c or by h2load.

    `batch`: a call is a StepBatch of so many items, each for a session of its own; the figures are of a step.
    `shapes`: only in these, with small payloads. `args`: of the gateway. `load`: more arguments of load.c. `sessions`: of all callers together.
    """

    def __init__(self, key, title, mode, middle, dialect="both", unix=False, check="", batch=0, peer=None, shapes=(), args=("--threads", 1), load=(), sessions=0):
        self.key, self.title, self.mode, self.middle = key, title, mode, middle
        self.dialect, self.unix, self.check, self.batch, self.peer = dialect, unix, check, batch, peer
        self.shapes, self.args, self.load, self.sessions = shapes, args, load, sessions

    def fits(self, shape, payload, full):
        if self.shapes:
            return shape in self.shapes and payload == "small"
        if self.batch:
            return shape == "1x1" and payload == "small"
        if self.peer and not full and (shape, payload) not in PEER_LINES:
            return False
        if self.check:
            return shape == "16x1" and payload == "small"
        if payload == "frame" and self.unix:
            return False
        return self.mode == "grpc" or SHAPES[shape][1] == 1


ROWS = [
    Row("worker", "worker directly (HTTP)", "worker", ""),
    Row("nginx", "nginx, HTTP → HTTP worker", "worker", "nginx"),
    Row("rest-ws", "envgate, REST → /ws over TCP", "rest", "gateway"),
    Row("rest-unix", "envgate, REST → /ws over a unix socket", "rest", "gateway", unix=True),
    Row("grpc-ws", "envgate, gRPC → /ws over TCP", "grpc", "gateway"),
    Row("grpc-unix", "envgate, gRPC → /ws over a unix socket", "grpc", "gateway", unix=True),
    Row("grpc-http", "envgate, gRPC → HTTP worker (older dialect)", "grpc", "gateway", dialect="http"),
    # h2load has one body for all its calls, so it can use one session only. That is another load, but both generators must find the same cost.
    Row("shared", "envgate, gRPC → /ws over TCP, all on one session", "grpc", "gateway", check="load"),
    Row("h2load", "the same by h2load", "grpc", "gateway", check="h2load"),
]
ONE, TWO = ("--threads", 1), ("--threads", 2)
BUSY_US = 500
# What only `make bench-peers` measures, as it belongs to no caller's way: waiting, many sessions, and two reactors on one core.
MORE = [
    Row("grpc-value", "envgate, gRPC, payloads as google.protobuf.Value → /ws over TCP", "grpc", "gateway", shapes=("16x1", "8x16")),
    Row("busy", f"envgate, gRPC → /ws over TCP, --busy-poll-us {BUSY_US}", "grpc", "gateway", shapes=("1x1",), args=(*ONE, "--busy-poll-us", BUSY_US)),
    Row("batch", f"envgate, gRPC StepBatch of {BATCH_ITEMS} → /ws over TCP, a step", "grpc", "gateway", batch=BATCH_ITEMS),
    Row("batch-unix", f"envgate, gRPC StepBatch of {BATCH_ITEMS} → /ws over a unix socket, a step", "grpc", "gateway", batch=BATCH_ITEMS, unix=True),
    Row("many-100", "envgate, gRPC → /ws over TCP, 96 sessions in turn", "grpc", "gateway", shapes=("16x1",), sessions=96),
    Row("many-10000", "envgate, gRPC → /ws over TCP, 10,000 sessions in turn", "grpc", "gateway", shapes=("16x1",), sessions=10000),
    Row("local", "envgate with two reactors, every session its connection's", "grpc", "gateway", shapes=("16x1",), args=TWO, load=("--environment", "bench")),
    Row("crossing", "envgate with two reactors, every call crosses", "grpc", "gateway", shapes=("16x1",), args=TWO, load=("--environment", "bench", "--crossing")),
]  # fmt: skip
# nginx is among the rows already.
PEERS = [
    Row(peer.name, peer.title, "grpc" if peer.front == "grpc" else "worker", "peer", peer=peer) for peer in peers.PEERS if peer.name != "nginx"
]


# --- one measurement ------------------------------------------------------------------------------------------------------------------------


def cpu_seconds(pid):
    """Of all its threads. /proc/PID/stat counts in 10 ms, which is too coarse for short rounds."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in pathlib.Path(f"/proc/{pid}/task").iterdir()) / 1e9


def field(number, value):
    """A protobuf field of bytes."""
    n, length = len(value), b""
    while n >= 0x80:
        length += bytes([n & 0x7F | 0x80])
        n >>= 7
    return bytes([number << 3 | 2]) + length + bytes([n]) + value


def step_request(session, action):
    return field(1, session.encode()) + field(2, field(1, action.encode()))


PAYLOAD_FORMAT_VALUE = b"\x38\x02"  # StepRequest.payload_format


def grpc_message(message):
    return b"\0" + len(message).to_bytes(4, "big") + message


@contextlib.contextmanager
def as_file(content):
    with tempfile.NamedTemporaryFile() as f:
        f.write(content)
        f.flush()
        yield f.name


def h2load(gateway, worker, connections, options, session):
    """The same by nghttp2's load generator. It does not look at grpc-status, so the gateway's count of good calls must agree with its own."""
    seconds = max(1, round(options.seconds))  # it takes whole seconds
    with as_file(grpc_message(step_request(session, worker.payload.action))) as body:
        arguments = f"-c {connections} -m 1 -t 1 -D {seconds} -d {body}".split()
        headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        url = f"http://{gateway.address}/envgate.v1.SessionService/Step"
        counted, before = gateway.calls().get("OK", 0), {pid: cpu_seconds(pid) for pid in [*gateway.pids(), *worker.pids()]}
        text = stand.start(stand.REST, ["h2load", *arguments, *headers, url]).communicate()[0]
        cpu = {str(pid): (cpu_seconds(pid) - before[pid]) * 1e6 for pid in before}
        counted = gateway.calls().get("OK", 0) - counted
    report = {
        "calls": 0,
        "errors": 1,
        "first_error": f"h2load: {text[-300:]}",
        "p50_us": None,
        "p99_us": None,
        "reply_bytes": None,
        "cpu_us": cpu,
    }
    done = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", text)
    if not done:
        return report
    calls, failed = int(done[1]), sum(map(int, done.groups()[1:]))
    wrong = f"h2load counts {calls} calls, the gateway {counted} with grpc-status 0" if abs(counted - calls) > 2 * connections else ""
    return {**report, "calls": calls, "errors": failed, "first_error": wrong, "calls_per_s": calls / seconds}


def load_messages(address, path, messages, shape, options, watch):
    """Runs the load generator with gRPC messages that are made already, one for each caller, and returns its report."""
    connections, streams = SHAPES[shape]
    with as_file(messages) as file:
        return stand.load("grpc", address, None, connections, streams, options.seconds, options.warmup, file, watch, path)


def batch_load(gateway, worker, shape, options, sessions, watch):
    """The report of batches, its calls being steps. A batch succeeds even if its items don't, so the environments must have counted each step."""
    request = b"".join(field(1, step_request(session, worker.payload.action)) for session in sessions)
    report = load_messages(gateway.address, "/envgate.v1.SessionService/StepBatch", grpc_message(request), shape, options, watch)
    batches = report["calls"]
    for session in sessions:
        taken = json.loads(gateway.ask("GET", f"/v1/{session}/state"))["step_count"]
        if taken < batches and not report["first_error"]:
            report["first_error"] = f"{batches} batches were answered, and a session took {taken} steps"
    if batches:
        for of_steps in ("calls", "calls_per_s"):
            report[of_steps] *= len(sessions)
        report["reply_bytes"] /= len(sessions)
    return report


class Figures(dict):
    """One measurement: cpu and worker_cpu in µs a call, rate, p50, p99 in µs, rss in MiB, error."""


def take(row, worker, shape, options, folder):
    connections, streams = SHAPES[shape]
    sessions_n = row.batch or row.sessions or connections * streams
    with contextlib.ExitStack() as stack:
        middle = sessions = None
        if row.middle == "nginx":
            middle = stand.Nginx(folder, worker)
        elif row.middle == "gateway":
            middle = stand.Gateway(folder, worker, sessions_n, older=row.dialect == "http", args=row.args)
        elif row.middle == "peer":
            middle = row.peer.start(folder, worker)
        if middle:
            stack.callback(middle.stop)
        if row.middle == "gateway" and not row.load:
            sessions = stack.enter_context(middle.sessions(sessions_n, shared=bool(row.check)))
        address = middle.address if middle else worker.address
        watch = [*(middle.pids() if middle else []), *worker.pids()]
        if row.check == "h2load":
            report = h2load(middle, worker, connections, options, pathlib.Path(sessions).read_text().split()[0])
        elif row.batch:
            report = batch_load(middle, worker, shape, options, pathlib.Path(sessions).read_text().split(), watch)
        elif row.key == "grpc-value":
            steps = (step_request(name, worker.payload.action) + PAYLOAD_FORMAT_VALUE for name in pathlib.Path(sessions).read_text().split())
            messages = b"".join(map(grpc_message, steps))
            report = load_messages(address, "/envgate.v1.SessionService/Step", messages, shape, options, watch)
        elif row.peer and row.mode == "grpc":
            messages = row.peer.requests(worker.payload.action, connections * streams)
            report = load_messages(address, row.peer.path, messages, shape, options, watch)
        else:
            rotate = ("--rotate", sessions_n // (connections * streams)) if row.sessions else ()
            shaped = (connections, streams, options.seconds, options.warmup)
            report = stand.load(row.mode, address, worker.payload, *shaped, sessions, watch, more=(*row.load, *rotate))
        return figures(report, middle, worker)


def figures(report, middle, worker):
    calls = report["calls"]
    error = report["first_error"] or (f"{report['errors']} errors" if report["errors"] else "")
    if not calls:
        return Figures(error=error or "no call was answered")
    size = report["reply_bytes"]
    if not error and size and size < worker.payload.reply_bytes * 0.5:
        error = f"replies have {size:.0f} bytes, and should have about {worker.payload.reply_bytes}"

    def cpu(process):
        return sum(report["cpu_us"][str(pid)] for pid in process.pids()) / calls

    return Figures(
        cpu=cpu(middle) if middle else None,
        worker_cpu=cpu(worker),
        rate=report["calls_per_s"],
        p50=report["p50_us"],
        p99=report["p99_us"],
        rss=middle.rss_mib() if middle else worker.rss_mib(),
        error=error,
    )


# --- all of them ----------------------------------------------------------------------------------------------------------------------------


def rows(options):
    if options.peers:
        return [*ROWS, *MORE, *PEERS]
    asked = {name for names in options.only for name in names.split(",")}
    return [*ROWS, *(row for row in MORE if row.key in asked)]


def plan(options):
    """(payload, shape, row) of each line of the tables."""
    for payload in stand.PAYLOADS:
        for shape in SHAPES:
            if payload != "small" and shape not in LARGE_SHAPES and not options.full:
                continue
            for row in rows(options):
                if row.fits(shape, payload, options.full) and all({row.key, shape, payload} & set(names.split(",")) for names in options.only):
                    yield payload, shape, row


def median(values):
    values = [v for v in values if v is not None]
    return statistics.median(values) if values else None


def merge(rounds, nginx):
    """The medians of a line's rounds. `nginx`: its rounds, if it was measured."""
    good = [f for f in rounds if "cpu" in f]
    merged = Figures({k: median([f[k] for f in good]) for k in ("cpu", "worker_cpu", "rate", "p50", "p99", "rss")})
    merged["error"] = next((f["error"] for f in rounds if f["error"]), "")
    cpus = [f["cpu"] for f in good if f["cpu"]]
    merged["spread"] = (max(cpus) - min(cpus)) / 2 / merged["cpu"] if cpus else None
    merged["ratio"] = ratio_of(rounds, nginx)
    return merged


def results_of(taken):
    return {(payload, shape, row): merge(rounds, rounds_of(taken, payload, shape, "nginx")) for (payload, shape, row), rounds in taken.items()}


def number(value, digits=1):
    return "–" if value is None else f"{value:,.{digits}f}"


def table(payload, shape, lines):
    connections, streams = SHAPES[shape]
    calls = "1 call" if streams == 1 else f"{streams} calls"
    print(f"\n{connections} connection{'s' * (connections > 1)} × {calls}, replies of {stand.PAYLOADS[payload].title}\n")
    head = ["way", "CPU-µs a call", "±", "of nginx's", "with the worker's", "calls/s", "p50 µs", "p99 µs", "RSS MiB"]
    cells = [head]
    for row, f in lines:
        if f["error"]:
            cells.append([row.title, f"FAILED: {f['error']}"] + [""] * (len(head) - 2))
            continue
        both = None if f["cpu"] is None else f["cpu"] + f["worker_cpu"]
        cells.append(
            [
                row.title,
                number(f["cpu"]),
                "–" if f["spread"] is None else f"{f['spread']:.0%}",
                number(f["ratio"], 2),
                number(f["worker_cpu"] if both is None else both),
                number(f["rate"], 0),
                number(f["p50"], 0),
                number(f["p99"], 0),
                number(f["rss"]),
            ]
        )
    widths = [max(len(line[i]) for line in cells if not line[1].startswith("FAILED")) for i in range(len(head))]
    for i, line in enumerate(cells):
        print("| " + " | ".join(c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(line, widths))) + " |")
        if i == 0:
            print("|" + "|".join("-" * (w + 1) + ("-" if k == 0 else ":") for k, w in enumerate(widths)) + "|")


# Of each: the payload, the shape, the way, and the way it is compared with.
RATIOS = {
    "grpc_ws_16x1/nginx": ("small", "16x1", "grpc-ws", "nginx"),
    "grpc_ws_8x16/nginx": ("small", "8x16", "grpc-ws", "nginx"),
    "rest_ws_16x1/nginx": ("small", "16x1", "rest-ws", "nginx"),
    "grpc_http_16x1/nginx": ("small", "16x1", "grpc-http", "nginx"),
    "grpc_ws_28k/nginx": ("28k", "16x1", "grpc-ws", "nginx"),
    "grpc_ws_16x1/rust": ("small", "16x1", "grpc-ws", "rust-ws"),
    "grpc_ws_16x1/go": ("small", "16x1", "grpc-ws", "go-ws"),
    "grpc_ws_16x1/envoy": ("small", "16x1", "grpc-ws", "envoy"),
    "grpc_ws_16x1/python": ("small", "16x1", "grpc-ws", "python"),
    "grpc_unix_16x1/nginx": ("small", "16x1", "grpc-unix", "nginx"),
    "grpc_unix_8x16/nginx": ("small", "8x16", "grpc-unix", "nginx"),
    "grpc_ws_16x1/rust_bytes": ("small", "16x1", "grpc-ws", "rust-ws-bytes"),
    "sessions_10000/100": ("small", "16x1", "many-10000", "many-100"),
    "two_reactors_local/one": ("small", "16x1", "local", "grpc-ws"),
    "two_reactors_crossing/one": ("small", "16x1", "crossing", "grpc-ws"),
}
# The same of a time to wait.
WAITS = {
    "p50_grpc_ws_1x1/nginx": ("p50", "1x1", "grpc-ws", "nginx"),
    "p50_grpc_ws_1x1_busy/nginx": ("p50", "1x1", "busy", "nginx"),
    "p99_grpc_ws_128x1/nginx": ("p99", "128x1", "grpc-ws", "nginx"),
}


def ratio_of(rounds, others, what="cpu"):
    """The median of each round's, as noise comes and goes."""
    return median([f[what] / o[what] for f, o in zip(rounds, others) if f.get(what) and o.get(what)])


def rounds_of(taken, payload, shape, key):
    """nginx cannot have many calls on a connection: there it is compared at 16 connections."""
    rounds = {(p, s, row.key): figures for (p, s, row), figures in taken.items()}
    return rounds.get((payload, shape, key)) or (rounds.get((payload, "16x1", key)) if key == "nginx" else None) or []


def ratios(taken):
    """Of lines without an error."""
    lines = []
    wanted = [(name, ("cpu", *of)) for name, of in RATIOS.items()] + [(name, (what, "small", *of)) for name, (what, *of) in WAITS.items()]
    for name, (what, payload, shape, way, other) in wanted:
        rounds, others = rounds_of(taken, payload, shape, way), rounds_of(taken, payload, shape, other)
        ratio = None if any(f["error"] for f in [*rounds, *others]) else ratio_of(rounds, others, what)
        if ratio:
            lines.append(f"| ratio {name} | {ratio:.{2 if ratio >= 0.1 else 3}f} |")
    if lines:
        print("\n| CPU-µs a call (p50, p99: µs), as a part of the other's | |\n|---|---:|\n" + "\n".join(lines))


def busy_seconds():
    """Of all cores since the machine's start."""
    fields = list(map(int, pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]))
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")  # neither idle nor waiting for a disk


def machine():
    text = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", text)
    nginx = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr.strip().split("/")[-1]
    version = subprocess.run([stand.ENVGATE, "--version"], capture_output=True, text=True).stdout.strip()
    return f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores; Linux {platform.release()}; nginx {nginx}; {version}"


def parse():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=3, help="[%(default)s]")
    p.add_argument("--seconds", type=float, default=1.0, help="how long each measurement is [%(default)s]")
    p.add_argument("--warmup", type=float, default=0.2, help="the time before it [%(default)s]")
    p.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAMES",
        help="these ways, shapes or payloads, with commas between; give it again to narrow further: "
        + ", ".join([*(r.key for r in [*ROWS, *MORE]), *SHAPES, *stand.PAYLOADS])
        + "; with --peers: "
        + ", ".join(r.key for r in PEERS),
    )
    p.add_argument("--peers", action="store_true", help="also what tools/bench-deps.sh built, and batch")
    p.add_argument("--full", action="store_true", help="large payloads, and peers, in all shapes")
    p.add_argument(
        "--json", type=pathlib.Path, default=stand.ROOT / "build/bench/results.json", help="where the figures go, too [%(default)s]"
    )
    return p.parse_args()


def progress(text):
    if sys.stderr.isatty():
        print("\r" + text.ljust(60) + "\r", end="", file=sys.stderr, flush=True)


def measure(options, todo, folder):
    """The rounds' figures by line."""
    needed = {(payload, row.dialect, row.unix) for payload, _, row in todo}
    taken = {line: [] for line in todo}
    with contextlib.ExitStack() as stack:
        workers = {}
        for payload, dialect, unix in sorted(needed):
            workers[payload, dialect, unix] = worker = stand.Worker(folder, stand.PAYLOADS[payload], dialect, unix)
            stack.callback(worker.stop)
        for i in range(options.rounds):
            for payload, shape, row in todo:
                progress(f"round {i + 1} of {options.rounds}: {row.key} {shape} {payload}")
                taken[payload, shape, row].append(take(row, workers[payload, row.dialect, row.unix], shape, options, folder))
    progress("")
    return taken


def main():
    options = parse()
    todo = list(plan(options))
    if not todo:
        raise SystemExit("bench: --only leaves nothing")
    if options.peers and not peers.BUILT.exists():
        raise SystemExit("bench: the peers are not built: run tools/bench-deps.sh")
    stand.build_load()
    began, busy, own = time.monotonic(), busy_seconds(), sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    with tempfile.TemporaryDirectory(prefix="envgate-bench-") as folder:
        taken = measure(options, todo, pathlib.Path(folder))
    took = time.monotonic() - began
    used = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) + sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - own
    others = max(0.0, (busy_seconds() - busy - used) / took / os.cpu_count())
    results = results_of(taken)
    print(
        f"{machine()}\n{options.rounds} rounds of {options.seconds:g} s, interleaved; medians; ± is half the rounds' range; the whole took {took:.0f} s"
    )
    for payload, shape in dict.fromkeys((payload, shape) for payload, shape, _ in todo):
        table(payload, shape, [(row, results[payload, shape, row]) for p, s, row in todo if (p, s) == (payload, shape)])
    ratios(taken)
    if others > 0.05:
        print(f"\nOther processes took {others:.0%} of the machine meanwhile: the figures are rough.")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(
        json.dumps([{"row": row.key, "shape": shape, "payload": payload, **f} for (payload, shape, row), f in results.items()], indent=1)
        + "\n"
    )
    failed = [line for line, f in results.items() if f["error"]]
    if failed:
        print(f"\n{len(failed)} of {len(results)} measurements FAILED: their calls did not all succeed.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
