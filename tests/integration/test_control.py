# SPDX-License-Identifier: Apache-2.0
"""Looking after workers: WorkerService, Preload and worker logs, over gRPC and REST, from reactors that the pools are not on."""

import base64
import json
import pathlib
import signal
import subprocess
import threading
import time

import grpc
import pytest
import requests
from conftest import BIN, GRPCURL, SLOW, VENVS, builtin, code_of

MIB = 1 << 20


def talkative(script, environment="echo", **keys):
    """A process worker under a shell, whose script may write what it likes before it serves or beside it."""
    serve = f"exec {BIN} worker {environment} --listen unix:{{socket}} --capacity 4"
    return {"process": {"command": ["/bin/sh", "-c", f"{script}\n{serve}"]}, "sessions_per_worker": 4, **keys}


def when(flag, script):
    """Runs a script beside the worker as soon as the file is there."""
    return f"( i=0; while [ ! -e {flag} ] && [ $i -lt 3000 ]; do sleep 0.02; i=$((i+1)); done; {script} ) &"


def workers_stub(channel):
    from envgate.v1 import worker_service_pb2_grpc

    return worker_service_pb2_grpc.WorkerServiceStub(channel)


def message(kind, /, **fields):
    from envgate.v1 import environment_service_pb2, worker_service_pb2

    module = environment_service_pb2 if hasattr(environment_service_pb2, kind) else worker_service_pb2
    return getattr(module, kind)(**fields)


def lines_of(reply):
    """The JSON objects of a stream over REST, as they come."""
    for line in reply.iter_lines(chunk_size=1):
        yield json.loads(line)


def log_over_rest(g, worker, **query):
    reply = g.get(f"/v1/workers/{worker}/logs", params=query)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in reply.text.splitlines()]


def data_of(messages):
    return b"".join(base64.b64decode(m["data"]) for m in messages)


def preload(g, environment, workers=1):
    reply = g.post(f"/v1/environments/{environment}:preload", {"workers": workers})
    assert reply.status_code == 200, reply.text
    last = json.loads(reply.text.splitlines()[-1])
    assert last.get("ready_workers", -1) >= workers, reply.text
    return [w["name"].removeprefix("workers/") for w in g.get("/v1/workers", params={"environment": environment}).json()["workers"]]


def other_channels(g, n=8):
    """Connections of their own, so that some are on each reactor (SO_REUSEPORT)."""
    return [grpc.insecure_channel(g.target, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(n)]


# --- List, Get ---


def test_list_and_get(gateway):
    g = gateway({"environments": {"a": builtin("echo"), "b": talkative("echo hello", max_workers=2)}}, "--threads", "2")
    stub = workers_stub(g.channel)
    assert list(stub.ListWorkers(message("ListWorkersRequest")).workers) == []
    before = time.time()
    preload(g, "a", 3)
    preload(g, "b", 2)
    workers = stub.ListWorkers(message("ListWorkersRequest")).workers
    assert [w.name for w in workers] == [f"workers/w{i}" for i in range(1, 6)]
    assert {w.environment for w in workers[:3]} == {"environments/a"} and workers[4].environment == "environments/b"
    for w in workers:
        assert (w.state, w.dialect, w.sessions, w.HasField("error"), w.HasField("end_time")) == (2, 1, 0, False, False)
        assert w.address.startswith("unix:/") and not w.HasField("progress")
        assert before - 1 < w.start_time.ToSeconds() <= time.time() and w.ready_time.ToNanoseconds() > w.start_time.ToNanoseconds()
    assert {w.provider for w in workers} == {"builtin", "process"}
    assert workers[4].capacity == 4 and workers[4].log_bytes > 0

    g.create("b")
    assert sum(w.sessions for w in stub.ListWorkers(message("ListWorkersRequest", environment="b")).workers) == 1
    got = stub.GetWorker(message("GetWorkerRequest", name="workers/w2"))
    assert got == workers[1]
    rest = g.get("/v1/workers/w2").json()
    assert (rest["name"], rest["state"], rest["dialect"]) == ("workers/w2", "STATE_READY", "DIALECT_WEBSOCKET")

    seen, token = [], ""
    for _ in range(9):
        page = stub.ListWorkers(message("ListWorkersRequest", page_size=2, page_token=token))
        seen += [w.name for w in page.workers]
        token = page.next_page_token
        if not token:
            break
    assert seen == [w.name for w in workers]
    by_environment = g.get("/v1/workers", params={"environment": "environments/b", "page_size": 1}).json()
    assert [w["name"] for w in by_environment["workers"]] == ["workers/w4"] and by_environment["next_page_token"]


@pytest.mark.parametrize(
    "method, fields, code, reason",
    [
        ("GetWorker", {"name": "workers/w99"}, "NOT_FOUND", "WORKER_NOT_FOUND"),
        ("GetWorker", {"name": ""}, "INVALID_ARGUMENT", "INVALID_REQUEST"),
        ("GetWorker", {"name": "sessions/x"}, "INVALID_ARGUMENT", "INVALID_REQUEST"),
        ("DrainWorker", {"name": "workers/w99"}, "NOT_FOUND", "WORKER_NOT_FOUND"),
        ("StopWorker", {"name": "workers/w99"}, "NOT_FOUND", "WORKER_NOT_FOUND"),
        ("ListWorkers", {"environment": "nope"}, "NOT_FOUND", "ENVIRONMENT_NOT_FOUND"),
        ("ListWorkers", {"page_size": 1001}, "INVALID_ARGUMENT", "INVALID_REQUEST"),
        ("ListWorkers", {"page_token": "x"}, "INVALID_ARGUMENT", "INVALID_REQUEST"),
        ("StreamLogs", {"worker": "workers/w99"}, "NOT_FOUND", "WORKER_NOT_FOUND"),
        ("Preload", {"environment": "nope"}, "NOT_FOUND", "ENVIRONMENT_NOT_FOUND"),
        ("Preload", {"environment": "echo", "workers": 9}, "INVALID_ARGUMENT", "INVALID_REQUEST"),
        ("Preload", {"environment": "echo", "workers": -1}, "INVALID_ARGUMENT", "INVALID_REQUEST"),
        ("Preload", {"environment": "echo", "timeout_s": -1}, "INVALID_ARGUMENT", "INVALID_REQUEST"),
    ],
)
def test_bad_requests(shared_gateway, method, fields, code, reason):
    stub = shared_gateway.environments if method == "Preload" else workers_stub(shared_gateway.channel)
    with pytest.raises(grpc.RpcError) as failed:
        reply = getattr(stub, method)(message(method + "Request", **fields))
        list(reply if method in ("StreamLogs", "Preload") else [])
    assert code_of(failed.value) == (code, reason)


def test_bad_log_requests(gateway):
    g = gateway({"environments": {"t": talkative("echo hello")}})
    (w,) = preload(g, "t")
    for query in ({"tail_lines": -1}, {"offset": -1}, {"offset": 99}, {"offset": 0, "tail_lines": 1}):
        reply = g.get(f"/v1/workers/{w}/logs", params=query)
        assert reply.status_code == 400 and reply.headers["content-type"] == "application/json", reply.text
        assert reply.json()["error"]["details"][0]["reason"] == "INVALID_REQUEST"
        field = [d for d in reply.json()["error"]["details"] if "field_violations" in d]
        assert field[0]["field_violations"][0]["field"] == ("tail_lines" if query == {"tail_lines": -1} else "offset")


# --- Drain, Stop ---


def test_drain(gateway):
    g = gateway({"environments": {"e": builtin("echo", sessions_per_worker=4)}}, "--threads", "2")
    first = g.create("e")
    drained = g.post("/v1/workers/w1:drain").json()
    assert (drained["state"], drained["sessions"]) == ("STATE_DRAINING", 1)
    second = g.create("e")
    assert g.get(second).json()["worker"] == "w2"
    assert g.post(first + "/reset").status_code == 200  # who is there stays
    assert g.post("/v1/workers/w1:drain").json()["state"] == "STATE_DRAINING"
    g.delete(first)
    ended = g.wait_for(lambda: g.get("/v1/workers/w1").json()["state"] == "STATE_ENDED" and g.get("/v1/workers/w1").json(), what="the worker's end")
    assert ended["end_time"] and "error" not in ended
    assert g.post("/v1/workers/w1:drain").json()["state"] == "STATE_ENDED"
    names = [w["name"] for w in g.get("/v1/workers").json()["workers"]]
    assert names == ["workers/w2"]
    assert [w["name"] for w in g.get("/v1/workers", params={"show_ended": "true"}).json()["workers"]] == ["workers/w1", "workers/w2"]
    assert g.post(second + "/reset").status_code == 200


def test_stop(gateway):
    g = gateway({"environments": {"e": talkative("echo hello")}}, "--threads", "2")
    sessions = [g.create("e") for _ in range(3)]
    for s in sessions:
        g.post(s + "/reset")
    stub = workers_stub(g.channel)
    assert stub.StopWorker(message("StopWorkerRequest", name="workers/w1")).state in (4, 5)
    g.wait_for(lambda: g.get(sessions[0]).json()["state"] == "STATE_LOST", what="the sessions' end")
    for s in sessions:
        reply = g.post(s + "/step", {"action": {"message": "x"}})
        error = reply.json()["error"]
        assert (reply.status_code, error["details"][0]["reason"]) == (409, "SESSION_LOST")
        assert "stopped by an administrator" in error["message"]
    g.wait_for(lambda: stub.GetWorker(message("GetWorkerRequest", name="workers/w1")).state == 5, what="the worker's end")
    assert stub.StopWorker(message("StopWorkerRequest", name="w1")).state == 5
    assert "stopped by an administrator" in stub.GetWorker(message("GetWorkerRequest", name="w1")).error.message
    assert data_of(log_over_rest(g, "w1")).startswith(b"hello\n")


# --- Preload ---


@pytest.mark.parametrize("threads", [1, 2])
def test_preload(gateway, threads):
    g = gateway({"environments": {"e": builtin("echo", "--boot-ms", "200", worker_idle_s=60)}}, "--threads", str(threads))
    for channel in other_channels(g, 4):
        from envgate.v1 import environment_service_pb2_grpc

        stub = environment_service_pb2_grpc.EnvironmentServiceStub(channel)
        replies = list(stub.Preload(message("PreloadRequest", environment="environments/e", workers=3), timeout=30 * SLOW))
        assert replies[-1].ready_workers >= 3 and replies[-1].workers == 3
        channel.close()
    first = g.get("/v1/workers").json()["workers"]
    assert len(first) == 3
    # Over REST it is the same, and there is nothing left to do.
    reply = g.post("/v1/environments/e:preload", {"workers": 2})
    assert [json.loads(line)["ready_workers"] for line in reply.text.splitlines()] == [3]
    started = time.monotonic()
    g.create("e")
    assert time.monotonic() - started < 0.15 * SLOW  # no launch


def test_preload_tells_as_it_goes(gateway):
    g = gateway({"environments": {"e": builtin("echo", "--boot-ms", "1500")}}, "--threads", "2")
    reply = g.post("/v1/environments/e:preload", {"workers": 1}, stream=True)
    seen = []
    started = time.monotonic()
    for m in lines_of(reply):
        seen.append((time.monotonic() - started, m))
    assert seen[0][0] < 1 * SLOW and seen[-1][0] > 1
    assert [m["ready_workers"] for _, m in seen][-1] == 1
    assert "PHASE_BOOTING" in [m.get("progress", {}).get("phase") for _, m in seen]
    bodies = [json.dumps(m) for _, m in seen]
    assert len(set(bodies)) == len(bodies)  # each is news


def test_preload_of_what_cannot_start(gateway):
    g = gateway({"environments": {"e": {"process": {"command": ["/bin/sh", "-c", "echo no way >&2; exit 3 # {port}"]}}}}, "--threads", "2")
    reply = g.post("/v1/environments/e:preload", {"workers": 1})
    assert reply.status_code == 200  # it had begun
    error = json.loads(reply.text.splitlines()[-1])["error"]
    assert (error["code"], error["details"][0]["reason"]) == (400, "WORKER_START_FAILED")
    assert "code 3" in error["message"] and "no way" in error["message"]
    with pytest.raises(grpc.RpcError) as failed:
        list(g.environments.Preload(message("PreloadRequest", environment="e"), timeout=30))
    assert code_of(failed.value) == ("FAILED_PRECONDITION", "WORKER_START_FAILED")


def test_preload_deadline_and_leaving(gateway):
    g = gateway({"environments": {"e": builtin("echo", "--boot-ms", "1500")}}, "--threads", "2")
    reply = g.post("/v1/environments/e:preload", {"workers": 1, "timeout_s": 0.3})
    error = json.loads(reply.text.splitlines()[-1])["error"]
    assert (error["code"], error["details"][0]["reason"]) == (504, "DEADLINE")
    call = g.environments.Preload(message("PreloadRequest", environment="e", workers=2))
    next(call)
    call.cancel()
    # What was launched goes on.
    g.wait_for(lambda: g.get("/v1/environments/e").json()["ready_workers"] >= 1, what="the worker")


# --- logs ---


@pytest.mark.parametrize("threads", [1, 2])
def test_logs(gateway, threads, tmp_path):
    g = gateway({"environments": {"t": talkative("printf 'one\\ntwo\\n'; echo three >&2; printf 'no end'")}}, "--threads", str(threads))
    (w,) = preload(g, "t")
    served = f"envgate worker echo listens"  # what the worker itself prints
    g.wait_for(lambda: g.get(f"/v1/workers/{w}").json()["log_bytes"] != "0", what="output")
    whole = data_of(log_over_rest(g, w))
    assert whole.startswith(b"one\ntwo\nthree\nno end")
    for channel in other_channels(g):
        stub = workers_stub(channel)
        messages = list(stub.StreamLogs(message("StreamLogsRequest", worker=f"workers/{w}"), timeout=10))
        assert b"".join(m.data for m in messages) == whole
        offset = 0
        for m in messages:
            assert (m.offset, m.skipped) == (offset, 0)
            offset += len(m.data)
            assert abs(m.time.ToSeconds() - time.time()) < 60
        middle = list(stub.StreamLogs(message("StreamLogsRequest", worker=w, offset=4), timeout=10))
        assert b"".join(m.data for m in middle) == whole[4:] and middle[0].offset == 4
        at_end = list(stub.StreamLogs(message("StreamLogsRequest", worker=w, offset=len(whole)), timeout=10))
        assert [(m.data, m.offset, m.HasField("time")) for m in at_end] == [(b"", len(whole), False)]
        channel.close()
    lines = whole.splitlines(keepends=True)
    for n in (1, 2, 3, 99):
        assert data_of(log_over_rest(g, w, tail_lines=n)) == b"".join(lines[-n:])
    assert data_of(log_over_rest(g, w, tail_lines=0)) == b""
    assert served not in g.log_text() and "no end" not in g.log_text()


def test_any_bytes_pass(gateway):
    g = gateway({"environments": {"t": talkative("printf '\\000\\377\\033[31m\\r\\n'")}})
    (w,) = preload(g, "t")
    assert data_of(log_over_rest(g, w)).startswith(b"\x00\xff\x1b[31m\r\n")
    done = subprocess.run(
        [GRPCURL, "-plaintext", "-d", json.dumps({"worker": w}), g.target, "envgate.v1.WorkerService/StreamLogs"], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert base64.b64decode(json.loads(done.stdout.split("}\n{")[0].rstrip("}\n") + "}")["data"]).startswith(b"\x00\xff\x1b[31m\r\n")


@pytest.mark.parametrize("threads", [1, 2])
def test_follow(gateway, tmp_path, threads):
    go = tmp_path / "go"
    g = gateway({"environments": {"t": talkative(when(go, "for i in 1 2 3 4 5; do echo line $i; sleep 0.1; done"))}}, "--threads", str(threads))
    (w,) = preload(g, "t")
    channels = other_channels(g, 6)
    calls = [workers_stub(c).StreamLogs(message("StreamLogsRequest", worker=w, follow=True, tail_lines=0)) for c in channels]
    firsts = [next(call) for call in calls]  # at once, though there is nothing
    assert all(m.data == b"" for m in firsts)
    rest = g.get(f"/v1/workers/{w}/logs", params={"follow": "true", "tail_lines": 0}, stream=True)
    over_rest = lines_of(rest)
    assert next(over_rest)["data"] == ""
    go.touch()
    for call in calls:
        text, pieces = b"", 0
        while text.count(b"line") < 5:
            text += next(call).data
            pieces += 1
        assert text == b"line 1\nline 2\nline 3\nline 4\nline 5\n" and pieces >= 3  # as they came
    text = b""
    while text.count(b"line") < 5:
        text += base64.b64decode(next(over_rest)["data"])
    g.post(f"/v1/workers/{w}:stop")
    for call in calls:
        list(call)  # ends well
        assert call.code() == grpc.StatusCode.OK
    assert "error" not in "".join(map(json.dumps, over_rest))
    for c in channels:
        c.close()


def test_followers_go_away(gateway, tmp_path):
    g = gateway({"environments": {"t": talkative("while sleep 0.01; do echo tick; done &")}}, "--threads", "2")
    (w,) = preload(g, "t")
    for _ in range(3):
        channels = other_channels(g, 6)
        calls = [workers_stub(c).StreamLogs(message("StreamLogsRequest", worker=w, follow=True)) for c in channels]
        for call in calls:
            for _ in range(3):
                next(call)
        for call in calls[:3]:
            call.cancel()
        for c in channels:  # and by closing the connection
            c.close()
        reply = g.get(f"/v1/workers/{w}/logs", params={"follow": "true"}, stream=True)
        next(lines_of(reply))
        reply.close()
    g.wait_for(lambda: g.metric("envgate_calls_in_flight") == 0, what="the calls' end")


def test_a_worker_that_dies_while_it_is_followed(gateway, tmp_path):
    go = tmp_path / "go"
    script = when(go, "echo last words; kill -9 $$")
    g = gateway({"environments": {"t": talkative(script)}}, "--threads", "2")
    session = g.create("t")
    call = workers_stub(g.channel).StreamLogs(message("StreamLogsRequest", worker="w1", follow=True))
    next(call)
    go.touch()
    assert b"last words\n" in b"".join(m.data for m in call)
    assert call.code() == grpc.StatusCode.OK
    worker = g.get("/v1/workers/w1").json()
    assert worker["state"] == "STATE_ENDED" and "signal 9" in worker["error"]["message"] and worker["end_time"]
    # The log of a crash can be read afterwards.
    assert data_of(log_over_rest(g, "w1")).endswith(b"last words\n")
    g.wait_for(lambda: g.get(session).json()["state"] == "STATE_LOST", what="the session's end")
    assert "last words" not in "".join(json.dumps({k: v for k, v in line.items()}) for line in g.log() if line["event"] != "worker.exited")


def test_log_bytes(gateway, tmp_path):
    g = gateway({"environments": {"t": talkative("seq 1 100000", log_bytes="8KiB")}})
    (w,) = preload(g, "t")
    messages = log_over_rest(g, w)
    kept = data_of(messages)
    assert 4096 < len(kept) <= 8192
    total = int(g.get(f"/v1/workers/{w}").json()["log_bytes"])
    assert int(messages[0]["skipped"]) == int(messages[0]["offset"]) == total - len(kept)
    assert b"\n100000\n" in kept


# --- 100 MB ---

FLOOD = 100 * 1000 * 1000


def rss(pid):
    return int(next(line for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")).split()[1]) * 1024


def flood(go, done):
    return when(go, f"yes 0123456789abcdefghijklmnopqrstuvwxyz | head -c {FLOOD}; touch {done}")


@pytest.mark.parametrize("threads", [1, 2])
def test_follow_a_flood(gateway, tmp_path, threads):
    """What a follower gets is right to the last byte, and what it could not be given is told."""
    go, done = tmp_path / "go", tmp_path / "done"
    g = gateway({"environments": {"t": talkative(flood(go, done))}}, "--threads", str(threads))
    (w,) = preload(g, "t")
    before = int(g.get(f"/v1/workers/{w}").json()["log_bytes"])
    results = {}

    def follow(name, channel):
        expected, got, skipped = before, 0, 0
        pattern = (b"0123456789abcdefghijklmnopqrstuvwxyz\n") * 500
        for m in workers_stub(channel).StreamLogs(message("StreamLogsRequest", worker=w, follow=True, offset=before)):
            assert m.offset == expected + m.skipped
            place = (m.offset - before) % 37
            assert m.data == pattern[place : place + len(m.data)]
            expected = m.offset + len(m.data)
            got += len(m.data)
            skipped += m.skipped
            if expected == before + FLOOD:
                break
        results[name] = (got, skipped)

    channels = other_channels(g, 4)
    threads_ = [threading.Thread(target=follow, args=(i, c)) for i, c in enumerate(channels)]
    for t in threads_:
        t.start()
    start = rss(g.pid)
    go.touch()
    for t in threads_:
        t.join(120 * SLOW)
    assert len(results) == 4
    for got, skipped in results.values():
        assert got + skipped == FLOOD and got > 0
    assert rss(g.pid) - start < 40 * MIB * (1 if SLOW == 1 else 10)
    for c in channels:
        c.close()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_follower_that_does_not_read(gateway, tmp_path, protocol):
    """It holds up neither the worker nor the gateway, costs bounded memory, and when it reads again it is told what it lost."""
    go, done = tmp_path / "go", tmp_path / "done"
    g = gateway({"environments": {"t": talkative(flood(go, done), worker_idle_s=600), "e": builtin("echo")}}, "--threads", "2")
    (w,) = preload(g, "t")
    session = g.create("e")
    replies, calls, channels = [], [], []
    if protocol == "http":
        replies = [requests.get(f"{g.url}/v1/workers/{w}/logs", params={"follow": "true"}, stream=True, timeout=60 * SLOW) for _ in range(8)]
    else:
        channels = other_channels(g)
        calls = [workers_stub(c).StreamLogs(message("StreamLogsRequest", worker=w, follow=True)) for c in channels]
        for call in calls:
            next(call)
    start = rss(g.pid)
    go.touch()
    slowest = 0
    end = time.monotonic() + 60 * SLOW
    while not done.exists() and time.monotonic() < end:
        at = time.monotonic()
        assert g.post(session + "/reset").status_code == 200
        slowest = max(slowest, time.monotonic() - at)
        time.sleep(0.01)
    assert done.exists(), "the worker was held up"
    assert slowest < 0.5 * SLOW
    assert rss(g.pid) - start < 30 * MIB * (1 if SLOW == 1 else 10)
    if protocol == "grpc":
        for call in calls:
            skipped = 0
            for m in call:
                skipped += m.skipped
                if m.offset + len(m.data) >= FLOOD:
                    break
            assert skipped > FLOOD / 2
            call.cancel()
        for c in channels:
            c.close()
    else:
        for reply in replies:
            skipped = 0
            for line in reply.iter_lines(chunk_size=1 << 16):
                m = json.loads(line)
                skipped += int(m["skipped"])
                if int(m["offset"]) + len(base64.b64decode(m["data"])) >= FLOOD:
                    break
            assert skipped > FLOOD / 2
            reply.close()


# --- shutdown ---


def test_a_shutdown_ends_streams(gateway, tmp_path):
    g = gateway({"environments": {"t": talkative("echo hello"), "slow": builtin("echo", "--boot-ms", "60000")}}, "--threads", "2", "--shutdown-grace-s", "20")
    (w,) = preload(g, "t")
    channels = other_channels(g, 6)
    calls = [workers_stub(c).StreamLogs(message("StreamLogsRequest", worker=w, follow=True)) for c in channels]
    calls.append(g.environments.Preload(message("PreloadRequest", environment="slow")))
    for call in calls:
        next(call)
    rest = g.get(f"/v1/workers/{w}/logs", params={"follow": "true"}, stream=True)
    over_rest = lines_of(rest)
    next(over_rest)
    started = time.monotonic()
    g.process.send_signal(signal.SIGTERM)
    for call in calls:
        with pytest.raises(grpc.RpcError) as failed:
            list(call)
        assert code_of(failed.value) == ("UNAVAILABLE", "DRAINING")
    assert list(over_rest)[-1]["error"]["details"][0]["reason"] == "DRAINING"
    g.process.wait(15 * SLOW)
    assert time.monotonic() - started < 10 * SLOW
    for c in channels:
        c.close()


# --- other providers ---


def test_uv_worker(gateway):
    project = pathlib.Path(__file__).resolve().parents[1] / "envs/echo_env"
    python = VENVS["openenv-0.2.0"] / "bin/python"
    command = [str(python), "-m", "uvicorn", "server.app:app", "--uds", "{socket}"]
    g = gateway({"environments": {"o": {"process": {"command": command, "cwd": str(project)}}}}, "--threads", "2")
    (w,) = preload(g, "o")
    path = g.create("o")
    g.post(path + "/reset")
    text = data_of(log_over_rest(g, w)).decode()
    assert "Uvicorn running on unix socket" in text and '"GET /health HTTP/1.1" 200' in text
    assert "Uvicorn" not in g.log_text()
