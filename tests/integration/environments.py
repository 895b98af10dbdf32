# SPDX-License-Identifier: Apache-2.0
"""Real environments from PyPI on real OpenEnv servers (tests/envs/gymnasium_env, reasoning_gym_env), for the tests that need them."""

import contextlib
import json
import os
import socket
import subprocess
import time

import requests
from conftest import ROOT, VENVS

SESSIONS = 16  # of a worker
# Name: folder, the environment's variables.
ENVIRONMENTS = {
    "cartpole": ("gymnasium_env", {"GYMNASIUM_ENV": "CartPole-v1"}),
    "pendulum": ("gymnasium_env", {"GYMNASIUM_ENV": "Pendulum-v1"}),
    "frozenlake": ("gymnasium_env", {"GYMNASIUM_ENV": "FrozenLake-v1"}),
    "pong": ("gymnasium_env", {"GYMNASIUM_ENV": "ALE/Pong-v5"}),
    "reasoning": ("reasoning_gym_env", {"REASONING_GYM_DATASET": "chain_sum"}),
}


def python_path():
    """Where build/venv-environments has its packages."""
    (path,) = (ROOT / "build/venv-environments/lib").glob("python3*/site-packages")
    return str(path)


@contextlib.contextmanager
def workers(names, log_dir):
    """A worker of each, all booting side by side: {name: "127.0.0.1:port"}."""
    at, booting = {}, []
    for name in names:
        folder, variables = ENVIRONMENTS[name]
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        at[name] = f"127.0.0.1:{port}"
        variables = {**variables, "MAX_SESSIONS": str(SESSIONS)}
        booting.append({"folder": str(ROOT / "tests/envs" / folder), "variables": variables, "port": port, "log": str(log_dir / f"{name}.log")})
    env = {**os.environ, "PYTHONPATH": python_path(), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [VENVS["openenv-0.10.0"] / "bin/python", ROOT / "tests/integration/environments_boot.py", json.dumps(booting)]
    with open(log_dir / "boot.log", "wb") as log, subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=log, stderr=log) as boot:
        try:
            for name in names:
                _wait(name, boot, at[name], log_dir)
            yield at
        finally:
            boot.stdin.close()
            try:
                boot.wait(60)
            except subprocess.TimeoutExpired:
                boot.kill()


def _wait(name, boot, address, log_dir):
    end = time.monotonic() + 200
    while time.monotonic() < end and boot.poll() is None:
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"http://{address}/health", timeout=10).status_code == 200:
                return
        time.sleep(0.1)
    said = "".join(path.read_text(errors="replace")[-3000:] for path in (log_dir / "boot.log", log_dir / f"{name}.log") if path.exists())
    raise AssertionError(f"the worker of {name} did not boot:\n{said}")


def config(at):
    """A gateway's configuration for these workers."""
    return {"environments": {name: {"static": {"urls": [f"http://{address}"]}, "sessions_per_worker": SESSIONS} for name, address in at.items()}}
