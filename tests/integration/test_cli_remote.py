# SPDX-License-Identifier: Apache-2.0
"""The subcommands that ask a running gateway: what they print for people and for programs, on a terminal and elsewhere, and how they end."""

import base64
import json
import os
import pathlib
import pty
import re
import signal
import socket
import subprocess
import threading
import time

import pytest
from conftest import BIN, SLOW, builtin

from test_control import preload, talkative, when


@pytest.fixture
def cli():
    """cli(gateway, *args) runs a subcommand to its end."""

    def run(g, *args, env=None, **keys):
        server = {"ENVGATE_SERVER": g.url if g.url.startswith("http://") else g.listen} if g else {}
        return subprocess.run(
            [BIN, *args], capture_output=True, text=True, timeout=60 * SLOW, stdin=subprocess.DEVNULL, env={**os.environ, **server, **(env or {})}, **keys
        )

    return run


def start(g, *args, stdout=subprocess.PIPE):
    return subprocess.Popen([BIN, *args, "--server", g.url], stdout=stdout, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)


def on_terminal(g, *args, columns=80, interrupt_at=None):
    """What a subcommand writes to a terminal, and its exit code. `interrupt_at`: Ctrl-C when that has been written."""
    parent, child = pty.openpty()
    subprocess.run(["stty", "rows", "24", "cols", str(columns)], stdin=child, check=True)
    # setsid gives it the terminal; a preexec_fn would run between fork and exec, which gRPC's threads don't bear.
    process = subprocess.Popen(["setsid", "--ctty", BIN, *args, "--server", g.url], stdin=child, stdout=child, stderr=child)
    os.close(child)
    text = b""
    while True:
        try:
            piece = os.read(parent, 65536)
        except OSError:
            break
        if not piece:
            break
        text += piece
        if interrupt_at and interrupt_at in text:
            interrupt_at = None
            os.write(parent, b"\x03")
    os.close(parent)
    return text.decode(errors="replace"), process.wait(30 * SLOW)


def rows(text):
    """The lines of a table as lists of cells."""
    lines = text.splitlines()
    at = [m.start() for m in re.finditer(r"\S+", lines[0])]
    return [[line[a:b].strip() for a, b in zip(at, at[1:] + [None])] for line in lines]


def test_tables_and_json(gateway, cli):
    g = gateway({"environments": {"e": builtin("echo", sessions_per_worker=2), "t": talkative("echo hello")}}, "--threads", "2")
    empty = cli(g, "workers")
    assert (empty.returncode, empty.stderr) == (0, "") and rows(empty.stdout) == [["WORKER", "ENVIRONMENT", "STATE", "SESSIONS", "AGE", "ADDRESS", "DETAIL"]]
    assert cli(g, "workers", "--json").stdout == ""
    session = g.create("e").removeprefix("/v1/sessions/")
    preload(g, "t")
    table = rows(cli(g, "workers").stdout)
    assert [row[:4] for row in table[1:]] == [["w1", "e", "ready", "1/2"], ["w2", "t", "ready", "0/4"]]
    assert re.fullmatch(r"\d+s", table[1][4]) and table[1][5].startswith("unix:/")
    assert [row[0] for row in rows(cli(g, "workers", "-e", "environments/t").stdout)[1:]] == ["w2"]
    found = [json.loads(line) for line in cli(g, "workers", "--json").stdout.splitlines()]
    assert found == g.get("/v1/workers").json()["workers"]

    table = rows(cli(g, "sessions").stdout)
    assert table[0] == ["SESSION", "ENVIRONMENT", "STATE", "WORKER", "STEP", "AGE", "EXPIRES", "DETAIL"]
    assert table[1][:5] == [session, "e", "ready", "w1", "0"] and re.fullmatch(r"[45]m", table[1][6])
    assert [json.loads(line)["name"] for line in cli(g, "sessions", "--json", "--environment", "e").stdout.splitlines()] == ["sessions/" + session]
    assert cli(g, "sessions", "-e", "t", "--json").stdout == ""

    drained = cli(g, "drain", "workers/w1")
    assert drained.returncode == 0 and rows(drained.stdout)[1][:4] == ["w1", "e", "draining", "1/2"]
    stopped = cli(g, "stop", "w1", "--json")
    assert stopped.returncode == 0 and json.loads(stopped.stdout)["state"] == "STATE_STOPPING"
    g.wait_for(lambda: "w1" not in cli(g, "workers").stdout, what="the worker's end")
    ended = [row for row in rows(cli(g, "workers", "--all").stdout) if row[0] == "w1"]
    assert ended[0][2] == "ended" and ended[0][6] == "the worker was stopped by an administrator"
    assert "lost" in cli(g, "sessions").stdout


def test_many_pages(gateway, cli):
    g = gateway({"environments": {"e": builtin("echo", "--capacity", "2000", sessions_per_worker=2000)}}, "--threads", "2", "--max-connections", "4000")
    for _ in range(3):
        items = [{"environment": "e"}] * 400
        threads = [threading.Thread(target=lambda: [g_post(g, item) for item in items]) for _ in range(1)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert len(cli(g, "sessions", "--json").stdout.splitlines()) == 1200
    assert len(cli(g, "sessions").stdout.splitlines()) == 1201


def g_post(g, body):
    assert g.post("/v1/sessions", body).status_code == 200


def test_exit_codes(gateway, cli, tmp_path):
    g = gateway({"environments": {"bad": {"process": {"command": ["/bin/sh", "-c", "echo no way; exit 3 # {port}"]}}}})
    for args, reason in (
        (["logs", "w9"], "WORKER_NOT_FOUND"),
        (["logs", "-f", "../x?y#z"], "WORKER_NOT_FOUND"),
        (["stop", "w9"], "WORKER_NOT_FOUND"),
        (["drain", "w9"], "WORKER_NOT_FOUND"),
        (["preload", "nope"], "ENVIRONMENT_NOT_FOUND"),
        (["preload", "bad", "-w", "99"], "INVALID_REQUEST"),
        (["workers", "-e", "nope"], "ENVIRONMENT_NOT_FOUND"),
        (["sessions", "-e", "no pe&x=y"], "ENVIRONMENT_NOT_FOUND"),
    ):
        done = cli(g, *args)
        assert (done.returncode, "".join(done.stdout.splitlines()[1:])) == (1, ""), (args, done)
        assert done.stderr.startswith("envgate: ") and done.stderr.endswith(f" ({reason})\n"), (args, done.stderr)
    failed = cli(g, "preload", "bad")
    assert failed.returncode == 1 and "exited with code 3" in failed.stderr and "no way" in failed.stderr and "WORKER_START_FAILED" in failed.stderr

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))  # bound, and nobody listens
        nobody = cli(None, "workers", "--server", f"http://127.0.0.1:{s.getsockname()[1]}")
    assert nobody.returncode == 3 and nobody.stdout == "" and nobody.stderr.count("\n") == 1 and "connect" in nobody.stderr
    other = gateway(None, "--listen", f"unix:{tmp_path}/g.sock")
    assert cli(None, "workers", "-s", f"unix:{tmp_path}/g.sock").returncode == 0
    assert cli(None, "workers", "-s", f"unix:{tmp_path}/none.sock").returncode == 3
    assert cli(other, "workers").returncode == 0  # ENVGATE_SERVER
    assert cli(None, "workers", "--server", g.url + "/nothing").returncode == 1


@pytest.mark.parametrize(
    "args, word",
    [
        (["workers", "x"], "takes no argument x"),
        (["workers", "--follow"], "--follow"),
        (["logs"], "needs a WORKER"),
        (["logs", "workers/"], "needs a WORKER"),
        (["logs", "a", "b"], "takes no argument b"),
        (["logs", "a", "-n"], "-n needs a value"),
        (["logs", "a", "-n", "x"], "whole number"),
        (["logs", "a", "--tail=-1"], "whole number"),
        (["preload"], "needs a ENVIRONMENT"),
        (["preload", "a", "-w", "0"], "whole number from 1"),
        (["preload", "a", "--timeout", "soon"], "seconds"),
        (["sessions", "-s", "localhost:8080"], "http://HOST:PORT"),
    ],
)
def test_wrong_usage(cli, args, word):
    done = cli(None, *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert word in done.stderr and done.stderr.startswith(f"envgate {args[0]}: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["workers", "sessions", "logs", "preload", "drain", "stop"])
def test_help(cli, command):
    done = cli(None, command, "--help")
    assert (done.returncode, done.stderr) == (0, "") and f"usage: envgate {command}" in done.stdout and "--server URL" in done.stdout
    assert f"  {command} " in cli(None, "--help").stdout


# --- logs ---


def test_logs(gateway, cli):
    script = "printf 'one\\n\\033[31mtwo\\033[0m\\033]0;title\\007\\n'; printf '\\377\\000' "
    g = gateway({"environments": {"t": talkative(script)}})
    (w,) = preload(g, "t")
    whole = subprocess.run([BIN, "logs", w, "-s", g.url], capture_output=True, timeout=30, check=True)
    assert whole.stdout.startswith(b"one\n\x1b[31mtwo\x1b[0m\x1b]0;title\x07\n\xff\x00") and whole.stderr == b""
    tail = subprocess.run([BIN, "logs", "-n1", w, "-s", g.url], capture_output=True, timeout=30, check=True)
    assert tail.stdout == whole.stdout.splitlines(keepends=True)[-1]
    stamped = cli(g, "logs", "-t", "--tail", "99", w, errors="replace").stdout.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ", line) for line in stamped) and len(stamped) == len(whole.stdout.splitlines())
    lines = [json.loads(line) for line in cli(g, "logs", "--json", w).stdout.splitlines()]
    assert b"".join(base64.b64decode(m["data"]) for m in lines) == whole.stdout
    shown, code = on_terminal(g, "logs", w)
    assert code == 0 and shown.startswith("one\r\n\x1b[31mtwo\x1b[0m\r\n") and "title" not in shown


def test_follow_until_the_worker_ends(gateway, tmp_path):
    go = tmp_path / "go"
    g = gateway({"environments": {"t": talkative(when(go, "for i in 1 2 3; do echo line $i; sleep 0.1; done; kill -9 $$"))}}, "--threads", "2")
    (w,) = preload(g, "t")
    process = start(g, "logs", "-f", "-n", "0", w)
    time.sleep(0.3)
    assert process.poll() is None
    go.touch()
    assert process.stdout.readline() == b"line 1\n"
    out, err = process.communicate(timeout=30 * SLOW)
    assert (out, process.returncode) == (b"line 2\nline 3\n", 0)
    assert err == f"envgate: worker {w}: the worker was killed by signal 9 (Killed)\n".encode()


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_follow_until_interrupted(gateway, sig):
    g = gateway({"environments": {"t": talkative("echo hello")}})
    (w,) = preload(g, "t")
    process = start(g, "logs", "-f", w)
    assert process.stdout.readline() == b"hello\n"
    process.send_signal(sig)
    _, err = process.communicate(timeout=10 * SLOW)
    assert (process.returncode, err) == (130, b"")
    g.wait_for(lambda: g.metric("envgate_calls_in_flight") == 0, what="the call's end")


def test_follow_until_nobody_reads(gateway):
    g = gateway({"environments": {"t": talkative("while sleep 0.02; do echo tick; done &")}})
    (w,) = preload(g, "t")
    process = start(g, "logs", "-f", w)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(10 * SLOW) == -signal.SIGPIPE


def test_follow_until_the_gateway_ends(gateway):
    g = gateway({"environments": {"t": talkative("echo hello")}})
    (w,) = preload(g, "t")
    process = start(g, "logs", "-f", w)
    process.stdout.readline()
    assert g.stop() == 0
    _, err = process.communicate(timeout=10 * SLOW)
    assert process.returncode == 1 and b"(DRAINING)" in err
    process = start(g, "logs", "-f", w)
    assert process.communicate(timeout=10 * SLOW)[1].count(b"\n") == 1 and process.returncode == 3


def test_what_was_lost_is_told(gateway, cli):
    g = gateway({"environments": {"t": talkative("seq 1 100000", log_bytes="8KiB")}})
    (w,) = preload(g, "t")
    done = cli(g, "logs", w)
    assert re.fullmatch(r"envgate: \d+ bytes before this are no longer kept\n", done.stderr)
    assert "\n100000\n" in done.stdout and len(done.stdout) + int(re.search(r"\d+", done.stderr)[0]) == int(g.get(f"/v1/workers/{w}").json()["log_bytes"])


# --- preload ---


def test_preload_in_lines(gateway, cli):
    g = gateway({"environments": {"e": builtin("echo", "--boot-ms", "300")}})
    done = cli(g, "preload", "e", "--workers", "2")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("e: 0/2 ready, ") and lines[-1] == "e: 2/2 ready, 0 starting" and len(set(lines)) == len(lines)
    assert any(line.endswith("2 starting: booting") for line in lines) and "\r" not in done.stdout and "\033" not in done.stdout
    as_json = [json.loads(line) for line in cli(g, "preload", "environments/e", "-w2", "--json").stdout.splitlines()]
    assert as_json[-1]["ready_workers"] == 2


@pytest.mark.parametrize("columns", [80, 30])
def test_preload_bar(gateway, columns):
    g = gateway({"environments": {"environment-of-a-long-name": builtin("echo", "--boot-ms", "300")}})
    shown, code = on_terminal(g, "preload", "environment-of-a-long-name", "-w", "2", columns=columns)
    assert code == 0 and shown.endswith("\r\n") and shown.count("\n") == 1  # one line, drawn over and over
    states = [state.removesuffix("\033[K").rstrip() for state in shown.rstrip("\r\n").split("\r") if state]
    assert len(states) >= 3 and all(len(state) < columns for state in states)
    if columns == 80:
        assert states[0] == "environment-of-a-long-name [------------------------] 0/2 ready"
        assert "environment-of-a-long-name [------------------------] 0/2 ready, booting" in states
        assert states[-1] == "environment-of-a-long-name [########################] 2/2 ready"


def test_preload_interrupted(gateway):
    g = gateway({"environments": {"e": builtin("echo", "--boot-ms", "1500")}})
    started = time.monotonic()
    shown, code = on_terminal(g, "preload", "e", interrupt_at=b"booting")
    assert code == 130 and time.monotonic() - started < 1.4 * SLOW
    assert shown.endswith("\r\n")  # the prompt has a line of its own
    g.wait_for(lambda: g.get("/v1/environments/e").json()["ready_workers"] == 1, what="the worker, which goes on")


def test_preload_timeout(gateway, cli):
    g = gateway({"environments": {"e": builtin("echo", "--boot-ms", "60000")}})
    done = cli(g, "preload", "e", "--timeout", "0.3")
    assert done.returncode == 1 and done.stderr.endswith("(DEADLINE)\n")


def test_a_server_that_is_no_gateway(cli, tmp_path):
    """Whatever answers, the command ends with one line."""
    answers = [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{\"wor", b"HTTP/1.1 404 x\r\ncontent-length: 3\r\n\r\nno\n"]
    answers += [b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n{", b"SSH-2.0-x\r\n", b"", b'HTTP/1.1 500 x\r\ncontent-length: 12\r\n\r\n{"error": 1}']
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()

        def serve():
            for answer in answers * 2:
                conn, _ = s.accept()
                conn.recv(65536)
                conn.sendall(answer)
                conn.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        for command in (["workers"], ["logs", "w1"]):
            for _ in answers:
                done = cli(None, *command, "-s", f"http://127.0.0.1:{s.getsockname()[1]}")
                assert done.returncode in (1, 3) and done.stderr.startswith("envgate: ") and done.stderr.count("\n") == 1, done
        thread.join(10)


def test_none_of_it_is_the_gateways_log(gateway):
    g = gateway({"environments": {"t": talkative("echo SECRET-OF-THE-WORKER")}})
    (w,) = preload(g, "t")
    out, _ = start(g, "logs", w).communicate(timeout=30)
    assert b"SECRET-OF-THE-WORKER" in out
    assert "SECRET-OF-THE-WORKER" not in g.log_text() and pathlib.Path(g.log_path).exists()
