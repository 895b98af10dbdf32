# SPDX-License-Identifier: Apache-2.0
"""The command line: what it prints, where, and with which exit code."""

import json
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = os.environ.get("ENVGATE_BIN", str(ROOT / "build/envgate"))

GOOD = {"environments": {"echo": {"builtin": {"environment": "echo"}}}}


def envgate(*args):
    return subprocess.run([BIN, *args], capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)


@pytest.fixture
def file(tmp_path):
    """Writes a configuration and gives its path."""

    def write(config):
        path = tmp_path / "envgate.json"
        path.write_text(config if isinstance(config, str) else json.dumps(config))
        return str(path)

    return write


def test_version():
    done = envgate("--version")
    assert (done.returncode, done.stderr) == (0, "")
    name, version = done.stdout.split()
    assert name == "envgate" and all(part.isdigit() for part in version.split("."))


@pytest.mark.parametrize(
    "args, words",
    [
        (["--help"], ["serve", "check", "worker"]),
        (["-h"], ["serve"]),
        (["serve", "--help"], ["--config FILE", "--listen", "--max-message-bytes", "--log-level debug|info|warn|error", "Default: 127.0.0.1:8080"]),
        (["check", "--help"], ["FILE", "--schema"]),
        (["health", "--help"], ["URL", "--live"]),
        (["worker", "--help"], ["worker"]),
    ],
)
def test_help(args, words):
    done = envgate(*args)
    assert (done.returncode, done.stderr) == (0, "")
    for word in words:
        assert word in done.stdout
    for hidden in ("supervise", "docs schema"):
        assert hidden not in done.stdout


@pytest.mark.parametrize(
    "args, word",
    [
        ([], "no command"),
        ([""], "no command"),
        (["sevre"], "sevre"),
        (["--verbose"], "--verbose"),
        (["serve", "config.json"], "--config FILE"),
        (["serve", "--nonsense"], "--nonsense"),
        (["serve", "--nonsense=1"], "--nonsense"),
        (["serve", "-x"], "-x"),
        (["serve", "--listen"], "--listen needs a value"),
        (["serve", "--help=1"], "--help"),
        (["serve", "--listen", "nonsense"], "HOST:PORT"),
        (["serve", "--listen", "127.0.0.1:65536"], "HOST:PORT"),
        (["serve", "--threads", "x"], "--threads must be a whole number from 0 to 256"),
        (["serve", "--access-log=maybe"], "true or false"),
        (["serve", "--max-message-bytes", "1"], "--max-message-bytes must be"),
        (["serve", "--log-level=verbose"], "one of debug, info, warn, error"),
        (["check"], "FILE"),
        (["check", "a", "b"], "FILE"),
        (["check", "--nonsense"], "--nonsense"),
        (["docs"], "options"),
        (["docs", "nonsense"], "options"),
    ],
)
def test_wrong_usage_is_one_line(args, word):
    done = envgate(*args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert word in done.stderr
    assert done.stderr.startswith("envgate") and done.stderr.count("\n") == 1


def test_check_good(file):
    path = file(GOOD)
    done = envgate("check", path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{path}: ok, 1 environment\n", "")
    path = file({"environments": {name: {"builtin": {"environment": "echo"}} for name in "abc"}})
    assert envgate("check", path).stdout == f"{path}: ok, 3 environments\n"


def test_check_prints_every_mistake(file):
    path = file('{"listen": "x",\n "thread": 2,\n "environments": {\n  "Bad Name": {"builtin": {"environment": "echo"}},\n  "d": {"docker": {}}}}')
    done = envgate("check", path)
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        [f"{path}:1", "listen"],
        [f"{path}:2", "thread"],
        [f"{path}:4", "environments.Bad Name"],
        [f"{path}:5", "environments.d.docker"],
    ]
    assert lines[1].endswith("did you mean threads?")


def test_check_broken_json(file):
    path = file('{"listen": "a:1",\n "environments": }')
    done = envgate("check", path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{path}:2: column 18: ")


def test_a_key_cannot_forge_a_line(file):
    path = file({**GOOD, "a\nb\x1b[2J": 1})
    lines = envgate("check", path).stderr.splitlines()
    assert len(lines) == 1 and "\x1b" not in lines[0]


def test_unreadable_file(tmp_path):
    for command in (["check"], ["serve", "--config"]):
        done = envgate(*command, str(tmp_path / "none.json"))
        assert done.returncode == 1
        assert done.stderr == f"{tmp_path / 'none.json'}: can't be read: No such file or directory\n"


def test_serve_says_what_is_wrong_in_the_file(file):
    path = file({"threads": -1, **GOOD})
    done = envgate("serve", "--config", path)
    assert done.returncode == 1
    assert done.stderr == f"{path}:1: threads: must be a whole number from 0 to 256\n"


def test_options_win_over_the_file(gateway):
    g = gateway({**GOOD, "listen": "192.0.2.1:1", "log_level": "error"}, "--log-level", "info", "--access-log", "--threads=1")
    assert g.get("/v1/environments").status_code == 200
    g.wait_for(lambda: [line for line in g.log() if line["level"] == "info"], what="a line of level info")


def test_example_file():
    path = ROOT / "deploy/envgate.example.json"
    done = envgate("check", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    environments = json.loads(path.read_text())["environments"].values()
    providers = {"static", "process", "uv", "docker", "builtin"}
    assert {key for environment in environments for key in environment if key in providers} == providers
