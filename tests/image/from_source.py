#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Builds the image of deploy/ from source, as a user does: in a container, from what git has, on a Debian base with nothing built in it. Then runs it.

There is no registry here, so the base is made of Debian's packages by debootstrap, from where this machine's apt takes its own: the Debian that deploy/Dockerfile
names, with what tools/deps.sh would install there already in it. Of this machine it also has what pip needs to reach PyPI. As root; `make test-image` runs it. Minutes, so it is none of `make test`.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/integration"))

import docker_engine  # noqa: E402
import requests  # noqa: E402

BASE, IMAGE = "envgate-test/debian:latest", "envgate-test/from-source:latest"
SUITES = {"12": "bookworm", "13": "trixie"}
OF_THE_MACHINE = ("etc/pip.conf", "etc/ssl/certs/ca-certificates.crt")


def say(what):
    print(f"{time.monotonic() - BEGAN:6.1f} s  {what}", flush=True)


def build_packages():
    """What tools/deps.sh installs for a build."""
    (names,) = re.findall(r'^build_packages="([^"]*)"', (ROOT / "tools/deps.sh").read_text(), re.M)
    return names.split()


def mirror():
    """Where apt takes Debian's packages from."""
    policy = subprocess.run(["apt-cache", "policy"], check=True, capture_output=True, text=True).stdout
    return re.search(r"^ *\d+ (\S+) bookworm/main amd64 Packages", policy, re.M)[1]


def base_tar(directory):
    """The Debian of deploy/Dockerfile with the build's packages, as a tar file."""
    (version,) = re.findall(r"^ARG BUILD_BASE=debian:(\d+)$", (ROOT / "deploy/Dockerfile").read_text(), re.M)
    what = ["--variant=minbase", f"--include={','.join(build_packages())}", SUITES[version], str(directory / "base"), mirror()]
    done = subprocess.run(["debootstrap", *what], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    for name in OF_THE_MACHINE:
        if (pathlib.Path("/") / name).exists():
            (directory / "base" / name).write_bytes((pathlib.Path("/") / name).read_bytes())
    subprocess.run(["tar", "-C", directory / "base", "--one-file-system", "-cf", directory / "base.tar", "."], check=True)
    return directory / "base.tar"


def source(directory):
    """What git has, as the build's context."""
    (directory / "context").mkdir()
    archive = subprocess.run(["git", "-C", ROOT, "archive", "HEAD"], check=True, capture_output=True).stdout
    subprocess.run(["tar", "-C", directory / "context", "-x"], input=archive, check=True)
    return directory / "context"


def serves(engine):
    """Runs the image and plays a step."""
    container = engine.docker("run", "--detach", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", IMAGE)
    (network,) = engine.inspect(container)["NetworkSettings"]["Networks"].values()
    url = f"http://{network['IPAddress']}:8080"
    end = time.monotonic() + 20
    while True:
        try:
            requests.get(url + "/readyz", timeout=5).raise_for_status()
            break
        except requests.ConnectionError:
            assert time.monotonic() < end, engine.docker("logs", container)
            time.sleep(0.1)
    session = requests.post(url + "/v1/sessions", json={"environment": "cartpole"}, timeout=60).json()["name"]
    requests.post(f"{url}/v1/{session}/reset", json={"seed": 1}, timeout=60).raise_for_status()
    assert requests.post(f"{url}/v1/{session}/step", json={"action": {"action": 1}}, timeout=60).json()["reward"] == 1
    engine.docker("stop", "--time", "20", container)
    assert engine.inspect(container)["State"]["ExitCode"] == 0, engine.docker("logs", container)


def main():
    with docker_engine.own_engine() as engine, tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        directory = pathlib.Path(name)
        os.chmod(directory, 0o755)
        engine.docker("import", str(base_tar(directory)), BASE)
        say("the base is there")
        command = ["docker", "--host", engine.host, "build", "--network", "host", "--file", "deploy/Dockerfile", "--build-arg", f"BUILD_BASE={BASE}", "--tag", IMAGE, "."]
        subprocess.run(command, cwd=source(directory), check=True, env={**os.environ, "DOCKER_BUILDKIT": "0"})
        size = int(engine.docker("image", "inspect", "--format", "{{.Size}}", IMAGE))
        say(f"the image is built: {size / 1e6:.1f} MB")
        assert size < 40e6
        serves(engine)
        say("it serves")


if __name__ == "__main__":
    BEGAN = time.monotonic()
    main()
