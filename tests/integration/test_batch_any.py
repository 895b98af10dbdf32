# SPDX-License-Identifier: Apache-2.0
"""WAIT_ANY: a batch returns when min_ready items are done, the others go on, and a later call collects them by their request_id. Random interleavings of such batches
with all other calls are in test_step_batch.py."""

import json
import os
import random
import signal
import time

import grpc
import pytest
from conftest import SLOW, builtin, code_of
from test_reset_batch import reset_batch
from test_step_batch import batch, create_many, create_on, fate, fates, step, total_steps, two_reactors  # noqa: F401

from envgate.v1 import session_service_pb2 as pb

ANY = pb.StepBatchRequest.WAIT_ANY
LATE = ("DEADLINE_EXCEEDED", "STEP_IN_PROGRESS")


def shape(reply):
    """Of each item: the echoed message, (code, reason), or "…" while it is pending."""
    assert all(i.HasField("result") + i.HasField("status") + i.pending == 1 for i in reply.items)
    return ["…" if i.pending else f for i, f in zip(reply.items, told(reply))]


def told(reply):
    return [json.loads(i.result.observation.json)["echoed_message"] if i.HasField("result") else fate(i.status) if i.HasField("status") else None for i in reply.items]


def timed(g, items, **fields):
    began = time.monotonic()
    reply = batch(g, items, **fields)
    return reply, time.monotonic() - began


@pytest.mark.parametrize("threads", [1, 2])
def test_64_of_which_one_worker_hangs(gateway, threads):
    """The worker is stopped by a signal, so that it takes bytes and says nothing, as one on a machine in trouble."""
    here = {"e": builtin("echo", sessions_per_worker=64, max_workers=4), "v": builtin("echo", "--capacity", "3", sessions_per_worker=1)}
    g = gateway({"environments": here}, "--threads", str(threads))
    hung = 37
    names = [create_on(g, k % threads, "v" if k == hung else "e") for k in range(64)]
    assert not reset_batch(g, [pb.ResetRequest(session=n) for n in names]).failed
    [worker] = [pid for pid, command in g.children() if "--capacity 3" in command and "supervise" not in command]
    others = [f"m{k}" if k != hung else None for k in range(64)]
    os.kill(worker, signal.SIGSTOP)
    try:
        items = [step(n, f"m{k}", f"one-{k}") for k, n in enumerate(names)]
        # ALL: at its deadline 63 results and one that is late.
        reply, took = timed(g, items, timeout_s=0.6 * SLOW)
        assert 0.6 * SLOW <= took < 1.5 * SLOW and list(reply.failed) == [hung]
        assert shape(reply) == [f or LATE for f in others]
        # ANY: as soon as what is asked for is there, which is at once. The hung one is joined, not sent again.
        for i in range(2, 5):
            items = [items[k] if k == hung else step(n, f"m{k}", f"{i}-{k}") for k, n in enumerate(names)]
            reply, took = timed(g, items, timeout_s=30, wait=ANY, min_ready=63)
            assert took < 5 and shape(reply) == [f or "…" for f in others] and not reply.failed
            assert [r.result.step_index for r in reply.items] == [0 if k == hung else i for k in range(64)]
        # More than can be had: at the deadline what there is.
        reply, took = timed(g, items, timeout_s=0.4 * SLOW, wait=ANY, min_ready=64)
        assert 0.4 * SLOW <= took < 1.4 * SLOW and shape(reply) == [f or "…" for f in others] and not reply.failed
    finally:
        os.kill(worker, signal.SIGCONT)
    # It woke up and took its step: whoever asks by the request_id gets it, and nobody was stepped twice.
    reply = batch(g, items, wait=ANY, min_ready=64)
    assert shape(reply) == [f"m{k}" for k in range(64)] and reply.items[hung].result.step_index == 1
    assert [total_steps(g, n) for n in names] == [1 if k == hung else 4 for k in range(64)]
    assert g.metric("envgate_batch_items_pending_total") == 4 and g.metric("envgate_batch_items_total") == 7 * 64 - 4


def test_returns_with_the_first_that_are_done(two_reactors):
    g = two_reactors
    names = create_many(g, 8)
    slow = {3: 600, 5: 1200, 6: 1800}
    items = [step(n, f"m{k}", "id", **({"fault": "slow", "ms": slow[k] * SLOW} if k in slow else {})) for k, n in enumerate(names)]
    began = time.monotonic()
    seen = []
    for min_ready in (1, 6, 7, 8):
        reply = batch(g, items, wait=ANY, min_ready=min_ready)
        done = [k for k, f in enumerate(shape(reply)) if f != "…"]
        assert len(done) >= min_ready and set(done) >= set(seen)
        seen = done
        at = time.monotonic() - began
        assert at < (0.6 + 0.6 * (min_ready - 5)) * SLOW if min_ready > 5 else 0.55 * SLOW, (min_ready, at)
    # What was done before counts at once, though some are not done.
    items[5] = step(names[5], "next", "other", fault="slow", ms=1500 * SLOW)
    reply, took = timed(g, items, wait=ANY, min_ready=7)
    assert took < 1 * SLOW and shape(reply) == ["…" if k == 5 else f"m{k}" for k in range(8)]
    assert fates(batch(g, [items[5]])) == ["next"]
    assert [total_steps(g, n) for n in names] == [2 if k == 5 else 1 for k in range(8)]


@pytest.mark.parametrize("first", [0, 1])
def test_failures_are_done(two_reactors, first):
    g = two_reactors
    names = create_many(g, 6)
    names = names[first:] + names[:first]
    hang = [step(n, "slow", f"h{k}", fault="slow", ms=1500 * SLOW) for k, n in enumerate(names[:3])]
    for bad in (
        [step("sessions/01aaaaaaaaaaaaaaaaaaaaaaaa", "x", "1")],
        [step("nobody", "x", "1")],
        [pb.StepRequest(session=names[3], request_id="1")],
        [step(names[4], "x", "1", fault="error"), step(names[5], "x", "2", fields={"step_index": 9})],
    ):
        reply, took = timed(g, hang + bad, wait=ANY, min_ready=len(bad))
        assert took < 1.2 * SLOW and list(reply.failed) == list(range(3, 3 + len(bad))) and [i.pending for i in reply.items] == [True] * 3 + [False] * len(bad)
    # So is an item whose own timeout_s has come: it is not pending, since its caller has given it up.
    items = [step(names[3], "own", "own", {"timeout_s": 0.2 * SLOW}, fault="slow", ms=1500 * SLOW), *hang]
    reply, took = timed(g, items, wait=ANY)
    assert took < 1.2 * SLOW and fate(reply.items[0].status) == LATE
    assert shape(batch(g, items[1:])) == ["slow"] * 3
    assert [total_steps(g, n) for n in names[:3]] == [1] * 3


def test_at_the_deadline_what_there_is(two_reactors):
    g = two_reactors
    names = create_many(g, 4)
    items = [step(n, "x", "id", fault="slow", ms=900 * SLOW) for n in names]
    reply, took = timed(g, items, wait=ANY, timeout_s=0.3 * SLOW)
    assert 0.3 * SLOW <= took < 0.8 * SLOW and shape(reply) == ["…"] * 4
    rest = g.post("/v1/sessions:stepBatch", {"items": [{"session": i.session, "action": json.loads(i.action.json), "request_id": "id"} for i in items], "wait": "WAIT_ANY", "timeout_s": 0.05})
    assert rest.status_code == 200
    assert rest.json() == {"items": [{"pending": True}] * 4, "failed": []}
    assert shape(batch(g, items, wait=ANY, min_ready=4)) == ["x"] * 4
    assert [total_steps(g, n) for n in names] == [1] * 4


@pytest.mark.parametrize("dialect", ["ws", "http"])
def test_what_had_not_begun_goes_on(gateway, dialect):
    """Unlike after a deadline without WAIT_ANY: what is pending goes on, in its turn, though nobody waits for it."""
    g = gateway({"environments": {"e": builtin("echo", "--faults", "--dialect", dialect, "--capacity", "4", sessions_per_worker=1 if dialect == "http" else 4, max_workers=4)}}, "--threads", "2")
    names = create_many(g, 4)
    items = [step(n, m, m, fault="slow", ms=400 * SLOW) for n in names[:3] for m in ("a", "b", "c")] + [step(names[3], "fast", "f")]
    reply, took = timed(g, items, wait=ANY)
    assert took < 0.35 * SLOW and shape(reply) == ["…"] * 9 + ["fast"]
    # Joined by a call that gives up, it still goes on, and that call is told so.
    with pytest.raises(grpc.RpcError) as error:
        g.sessions.Step(pb.StepRequest(session=names[0], action=items[2].action, request_id="c", timeout_s=0.05))
    assert code_of(error.value) == LATE and "left this one pending" in error.value.details()
    # GetState waits in the same line.
    assert [total_steps(g, n) for n in names] == [3, 3, 3, 1]
    reply, took = timed(g, items, wait=ANY, min_ready=10)
    assert took < 0.35 * SLOW and shape(reply) == ["a", "b", "c"] * 3 + ["fast"]
    assert [i.result.step_index for i in reply.items] == [1, 2, 3] * 3 + [1]
    assert [total_steps(g, n) for n in names] == [3, 3, 3, 1]
    # Sessions that end take what waits with them.
    items = [step(n, "last", f"l{k}", fault="slow", ms=400 * SLOW) for n in names[:3] for k in range(3)] + [items[9]]
    assert shape(batch(g, items, wait=ANY)) == ["…"] * 9 + ["fast"]
    for name in names:
        g.sessions.CloseSession(pb.CloseSessionRequest(name=name))
    assert g.metric("envgate_session_queue_length") == 0


def test_what_waits_is_kept_up_to_a_limit(two_reactors):
    """Requests whose callers have gone may take 1 MiB of a session's memory; others begin when their caller comes again."""
    g = two_reactors
    names = create_many(g, 4)
    items = [step(n, m, m, fault="slow", ms=200 * SLOW) for n in names[:2] for m in ("first", "large", "too much", "small")]
    for k in (1, 2, 5, 6):
        items[k].action.json = items[k].action.json.replace(b"{", b"{" + b" " * 700_000)
    items.append(step(names[2], "fast", "f"))
    assert shape(batch(g, items, wait=ANY)) == ["…"] * 8 + ["fast"]
    assert [total_steps(g, n) for n in names[:2]] == [3, 3]
    reply = batch(g, items)
    assert shape(reply) == ["first", "large", "too much", "small"] * 2 + ["fast"]
    assert [i.result.step_index for i in reply.items] == [1, 2, 4, 3] * 2 + [1]
    assert [total_steps(g, n) for n in names[:2]] == [4, 4]


def test_resets(two_reactors):
    g = two_reactors
    names = create_many(g, 4)
    busy = [g.sessions.Step.future(step(n, "slow", fault="slow", ms=700 * SLOW)) for n in names[:2]]
    g.wait_for(lambda: g.metric("envgate_sessions", state="busy") == 2)
    items = [pb.ResetRequest(session=n, request_id="r", episode_id=f"e{k}") for k, n in enumerate(names)]
    reply = reset_batch(g, items, wait=ANY, min_ready=2)
    assert [i.pending for i in reply.items] == [True, True, False, False]
    assert [b.result().step_index for b in busy] == [1, 1]
    reply = reset_batch(g, items)
    assert [i.result.episode_id for i in reply.items] == [f"e{k}" for k in range(4)] and not reply.failed
    assert g.sessions.Step(step(names[0], "x")).step_index == 1


def test_requests_that_are_refused(shared_gateway):
    g = shared_gateway
    name = g.create("echo").removeprefix("/v1/")
    good = {"session": name, "action": {"message": "x"}, "request_id": "1"}
    bare = {"session": name, "action": {"message": "x"}}
    for path in ("/v1/sessions:stepBatch", "/v1/sessions:resetBatch"):
        if "reset" in path:
            good, bare = {"session": name, "request_id": "r"}, {"session": name}
        for body, blamed in (
            ({"items": [good, bare], "wait": "WAIT_ANY"}, "items[1].request_id"),
            ({"items": [good], "wait": "WAIT_ANY", "min_ready": 2}, "min_ready"),
            ({"items": [good], "wait": "WAIT_ANY", "min_ready": -1}, "min_ready"),
            ({"items": [good], "min_ready": 1}, "min_ready"),
            ({"items": [good], "wait": "WAIT_ALL", "min_ready": 1}, "min_ready"),
        ):
            reply = g.post(path, body)
            assert reply.status_code == 400 and reply.json()["error"]["details"][-1]["field_violations"][0]["field"] == blamed, reply.text
    assert total_steps(g, name) == 0


def test_over_connect(two_reactors):
    g = two_reactors
    names = create_many(g, 2)
    body = {"items": [{"session": n, "action": {"message": f"m{k}", "fault": "slow", "ms": 800 * SLOW * k}, "requestId": "id"} for k, n in enumerate(names)], "wait": "WAIT_ANY", "minReady": 1}
    reply = g.post("/envgate.v1.SessionService/StepBatch", body).json()
    assert reply["items"][0]["result"]["observation"]["echoed_message"] == "m0" and reply["items"][1] == {"pending": True}
    reply = g.post("/envgate.v1.SessionService/StepBatch", {**body, "minReady": 2}).json()
    assert [i["result"]["stepIndex"] for i in reply["items"]] == ["1", "1"]


@pytest.mark.parametrize("how", ["cancel", "stop"])
def test_a_batch_that_ends_early(gateway, how):
    """A caller that goes away takes what has not begun with it, as with any batch; and so does the gateway's end."""
    g = gateway({"shutdown_grace_s": 0.5, "environments": {"e": builtin("echo", "--faults", sessions_per_worker=64)}}, "--threads", "2")
    names = create_many(g, 4)
    items = [step(n, m, m, fault="slow", ms=600 * SLOW) for n in names for m in ("a", "b")]
    if how == "stop":
        assert shape(batch(g, items, wait=ANY, timeout_s=0.1)) == ["…"] * 8
        return  # with work that waits for nobody
    future = g.sessions.StepBatch.future(pb.StepBatchRequest(items=items, wait=ANY))
    g.wait_for(lambda: g.metric("envgate_sessions", state="busy") == 4)
    future.cancel()
    g.wait_for(lambda: g.metric("envgate_session_queue_length") == 0)
    assert [total_steps(g, n) for n in names] == [1] * 4


@pytest.mark.parametrize("threads", [1, 2])
def test_a_loop_of_EnvPools_kind(gateway, threads):
    """The loop of docs/API.md, with environments of very different speed: each gets its next action as soon as it has answered, and none is stepped twice."""
    g = gateway({"environments": {"e": builtin("echo", "--faults", sessions_per_worker=64)}}, "--threads", str(threads))
    names = create_many(g, 16, threads)
    rng = random.Random(threads)
    steps = dict.fromkeys(names, 0)

    def next_step(name):
        i = steps[name]
        return step(name, f"{name} {i}", f"{i}", fault="slow", ms=rng.choice([0, 0, 1, 2, 5]) if name != names[3] else 150)

    under_way = {n: next_step(n) for n in names}
    calls = 0
    while min(steps.values()) < 5:
        reply = batch(g, list(under_way.values()), wait=ANY, min_ready=4, timeout_s=30)
        calls += 1
        done = [n for n, i in zip(list(under_way), reply.items) if not i.pending]
        assert len(done) >= 4 and not reply.failed
        for name, item in zip(list(under_way), reply.items):
            if item.pending:
                continue
            assert (item.result.step_index, json.loads(item.result.observation.json)["echoed_message"]) == (steps[name] + 1, f"{name} {steps[name]}")
            steps[name] += 1
            under_way[name] = next_step(name)
    assert max(steps.values()) > 3 * min(steps.values()) and calls < sum(steps.values()) / 4 + 1
    # The last ones are under way still.
    assert not batch(g, list(under_way.values())).failed
    assert [total_steps(g, n) for n in names] == [steps[n] + 1 for n in names]
