# SPDX-License-Identifier: Apache-2.0
"""CreateSessions: a vector of sessions by one call, all of them or none."""

import time

import grpc
import pytest
import requests
from conftest import SLOW, builtin, code_of
from test_reset_batch import reset_batch
from test_step_batch import LOCAL, batch, fates, step

from envgate.v1 import session_service_pb2 as pb, session_service_pb2_grpc

READY, PROVISIONING = pb.Session.STATE_READY, pb.Session.STATE_PROVISIONING


def create(g, count, timeout=60 * SLOW, **fields):
    request = pb.CreateSessionsRequest(count=count, session=pb.CreateSessionRequest(**{"environment": "e", **fields}))
    return g.sessions.CreateSessions(request, timeout=timeout).sessions


def refused(g, count, **fields):
    with pytest.raises(grpc.RpcError) as error:
        create(g, count, **fields)
    return *code_of(error.value), error.value.details()


def no_sessions(g):
    g.wait_for(lambda: g.metric("envgate_sessions") == 0 and g.metric("envgate_pool_sessions") == 0 and g.metric("envgate_worker_queue_length") == 0)


@pytest.mark.parametrize("threads", [1, 2])
def test_256_at_once(gateway, threads):
    g = gateway({"environments": {"e": builtin("echo", sessions_per_worker=64, max_workers=4)}}, "--threads", str(threads))
    began = time.monotonic()
    sessions = create(g, 256, lease_s=120)
    took = time.monotonic() - began
    names = [s.name for s in sessions]
    assert len(set(names)) == 256 and all((s.state, s.lease_s, s.environment) == (READY, 120, "environments/e") for s in sessions)
    assert {len([s for s in sessions if s.worker == w]) for w in {s.worker for s in sessions}} == {64}
    # On one reactor, so that a batch has one part.
    assert len({n.removeprefix("sessions/")[:2] for n in names}) == 1
    assert took < 10 * SLOW
    assert not reset_batch(g, [pb.ResetRequest(session=n) for n in names]).failed
    assert fates(batch(g, [step(n, n) for n in names])) == names
    assert g.metric("envgate_sessions_created_total") == 256


def test_over_rest_and_connect(gateway):
    g = gateway({"environments": {"e": builtin("echo", sessions_per_worker=8, max_workers=2)}}, "--threads", "2")
    reply = g.post("/v1/sessions:create", {"count": 3, "session": {"environment": "e", "request_id": "v"}})
    assert reply.status_code == 200, reply.text
    sessions = reply.json()["sessions"]
    assert [s["state"] for s in sessions] == ["STATE_READY"] * 3 and list(sessions[0]) == list(g.post("/v1/sessions", {"environment": "e"}).json())
    # A retry finds them, by whatever connection it comes; one that was closed is made anew.
    g.delete("/v1/" + sessions[1]["name"])
    with requests.Session() as http:
        again = http.post(g.url + "/envgate.v1.SessionService/CreateSessions", json={"count": 4, "session": {"environment": "e", "requestId": "v"}}, timeout=60).json()["sessions"]
    assert [s["name"] for s in again][::2][:1] == [sessions[0]["name"]] and again[2]["name"] == sessions[2]["name"]
    assert again[1]["name"] != sessions[1]["name"] and len({s["name"] for s in again}) == 4


def test_requests_that_are_refused(shared_gateway):
    g = shared_gateway
    for body, blamed in (
        ({"session": {"environment": "echo"}}, "count"),
        ({"count": 0, "session": {"environment": "echo"}}, "count"),
        ({"count": 1025, "session": {"environment": "echo"}}, "count"),
        ({"count": -1, "session": {"environment": "echo"}}, "count"),
        ({"count": 2}, "session"),
        ({"count": 2, "session": {}}, "session.environment"),
        ({"count": 2, "session": {"environment": "echo", "lease_s": -1}}, "session.lease_s"),
        ({"count": 2, "session": {"environment": "echo", "request_id": "x" * 124}}, "session.request_id"),
    ):
        reply = g.post("/v1/sessions:create", body)
        assert reply.status_code == 400 and reply.json()["error"]["details"][-1]["field_violations"][0]["field"] == blamed, reply.text
    assert g.post("/v1/sessions:create", {"count": 2, "session": {"environment": "nobody"}}).status_code == 404
    assert g.metric("envgate_sessions") == 0


def test_all_or_none_for_capacity(gateway):
    """At the deadline five of eight have workers, and no more may be launched: none is left, and the five slots are free again."""
    g = gateway({"environments": {"e": builtin("echo", "--capacity", "5", sessions_per_worker=5, max_workers=1)}}, "--threads", "2")
    code, reason, why = refused(g, 8, timeout_s=1.5 * SLOW)
    assert (code, reason) == ("RESOURCE_EXHAUSTED", "NO_CAPACITY") and "max_workers is 1" in why
    no_sessions(g)
    first = create(g, 5)
    # With a request_id, too; and those that somebody has already are left to him.
    assert refused(g, 1, timeout_s=0.3 * SLOW, request_id="x")[1] == "NO_CAPACITY"
    g.sessions.CloseSession(pb.CloseSessionRequest(name=first[0].name))
    mine = create(g, 1, request_id="x")
    assert refused(g, 2, timeout_s=0.3 * SLOW, request_id="x")[1] == "NO_CAPACITY"
    assert g.sessions.Step(step(mine[0].name, "still there")).step_index == 1
    assert g.metric("envgate_sessions") == 5


def test_at_the_deadline_some_are_provisioning(gateway):
    g = gateway({"environments": {"e": builtin("echo", "--boot-ms", str(3000 * SLOW), "--capacity", "2", sessions_per_worker=2, max_workers=3)}}, "--threads", "2")
    ready = create(g, 2)
    sessions = create(g, 4, timeout_s=0.5 * SLOW)
    assert [s.state for s in sessions] == [PROVISIONING] * 4 and sessions[0].HasField("launch_progress")
    # Their resets wait until they are ready, and with WAIT_ANY nobody need wait with them.
    items = [pb.ResetRequest(session=s.name, request_id="r") for s in [*ready, *sessions]]
    reply = reset_batch(g, items, wait=pb.StepBatchRequest.WAIT_ANY, min_ready=2)
    assert [i.pending for i in reply.items] == [False] * 2 + [True] * 4
    g.wait_for(lambda: g.metric("envgate_sessions", state="ready") == 6, seconds=20)
    g.wait_for(lambda: all(s.episode_id for s in g.sessions.ListSessions(pb.ListSessionsRequest()).sessions))
    assert not reset_batch(g, items).failed


def test_one_that_fails(gateway):
    g = gateway({"environments": {"e": builtin("echo", "--exit-after-ms", "1", "--exit-code", "7", max_workers=4)}}, "--threads", "2")
    code, reason, why = refused(g, 3)
    assert (code, reason) == ("FAILED_PRECONDITION", "WORKER_START_FAILED") and "7" in why
    no_sessions(g)


@pytest.mark.parametrize("request_id", ["", "v"])
def test_a_caller_that_goes_away(gateway, request_id):
    """Without a request_id nobody can find them again; with one they go on, and the retry finds them."""
    g = gateway({"environments": {"e": builtin("echo", "--boot-ms", str(1500 * SLOW), "--capacity", "4", sessions_per_worker=4, max_workers=2)}}, "--threads", "2")
    create(g, 2, request_id="warm")
    with grpc.insecure_channel(g.target, options=LOCAL) as channel:
        stub = session_service_pb2_grpc.SessionServiceStub(channel)
        future = stub.CreateSessions.future(pb.CreateSessionsRequest(count=5, session=pb.CreateSessionRequest(environment="e", request_id=request_id)))
        g.wait_for(lambda: g.metric("envgate_sessions") == 7)
        future.cancel()
    if request_id:
        assert [s.state for s in create(g, 5, request_id=request_id)] == [READY] * 5
        assert g.metric("envgate_sessions_created_total") == 7
    else:
        g.wait_for(lambda: g.metric("envgate_sessions") == 2)


def test_the_lease_of_the_first_waits_for_the_last(gateway):
    """Those that are ready at once would end while their caller waits for the others' worker."""
    g = gateway({"environments": {"e": builtin("echo", "--boot-ms", str(2500 * SLOW), "--capacity", "2", sessions_per_worker=2, max_workers=3)}}, "--threads", "2")
    g.sessions.CloseSession(pb.CloseSessionRequest(name=create(g, 1)[0].name))
    sessions = create(g, 4, lease_s=1 * SLOW)
    assert [s.state for s in sessions] == [READY] * 4
    assert not reset_batch(g, [pb.ResetRequest(session=s.name) for s in sessions]).failed
    assert g.metric("envgate_sessions_expired_total") == 0
    # And then it runs.
    g.wait_for(lambda: g.metric("envgate_sessions") == 0)


def test_one_is_closed_while_others_wait(gateway):
    g = gateway({"environments": {"e": builtin("echo", "--boot-ms", str(2000 * SLOW), "--capacity", "2", sessions_per_worker=2, max_workers=3)}}, "--threads", "2")
    g.sessions.CloseSession(pb.CloseSessionRequest(name=create(g, 1)[0].name))
    future = g.sessions.CreateSessions.future(pb.CreateSessionsRequest(count=4, session=pb.CreateSessionRequest(environment="e")))
    g.wait_for(lambda: g.metric("envgate_sessions", state="ready") == 2)
    listed = g.sessions.ListSessions(pb.ListSessionsRequest()).sessions
    g.sessions.CloseSession(pb.CloseSessionRequest(name=next(s.name for s in listed if s.state == READY)))
    assert code_of(future.exception()) == ("ABORTED", "SESSION_CLOSED")
    no_sessions(g)


def test_shutdown(gateway):
    g = gateway({"shutdown_grace_s": 0.5, "environments": {"e": builtin("echo", "--boot-ms", "4000", sessions_per_worker=2, max_workers=3)}}, "--threads", "2")
    future = g.sessions.CreateSessions.future(pb.CreateSessionsRequest(count=6, session=pb.CreateSessionRequest(environment="e")))
    g.wait_for(lambda: g.metric("envgate_sessions") == 6)
    g.process.terminate()
    assert code_of(future.exception(timeout=20 * SLOW))[0] in ("ABORTED", "UNAVAILABLE")
