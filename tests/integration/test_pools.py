# SPDX-License-Identifier: Apache-2.0
"""Pools of real workers: warm, replaced, launched in turn; sessions that wait for them; launches that fail; the drain."""

import os
import signal
import statistics
import threading
import time

import grpc
import pytest
from conftest import SLOW, VENVS, builtin, code_of
from test_providers import ECHO, ENVS, LEGACY, alive, config, episode, pids_of, refused, shell, step, uvicorn, wait_gone

from envgate.v1 import payload_pb2, session_service_pb2 as pb

PYTHON = VENVS["openenv-0.2.0"] / "bin/python"
SERVER = f"cd {ENVS}/echo_env; exec {VENVS['openenv-0.2.0']}/bin/uvicorn server.app:app --port $0"

# A server that answers /health, and what else its argument says: "hang" takes /ws and never answers, "500" and "401" answer it so.
HEALTHY = r"""
import socket, sys, threading, time
port, ws = int(sys.argv[1]), sys.argv[2]
listener = socket.create_server(("127.0.0.1", port))
def serve(c):
    head = b""
    while b"\r\n\r\n" not in head:
        piece = c.recv(4096)
        if not piece:
            return
        head += piece
    path = head.split()[1]
    if path == b"/health":
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\nConnection: close\r\n\r\n{\"status\":\"healthy\"}")
    elif ws == "hang":
        time.sleep(60)
    else:
        c.sendall(b"HTTP/1.1 " + ws.encode() + b" No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    c.close()
print("it is up", flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


def half_ready(ws, **keys):
    return {"process": {"command": [str(PYTHON), "-c", HEALTHY, "{port}", ws]}, "ready_timeout_s": 3, **keys}


def slow(seconds, **keys):
    """A real OpenEnv server that takes so long to begin to boot."""
    return shell(f"sleep {seconds}; {SERVER}", ready_timeout_s=120, **keys)


def ready_workers(g, environment="e"):
    return g.get(f"/v1/environments/{environment}").json()["ready_workers"]


def wait_ready(g, n, environment="e"):
    g.wait_for(lambda: ready_workers(g, environment) == n, 60, f"{n} ready workers")


def session(g, path):
    return g.get(path).json()


def wait_state(g, path, state):
    return g.wait_for(lambda: (lambda s: s if s.get("state") == state else None)(session(g, path)), 60, state)


# --- readiness


@pytest.mark.parametrize("ws", ["hang", "500", "401"])
def test_a_worker_without_a_working_ws_is_not_ready(gateway, ws):
    g = gateway(config(e=half_ready(ws)))
    before = time.monotonic()
    message = refused(g, "e")
    assert 2.5 < time.monotonic() - before < 8 * SLOW
    assert "/ws" in message and "ready_timeout_s is 3" in message and "it is up" in message, message


@pytest.mark.parametrize("status", ["404", "403"])
def test_a_worker_that_has_no_ws_speaks_the_older_dialect(gateway, status):
    g = gateway(config(e=half_ready(status)))
    reply = g.post("/v1/sessions", {"environment": "e"})
    assert reply.status_code == 200, reply.text


def test_a_worker_that_dies_at_boot_is_known_at_once(gateway):
    g = gateway(config(e=shell("echo no model; sleep 0.3; exit 7", ready_timeout_s=60)))
    before = time.monotonic()
    message = refused(g, "e")
    assert time.monotonic() - before < 2 * SLOW
    assert message == "the worker exited with code 7\nIts last output:\nno model"


# --- warm pools


def test_a_warm_pool_of_real_workers_serves_at_once(gateway):
    """CreateSession's p50 from a warm pool must be under 5 ms."""
    g = gateway(config(e=uvicorn("openenv-0.2.0", ECHO, min_workers=2, max_workers=2)))
    wait_ready(g, 2)
    assert not g.log("session.created")
    p50s = []
    for _ in range(10):  # the best of several, since other tests run at the same time
        took = []
        for _ in range(15):
            before = time.monotonic()
            made = g.sessions.CreateSession(pb.CreateSessionRequest(environment="e"))
            took.append(time.monotonic() - before)
            assert made.state == pb.Session.STATE_READY
            g.sessions.CloseSession(pb.CloseSessionRequest(name=made.name))
        p50s.append(statistics.median(took) * 1000)
    print(f"CreateSession from a warm pool: p50 {min(p50s):.2f} to {max(p50s):.2f} ms")
    assert min(p50s) < 5 * SLOW
    assert g.metric("envgate_workers_started_total") == 2


def test_the_pool_refills_after_a_loss(gateway):
    g = gateway(config(e=uvicorn("openenv-0.2.0", ECHO, min_workers=2, max_workers=3, worker_idle_s=0.1)))
    wait_ready(g, 2)
    path = g.create("e")
    pid = episode(g, path)
    os.kill(pid, signal.SIGKILL)
    error = step(g, path).json()["error"]
    assert (error["status"], error["details"][0]["reason"]) == ("ABORTED", "SESSION_LOST")
    assert "killed by signal 9" in error["message"]
    assert session(g, path)["state"] == "STATE_LOST"
    g.wait_for(lambda: g.metric("envgate_workers_started_total") == 3, what="another launch")
    wait_ready(g, 2)
    time.sleep(0.5)
    assert ready_workers(g) == 2  # idle, and yet there
    assert g.metric("envgate_environment_workers", environment="e", state="ready") == 2
    assert g.metric("envgate_worker_launch_seconds_count") == 3


def test_a_worker_for_each_session(gateway):
    g = gateway(config(e=builtin("echo", max_worker_sessions=1, min_workers=1, max_workers=3)))
    wait_ready(g, 1)
    workers = set()
    for _ in range(4):
        path = g.create("e")
        workers.add(session(g, path)["worker"])
        g.delete(path)
    assert len(workers) == 4
    g.wait_for(lambda: g.metric("envgate_workers_retired_total") == 4, what="the retirement of all four")
    assert g.metric("envgate_workers_exited_total") == 0


def test_old_workers_are_replaced_without_a_gap(gateway):
    g = gateway(config(e=builtin("echo", max_worker_age_s=0.5, min_workers=1, max_workers=2)))
    wait_ready(g, 1)
    held = g.create("e")
    g.post(held + "/reset")
    workers = set()
    for _ in range(20):
        time.sleep(0.1)
        path = g.create("e")
        workers.add(session(g, path)["worker"])
        g.delete(path)
        assert step(g, held).status_code == 200  # whoever has the old one keeps it
    assert len(workers) >= 2
    assert g.metric("envgate_worker_wait_seconds_count") == 21


# --- sessions that wait


def test_a_session_whose_worker_is_being_launched_is_returned_provisioning(gateway):
    g = gateway(config(e=slow(2, max_workers=1)), "--threads", "2")
    before = time.monotonic()
    reply = g.post("/v1/sessions", {"environment": "e", "timeout_s": 0.5})
    assert 0.4 < time.monotonic() - before < 1.5 * SLOW
    made = reply.json()
    assert (reply.status_code, made["state"]) == (200, "STATE_PROVISIONING"), made
    assert made["launch_progress"]["phase"] in ("PHASE_STARTING", "PHASE_BOOTING")
    path = "/v1/" + made["name"]
    seen = session(g, path)
    assert seen["state"] == "STATE_PROVISIONING" and seen["launch_progress"]["phase"] in ("PHASE_STARTING", "PHASE_BOOTING")
    assert [s["name"] for s in g.get("/v1/sessions").json()["sessions"]] == [made["name"]]
    # A step that does not wait long enough is not taken; a reset that does waits in the session's queue.
    late = g.post(path + "/step", {"action": {"message": "x"}, "timeout_s": 0.2}).json()["error"]
    assert late["details"][0]["reason"] == "STEP_NOT_STARTED"
    assert episode(g, path) > 0
    ready = session(g, path)
    assert ready["state"] == "STATE_READY" and "launch_progress" not in ready and ready["worker"]


def test_grpc_callers_are_answered_before_their_own_deadline(gateway):
    g = gateway(config(e=slow(3, max_workers=1)))
    made = g.sessions.CreateSession(pb.CreateSessionRequest(environment="e"), timeout=1)
    assert made.state == pb.Session.STATE_PROVISIONING and made.launch_progress.phase
    reset = g.sessions.Reset(pb.ResetRequest(session=made.name, seed=7))
    assert reset.observation.json
    # The pool is full now: nothing is launched for the next one.
    before = time.monotonic()
    with pytest.raises(grpc.RpcError) as full:
        g.sessions.CreateSession(pb.CreateSessionRequest(environment="e"), timeout=1)
    assert code_of(full.value) == ("RESOURCE_EXHAUSTED", "NO_CAPACITY")
    assert 0.5 < time.monotonic() - before < 1
    assert "max_workers is 1, sessions_per_worker 1" in full.value.details()


def test_a_full_pool_refuses_at_the_deadline(gateway):
    g = gateway(config(e=builtin("echo", max_workers=1)), "--threads", "2")
    first = g.create("e")
    for fields in ({}, {"request_id": "r"}):
        before = time.monotonic()
        reply = g.post("/v1/sessions", {"environment": "e", "timeout_s": 0.3, **fields})
        assert 0.25 < time.monotonic() - before < 2 * SLOW
        error = reply.json()["error"]
        assert (reply.status_code, error["status"]) == (429, "RESOURCE_EXHAUSTED")
        assert error["details"][0]["reason"] == "NO_CAPACITY"
        assert any("retry_delay" in d for d in error["details"]), error
    assert len(g.get("/v1/sessions").json()["sessions"]) == 1  # and nothing was left behind that takes the slot later
    assert g.metric("envgate_worker_queue_length") == 0
    g.delete(first)
    again = g.post("/v1/sessions", {"environment": "e", "timeout_s": 10, "request_id": "r"}).json()
    assert again["state"] == "STATE_READY"


def test_waiting_callers_are_served_in_order(gateway):
    g = gateway(config(e=builtin("echo", max_workers=1)))
    held, order, threads = g.create("e"), [], []

    def wait(i):
        path = g.create("e", timeout_s=30)
        order.append(i)
        g.delete(path)

    for i in range(5):
        threads.append(threading.Thread(target=wait, args=(i,)))
        threads[-1].start()
        g.wait_for(lambda n=i: g.metric("envgate_environment_waiting", environment="e") == n + 1, what=f"caller {i} to wait")
    g.delete(held)
    for t in threads:
        t.join(30)
    assert order == [0, 1, 2, 3, 4]


def test_a_handed_out_session_whose_launch_fails_tells_why(gateway):
    g = gateway(config(e=shell("sleep 1; echo no model; exit 9")))
    body = {"environment": "e", "timeout_s": 0.3, "request_id": "r"}
    made = g.post("/v1/sessions", body).json()
    assert made["state"] == "STATE_PROVISIONING"
    path = "/v1/" + made["name"]
    error = g.post(path + "/reset").json()["error"]  # waits in the queue, and is told
    assert (error["status"], error["details"][0]["reason"]) == ("FAILED_PRECONDITION", "WORKER_START_FAILED")
    assert error["message"] == "the worker exited with code 9\nIts last output:\nno model"
    lost = session(g, path)
    assert lost["state"] == "STATE_LOST" and "no model" in lost["error"]["message"]
    # The same request is told once more why, and then begins anew.
    assert g.post("/v1/sessions", body).json()["error"]["details"][0]["reason"] == "WORKER_START_FAILED"
    assert g.get(path).status_code == 404
    assert g.post("/v1/sessions", body).json()["state"] == "STATE_PROVISIONING"


def test_an_abandoned_provisioning_session_ends_with_its_lease(gateway):
    g = gateway(config(e=slow(20, max_workers=1)))
    made = g.post("/v1/sessions", {"environment": "e", "timeout_s": 0.2, "lease_s": 0.5}).json()
    assert made["state"] == "STATE_PROVISIONING"
    g.wait_for(lambda: g.log("session.expired"), what="the lease's end")
    assert g.metric("envgate_sessions", state="provisioning") == 0


# --- failing launches


def test_a_breaker_spares_callers_the_wait(gateway, tmp_path):
    good = tmp_path / "good"
    script = f"if test -e {good}; then {SERVER}; fi; echo bad luck; exit 3"
    g = gateway(config(e=shell(script, ready_timeout_s=60), fine=builtin("echo")))
    for _ in range(3):
        refused(g, "e")
    reply = g.post("/v1/sessions", {"environment": "e"})
    error = reply.json()["error"]
    assert (error["status"], error["details"][0]["reason"]) == ("FAILED_PRECONDITION", "WORKER_START_FAILED")
    assert any("retry_delay" in d for d in error["details"]), error
    assert "3 launches of e failed in a row" in error["message"] and "bad luck" in error["message"]
    assert g.metric("envgate_environment_breaker_open", environment="e") == 1
    assert g.metric("envgate_environment_breaker_open", environment="fine") == 0
    assert g.metric("envgate_launches_refused_total") == 1
    (opened,) = g.log("environment.breaker_open")
    assert opened["environment"] == "e" and opened["failures"] == 3
    ready = g.get("/readyz")
    assert (ready.status_code, ready.text) == (200, "ready\nlaunches fail: e\n")
    g.create("fine")
    good.touch()
    g.wait_for(lambda: g.post("/v1/sessions", {"environment": "e"}).status_code == 200, 20, "the breaker to let a caller try")
    assert g.log("environment.breaker_closed") and g.get("/readyz").text == "ready\n"
    assert g.metric("envgate_environment_breaker_open", environment="e") == 0


def test_readiness_and_health_tell_of_broken_environments(gateway, tmp_path):
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    good = tmp_path / "good"
    g = gateway(config(e=shell(f"if test -e {good}; then {SERVER}; fi; exit 3", ready_timeout_s=60)), "--threads", "2")
    stub = health_pb2_grpc.HealthStub(g.channel)
    serving, broken = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    check = health_pb2.HealthCheckRequest(service="environments/e")
    assert stub.Check(check).status == serving
    watch = stub.Watch(check)
    assert next(watch).status == serving
    for _ in range(3):
        refused(g, "e")
    assert next(watch).status == broken
    assert stub.Check(check).status == broken
    assert stub.Check(health_pb2.HealthCheckRequest()).status == serving  # the gateway itself
    ready = g.get("/readyz")
    assert (ready.status_code, ready.text) == (503, "no environment can launch workers\nlaunches fail: e\n")
    good.touch()
    assert next(watch).status == serving  # half open
    g.wait_for(lambda: g.post("/v1/sessions", {"environment": "e"}).status_code == 200, 20, "a session")
    assert stub.Check(check).status == serving and g.get("/readyz").status_code == 200
    with pytest.raises(grpc.RpcError) as unknown:
        stub.Check(health_pb2.HealthCheckRequest(service="environments/nobody"))
    assert unknown.value.code() == grpc.StatusCode.NOT_FOUND
    watch.cancel()


def test_launches_at_a_time_are_limited_and_fair(gateway):
    g = gateway({**config(a=slow(1, max_workers=6), b=slow(1)), "max_launches": 2})
    threads = [threading.Thread(target=g.create, args=("a",)) for _ in range(4)]
    for t in threads:
        t.start()
    g.wait_for(lambda: g.metric("envgate_environment_waiting", environment="a") == 4, what="all four to wait")
    other = threading.Thread(target=g.create, args=("b",))
    other.start()
    most, names = 0, []
    while any(t.is_alive() for t in [*threads, other]):
        most = max(most, g.metric("envgate_workers", state="starting"))
        time.sleep(0.05)
    names = [line["environment"] for line in g.log("worker.starting")]
    assert most == 2 and sorted(names) == ["a"] * 4 + ["b"]
    assert names.index("b") <= 3  # not behind all of a's


# --- faults


def test_a_slow_health_ends_no_session_of_a_real_old_worker(gateway):
    """openenv-core 0.1 steps on its event loop, so /health is not answered meanwhile."""
    g = gateway(config(e=uvicorn("openenv-core-0.1.0", LEGACY, max_workers=1)))
    path = g.create("e")
    pid = episode(g, path, seeded=False)
    before = time.monotonic()
    assert step(g, path, "slow", sleep_s=6).json()["observation"]["count"] == 3
    assert time.monotonic() - before > 5.9
    assert alive(pid) and g.metric("envgate_workers_exited_total") == 0


# --- the drain

PROVIDED = {
    "process": lambda: uvicorn("openenv-0.2.0", ECHO),
    "older": lambda: uvicorn("openenv-core-0.1.0", LEGACY),
    "builtin": lambda: builtin("echo", "--faults"),
}


@pytest.mark.parametrize("kind", list(PROVIDED))
def test_sigterm_lets_running_steps_finish(gateway, kind):
    g = gateway(config(e=PROVIDED[kind](), spare=builtin("echo")), "--threads", "2")
    made = g.sessions.CreateSession(pb.CreateSessionRequest(environment="e"))
    g.sessions.Reset(pb.ResetRequest(session=made.name))
    tree = pids_of(g)
    action = b'{"message": "last", "sleep_s": 1.5}' if kind != "builtin" else b'{"message": "last", "fault": "slow", "ms": 1500}'
    running = g.sessions.Step.future(pb.StepRequest(session=made.name, action=payload_pb2.Payload(json=action)))
    time.sleep(0.4)
    before = time.monotonic()
    g.process.send_signal(signal.SIGTERM)
    assert b"last" in running.result(20).observation.json
    assert g.process.wait(20 * SLOW) == 0
    assert time.monotonic() - before < 6 * SLOW
    wait_gone(tree, 1)
    assert g.log("gateway.draining") and g.log("gateway.stopped")


def test_what_a_drain_tells_callers(gateway):
    g = gateway({**config(e=builtin("echo", "--faults")), "shutdown_grace_s": 8})
    made = g.sessions.CreateSession(pb.CreateSessionRequest(environment="e"))
    g.sessions.Reset(pb.ResetRequest(session=made.name))
    assert made.expire_time.ToSeconds() - time.time() > 200
    action = b'{"message": "last", "fault": "hang"}'
    hung = g.sessions.Step.future(pb.StepRequest(session=made.name, action=payload_pb2.Payload(json=action)))
    g.wait_for(lambda: session(g, "/v1/" + made.name)["state"] == "STATE_BUSY", what="the step to run")
    before = time.monotonic()
    g.process.send_signal(signal.SIGTERM)
    with pytest.raises(grpc.RpcError) as given_up:
        hung.result(20)
    assert code_of(given_up.value) == ("ABORTED", "SESSION_CLOSED") and "shutting down" in given_up.value.details()
    assert 3.5 < time.monotonic() - before < 6 * SLOW  # half of the grace, since a worker may take the other half to stop
    assert g.process.wait(20) == 0
    assert time.monotonic() - before < 8 + 2 * SLOW
