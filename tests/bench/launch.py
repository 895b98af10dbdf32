# SPDX-License-Identifier: Apache-2.0
"""What it costs to come by a worker in docker, side by side with OpenEnv 0.10.0's own client on the same image and Engine. `make bench-launch` runs it.

  floor               the Engine's create and start, and the worker's own boot, seen by asking its /health every 2 ms
  from_docker_image   OpenEnv's client, until it is connected
  envgate cold        CreateSession where a worker has to be launched
  envgate warm        CreateSession where one is ready (p50)
  N at once           from the first call until the last has its session

The first three are measured in turn, several rounds; the figures are medians. The image is the tests' own: a real OpenEnv server (tests/envs/echo_env).
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
import threading
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/integration"))

import docker_engine  # noqa: E402
import docker_support  # noqa: E402
import requests  # noqa: E402
import requests_unixsocket  # noqa: E402

OPENENV_PYTHON = ROOT / "build/venv-openenv-0.10.0/bin/python"
IMAGE = docker_support.OPENENV


class Failed(Exception):
    pass


# --- the three ways ------------------------------------------------------------------------------------------------------------------------


def floor(engine):
    """Seconds from asking the Engine for a container until its worker answers."""
    http = requests_unixsocket.Session()
    base = "http+unix://" + urllib.parse.quote(engine.host.removeprefix("unix://"), safe="") + "/v1.41/containers"
    began = time.monotonic()
    container = http.post(f"{base}/create", json={"Image": IMAGE, "HostConfig": {"Init": True}}, timeout=60).json()["Id"]
    try:
        http.post(f"{base}/{container}/start", timeout=60).raise_for_status()
        networks = http.get(f"{base}/{container}/json", timeout=60).json()["NetworkSettings"]["Networks"]
        address = next(iter(networks.values()))["IPAddress"]
        while time.monotonic() < began + 300:
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"http://{address}:8000/health", timeout=5).status_code == 200:
                    return time.monotonic() - began
            time.sleep(0.002)
        raise Failed("the worker does not answer")
    finally:
        http.delete(f"{base}/{container}?force=1&v=1", timeout=60)


def openenv(engine, n):
    """What launch_openenv.py says."""
    env = {**os.environ, "DOCKER_HOST": engine.host}
    command = [OPENENV_PYTHON, ROOT / "tests/bench/launch_openenv.py", IMAGE, str(n)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        raise Failed(f"launch_openenv.py: {done.stderr[-2000:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    errors = [r for r in result["each"] if isinstance(r, str)]
    if errors:
        raise Failed(f"from_docker_image, {len(errors)} of {n}: {errors[0]}")
    return result


@contextlib.contextmanager
def gateway(engine, directory, **keys):
    config = {"environments": {"e": {"docker": {"image": IMAGE, "host": engine.host}, "ready_timeout_s": 300, **keys}}}
    path = pathlib.Path(directory) / "config.json"
    path.write_text(json.dumps(config))
    command = [docker_support.BIN, "serve", "--config", path, "--listen", "127.0.0.1:0", "--log-level", "warn"]
    with subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            if " serves on " not in line:
                raise Failed(f"the gateway did not start: {line}")
            yield "http://" + line.split(" serves on ")[1].split(": ")[0]
        finally:
            process.terminate()
            process.wait(120)


def create(url, http=requests):
    began = time.monotonic()
    reply = http.post(f"{url}/v1/sessions", json={"environment": "e"}, timeout=600)
    took = time.monotonic() - began
    if reply.status_code != 200 or reply.json()["state"] != "STATE_READY":
        raise Failed(f"CreateSession: {reply.text}")
    return took, f"{url}/v1/{reply.json()['name']}"


def cold(engine, directory):
    with gateway(engine, directory, worker_idle_s=0) as url:
        return create(url)[0]


def warm(engine, directory, calls=60):
    with gateway(engine, directory, min_workers=1, sessions_per_worker=4) as url:
        http = requests.Session()
        requests.delete(create(url)[1], timeout=60)  # it is there from now on
        took = []
        for _ in range(calls):
            seconds, session = create(url, http)
            took.append(seconds)
            http.delete(session, timeout=60)
        return statistics.median(took)


def at_once(engine, directory, n):
    with gateway(engine, directory, max_workers=n) as url:
        errors = []

        def one():
            try:
                create(url)
            except Failed as e:
                errors.append(e)

        threads = [threading.Thread(target=one) for _ in range(n)]
        began = time.monotonic()
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        if errors:
            raise errors[0]
        return time.monotonic() - began


# --- all of it -----------------------------------------------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--at-once", type=int, default=20)
    args = parser.parse_args()
    with docker_engine.engine() as engine, docker_support.images(engine), tempfile.TemporaryDirectory() as directory:
        docker_support.load_openenv(engine)
        floor(engine)  # the image's files are in memory from now on
        figures = {"floor": [], "from_docker_image": [], "cold": []}
        for _ in range(args.rounds):
            figures["floor"].append(floor(engine))
            figures["from_docker_image"].append(openenv(engine, 1)["each"][0])
            figures["cold"].append(cold(engine, directory))
        result = {name: statistics.median(values) for name, values in figures.items()}
        result["warm_p50"] = warm(engine, directory)
        if args.at_once:
            result["openenv_at_once"] = openenv(engine, args.at_once)["total"]
            result["at_once"] = at_once(engine, directory, args.at_once)
    rows = [
        ("floor: create, start, boot", result["floor"], figures["floor"]),
        ("from_docker_image (OpenEnv 0.10.0)", result["from_docker_image"], figures["from_docker_image"]),
        ("envgate, cold CreateSession", result["cold"], figures["cold"]),
        ("envgate, warm CreateSession, p50", result["warm_p50"], []),
    ]
    if args.at_once:
        rows.append((f"{args.at_once} from_docker_image at once", result["openenv_at_once"], []))
        rows.append((f"{args.at_once} cold CreateSession at once", result["at_once"], []))
    for title, value, values in rows:
        spread = f"   ({min(values):.3f} to {max(values):.3f})" if values else ""
        print(f"{title:<40}{value * 1000:>10.1f} ms{spread}")
    print(f"{'envgate above the floor':<40}{(result['cold'] - result['floor']) * 1000:>10.1f} ms")
    (ROOT / "build/bench").mkdir(parents=True, exist_ok=True)
    (ROOT / "build/bench/launch.json").write_text(json.dumps({**result, "rounds": figures}, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except Failed as e:
        raise SystemExit(f"bench-launch: {e}") from None
