# SPDX-License-Identifier: Apache-2.0
"""A trainer's loop: steps/s of one Python process that steps N environments, by OpenEnv's own client and by envgate's. `make bench-trainer` runs it.

  OpenEnv, direct      OpenEnv 0.10.0's async client, N of them in one loop, each with its own WebSocket to the worker
  OpenEnv, drop-in     the same, with http://gateway/v1/environments/NAME for its base_url
  VectorEnv            envgate.VectorEnv: StepBatch with stacked tensors, in Gymnasium's form

The client has the first core, the gateway the second; the worker (the built-in one, which costs some microseconds a step) is where there is room, so beside the client
while that waits for a batch. Ways are measured in turn, round by round. Steps are those of the environments: in the same time resets are made, too, of episodes that are over, and VectorEnv's calls that only reset count as none.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from stand import ENVGATE, MIDDLE, REST, ROOT, Process, pin  # noqa: E402

SHAPES = {"small": "cartpole", "frames": "pixels"}
TITLES = {"small": "Observations of 4 numbers (cartpole)", "frames": "Observations of 84×84 numbers (pixels)"}
WAYS = {"openenv": "OpenEnv, direct", "dropin": "OpenEnv, drop-in", "vector": "VectorEnv"}
SIZES = (1, 16, 64, 256)
CAPACITY = 1024
RATIOS = [("vector", 64, "small"), ("vector", 256, "small"), ("vector", 64, "frames"), ("vector", 256, "frames"), *(("dropin", n, "small") for n in SIZES), ("dropin", 64, "frames")]


class Client:
    """trainer_loop.py in the Python of a virtual environment."""

    def __init__(self, venv, path):
        env = {**os.environ, "PYTHONPATH": str(path)}
        command = [ROOT / "build" / venv / "bin/python", ROOT / "tests/bench/trainer_loop.py"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, preexec_fn=pin(MIDDLE))

    def run(self, **run):
        self.process.stdin.write(json.dumps(run) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        report = json.loads(line) if line else {"error": "the client's process ended"}
        if "error" in report:
            raise SystemExit(f"bench-trainer: {run['way']} × {run['n']}, {run['environment']}: {report['error']}")
        return report

    def stop(self):
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


def stubs(folder):
    """The package envgate, as pip installs it."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--target", str(folder)]
    subprocess.run([*pip, str(ROOT / "clients/python")], check=True)
    return folder


@contextlib.contextmanager
def stand(folder):
    """Clients, workers to be reached directly, and a gateway with workers of its own: run(way, shape, n, seconds, warmup)."""
    with contextlib.ExitStack() as stack:

        def process(*command):
            p = Process(REST, [ENVGATE, *command], folder / "log")
            stack.callback(p.stop)
            return p

        def worker(name, at):
            p = process("worker", name, "--listen", at, "--dialect", "ws", "--capacity", CAPACITY)
            os.sched_setaffinity(p.pid, {MIDDLE, REST})
            return p.first_line("listening on ").split("listening on ")[1].strip()

        workers, environments = {}, {}
        for name in SHAPES.values():
            workers[name] = worker(name, "127.0.0.1:0")
            environments[name] = {"static": {"urls": [worker(name, f"unix:{folder}/{name}.sock")]}, "sessions_per_worker": CAPACITY}
        config = folder / "gateway.json"
        config.write_text(json.dumps({"listen": "127.0.0.1:0", "access_log": False, "environments": environments}))
        gateway = process("serve", "--config", config, "--threads", 1, "--state-dir", folder)
        address = gateway.first_line(" serves on ").split(" serves on ")[1].split(": ")[0].strip()
        clients = {"openenv": Client("venv-openenv-0.10.0", ""), "vector": Client("venv", stubs(folder / "python"))}
        for client in clients.values():
            stack.callback(client.stop)

        def run(way, shape, n, seconds, warmup):
            name = SHAPES[shape]
            url = {"openenv": f"http://{workers[name]}", "dropin": f"http://{address}/v1/environments/{name}", "vector": address}[way]
            watch = [] if way == "openenv" else [gateway.pid]
            kind = "vector" if way == "vector" else "openenv"
            report = clients[kind].run(way=kind, url=url, environment=name, n=n, seconds=seconds, warmup=warmup, watch=watch)
            steps = max(report["steps"], 1)
            return {
                "steps_s": report["steps"] / report["seconds"],
                "client_us": report["client_s"] / steps * 1e6,
                "gateway_us": report["watched_s"].get(str(gateway.pid), 0) / steps * 1e6 if watch else None,
            }

        yield run


def table(results, shape, sizes, ways):
    title = ["way", "N", "steps/s", "±", "client CPU-µs a step", "gateway CPU-µs a step"]
    rows = []
    for way in ways:
        for n in sizes:
            of = results[(way, shape, n)]
            speeds = [r["steps_s"] for r in of]
            speed = statistics.median(speeds)
            spread = (max(speeds) - min(speeds)) / 2 / speed
            gateway = "–" if of[0]["gateway_us"] is None else f"{statistics.median(r['gateway_us'] for r in of):.1f}"
            rows.append([WAYS[way], str(n), f"{speed:,.0f}", f"{spread:.0%}", f"{statistics.median(r['client_us'] for r in of):.1f}", gateway])
    widths = [max(len(row[i]) for row in [title, *rows]) for i in range(len(title))]
    print(f"\n**{TITLES[shape]}**\n")
    for k, row in enumerate([title, *rows]):
        print("| " + " | ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))) + " |")
        if k == 0:
            print("|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--warmup", type=float, default=0.3)
    parser.add_argument("--sizes", type=lambda s: [int(n) for n in s.split(",")], default=list(SIZES), help="how many environments; default: 1,16,64,256")
    parser.add_argument("--ways", type=lambda s: s.split(","), default=list(WAYS), help="of openenv,dropin,vector")
    parser.add_argument("--shapes", type=lambda s: s.split(","), default=list(SHAPES), help="of small,frames")
    args = parser.parse_args()
    os.sched_setaffinity(0, {REST})
    results = {(way, shape, n): [] for way in args.ways for shape in args.shapes for n in args.sizes}
    with tempfile.TemporaryDirectory(prefix="bench-trainer-") as folder, stand(pathlib.Path(folder)) as run:
        for _ in range(args.rounds):
            for shape in args.shapes:
                for n in args.sizes:
                    for way in args.ways:
                        results[(way, shape, n)].append(run(way, shape, n, args.seconds, args.warmup))
    for shape in args.shapes:
        table(results, shape, args.sizes, args.ways)
    print("\n| steps/s, as a part of OpenEnv's, direct | |\n|---|---:|")
    ratios = {}
    for way, n, shape in RATIOS:
        mine, theirs = results.get((way, shape, n)), results.get(("openenv", shape, n))
        if mine and theirs:
            ratios[f"{way}_{n}_{shape}/openenv"] = statistics.median(a["steps_s"] / b["steps_s"] for a, b in zip(mine, theirs, strict=True))
    for name, value in ratios.items():
        print(f"| ratio {name} | {value:.2f} |")
    (ROOT / "build/bench").mkdir(parents=True, exist_ok=True)
    figures = {f"{way}_{n}_{shape}": of for (way, shape, n), of in results.items()}
    (ROOT / "build/bench/trainer.json").write_text(json.dumps({"ratios": ratios, "rounds": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
