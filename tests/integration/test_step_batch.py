# SPDX-License-Identifier: Apache-2.0
"""StepBatch: one call steps many sessions, and each item has a fate of its own.

Sessions belong to reactors, which their ids name, so most tests have sessions on two reactors: a batch then has items that cross and items that don't.
"""

import asyncio
import json
import random
import threading
import time

import grpc
import pytest
import requests
from conftest import SLOW, builtin, code_of
from h2_client import GRPC, Client, Reply, message
from test_exactly_once import Step, action, check, state_of

from envgate.v1 import payload_pb2, session_service_pb2 as pb, session_service_pb2_grpc
from google.rpc import code_pb2, error_details_pb2

INTERLEAVINGS = 250
AT_ONCE = 12
LOCAL = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own


def create_on(g, reactor, environment="e"):
    """A session on a reactor: sessions are made where their caller's connection is, and the kernel chooses that."""
    while True:
        with requests.Session() as http:
            name = http.post(g.url + "/v1/sessions", json={"environment": environment}, timeout=60).json()["name"]
        if int(name.removeprefix("sessions/")[:2], 16) == reactor:
            return name
        g.delete("/v1/" + name)


def create_many(g, n, reactors=2, environment="e"):
    """Sessions on the reactors in turn, each reset."""
    names = [create_on(g, i % reactors, environment) for i in range(n)]
    for name in names:
        assert g.post(f"/v1/{name}/reset").status_code == 200
    return names


def fate(status):
    """(code's name, reason) of an item's google.rpc.Status."""
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return code_pb2.Code.Name(status.code), info.reason
    return code_pb2.Code.Name(status.code), ""


def field(status):
    """The field that an item's status blames, or ""."""
    for detail in status.details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            return bad.field_violations[0].field
    return ""


def fates(reply):
    """Of each item: the echoed message, or (code, reason)."""
    return [json.loads(i.result.observation.json)["echoed_message"] if i.HasField("result") else fate(i.status) for i in reply.items]


def step(session, message, request_id="", fields=None, **fault):
    return pb.StepRequest(session=session, action=action(message, **fault), request_id=request_id, **(fields or {}))


def batch(g, items, **fields):
    return g.sessions.StepBatch(pb.StepBatchRequest(items=items, **fields), timeout=60)


def total_steps(g, session):
    return json.loads(g.sessions.GetState(pb.GetStateRequest(session=session)).state.json)["total_steps"]


@pytest.fixture
def two_reactors(gateway):
    return gateway({"environments": {"e": builtin("echo", "--faults", sessions_per_worker=64, max_workers=4)}}, "--threads", "2")


# --- what it is for -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_64_sessions(gateway, threads):
    g = gateway({"environments": {"e": builtin("echo", sessions_per_worker=64)}}, "--threads", str(threads))
    names = create_many(g, 64, threads)
    for i in range(1, 21):
        reply = batch(g, [step(n, f"{k}/{i}") for k, n in enumerate(names)])
        assert fates(reply) == [f"{k}/{i}" for k in range(64)]
        for name, item in zip(names, reply.items):
            result = item.result
            assert (result.session, result.step_index, result.done, item.HasField("status")) == (name, i, False, False)
            assert result.reward == pytest.approx(0.1 * len(json.loads(result.observation.json)["echoed_message"]))
            assert json.loads(result.metadata.json)["executions"] == 1 and result.timings.worker_us > 0 and result.episode_id
    # The same by JSON, whose shape is that of single steps.
    body = {"items": [{"session": n, "action": {"message": f"rest {k}"}} for k, n in enumerate(names)]}
    reply = g.post("/v1/sessions:stepBatch", body)
    assert reply.status_code == 200
    items = reply.json()["items"]
    assert [i["result"]["observation"]["echoed_message"] for i in items] == [f"rest {k}" for k in range(64)]
    assert all(i["result"]["step_index"] == "21" and "status" not in i and i["result"]["session"] == n for i, n in zip(items, names))
    single = g.post(f"/v1/{names[0]}/step", {"action": {"message": "x"}}).json()
    assert list(single) == list(items[0]["result"])
    assert sum(total_steps(g, n) for n in names) == 64 * 21 + 1
    assert g.metric("envgate_batch_items_total") == 64 * 21 and g.metric("envgate_batch_items_failed_total") == 0
    assert g.metric("envgate_session_queue_length") == 0


def test_workers_run_side_by_side(gateway):
    g = gateway({"environments": {"e": builtin("echo", "--faults", sessions_per_worker=1, max_workers=8)}}, "--threads", "2")
    names = create_many(g, 8)
    began = time.monotonic()
    reply = batch(g, [step(n, "x", fault="slow", ms=500) for n in names])
    took = time.monotonic() - began
    assert fates(reply) == ["x"] * 8 and 0.5 <= took < 0.5 * 4 * SLOW


@pytest.mark.parametrize("slow", [0, 1], ids=["here", "on the other reactor"])
def test_one_that_hangs_delays_nobody(two_reactors, slow):
    g = two_reactors
    names = create_many(g, 64)
    # The batch runs where its first session is, which is reactor 0.
    late = 6 + slow
    items = [step(n, f"m{k}", f"id{k}") for k, n in enumerate(names)]
    items[late] = step(names[late], "late", "late", fault="slow", ms=1500 * SLOW)
    began = time.monotonic()
    reply = batch(g, items, timeout_s=0.5 * SLOW)
    assert 0.5 * SLOW <= time.monotonic() - began < 1.4 * SLOW
    expected = [f"m{k}" for k in range(64)]
    expected[late] = ("DEADLINE_EXCEEDED", "STEP_IN_PROGRESS")
    assert fates(reply) == expected
    # It goes on, and its request_id collects it: by a single Step, or by the next batch. Nothing is stepped twice.
    collected = g.sessions.Step(items[late])
    assert json.loads(collected.observation.json)["echoed_message"] == "late" and collected.step_index == 1
    again = batch(g, items)
    expected[late] = "late"
    assert fates(again) == expected
    assert [i.result for k, i in enumerate(reply.items) if k != late] == [without_times(i.result, reply.items[k].result) for k, i in enumerate(again.items) if k != late]
    assert [total_steps(g, n) for n in names] == [1] * 64
    assert g.metric("envgate_batch_items_failed_total") == 1


def without_times(result, like):
    """The result with another's queue time, which is each call's own."""
    result.timings.queue_us = like.timings.queue_us
    return result


def test_one_that_never_answers(gateway):
    """A batch without a deadline ends when the environment's step_timeout_s gives the worker up; and other calls go on meanwhile."""
    g = gateway({"environments": {"e": builtin("echo", "--faults", sessions_per_worker=1, max_workers=4, step_timeout_s=1.0, stop_grace_s=1)}}, "--threads", "2")
    names = create_many(g, 4)
    future = g.sessions.StepBatch.future(pb.StepBatchRequest(items=[step(n, "x", **({"fault": "hang"} if k == 2 else {})) for k, n in enumerate(names)]))
    g.wait_for(lambda: g.metric("envgate_sessions", state="busy") == 1)
    assert g.sessions.Step(step(names[0], "y")).step_index == 2
    assert fates(future.result()) == ["x", "x", ("ABORTED", "SESSION_LOST"), "x"]


def test_one_whose_worker_dies(gateway):
    g = gateway({"environments": {"e": builtin("echo", "--faults", sessions_per_worker=1, max_workers=6)}}, "--threads", "2")
    names = create_many(g, 4)
    items = [step(n, f"m{k}") for k, n in enumerate(names)]
    items[1] = step(names[1], "x", fault="exit", code=3)
    items[2] = step(names[2], "x", fault="drop")
    reply = batch(g, items)
    assert fates(reply) == ["m0", ("ABORTED", "SESSION_LOST"), ("ABORTED", "SESSION_LOST"), "m3"]
    assert "exited with code 3" in reply.items[1].status.message
    assert fates(batch(g, [step(n, f"n{k}") for k, n in enumerate(names)])) == ["n0", ("ABORTED", "SESSION_LOST"), ("ABORTED", "SESSION_LOST"), "n3"]


# --- items ----------------------------------------------------------------------------------------------------------------------------------


def test_each_item_has_its_own_error(two_reactors):
    g = two_reactors
    names = create_many(g, 14)
    bad = lambda k, **fields: pb.StepRequest(**{"session": names[k], "action": action("x"), **fields})
    text = lambda json: payload_pb2.Payload(json=json.encode())
    cases = [
        (bad(0), "x"),
        (bad(1, session="sessions/01aaaaaaaaaaaaaaaaaaaaaaaa"), ("NOT_FOUND", "SESSION_NOT_FOUND")),
        (bad(1, session="sessions/00aaaaaaaaaaaaaaaaaaaaaaaa"), ("NOT_FOUND", "SESSION_NOT_FOUND")),
        (bad(1, session=""), ("INVALID_ARGUMENT", "INVALID_REQUEST", "session")),
        (bad(1, session="nobody"), ("INVALID_ARGUMENT", "INVALID_REQUEST", "session")),
        (bad(2, action=text("[1]")), ("INVALID_ARGUMENT", "INVALID_REQUEST", "action")),
        (bad(3, action=text('{"message": ')), ("INVALID_ARGUMENT", "INVALID_REQUEST", "action")),
        (bad(2, action=None), ("INVALID_ARGUMENT", "INVALID_REQUEST", "action")),
        (bad(3, action=text("[" * 100 + "]" * 100)), ("INVALID_ARGUMENT", "JSON_TOO_DEEP", "action")),
        (bad(4, request_id="x" * 129), ("INVALID_ARGUMENT", "INVALID_REQUEST", "request_id")),
        (bad(5, timeout_s=-1), ("INVALID_ARGUMENT", "INVALID_REQUEST", "timeout_s")),
        (bad(4, payload_format=77), ("INVALID_ARGUMENT", "INVALID_REQUEST", "payload_format")),
        (bad(6, episode_id="other"), ("FAILED_PRECONDITION", "EPISODE_MISMATCH")),
        (bad(7, step_index=9), ("FAILED_PRECONDITION", "STEP_INDEX_MISMATCH")),
        (bad(8, action=action("x", fault="error")), ("UNKNOWN", "ENV_EXCEPTION")),
        (bad(9, action=action("x", fault="validation")), ("INVALID_ARGUMENT", "INVALID_ACTION", "action.fault")),
        (bad(10, action=action(7)), ("INVALID_ARGUMENT", "INVALID_ACTION", "action.message")),
        (bad(11, action=action("x", fault="garbage")), ("ABORTED", "WORKER_PROTOCOL")),
        (bad(12, step_index=1), "x"),
        (bad(13), "x"),
    ]
    random.Random(1).shuffle(cases)
    reply = batch(g, [item for item, _ in cases])
    for k, (item, (_, expected)) in enumerate(zip(reply.items, cases)):
        if expected == "x":
            assert item.HasField("result") and not item.HasField("status"), (k, item)
            continue
        assert not item.HasField("result") and fate(item.status) == expected[:2], (k, expected, item)
        assert field(item.status) == (f"items[{k}].{expected[2]}" if len(expected) > 2 else ""), (k, expected, item)
    assert g.metric("envgate_batch_items_failed_total") == sum(e != "x" for _, e in cases)


def test_items_of_one_session_run_in_order(two_reactors):
    g = two_reactors
    names = create_many(g, 2)
    items = [step(names[k % 2], f"m{k}") for k in range(16)]
    reply = batch(g, items)
    assert fates(reply) == [f"m{k}" for k in range(16)]
    assert [i.result.step_index for i in reply.items] == [k // 2 + 1 for k in range(16)]
    # One request twice is one step; another under the same id is refused.
    reply = batch(g, [step(n, m, "same") for n in names for m in ("a", "a", "b")])
    assert fates(reply) == ["a", "a", ("FAILED_PRECONDITION", "REQUEST_ID_REUSED")] * 2
    assert [i.result.step_index for i in reply.items] == [9, 9, 0] * 2
    assert [total_steps(g, n) for n in names] == [9, 9]


def test_the_queue_of_a_session_holds_for_items(gateway):
    g = gateway({"environments": {"e": builtin("echo", queue_limit=2)}})
    [name] = create_many(g, 1, 1)
    reply = batch(g, [step(name, f"m{k}") for k in range(5)])
    assert fates(reply) == ["m0", "m1", "m2", ("RESOURCE_EXHAUSTED", "QUEUE_FULL"), ("RESOURCE_EXHAUSTED", "QUEUE_FULL")]
    assert any(d.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for d in reply.items[4].status.details)
    assert total_steps(g, name) == 3


@pytest.mark.parametrize("first", [0, 1])
def test_what_had_not_begun_at_the_deadline(two_reactors, first):
    g = two_reactors
    names = create_many(g, 2)
    items = [step(n, m, f"{n}{m}", fault="slow", ms=700 * SLOW) for n in names[first:] + names[:first] for m in ("a", "b")]
    reply = batch(g, items, timeout_s=0.3 * SLOW)
    assert fates(reply) == [("DEADLINE_EXCEEDED", "STEP_IN_PROGRESS"), ("DEADLINE_EXCEEDED", "STEP_NOT_STARTED")] * 2
    # What is told not to have begun does not begin later.
    assert fates(batch(g, [items[0], items[2]])) == ["a", "a"]
    assert [total_steps(g, n) for n in names] == [1, 1]
    # Under a session's own words the deadline tells the same of the next ones.
    assert fates(batch(g, items)) == ["a", "b"] * 2


def test_timeouts_of_items(two_reactors):
    g = two_reactors
    names = create_many(g, 4)
    ms = [100, 1200, 1200, 300]
    limits = {1: 0.3 * SLOW, 2: 0.5 * SLOW, 3: 40}
    items = [step(n, f"m{k}", f"r{k}", {"timeout_s": limits.get(k, 0)}, fault="slow", ms=ms[k] * SLOW) for k, n in enumerate(names)]
    began = time.monotonic()
    reply = batch(g, items)
    took = time.monotonic() - began
    late = ("DEADLINE_EXCEEDED", "STEP_IN_PROGRESS")
    assert fates(reply) == ["m0", late, late, "m3"] and 0.5 * SLOW <= took < 1.1 * SLOW
    # The batch's own limit holds for all.
    for k in (1, 2):
        items[k].timeout_s = 50
    began = time.monotonic()
    reply = batch(g, items, timeout_s=0.1)
    assert fates(reply) == ["m0", late, late, "m3"] and time.monotonic() - began < 0.5 * SLOW
    assert fates(batch(g, items)) == ["m0", "m1", "m2", "m3"]
    assert [total_steps(g, n) for n in names] == [1] * 4


def test_payload_formats(two_reactors):
    g = two_reactors
    names = create_many(g, 4)
    items = [step(n, "x", fields={"payload_format": f}) for n, f in zip(names, [0, 0, 1, 1])]
    reply = batch(g, items, payload_format=pb.StepBatchRequest.DESCRIPTOR.fields_by_name["payload_format"].enum_type.values_by_name["PAYLOAD_FORMAT_VALUE"].number)
    assert [i.result.observation.WhichOneof("form") for i in reply.items] == ["value", "value", "json", "json"]
    assert [i.result.metadata.WhichOneof("form") for i in reply.items] == ["value", "value", "json", "json"]
    assert reply.items[1].result.observation.value.struct_value["echoed_message"] == "x"
    # A session's own wish holds where neither says.
    session = g.sessions.CreateSession(pb.CreateSessionRequest(environment="e", payload_format=2)).name
    assert batch(g, [step(session, "x")]).items[0].result.observation.WhichOneof("form") == "value"
    # Actions may be values.
    value = payload_pb2.Payload()
    value.value.struct_value["message"] = "by value"
    assert fates(batch(g, [pb.StepRequest(session=n, action=value) for n in names])) == ["by value"] * 4


def test_bytes_arrive_untouched(two_reactors):
    g = two_reactors
    names = create_many(g, 2)
    data = '{"a": 9007199254740993, "a": 1e400, "b":[ 1.0,2.50 ], "é": "\\u00e9"}'
    reply = batch(g, [pb.StepRequest(session=n, action=payload_pb2.Payload(json=f'{{"message":"m","data":{data}}}'.encode())) for n in names])
    assert all(f'"data":{data}' in i.result.observation.json.decode() for i in reply.items)
    rest = g.http.post(g.url + "/v1/sessions:stepBatch", data=f'{{"items":[{{"session":"{names[0]}","action":{{"message":"m","data":{data}}}}},{{"session":"{names[1]}","action":{{"message":"m","data":{data}}}}}]}}'.encode(),
                       headers={"content-type": "application/json"}, timeout=60)
    assert rest.status_code == 200 and rest.content.decode().count(f'"data":{data}') == 2


def test_large_results(gateway):
    g = gateway({"environments": {"e": builtin("echo", "--reply-bytes", str(1 << 20), sessions_per_worker=64)}}, "--threads", "2")
    names = create_many(g, 32)
    for _ in range(3):
        reply = batch(g, [step(n, f"m{k}") for k, n in enumerate(names)])
        assert fates(reply) == [f"m{k}" for k in range(32)]
        assert all(len(i.result.observation.json) > 900_000 for i in reply.items)
    body = g.post("/v1/sessions:stepBatch", {"items": [{"session": n, "action": {"message": "r"}} for n in names]}).json()
    assert [len(i["result"]["observation"]["filler"]) > 900_000 for i in body["items"]] == [True] * 32


def test_results_too_large_for_one_reply(gateway):
    g = gateway({"environments": {"e": builtin("echo", "--reply-bytes", "9000000", sessions_per_worker=64)}}, "--threads", "2")
    items = [step(create_on(g, 0), f"m{k}", "id") for k in range(32)]
    reply = g.sessions.StepBatch(pb.StepBatchRequest(items=items), timeout=60 * SLOW)
    lost = [k for k, f in enumerate(fates(reply)) if f == ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE")]
    assert len(lost) == 32 - (256 << 20) // 9_000_000 and all(f == f"m{k}" for k, f in enumerate(fates(reply)) if k not in lost)
    # They were stepped, and can be collected.
    assert fates(batch(g, [items[k] for k in lost])) == [f"m{k}" for k in lost]
    assert [total_steps(g, i.session) for i in items] == [1] * 32


# --- the call -------------------------------------------------------------------------------------------------------------------------------


def test_requests_that_are_refused(shared_gateway):
    g = shared_gateway
    name = g.create("echo").removeprefix("/v1/")
    good = {"session": name, "action": {"message": "x"}}

    def refused(body):
        reply = g.post("/v1/sessions:stepBatch", body)
        details = reply.json()["error"]["details"]
        return reply.status_code, next((d["field_violations"][0]["field"] for d in details if "field_violations" in d), "")

    assert refused({}) == (400, "items")
    assert refused({"items": []}) == (400, "items")
    assert refused({"items": [good] * 1025}) == (400, "items")
    assert refused({"items": [good, {**good, "sesion": "x"}]}) == (400, "items[1].sesion")
    assert refused({"items": [good], "timeout_s": -1}) == (400, "timeout_s")
    assert refused({"items": [good], "wait": "WAIT_SOME"}) == (400, "wait")
    assert refused({"items": [good], "payload_format": "XML"}) == (400, "payload_format")
    for wrong in (pb.StepBatchRequest(items=[step(name, "x")], wait=7), pb.StepBatchRequest(items=[step(name, "x")], payload_format=7)):
        with pytest.raises(grpc.RpcError) as error:
            g.sessions.StepBatch(wrong)
        assert code_of(error.value) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    # Nothing was stepped by any of these, and 1024 are not too many.
    assert g.post("/v1/sessions:stepBatch", {"items": [good], "wait": "WAIT_ALL", "timeoutS": 5}).json()["items"][0]["result"]["step_index"] == "1"
    nobody = g.post("/v1/sessions:stepBatch", {"items": [{**good, "session": "sessions/00nobody"}] * 1024}).json()["items"]
    assert len(nobody) == 1024 and all(i["status"]["code"] == 5 for i in nobody)
    assert g.get("/v1/sessions:stepBatch").status_code == 405


def test_timeout_over_rest_is_an_answer(two_reactors):
    g = two_reactors
    names = create_many(g, 4)
    items = [{"session": n, "action": {"message": "x", "fault": "slow", "ms": 2000 * SLOW if k == 3 else 1}} for k, n in enumerate(names)]
    reply = g.post("/v1/sessions:stepBatch", {"items": items, "timeout_s": 0.3 * SLOW})
    assert reply.status_code == 200
    *done, late = reply.json()["items"]
    assert [d["result"]["observation"]["echoed_message"] for d in done] == ["x"] * 3
    assert late["status"]["code"] == 4 and late["status"]["details"][0]["reason"] == "STEP_IN_PROGRESS"
    assert "give a request_id" in late["status"]["message"]


@pytest.mark.parametrize("how", ["cancel", "deadline", "hang up"])
@pytest.mark.parametrize("first", [0, 1])
def test_a_caller_that_goes_away(two_reactors, how, first):
    """What runs goes on and can be collected; what waits is not begun."""
    g = two_reactors
    names = create_many(g, 2)
    names = names[first:] + names[:first]
    running = [g.sessions.Step.future(step(n, "before", fault="slow", ms=800 * SLOW)) for n in names[:1]]
    g.wait_for(lambda: g.metric("envgate_sessions", state="busy") == 1)
    items = [step(names[0], "waits", "w"), step(names[1], "runs", "r", fault="slow", ms=800 * SLOW), step(names[1], "waits", "w")]
    with grpc.insecure_channel(g.target, options=LOCAL) as channel:
        stub = session_service_pb2_grpc.SessionServiceStub(channel)
        future = stub.StepBatch.future(pb.StepBatchRequest(items=items), timeout=0.3 * SLOW if how == "deadline" else 60)
        g.wait_for(lambda: g.metric("envgate_sessions", state="busy") == 2)
        if how == "cancel":
            future.cancel()
        elif how == "deadline":
            assert future.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.OK)  # the gateway's answer may be in time
    g.wait_for(lambda: g.metric("envgate_session_queue_length") == 0)
    assert running[0].result().step_index == 1
    assert g.sessions.Step(items[1]).step_index == 1
    assert [total_steps(g, n) for n in names] == [1, 1]
    g.wait_for(lambda: g.metric("envgate_calls_in_flight") <= 1)  # the scrape's own


def test_a_caller_that_goes_away_at_once(two_reactors):
    """Request and reset come in one piece, so the call is gone before the other reactor has heard of it."""
    g = two_reactors
    names = create_many(g, 4)
    body = message(pb.StepBatchRequest(items=[step(n, "x", "same") for n in names]).SerializeToString())
    pseudo = [(":method", "POST"), (":scheme", "http"), (":path", "/envgate.v1.SessionService/StepBatch"), (":authority", "test")]
    for _ in range(10):
        with Client(g.target) as client:
            for stream in range(1, 61, 2):
                client.replies[stream] = Reply()
                client.h2.send_headers(stream, pseudo + list(GRPC))
                client.h2.send_data(stream, body, end_stream=True)
                client.h2.reset_stream(stream)
            client.flush()
            time.sleep(0.02)
    g.wait_for(lambda: g.metric("envgate_calls_in_flight") <= 1)
    assert all(total_steps(g, n) <= 1 for n in names)


def test_sessions_that_are_closed(two_reactors):
    g = two_reactors
    names = create_many(g, 4)
    future = g.sessions.StepBatch.future(pb.StepBatchRequest(items=[step(n, "x", fault="slow", ms=3000) for n in names] + [step(n, "y") for n in names]))
    g.wait_for(lambda: g.metric("envgate_session_queue_length") == 4)
    for name in names:
        g.sessions.CloseSession(pb.CloseSessionRequest(name=name))
    assert fates(future.result()) == [("ABORTED", "SESSION_CLOSED")] * 8


def test_shutdown_ends_a_batch(gateway):
    g = gateway({"shutdown_grace_s": 0.5, "environments": {"e": builtin("echo", "--faults", sessions_per_worker=64)}}, "--threads", "2")
    names = create_many(g, 6)
    future = g.sessions.StepBatch.future(pb.StepBatchRequest(items=[step(n, f"m{k}", **({"fault": "slow", "ms": 4000 * SLOW} if k < 4 else {})) for k, n in enumerate(names)]))
    g.wait_for(lambda: g.metric("envgate_sessions", state="busy") == 4)
    g.process.terminate()
    assert fates(future.result(timeout=20 * SLOW)) == [("ABORTED", "SESSION_CLOSED")] * 4 + ["m4", "m5"]


# --- against a model ------------------------------------------------------------------------------------------------------------------------


async def single(stub, chosen, rng):
    """One step by Step."""
    s = rng.choice(chosen)
    call = stub.Step(s.request(rng), timeout=60)
    try:
        s.told_result(await call)
        s.attempts = 0 if not s.request_id or rng.random() < 0.8 else s.attempts
    except grpc.aio.AioRpcError as error:
        if s.told_error(*code_of(error), error.details()):
            s.attempts = 0


async def several(stub, chosen, rng):
    """Some steps by StepBatch, with a deadline or a cancellation now and then, for all of them or any. Some with a request_id are in it twice."""
    chosen = chosen + [s for s in chosen if s.request_id and rng.random() < 0.1]
    rng.shuffle(chosen)
    request = pb.StepBatchRequest(items=[s.request(rng) for s in chosen])
    limit = rng.choice([None, None, None, 0.003, 0.01, 0.02])
    safe = all(s.request_id for s in chosen)  # a batch of which nothing is heard may be sent again
    if safe and rng.random() < 0.5:
        request.wait = pb.StepBatchRequest.WAIT_ANY
        request.min_ready = rng.randint(0, len(chosen))
    if limit and rng.random() < 0.7:
        request.timeout_s = limit
        limit = None
    if not safe:
        limit = None
    call = stub.StepBatch(request, timeout=limit * SLOW if limit else 60)
    if safe and rng.random() < 0.15:
        asyncio.get_running_loop().call_later(rng.random() * 0.02, call.cancel)
    try:
        reply = await call
    except asyncio.CancelledError:
        for s in chosen:
            s.may_have_run = True
        return
    except grpc.aio.AioRpcError as error:
        assert code_of(error) in (("DEADLINE_EXCEEDED", ""), ("CANCELLED", "")), (code_of(error), error.details())
        for s in chosen:
            s.may_have_run = True
        return
    assert len(reply.items) == len(chosen)
    pending = sum(i.pending for i in reply.items)
    assert list(reply.failed) == [k for k, i in enumerate(reply.items) if i.HasField("status")]
    assert not pending or (request.wait == pb.StepBatchRequest.WAIT_ANY and (limit or request.timeout_s or len(chosen) - pending >= max(1, request.min_ready)))
    for s, item in zip(chosen, reply.items):
        assert item.HasField("result") + item.HasField("status") + item.pending == 1
        if item.pending:
            s.ran = s.was_pending = True  # goes on, whoever waits for it
            continue
        if item.HasField("result"):
            assert item.result.session == s.session
            s.told_result(item.result)
            s.in_batch = True
        if s.told_error(*fate(item.status), item.status.message) if item.HasField("status") else not s.request_id or rng.random() < 0.8:
            s.attempts = 0


class BatchStep(Step):
    def __init__(self, rng, session, *args):
        super().__init__(rng, *args)
        self.session = session
        self.in_batch = self.busy = self.was_pending = False

    def request(self, rng):
        limit = rng.choice([0, 0, 0, 0.004, 0.012])
        return pb.StepRequest(session=self.session, action=action(self.message, **self.fault), request_id=self.request_id, timeout_s=limit)


async def caller(stub, steps, rng):
    """Sends what is still to be done, until it is. Only steps with a request_id may be under way twice."""
    while True:
        free = [s for s in steps if s.attempts > 0 and (s.request_id or not s.busy)]
        if not free:
            return
        chosen = rng.sample(free, rng.randint(1, len(free)))
        one = rng.random() < 0.25
        if one:
            chosen = chosen[:1]
        for s in chosen:
            s.busy = True
            s.attempts -= 1
        await (single if one else several)(stub, chosen, rng)
        for s in chosen:
            s.busy = False
        await asyncio.sleep(rng.random() * 0.005)


async def interleaving(stubs, seed):
    rng = random.Random(seed)
    sessions = [(await rng.choice(stubs).CreateSession(pb.CreateSessionRequest(environment="e"), timeout=60)).name for _ in range(rng.randint(1, 6))]
    stub = stubs[0]
    steps = {}
    try:
        before = {s: await state_of(stub, s) for s in sessions}
        for number, s in enumerate(sessions):
            await stub.Reset(pb.ResetRequest(session=s, seed=seed), timeout=60)
            count = rng.randint(1, 5)
            fatal = rng.randrange(count) if rng.random() < 0.1 else -1
            steps[s] = [BatchStep(rng, s, i, f"{seed}-{number}", i == fatal) for i in range(count)]
        all_steps = [x for s in sessions for x in steps[s]]
        callers = [caller(rng.choice(stubs), all_steps, random.Random(rng.random())) for _ in range(rng.randint(1, 3))]
        await asyncio.gather(*callers)
        for s in sessions:
            try:
                after = await state_of(stub, s)
            except grpc.aio.AioRpcError as error:
                assert code_of(error)[0] == "ABORTED" and any(x.fatal for x in steps[s]), (seed, code_of(error), error.details())
                after = None
            check(f"{seed} {s}", steps[s], before[s], after)
        return all_steps
    finally:
        for s in sessions:
            await stub.CloseSession(pb.CloseSessionRequest(name=s), timeout=60)


async def connect(g, each, reactors):
    """So many connections to each of the reactors."""
    found = {f"{k:02}": [] for k in range(reactors)}
    others = []
    while min(map(len, found.values())) < each:
        channel = grpc.aio.insecure_channel(g.target, options=[*LOCAL, ("envgate.test", len(others))])
        stub = session_service_pb2_grpc.SessionServiceStub(channel)
        name = (await stub.CreateSession(pb.CreateSessionRequest(environment="e"), timeout=60)).name
        await stub.CloseSession(pb.CloseSessionRequest(name=name), timeout=60)
        here = found[name.removeprefix("sessions/")[:2]]
        (here if len(here) < each else others).append(channel)
    for channel in others:
        await channel.close()
    return [c for here in found.values() for c in here]


async def run_all(g, reactors):
    channels = await connect(g, 3, reactors)
    stubs = [session_service_pb2_grpc.SessionServiceStub(c) for c in channels]
    seeds = iter(range(INTERLEAVINGS))
    all_steps = []

    async def worker():
        for seed in seeds:
            try:
                all_steps.extend(await interleaving(stubs, seed))
            except Exception as problem:
                raise AssertionError(f"interleaving {seed}: {problem!r}") from problem

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    for c in channels:
        await c.close()
    return all_steps


@pytest.mark.parametrize("dialect, threads", [("ws", 1), ("ws", 2), ("http", 2)])
@pytest.mark.timeout(600)
def test_random_interleavings(gateway, dialect, threads):
    http = dialect == "http"
    most = AT_ONCE * 6
    worker = builtin("echo", "--faults", "--dialect", dialect, sessions_per_worker=1 if http else 64, max_workers=most + 8 if http else 4, step_timeout_s=20)
    g = gateway({"environments": {"e": worker}}, "--threads", str(threads), "--log-level", "warn")
    began = time.monotonic()
    steps = asyncio.run(run_all(g, threads))
    # The test would be worth nothing if what it is about did not occur.
    done = sum(bool(s.results) for s in steps)
    batched = sum(s.in_batch for s in steps)
    retried = sum(len(s.results) > 1 for s in steps)
    late = sum(s.ran and not s.results for s in steps)
    collected = sum(s.was_pending and bool(s.results) for s in steps)
    lost = sum(s.lost for s in steps)
    crossed = g.metric("envgate_calls_crossed_total")
    print(
        f"{dialect}: {INTERLEAVINGS} interleavings, {len(steps)} steps: {done} answered, {batched} by batches, {retried} more than once, {collected} after they were pending, "
        f"{late} given up, {lost} lost, {time.monotonic() - began:.1f} s"
    )
    assert batched > INTERLEAVINGS and retried > 50 and collected > 50 and late > 20 and lost > 20 and (threads == 1 or crossed > 50)
    g.wait_for(lambda: g.metric("envgate_sessions") == 0, what="no session is left")


def test_batches_from_many_callers_at_once(two_reactors):
    """Trainers that share sessions, each by a connection of its own: every step is taken once, whoever asks."""
    g = two_reactors
    names = create_many(g, 16)
    problems = []

    def trainer(number):
        try:
            with grpc.insecure_channel(g.target, options=LOCAL) as channel:
                stub = session_service_pb2_grpc.SessionServiceStub(channel)
                for i in range(30):
                    reply = stub.StepBatch(pb.StepBatchRequest(items=[step(n, f"{number}/{i}") for n in names]), timeout=60)
                    assert fates(reply) == [f"{number}/{i}"] * 16
        except Exception as problem:
            problems.append(problem)

    threads = [threading.Thread(target=trainer, args=(k,)) for k in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not problems, problems
    for name in names:
        state = json.loads(g.sessions.GetState(pb.GetStateRequest(session=name)).state.json)
        assert (state["total_steps"], state["repeated_steps"]) == (180, 0)
