# SPDX-License-Identifier: Apache-2.0
"""Real environments from PyPI on real OpenEnv servers (tests/envs/gymnasium_env, reasoning_gym_env), for the tests that need them."""

import contextlib
import os
import signal
import socket
import subprocess
import time

import requests
from conftest import ROOT, SLOW, VENVS

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
    running, at = {}, {}
    try:
        for name in names:
            folder, variables = ENVIRONMENTS[name]
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                at[name] = f"127.0.0.1:{s.getsockname()[1]}"
            env = {**os.environ, **variables, "MAX_SESSIONS": str(SESSIONS), "PYTHONPATH": python_path(), "PYTHONDONTWRITEBYTECODE": "1"}
            command = [VENVS["openenv-0.10.0"] / "bin/python", "-m", "uvicorn", "server.app:app", "--host", "127.0.0.1", "--port", at[name].split(":")[1]]
            with open(log_dir / f"{name}.log", "wb") as log:
                running[name] = subprocess.Popen(command, cwd=ROOT / "tests/envs" / folder, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        for name, process in running.items():
            _wait(name, process, at[name], log_dir / f"{name}.log")
        yield at
    finally:
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        for process in running.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(name, process, address, log):
    end = time.monotonic() + 120 * SLOW
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"http://{address}/health", timeout=10).status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"the worker of {name} did not boot:\n{log.read_text(errors='replace')[-3000:]}")


def config(at):
    """A gateway's configuration for these workers."""
    return {"environments": {name: {"static": {"urls": [f"http://{address}"]}, "sessions_per_worker": SESSIONS} for name, address in at.items()}}
