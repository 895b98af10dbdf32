# SPDX-License-Identifier: Apache-2.0
"""ResetBatch: one call starts an episode in each of many sessions. It shares all but its items with StepBatch, whose tests hold for it, too."""

import json
import time

import grpc
import pytest
from conftest import SLOW, builtin, code_of
from test_step_batch import batch, create_many, create_on, fate, fates, field, step, total_steps, two_reactors  # noqa: F401

from envgate.v1 import payload_pb2, session_service_pb2 as pb


def reset_batch(g, items, **fields):
    return g.sessions.ResetBatch(pb.ResetBatchRequest(items=items, **fields), timeout=60 * SLOW)


@pytest.mark.parametrize("threads", [1, 2])
def test_64_sessions(gateway, threads):
    g = gateway({"environments": {"e": builtin("cartpole", sessions_per_worker=64)}}, "--threads", str(threads))
    names = [create_on(g, k % threads) for k in range(64)]
    reply = reset_batch(g, [pb.ResetRequest(session=n, seed=k % 8, episode_id=f"episode {k}") for k, n in enumerate(names)])
    assert not reply.failed
    for k, (name, item) in enumerate(zip(names, reply.items)):
        result = item.result
        assert (result.session, result.episode_id, result.step_index, result.done) == (name, f"episode {k}", 0, False)
        assert result.observation.json == reply.items[k % 8].result.observation.json
    assert len({i.result.observation.json for i in reply.items}) == 8
    # Each seed is its own item's, as Reset has it.
    alone = g.sessions.Reset(pb.ResetRequest(session=names[5], seed=7))
    assert alone.observation.json == reply.items[7].result.observation.json
    # And then the steps: one call for each of the trainer's loop.
    action = payload_pb2.Payload(json=b'{"action": 1}')
    stepped = batch(g, [pb.StepRequest(session=n, action=action) for n in names])
    assert not stepped.failed and [i.result.step_index for i in stepped.items] == [1] * 64
    assert g.metric("envgate_batch_items_total") == 128 and g.metric("envgate_batch_items_failed_total") == 0


def test_over_rest_and_connect(two_reactors):
    g = two_reactors
    names = [create_on(g, k % 2) for k in range(4)]
    items = [{"session": n, "episode_id": f"e{k}", "options": {"difficulty": k}, "request_id": "r"} for k, n in enumerate(names)]
    reply = g.post("/v1/sessions:resetBatch", {"items": items})
    assert reply.status_code == 200 and reply.json()["failed"] == []
    results = [i["result"] for i in reply.json()["items"]]
    assert [(r["session"], r["episode_id"], r["step_index"]) for r in results] == [(n, f"e{k}", "0") for k, n in enumerate(names)]
    assert list(results[0]) == list(g.post(f"/v1/{names[0]}/reset", {}).json())
    # The same by Connect's JSON, in its spelling; the request_id gives what was reset before.
    spelled = [{"session": n, "episodeId": f"e{k}", "options": {"difficulty": k}, "requestId": "r"} for k, n in enumerate(names[1:], 1)]
    reply = g.post("/envgate.v1.SessionService/ResetBatch", {"items": spelled, "wait": "WAIT_ALL", "timeoutS": 30})
    assert reply.status_code == 200
    assert [i["result"]["episodeId"] for i in reply.json()["items"]] == ["e1", "e2", "e3"]
    assert g.metric("envgate_replies_kept_served_total") == 3


def test_each_item_has_its_own_error(two_reactors):
    g = two_reactors
    names = [create_on(g, k % 2) for k in range(4)]
    text = lambda json: payload_pb2.Payload(json=json.encode())
    cases = [
        (pb.ResetRequest(session=names[0]), None),
        (pb.ResetRequest(session="sessions/01aaaaaaaaaaaaaaaaaaaaaaaa"), ("NOT_FOUND", "SESSION_NOT_FOUND", "")),
        (pb.ResetRequest(session=""), ("INVALID_ARGUMENT", "INVALID_REQUEST", "session")),
        (pb.ResetRequest(session=names[1], options=text("[1]")), ("INVALID_ARGUMENT", "INVALID_REQUEST", "options")),
        (pb.ResetRequest(session=names[1], options=text('{"seed": 1}')), ("INVALID_ARGUMENT", "INVALID_REQUEST", "options")),
        (pb.ResetRequest(session=names[2], episode_id="x" * 257), ("INVALID_ARGUMENT", "INVALID_REQUEST", "episode_id")),
        (pb.ResetRequest(session=names[2], request_id="x" * 129), ("INVALID_ARGUMENT", "INVALID_REQUEST", "request_id")),
        (pb.ResetRequest(session=names[2], timeout_s=-1), ("INVALID_ARGUMENT", "INVALID_REQUEST", "timeout_s")),
        (pb.ResetRequest(session=names[3], payload_format=77), ("INVALID_ARGUMENT", "INVALID_REQUEST", "payload_format")),
        (pb.ResetRequest(session=names[3]), None),
    ]
    reply = reset_batch(g, [item for item, _ in cases])
    for k, (item, (_, expected)) in enumerate(zip(reply.items, cases)):
        assert item.HasField("result") == (not expected) and item.HasField("status") == bool(expected), (k, item)
        if expected:
            assert fate(item.status) == expected[:2] and field(item.status) == (expected[2] and f"items[{k}].{expected[2]}"), (k, item)
    assert list(reply.failed) == [k for k, (_, expected) in enumerate(cases) if expected]


def test_requests_that_are_refused(shared_gateway):
    g = shared_gateway
    good = pb.ResetRequest(session=g.create("echo").removeprefix("/v1/"))
    for wrong in ({"items": []}, {"items": [good] * 1025}, {"items": [good], "wait": 7}, {"items": [good], "payload_format": 7}, {"items": [good], "timeout_s": -1}):
        with pytest.raises(grpc.RpcError) as error:
            g.sessions.ResetBatch(pb.ResetBatchRequest(**wrong))
        assert code_of(error.value) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    assert "resets" in error.value.details() or "timeout_s" in error.value.details()
    # In a batch, unknown members are mistakes and no arguments of the environment.
    reply = g.post("/v1/sessions:resetBatch", {"items": [{"session": good.session, "difficulty": 3}]})
    assert reply.status_code == 400 and "items[0].difficulty" in reply.text


@pytest.mark.parametrize("slow", [0, 1], ids=["here", "on the other reactor"])
def test_one_that_hangs_delays_nobody(two_reactors, slow):
    """A reset waits behind a step that is slow, like any call of the session; its request_id collects it, and the episode began once."""
    g = two_reactors
    names = create_many(g, 16)
    late = 6 + slow
    busy = g.sessions.Step.future(step(names[late], "slow", fault="slow", ms=1500 * SLOW))
    g.wait_for(lambda: g.metric("envgate_sessions", state="busy") == 1)
    items = [pb.ResetRequest(session=n, request_id="r") for n in names]
    began = time.monotonic()
    reply = reset_batch(g, items, timeout_s=0.4 * SLOW)
    assert time.monotonic() - began < 1.2 * SLOW
    assert list(reply.failed) == [late] and fate(reply.items[late].status) == ("DEADLINE_EXCEEDED", "STEP_NOT_STARTED")
    assert busy.result().step_index == 1
    again = reset_batch(g, items)
    assert not again.failed
    assert [i.result.episode_id for k, i in enumerate(again.items) if k != late] == [i.result.episode_id for k, i in enumerate(reply.items) if k != late]
    assert len({i.result.episode_id for i in again.items}) == 16


def test_failed_names_the_items_with_a_status(two_reactors):
    """Of every batch, in the order of the request, whichever reactor an item is on."""
    g = two_reactors
    names = create_many(g, 12)
    bad = {1, 4, 5, 10}
    items = [step(n, "x", **({"fault": "error"} if k in bad else {})) for k, n in enumerate(names)]
    assert list(batch(g, items).failed) == sorted(bad)
    body = {"items": [{"session": n, "action": {"message": "x"} if k % 2 else "none"} for k, n in enumerate(names)]}
    reply = g.post("/v1/sessions:stepBatch", body).json()
    assert reply["failed"] == [0, 2, 4, 6, 8, 10] == [k for k, i in enumerate(reply["items"]) if "status" in i]
    assert [total_steps(g, n) for n in names] == [(k not in bad) + k % 2 for k in range(12)]
    assert fates(batch(g, [step(names[0], "y")])) == ["y"]
