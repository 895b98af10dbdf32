# SPDX-License-Identifier: Apache-2.0
"""Steps happen exactly once, and no reply is ever given to another step.

Random interleavings of slow steps, deadlines, retries, cancellations and worker faults are run against the real daemon and a real worker and
checked against a model. The worker's echo environment counts how often each message was stepped, so it can tell. Each interleaving is drawn from a
seed, which a failure names.
"""

import asyncio
import json
import random
import time

import grpc
import pytest
from conftest import SLOW, Gateway, builtin, code_of

from envgate.v1 import payload_pb2, session_service_pb2 as pb, session_service_pb2_grpc

INTERLEAVINGS = 1000
AT_ONCE = 16
# What ends the session: the frame or the silence can't be matched to a step any more.
FATAL = ["garbage", "drop", "close", "desync_extra"]


def action(message, **more):
    return payload_pb2.Payload(json=json.dumps({"message": message, **more}).encode())


class Step:
    """A step that a caller wants done once, and what it has learnt of it."""

    def __init__(self, rng, number, seed, fatal):
        self.message = f"{seed}/{number}"
        self.request_id = f"r-{seed}-{number}" if rng.random() < 0.75 else ""
        self.fault = {}
        roll = rng.random()
        if fatal:
            self.fault = {"fault": rng.choice(FATAL), "code": 1011}
        elif roll < 0.5:
            self.fault = {"fault": "slow", "ms": rng.choice([2, 5, 10, 20])}
        elif roll < 0.6:
            self.fault = {"fault": rng.choice(["error", "validation"])}
        self.fatal = fatal
        self.attempts = rng.choice([1, 2, 3, 5])
        self.start = rng.random() * 0.02
        self.results = []
        self.ran = False  # it is known to have reached the worker
        self.may_have_run = False
        self.lost = False

    def told_error(self, code, reason, details):
        """Returns True when the step needs no further try. Without a request_id another try would be another step."""
        if code == "DEADLINE_EXCEEDED":
            if reason == "STEP_IN_PROGRESS":
                self.ran = True
            elif reason != "STEP_NOT_STARTED":
                assert reason == "", reason  # the client's own clock
                self.may_have_run = True
        elif code == "ABORTED":
            assert reason in ("SESSION_LOST", "WORKER_PROTOCOL"), (code, reason, details)
            self.lost = self.may_have_run = True
            return True
        elif code == "CANCELLED":
            self.may_have_run = True
        elif reason != "QUEUE_FULL":
            expected = {"error": ("UNKNOWN", "ENV_EXCEPTION"), "validation": ("INVALID_ARGUMENT", "INVALID_ACTION")}.get(self.fault.get("fault"))
            assert (code, reason) == expected, f"{code} {reason} {details} for {self.message} {self.fault}"
            self.may_have_run = True
            return True
        return not self.request_id

    def told_result(self, reply):
        observation = json.loads(reply.observation.json)
        assert observation["echoed_message"] == self.message, f"the reply of {observation['echoed_message']} was given to {self.message}"
        if reply.HasField("metadata"):  # openenv-core 0.1 has none
            assert json.loads(reply.metadata.json)["executions"] == 1, reply
        self.results.append((reply.step_index, reply.episode_id, reply.observation.json))
        self.ran = True


async def attempt(stub, session, step, rng):
    """One call. Returns True when the step needs no further one."""
    request = pb.StepRequest(session=session, action=action(step.message, **step.fault), request_id=step.request_id)
    limit = rng.choice([None, None, 0.003, 0.008, 0.015]) if step.request_id or rng.random() < 0.5 else None
    cancel_after = rng.random() * 0.015 if rng.random() < 0.15 else None
    # Half of the deadlines are the gateway's to notice alone, so that its answer is seen and not only the client's own clock.
    if limit and rng.random() < 0.5:
        request.timeout_s = limit
        limit = None
    call = stub.Step(request, timeout=limit * SLOW if limit else 60)
    if cancel_after is not None:
        asyncio.get_running_loop().call_later(cancel_after, call.cancel)
    try:
        reply = await call
    except asyncio.CancelledError:
        step.may_have_run = True
        return not step.request_id
    except grpc.aio.AioRpcError as error:
        code, reason = code_of(error)
        if reason == "QUEUE_FULL":
            await asyncio.sleep(0.01)
        return step.told_error(code, reason, error.details())
    step.told_result(reply)
    # Sometimes ask again for what is there already.
    return not step.request_id or rng.random() < 0.8


async def run_step(stub, session, step, rng):
    await asyncio.sleep(step.start)
    for _ in range(step.attempts):
        if await attempt(stub, session, step, rng):
            return


async def state_of(stub, session):
    reply = await stub.GetState(pb.GetStateRequest(session=session), timeout=60)
    return json.loads(reply.state.json)


def check(seed, steps, before, after):
    """What the worker has counted must be what the callers were told."""
    for step in steps:
        assert len(set(step.results)) <= 1, f"seed {seed}: retries of {step.message} got different replies: {step.results}"
    indices = [s.results[0][0] for s in steps if s.results]
    assert len(indices) == len(set(indices)), f"seed {seed}: a step index twice: {indices}"
    if after is None:
        return
    ran = after["total_steps"] - before["total_steps"]
    least = sum(s.ran and s.fault.get("fault") not in ("error", "validation") for s in steps)
    most = sum(s.ran or s.may_have_run for s in steps)
    assert least <= ran <= most, f"seed {seed}: {ran} steps ran, of at least {least} and at most {most}"
    assert after["repeated_steps"] == before["repeated_steps"], f"seed {seed}: a step ran twice"


async def interleaving(stub, environment, seed):
    rng = random.Random(seed)
    session = (await stub.CreateSession(pb.CreateSessionRequest(environment=environment), timeout=60)).name
    try:
        before = await state_of(stub, session)
        await stub.Reset(pb.ResetRequest(session=session, seed=seed), timeout=60)
        count = rng.randint(2, 8)
        fatal = rng.randrange(count) if rng.random() < 0.15 else -1
        steps = [Step(rng, i, seed, i == fatal) for i in range(count)]
        rngs = [random.Random(rng.random()) for _ in steps]
        await asyncio.gather(*(run_step(stub, session, s, r) for s, r in zip(steps, rngs)))
        try:
            after = await state_of(stub, session)
        except grpc.aio.AioRpcError as error:
            assert code_of(error)[0] == "ABORTED" and fatal >= 0, (seed, code_of(error), error.details())
            after = None
        check(seed, steps, before, after)
        return steps
    finally:
        await stub.CloseSession(pb.CloseSessionRequest(name=session), timeout=60)


async def run_all(gateway, environment):
    async with grpc.aio.insecure_channel(gateway.target) as channel:
        stub = session_service_pb2_grpc.SessionServiceStub(channel)
        seeds = iter(range(INTERLEAVINGS))
        all_steps = []

        async def worker():
            for seed in seeds:
                try:
                    all_steps.extend(await interleaving(stub, environment, seed))
                except Exception as problem:
                    raise AssertionError(f"interleaving {seed} on {environment}: {problem!r}") from problem

        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
        return all_steps


@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("dialect", ["ws", "http"])
@pytest.mark.timeout(600)
def test_random_interleavings(gateway, dialect, threads):
    http = dialect == "http"
    g = gateway(
        {
            "environments": {
                "e": builtin(
                    "echo", "--faults", "--dialect", dialect, sessions_per_worker=1 if http else 64, max_workers=AT_ONCE + 4 if http else 2, step_timeout_s=20
                )
            }
        },
        "--threads",
        threads,
        "--log-level",
        "warn",
    )
    began = time.monotonic()
    steps = asyncio.run(run_all(g, "e"))
    # The test would be worth nothing if what it is about did not occur.
    done = sum(bool(s.results) for s in steps)
    retried = sum(len(s.results) > 1 for s in steps)
    late = sum(s.ran and not s.results for s in steps)
    lost = sum(s.lost for s in steps)
    print(f"{dialect}: {INTERLEAVINGS} interleavings, {len(steps)} steps: {done} answered, {retried} more than once, {late} given up, {lost} lost, {time.monotonic() - began:.1f} s")
    assert done > INTERLEAVINGS and retried > 50 and late > 20 and lost > 50
    assert g.metric("envgate_replies_kept_served_total") > 50
    g.wait_for(lambda: g.metric("envgate_sessions") == 0, what="no session is left")


@pytest.mark.parametrize("dialect", ["ws", "http"])
def test_a_late_reply_goes_to_its_own_step_only(gateway, dialect):
    """The plain case that OpenEnv's own client gets wrong: after one timeout, every later reply is one step late."""
    g = gateway({"environments": {"e": builtin("echo", "--faults", "--dialect", dialect)}})
    session = g.sessions.CreateSession(pb.CreateSessionRequest(environment="e")).name
    g.sessions.Reset(pb.ResetRequest(session=session))

    slow = pb.StepRequest(session=session, action=action("slow", fault="slow", ms=400), request_id="a", timeout_s=0.1)
    with pytest.raises(grpc.RpcError) as late:
        g.sessions.Step(slow)
    assert code_of(late.value) == ("DEADLINE_EXCEEDED", "STEP_IN_PROGRESS")

    # One that can't begin in time says so, and is not begun later.
    with pytest.raises(grpc.RpcError) as waiting:
        g.sessions.Step(pb.StepRequest(session=session, action=action("never"), timeout_s=0.05))
    assert code_of(waiting.value) == ("DEADLINE_EXCEEDED", "STEP_NOT_STARTED")

    following = [json.loads(g.sessions.Step(pb.StepRequest(session=session, action=action(f"m{i}"))).observation.json) for i in range(3)]
    assert [f["echoed_message"] for f in following] == ["m0", "m1", "m2"]

    slow.timeout_s = 5
    collected = g.sessions.Step(slow)
    assert json.loads(collected.observation.json)["echoed_message"] == "slow"
    assert collected.step_index == 1
    state = json.loads(g.sessions.GetState(pb.GetStateRequest(session=session)).state.json)
    assert (state["total_steps"], state["repeated_steps"]) == (4, 0)


def test_preconditions(gateway):
    g = gateway()
    session = g.sessions.CreateSession(pb.CreateSessionRequest(environment="echo")).name
    reset = g.sessions.Reset(pb.ResetRequest(session=session, episode_id="first"))
    assert (reset.episode_id, reset.step_index) == ("first", 0)
    ok = g.sessions.Step(pb.StepRequest(session=session, action=action("a"), episode_id="first", step_index=1, request_id="x"))
    assert ok.step_index == 1

    def refused(**fields):
        with pytest.raises(grpc.RpcError) as error:
            g.sessions.Step(pb.StepRequest(session=session, **{"action": action("b"), **fields}))
        return code_of(error.value)

    assert refused(episode_id="other") == ("FAILED_PRECONDITION", "EPISODE_MISMATCH")
    assert refused(step_index=1) == ("FAILED_PRECONDITION", "STEP_INDEX_MISMATCH")
    assert refused(step_index=3) == ("FAILED_PRECONDITION", "STEP_INDEX_MISMATCH")
    assert refused(request_id="x") == ("FAILED_PRECONDITION", "REQUEST_ID_REUSED")
    again = g.sessions.Step(pb.StepRequest(session=session, action=action("a"), episode_id="first", step_index=1, request_id="x"))
    assert again.observation.json == ok.observation.json and again.step_index == 1
    state = json.loads(g.sessions.GetState(pb.GetStateRequest(session=session)).state.json)
    assert state["total_steps"] == 1


def test_creation_is_retried_safely(gateway):
    g = gateway(None, "--threads", "2")
    request = pb.CreateSessionRequest(environment="echo", request_id="one")
    names = {g.sessions.CreateSession(request).name for _ in range(3)}
    # A second connection is another reactor's as likely as not.
    with grpc.insecure_channel(g.target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        names.add(session_service_pb2_grpc.SessionServiceStub(channel).CreateSession(request).name)
    assert len(names) == 1
    with pytest.raises(grpc.RpcError) as error:
        g.sessions.CreateSession(pb.CreateSessionRequest(environment="cartpole", request_id="one"))
    assert code_of(error.value) == ("FAILED_PRECONDITION", "REQUEST_ID_REUSED")


def test_queue_is_bounded_and_in_order(gateway):
    g = gateway({"environments": {"e": builtin("echo", "--faults", queue_limit=4)}})
    session = g.sessions.CreateSession(pb.CreateSessionRequest(environment="e")).name
    g.sessions.Reset(pb.ResetRequest(session=session))
    running = g.sessions.Step.future(pb.StepRequest(session=session, action=action("0", fault="slow", ms=500)))
    g.wait_for(lambda: g.metric("envgate_sessions", state="busy") == 1)
    waiting = []
    for i in range(1, 5):
        waiting.append(g.sessions.Step.future(pb.StepRequest(session=session, action=action(str(i)))))
        g.wait_for(lambda: g.metric("envgate_session_queue_length") == i)
    with pytest.raises(grpc.RpcError) as error:
        g.sessions.Step(pb.StepRequest(session=session, action=action("over")))
    assert code_of(error.value) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
    assert [f.result().step_index for f in [running, *waiting]] == [1, 2, 3, 4, 5]


def test_close_ends_what_runs_and_waits(gateway):
    g = gateway({"environments": {"e": builtin("echo", "--faults", sessions_per_worker=4)}})
    session = g.sessions.CreateSession(pb.CreateSessionRequest(environment="e")).name
    futures = [g.sessions.Step.future(pb.StepRequest(session=session, action=action(str(i), fault="slow", ms=3000))) for i in range(3)]
    g.wait_for(lambda: g.metric("envgate_session_queue_length") == 2)
    g.sessions.CloseSession(pb.CloseSessionRequest(name=session))
    for future in futures:
        assert code_of(future.exception()) == ("ABORTED", "SESSION_CLOSED")
    with pytest.raises(grpc.RpcError) as error:
        g.sessions.GetSession(pb.GetSessionRequest(name=session))
    assert code_of(error.value) == ("NOT_FOUND", "SESSION_NOT_FOUND")


def test_legacy_worker_is_not_shared_with_a_step_that_still_runs(gateway):
    """A plain HTTP worker is one session: its slot is free only when the closed session's step has ended."""
    g = gateway({"environments": {"e": builtin("echo", "--faults", "--dialect", "http", max_workers=1)}})
    first = g.sessions.CreateSession(pb.CreateSessionRequest(environment="e")).name
    g.sessions.Reset(pb.ResetRequest(session=first))
    future = g.sessions.Step.future(pb.StepRequest(session=first, action=action("old", fault="slow", ms=700)))
    g.wait_for(lambda: g.metric("envgate_sessions", state="busy") == 1)
    began = time.monotonic()
    g.sessions.CloseSession(pb.CloseSessionRequest(name=first))
    assert code_of(future.exception()) == ("ABORTED", "SESSION_CLOSED")
    second = g.sessions.CreateSession(pb.CreateSessionRequest(environment="e")).name
    assert time.monotonic() - began > 0.4
    g.sessions.Reset(pb.ResetRequest(session=second))
    assert g.sessions.Step(pb.StepRequest(session=second, action=action("new"))).step_index == 1


def test_leases_and_idle_timeouts(gateway):
    g = gateway({"environments": {"e": builtin("echo", "--faults", sessions_per_worker=4)}})
    create = lambda **f: g.sessions.CreateSession(pb.CreateSessionRequest(environment="e", **f)).name
    leased, idle, kept = create(lease_s=1.0), create(idle_timeout_s=1.0), create(lease_s=1.5)
    # Any call renews a lease; only work counts against idleness; work that runs holds both.
    slow = g.sessions.Step.future(pb.StepRequest(session=kept, action=action("x", fault="slow", ms=2500)))
    end = time.monotonic() + 2
    while time.monotonic() < end:
        for name in (leased, idle):
            try:
                g.sessions.GetSession(pb.GetSessionRequest(name=name))
            except grpc.RpcError as error:
                assert name == idle and code_of(error) == ("NOT_FOUND", "SESSION_NOT_FOUND")
        time.sleep(0.1)
    assert g.metric("envgate_sessions_expired_total") == 1
    assert slow.result().step_index == 1
    g.sessions.GetSession(pb.GetSessionRequest(name=leased))
    g.wait_for(lambda: g.metric("envgate_sessions_expired_total") == 3, what="both leases run out")
    g.wait_for(lambda: g.metric("envgate_sessions") == 0)


def test_worker_that_never_answers_is_given_up(gateway):
    g = gateway({"environments": {"e": builtin("echo", "--faults", step_timeout_s=0.5, stop_grace_s=1)}})
    session = g.sessions.CreateSession(pb.CreateSessionRequest(environment="e")).name
    with pytest.raises(grpc.RpcError) as error:
        g.sessions.Step(pb.StepRequest(session=session, action=action("x", fault="hang")), timeout=20)
    assert code_of(error.value) == ("ABORTED", "SESSION_LOST")
    assert "step_timeout_s" in error.value.details()
    info = g.sessions.GetSession(pb.GetSessionRequest(name=session))
    assert info.state == pb.Session.STATE_LOST and info.error.code == 10


@pytest.mark.parametrize("dialect", ["ws", "http"])
def test_a_crash_is_told_with_its_exit_code_and_last_words(gateway, dialect):
    g = gateway({"environments": {"e": builtin("echo", "--faults", "--dialect", dialect)}})
    session = g.sessions.CreateSession(pb.CreateSessionRequest(environment="e")).name
    with pytest.raises(grpc.RpcError) as error:
        g.sessions.Step(pb.StepRequest(session=session, action=action("x", fault="exit", code=3)), timeout=20)
    assert code_of(error.value) == ("ABORTED", "SESSION_LOST")
    assert "exited with code 3" in error.value.details() and "listening on" in error.value.details()
    # A close frame is told as what it is.
    session = g.sessions.CreateSession(pb.CreateSessionRequest(environment="e")).name
    with pytest.raises(grpc.RpcError) as error:
        g.sessions.Step(pb.StepRequest(session=session, action=action("x", fault="close", code=1013)), timeout=20)
    assert code_of(error.value) == ("ABORTED", "SESSION_LOST")
    if dialect == "ws":
        assert "code 1013" in error.value.details()
