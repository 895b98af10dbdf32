# SPDX-License-Identifier: Apache-2.0
"""Interact: many sessions over one stream, whose replies come as they are done.

Sessions belong to reactors, which their ids name, so most tests run on one reactor and on two: then some requests cross and others don't.
"""

import asyncio
import json
import queue
import random
import signal
import threading
import time

import grpc
import h2.settings
import pytest
import websockets.sync.client
from conftest import SLOW, builtin, code_of
from h2_client import GRPC, Client, message
from test_auth import File
from test_exactly_once import action
from test_large_payloads import forget_peak, memory_mib
from test_step_batch import create_many, fate, field, total_steps

from envgate.v1 import payload_pb2, session_service_pb2 as pb, session_service_pb2_grpc

INTERACT = "/envgate.v1.SessionService/Interact"
CREDIT = 256
LOCAL = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]


def step(session, text="", request_id="", fields=None, **fault):
    return pb.StepRequest(session=session, action=action(text, **fault), request_id=request_id, **(fields or {}))


def echoed(response):
    return json.loads(response.result.observation.json)["echoed_message"]


class Stream:
    """A stream by grpcio's sync client, on a connection of its own."""

    def __init__(self, g, metadata=None, timeout=60):
        self.channel = grpc.insecure_channel(g.target, options=LOCAL)
        self.requests = queue.SimpleQueue()
        self.call = session_service_pb2_grpc.SessionServiceStub(self.channel).Interact(iter(self.requests.get, None), metadata=metadata, timeout=timeout)
        self.credit, self.last = 0, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.call.cancel()
        self.requests.put(None)
        self.channel.close()

    def send(self, id=None, **request):
        self.last = id if id is not None else self.last + 1
        self.requests.put(pb.InteractRequest(id=self.last, **request))
        return self.last

    def read(self):
        response = next(self.call)
        self.credit += response.credit
        return response

    def first(self):
        response = self.read()
        assert (response.id, response.WhichOneof("response"), response.credit) == (0, None, CREDIT)
        return self

    def ask(self, **request):
        """The response of one request, while no other is under way."""
        id = self.send(**request)
        response = self.read()
        assert response.id == id and response.credit == 1
        return response

    def half_close(self):
        self.requests.put(None)

    def end(self):
        """(code, reason) of the stream's end, behind what else comes."""
        responses = []
        try:
            while True:
                responses.append(self.read())
        except StopIteration:
            return responses, ("OK", "")
        except grpc.RpcError as e:
            return responses, code_of(e)


@pytest.fixture(params=[1, 2], ids=["one reactor", "two reactors"])
def any_gateway(gateway, request):
    g = gateway({"environments": {"e": builtin("echo", "--faults", sessions_per_worker=64, max_workers=4)}}, "--threads", str(request.param))
    g.reactors = request.param
    return g


# --- what it is for -------------------------------------------------------------------------------------------------------------------------


def test_64_sessions(any_gateway):
    """By the asyncio client, whole lives of sessions."""
    g, steps = any_gateway, 20

    async def run():
        async with grpc.aio.insecure_channel(g.target) as channel:
            stream = session_service_pb2_grpc.SessionServiceStub(channel).Interact()
            first = await stream.read()
            assert (first.id, first.WhichOneof("response"), first.credit) == (0, None, CREDIT)

            async def ask(requests):
                for id, request in enumerate(requests):
                    await stream.write(pb.InteractRequest(id=id, **request))
                responses = [await stream.read() for _ in requests]
                assert all(r.credit == 1 and not r.HasField("status") for r in responses)
                assert sorted(r.id for r in responses) == list(range(len(requests)))
                return sorted(responses, key=lambda r: r.id)

            # With a request_id a session is made where that points to.
            made = await ask([{"create_session": pb.CreateSessionRequest(environment="e", request_id=f"c{k}")} for k in range(64)])
            names = [r.session.name for r in made]
            assert len({n[9:11] for n in names}) == g.reactors
            for r in await ask([{"reset": pb.ResetRequest(session=n, seed=7)} for n in names]):
                assert (r.result.session, r.result.step_index) == (names[r.id], 0) and r.result.episode_id
            for i in range(1, steps + 1):
                for r in await ask([{"step": step(n, f"{k}/{i}")} for k, n in enumerate(names)]):
                    assert (echoed(r), r.result.session, r.result.step_index) == (f"{r.id}/{i}", names[r.id], i)
                    assert json.loads(r.result.metadata.json)["executions"] == 1
            for r in await ask([{"get_state": pb.GetStateRequest(session=n)} for n in names]):
                assert r.state.session == names[r.id] and json.loads(r.state.state.json)["step_count"] == steps
            for r in await ask([{"close_session": pb.CloseSessionRequest(name=n)} for n in names]):
                assert r.WhichOneof("response") == "closed"
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF and await stream.code() == grpc.StatusCode.OK

    asyncio.run(run())
    # Each request is a call of its method.
    for method, n in (("CreateSession", 64), ("Reset", 64), ("Step", 64 * steps), ("GetState", 64), ("CloseSession", 64), ("Interact", 1)):
        assert g.metric("envgate_calls_total", method=f"envgate.v1.SessionService/{method}", code="OK") == n, method
    crossed = g.metric("envgate_calls_crossed_total")
    assert (crossed > 0) == (g.reactors == 2)
    assert g.metric("envgate_session_queue_length") == 0


def test_replies_come_as_they_are_done(any_gateway):
    g = any_gateway
    names = create_many(g, 8, g.reactors)
    with Stream(g).first() as s:
        late = s.send(step=step(names[0], "late", fault="slow", ms=700 * SLOW))
        behind = s.send(step=step(names[0], "behind"))  # on the same session: in its order
        for i in range(20):
            ids = {s.send(step=step(n, f"{i}")) for n in names[1:]}
            began = time.monotonic()
            got = [s.read() for _ in ids]
            assert {r.id for r in got} == ids and {echoed(r) for r in got} == {f"{i}"}
            assert time.monotonic() - began < 0.5 * SLOW
            if i == 10:
                break
        responses = [s.read(), s.read()]
        assert [(r.id, echoed(r)) for r in responses] == [(late, "late"), (behind, "behind")]


def test_session_of_a_half_is_awaited_by_its_steps(gateway):
    """CreateSession's own deadline: a session that is PROVISIONING, and steps that wait for it."""
    g = gateway({"environments": {"e": builtin("echo", "--boot-ms", str(1500 * SLOW))}})
    with Stream(g).first() as s:
        r = s.ask(create_session=pb.CreateSessionRequest(environment="e", timeout_s=0.3))
        assert r.session.state == pb.Session.STATE_PROVISIONING and r.session.HasField("launch_progress")
        assert s.ask(reset=pb.ResetRequest(session=r.session.name)).result.step_index == 0
        assert echoed(s.ask(step=step(r.session.name, "x"))) == "x"


# --- each request is what its method is ---------------------------------------------------------------------------------------------------------


def test_errors_are_those_of_the_methods(any_gateway):
    g = any_gateway
    names = create_many(g, 4, g.reactors)
    g.sessions.Step(step(names[0], "one", "used"))
    requests = []
    for n in (names[2], names[3]):
        requests += [
            ("step", step("sessions/none", "x")),
            ("step", step("nonsense", "x")),
            ("step", step("sessions/00" + "a" * 24, "x")),
            ("step", pb.StepRequest(session=n)),
            ("step", pb.StepRequest(session=n, action=payload_pb2.Payload(json=b"[1]"))),
            ("step", pb.StepRequest(session=n, action=payload_pb2.Payload(json=b'{"a":'))),
            ("step", step(n, "x", "r" * 129)),
            ("step", step(n, "x", fields={"timeout_s": -1})),
            ("step", step(n, "x", fields={"episode_id": "another"})),
            ("step", step(n, "x", fields={"step_index": 9})),
            ("step", step(n, "x", fault="error")),
            ("step", step(n, "x", fault="validation")),
            ("step", step(names[0], "another", "used")),
            ("step", step(n, "x", fields={"payload_format": 99})),
            ("reset", pb.ResetRequest(session=n, options=payload_pb2.Payload(json=b'{"seed":1}'))),
            ("reset", pb.ResetRequest(session=n, episode_id="e" * 257)),
            ("get_state", pb.GetStateRequest(session="sessions/")),
            ("create_session", pb.CreateSessionRequest(environment="none")),
            ("create_session", pb.CreateSessionRequest(environment="e", lease_s=-1)),
            ("create_session", pb.CreateSessionRequest(source=pb.EnvironmentSource(image="x"))),
            ("close_session", pb.CloseSessionRequest(name="sessions/none")),
            ("call_tool", pb.CallToolRequest(session=n, tool="none")),
            ("call_tool", pb.CallToolRequest(session=n)),
        ]
    methods = {"step": "Step", "reset": "Reset", "get_state": "GetState", "create_session": "CreateSession", "close_session": "CloseSession", "call_tool": "CallTool"}
    with Stream(g).first() as s:
        for kind, request in requests:
            with pytest.raises(grpc.RpcError) as unary:
                getattr(g.sessions, methods[kind])(request, timeout=30)
            from grpc_status import rpc_status

            expected = rpc_status.from_call(unary.value)
            got = s.ask(**{kind: request}).status
            assert (fate(got), got.message, field(got)) == (fate(expected), expected.message, field(expected)), request
            assert [d.type_url for d in got.details] == [d.type_url for d in expected.details]
        # What asks for nothing is an error of its own, too, and the stream goes on after all of them.
        nothing = s.ask().status
        assert fate(nothing) == ("INVALID_ARGUMENT", "INVALID_REQUEST") and field(nothing) == "request"
        assert echoed(s.ask(step=step(names[1], "good"))) == "good"
        s.half_close()
        assert s.end() == ([], ("OK", ""))


def test_request_ids(any_gateway):
    g = any_gateway
    names = create_many(g, 2, g.reactors)
    for name in names:
        with Stream(g).first() as s:
            # Two of them under way, and one when it is done: one step.
            ids = [s.send(step=step(name, "once", "id", fault="slow", ms=100)) for _ in range(2)]
            got = [s.read() for _ in ids]
            got.append(s.ask(step=step(name, "once", "id", fault="slow", ms=100)))
            assert len({r.result.metadata.json for r in got}) == 1 and {r.result.step_index for r in got} == {1}
            made = [s.ask(create_session=pb.CreateSessionRequest(environment="e", request_id=f"{name}-new")).session.name for _ in range(2)]
            assert made[0] == made[1]
        assert total_steps(g, name) == 1


def test_timeouts_are_each_requests_own(any_gateway):
    g = any_gateway
    names = create_many(g, 2, g.reactors)
    slow = {"fault": "slow", "ms": 900 * SLOW}
    with Stream(g).first() as s:
        for name in names:
            runs = s.send(step=step(name, "runs", "runs", fields={"timeout_s": 0.2}, **slow))
            waits = s.send(step=step(name, "waits", "waits", fields={"timeout_s": 0.3}))
            got = {r.id: fate(r.status) for r in (s.read(), s.read())}
            assert got == {runs: ("DEADLINE_EXCEEDED", "STEP_IN_PROGRESS"), waits: ("DEADLINE_EXCEEDED", "STEP_NOT_STARTED")}
            # The first goes on, and its request_id collects it; the second was not begun.
            assert echoed(s.ask(step=step(name, "runs", "runs", **slow))) == "runs"
            assert total_steps(g, name) == 1


def test_large_and_other_payloads(any_gateway):
    g = any_gateway
    names = create_many(g, 2, g.reactors)
    with Stream(g).first() as s:
        for n in (3, 20_000, 200_000, 5_000_000):
            for name in names:
                s.send(step=step(name, "big", fault="big", bytes=n))
                s.send(step=step(name, "x", fields={"payload_format": payload_pb2.PAYLOAD_FORMAT_VALUE}))
            for r in [s.read() for _ in range(4)]:
                if r.result.observation.HasField("value"):
                    assert r.result.observation.value.struct_value["echoed_message"] == "x"
                else:
                    assert echoed(r) == "big" and n - 1000 <= len(r.result.observation.json) <= max(n, 1000)


# --- credit and callers who don't read -------------------------------------------------------------------------------------------------------------


class Raw(Client):
    """A stream in single frames, whose caller reads only what it wants to."""

    def __init__(self, target, window=65535, kind="application/grpc", headers=()):
        super().__init__(target)
        self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.stream = self.start(INTERACT, headers=[("content-type", kind), ("te", "trailers"), *headers])
        self.reply = self.replies[self.stream]
        self.reply.data = bytearray()
        self.frames = []  # (flags, message) of those that are whole

    def ask(self, *requests, end=False):
        data = b"".join(message(pb.InteractRequest(id=i, **r).SerializeToString()) for i, r in requests)
        self.send(self.stream, data, end=end)

    def take(self, event):
        super().take(event)
        data = self.reply.data
        while len(data) >= 5 and len(data) >= 5 + (n := int.from_bytes(data[1:5], "big")):
            self.frames.append((data[0], bytes(data[5 : 5 + n])))
            del data[: 5 + n]

    def ended(self):
        return self.reply.ended or self.reply.reset is not None

    def responses(self, n=None, seconds=30):
        """The next n, or all until the end."""
        self.pump(lambda: self.ended() or (n is not None and len(self.frames) >= n), seconds * SLOW)
        taken = self.frames if n is None else self.frames[:n]
        self.frames = self.frames[len(taken) :]
        return [pb.InteractResponse.FromString(m) for _, m in taken]


@pytest.mark.parametrize("reactors", [1, 2])
def test_credit_is_kept(gateway, reactors):
    g = gateway({"environments": {"e": builtin("echo", "--faults", sessions_per_worker=64, queue_limit=100)}}, "--threads", str(reactors))
    names = create_many(g, 8, reactors)
    slow = {"fault": "slow", "ms": 1000 * SLOW}
    with Raw(g.target) as c:
        # As many as were granted are fine. The first of each session holds up the others.
        c.ask(*[(i, {"step": step(names[i % 8], f"{i}", f"id{i}", **(slow if i < 8 else {}))}) for i in range(CREDIT)])
        responses = c.responses(1 + CREDIT)
        assert sorted(r.id for r in responses[1:]) == list(range(CREDIT)) and responses[0].credit == CREDIT
        assert all(r.HasField("result") and r.credit == 1 for r in responses[1:])
        # One more than that ends the stream.
        c.ask(*[(i, {"step": step(names[i % 8], f"{i}", f"again{i}", **(slow if i < 8 else {}))}) for i in range(CREDIT)])
        c.ask((1, {"get_state": pb.GetStateRequest(session=names[0])}))
        assert not c.responses()
        assert (c.reply.status, c.reply.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], "CREDIT_EXCEEDED")
        # The connection and the sessions are as before, and what ran can be collected.
        assert c.call().status == 0
    assert json.loads(g.sessions.Step(step(names[3], "3", "again3", **slow)).observation.json)["echoed_message"] == "3"


@pytest.mark.parametrize("size, sessions, bound", [(28_000, 64, 24), (2_000_000, 64, 80)], ids=["28 KB", "2 MB"])
def test_unread_replies_cost_bounded_memory(gateway, size, sessions, bound):
    """A caller that sends on and on, without regard to what it reads: nothing is lost, and no more is held than the credit and the flow allow."""
    if SLOW != 1:
        size //= 10  # a sanitizer's memory says nothing
    g = gateway({"environments": {"e": builtin("echo", "--faults", sessions_per_worker=64, max_workers=4)}}, "--threads", "2")
    names = create_many(g, sessions)
    rounds = CREDIT // sessions if size < 100_000 else 1
    with Raw(g.target, window=1 << 16) as c:
        c.responses(1)
        forget_peak(g.pid)
        before = memory_mib(g.pid, "VmRSS:")
        c.ask(*[(1 + i, {"step": step(names[i % sessions], f"{i}", fault="big", bytes=size)}) for i in range(rounds * sessions)])
        time.sleep(2)  # it takes nothing of them
        grown = memory_mib(g.pid, "VmHWM:") - before
        if SLOW == 1:
            assert grown < bound, f"{grown} MiB"
        total = rounds * sessions
        responses = c.responses(total, 120)
        assert sorted(r.id for r in responses) == list(range(1, total + 1))
        for r in responses:
            assert r.HasField("result"), r.status
            assert echoed(r) == f"{r.id - 1}"
        if SLOW == 1:
            grown = memory_mib(g.pid, "VmHWM:") - before
            assert grown < bound, f"{grown} MiB"
        # Now it has its credit again, all of it.
        assert sum(r.credit for r in responses) == total
        c.ask(*[(i, {"get_state": pb.GetStateRequest(session=names[i % sessions])}) for i in range(sessions)], end=True)
        assert len(c.responses()) == sessions and c.reply.status == 0
    for name in names:
        assert total_steps(g, name) == rounds


def test_other_calls_of_its_connection_go_on(gateway):
    """A stream that is not read holds up its own requests and no other's."""
    g = gateway({"environments": {"e": builtin("echo", "--faults", sessions_per_worker=64)}})
    names = create_many(g, 9, 1)
    with Raw(g.target, window=1 << 16) as c:
        c.h2.increment_flow_control_window(1 << 24)
        c.ask(*[(i, {"step": step(names[i % 8], "x", fault="big", bytes=28_000)}) for i in range(64)])
        body = pb.GetStateRequest(session=names[8]).SerializeToString()
        for _ in range(20):
            assert c.call("/envgate.v1.SessionService/GetState", message(body)).status == 0


def test_requests_under_way_are_bounded_in_bytes(gateway):
    g = gateway({"environments": {"e": builtin("echo", "--faults", sessions_per_worker=64)}})
    (name,) = create_many(g, 1, 1)
    with Stream(g).first() as s:
        s.send(step=step(name, "", fault="slow", ms=1500 * SLOW))
        for i in range(12):
            s.send(step=step(name, "m" * 4_000_000))
        fates = [fate(r.status) if r.HasField("status") else "good" for r in (s.read() for _ in range(13))]
        assert fates.count("good") == 9 and fates.count(("RESOURCE_EXHAUSTED", "QUEUE_FULL")) == 4


# --- the end ------------------------------------------------------------------------------------------------------------------------------------


def test_half_close(any_gateway):
    g = any_gateway
    names = create_many(g, 8, g.reactors)
    with Stream(g).first() as s:
        ids = [s.send(step=step(n, "x", fault="slow", ms=300)) for n in names]
        s.half_close()
        responses, end = s.end()
        assert sorted(r.id for r in responses) == ids and end == ("OK", "")
    with Stream(g).first() as s:
        s.half_close()
        assert s.end() == ([], ("OK", ""))


@pytest.mark.parametrize("how", ["cancel", "connection", "deadline"])
def test_a_stream_that_breaks_off(any_gateway, how):
    """Steps run on, and their request_ids collect them; sessions stay."""
    g = any_gateway
    names = create_many(g, 8, g.reactors)
    slow = {"fault": "slow", "ms": 600 * SLOW}
    requests = [(k, {"step": step(n, f"{k}", f"id{k}", **slow)}) for k, n in enumerate(names)]
    waiting = [(8 + k, {"step": step(n, "waits", f"w{k}")}) for k, n in enumerate(names)]
    if how == "deadline":
        with Raw(g.target, headers=[("grpc-timeout", f"{300 * SLOW}m")]) as c:
            c.ask(*requests, *waiting)
            assert [r.id for r in c.responses()] == [0] and c.reply.status == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    else:
        with Raw(g.target) as c:
            c.ask(*requests, *waiting)
            g.wait_for(lambda: g.metric("envgate_session_queue_length") == 8, what="the requests' arrival")
            if how == "cancel":
                c.h2.reset_stream(c.stream, 8)
                c.flush()
                assert c.call().status == 0
    g.wait_for(lambda: g.metric("envgate_session_queue_length") == 0, what="the waiters' leave")
    g.wait_for(lambda: g.metric("envgate_calls_in_flight") <= 1, what="the end of all calls")  # the scrape is none
    with Stream(g).first() as s:
        for id, request in requests:
            s.send(id, **request)
        for r in [s.read() for _ in requests]:
            assert echoed(r) == f"{r.id}" and r.result.step_index == 1
    assert [total_steps(g, n) for n in names] == [1] * 8


def test_creation_of_a_broken_stream_is_given_up(gateway):
    g = gateway({"environments": {"e": builtin("echo", "--boot-ms", str(800 * SLOW), max_workers=1)}})
    with Raw(g.target) as c:
        c.ask((1, {"create_session": pb.CreateSessionRequest(environment="e")}))
        g.wait_for(lambda: g.metric("envgate_sessions", state="provisioning") == 1, what="the session")
    g.wait_for(lambda: g.metric("envgate_sessions", state="provisioning") == 0, what="its end")
    assert g.metric("envgate_sessions", state="ready") == 0


@pytest.mark.parametrize("junk", [b"\xff\xff", b"\x1a\x05\x0a\x10abc", b"\x1a\x03\x0a\x01\xff"])
def test_malformed_messages_end_it(gateway, junk):
    g = gateway({"environments": {"e": builtin("echo", "--faults", sessions_per_worker=64)}})
    (name,) = create_many(g, 1, 1)
    with Raw(g.target) as c:
        c.ask((1, {"step": step(name, "x", "id", fault="slow", ms=300)}))
        c.send(c.stream, message(junk))
        c.responses()
        assert (c.reply.status, c.reply.reason) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], "INVALID_REQUEST")
    assert json.loads(g.sessions.Step(step(name, "x", "id", fault="slow", ms=300)).observation.json)["echoed_message"] == "x"


def test_sessions_that_are_closed_under_way(any_gateway):
    g = any_gateway
    names = create_many(g, 4, g.reactors)
    with Stream(g).first() as s:
        for name in names:
            steps = [s.send(step=step(name, "x", fault="slow", ms=500)) for _ in range(4)]
            close = s.send(close_session=pb.CloseSessionRequest(name=name))
            got = {r.id: r for r in (s.read() for _ in range(5))}
            assert got[close].WhichOneof("response") == "closed"
            assert {fate(got[i].status) for i in steps} == {("ABORTED", "SESSION_CLOSED")}


def test_drain(any_gateway):
    g = any_gateway
    names = create_many(g, 4, g.reactors)
    with Stream(g).first() as idle, Stream(g).first() as s:
        ids = [s.send(step=step(n, "x", fault="slow", ms=700 * SLOW)) for n in names]
        g.wait_for(lambda: g.metric("envgate_sessions", state="busy") == 4, what="the steps")
        g.process.send_signal(signal.SIGTERM)
        assert idle.end() == ([], ("UNAVAILABLE", "DRAINING"))
        refused = s.send(step=step(names[0], "late"))
        r = s.read()
        assert r.id == refused and fate(r.status) == ("UNAVAILABLE", "DRAINING")
        responses, end = s.end()
        assert sorted(r.id for r in responses) == ids and all(echoed(r) == "x" for r in responses)
        assert end == ("UNAVAILABLE", "DRAINING")


# --- who may ------------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(gateway, tmp_path):
    file = File(tmp_path / "auth")
    for principal, scope, *limits in (("alice", "trainer"), ("bob", "trainer", "--sessions", "2"), ("robot", "agent"), ("eve", "trainer"), ("few", "trainer")):
        file.add(principal, scope, *limits)
    file.lines[-1] += " calls=3"
    file.write()
    g = gateway({"environments": {"e": builtin("echo", "--faults", sessions_per_worker=64)}}, "--auth-file", str(file.path), "--metrics-open", "--threads", "2")
    g.file = file
    return g


def bearer(g, principal):
    return [("authorization", f"Bearer {g.file.tokens[principal]}")]


def test_owners_and_scopes(guarded):
    g = guarded
    for metadata, expected in (
        (None, ("UNAUTHENTICATED", "CREDENTIALS_MISSING")),
        ([("authorization", "Bearer wrong")], ("UNAUTHENTICATED", "CREDENTIALS_UNKNOWN")),
        (bearer(g, "robot"), ("PERMISSION_DENIED", "SCOPE_DENIED")),
    ):
        with Stream(g, metadata) as s:
            assert s.end() == ([], expected)
    with Stream(g, bearer(g, "alice")).first() as alice, Stream(g, bearer(g, "bob")).first() as bob:
        names = [alice.ask(create_session=pb.CreateSessionRequest(environment="e", request_id=f"{k}")).session.name for k in range(4)]
        for name in names:
            assert alice.ask(reset=pb.ResetRequest(session=name)).HasField("result")
            for request in (
                {"step": step(name, "x")},
                {"reset": pb.ResetRequest(session=name)},
                {"get_state": pb.GetStateRequest(session=name)},
                {"close_session": pb.CloseSessionRequest(name=name)},
            ):
                assert fate(bob.ask(**request).status) == ("NOT_FOUND", "SESSION_NOT_FOUND")
            assert echoed(alice.ask(step=step(name, "mine"))) == "mine"
        # The same request_id makes another session for another, who may have two.
        made = [bob.ask(create_session=pb.CreateSessionRequest(environment="e", request_id=f"{k}")) for k in range(3)]
        assert not {r.session.name for r in made} & set(names)
        assert [fate(r.status) if r.HasField("status") else "" for r in made] == ["", "", ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")]


def test_calls_are_counted(guarded):
    """The stream is one, and so is each request."""
    g = guarded
    with Stream(g, bearer(g, "few")).first() as s:
        names = [s.ask(create_session=pb.CreateSessionRequest(environment="e")).session.name for _ in range(4)]
        ids = [s.send(step=step(n, "x", fault="slow", ms=400)) for n in names]
        got = {r.id: r for r in (s.read() for _ in ids)}
        assert [echoed(got[i]) if got[i].HasField("result") else fate(got[i].status) for i in ids] == ["x"] * 2 + [("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")] * 2
        assert echoed(s.ask(step=step(names[3], "y"))) == "y"


def test_a_credential_that_is_taken_away(guarded):
    """It counts for each request, as for each call."""
    g = guarded
    with Stream(g, bearer(g, "eve")).first() as s:
        name = s.ask(create_session=pb.CreateSessionRequest(environment="e")).session.name
        g.file.lines = [line for line in g.file.lines if "principal=eve" not in line]
        g.file.write()
        g.wait_for(lambda: g.log("auth.reloaded"), what="the new file")
        g.wait_for(
            lambda: fate(s.ask(step=step(name, "x")).status) == ("UNAUTHENTICATED", "CREDENTIALS_UNKNOWN"), what="the refusal"
        )  # each reactor is told


# --- other protocols -----------------------------------------------------------------------------------------------------------------------------


def test_connect_json(any_gateway):
    g = any_gateway
    names = create_many(g, 4, g.reactors)
    with Raw(g.target, kind="application/connect+json") as c:
        c.pump(lambda: c.frames)
        for i, n in enumerate(names):
            c.send(c.stream, message(json.dumps({"id": i, "step": {"session": n, "action": {"message": f"ü{i}"}, "requestId": f"r{i}"}}).encode()))
        c.send(c.stream, message(b'{"id": "18446744073709551615", "getState": {"session": "sessions/none"}}'), end=True)
        c.pump(c.ended, 20 * SLOW)
        assert c.reply.headers[":status"] == "200"
        replies = [(flags, json.loads(m)) for flags, m in c.frames]
        assert replies[0] == (0, {"credit": CREDIT}) and replies[-1] == (2, {})
        got = {r["id"]: r for _, r in replies[1:-1]}
        for i, n in enumerate(names):
            result = got[str(i)]["result"]
            assert (result["session"], result["stepIndex"], result["observation"]["echoed_message"]) == (n, "1", f"ü{i}")
            assert got[str(i)]["credit"] == 1
        status = got["18446744073709551615"]["status"]
        assert status["code"] == 5 and status["details"][0]["reason"] == "SESSION_NOT_FOUND"


def test_http1_has_one_turn(shared_gateway):
    """Without HTTP/2 a Connect stream is all requests, then all replies."""
    g = shared_gateway
    body = b"".join(message(pb.InteractRequest(id=i, get_state=pb.GetStateRequest(session="sessions/none")).SerializeToString()) for i in range(3))
    reply = g.http.post(g.url + INTERACT, data=body, headers={"content-type": "application/connect+proto"}, timeout=30)
    assert reply.status_code == 200
    frames, data = [], reply.content
    while data:
        n = int.from_bytes(data[1:5], "big")
        frames.append(data[5 : 5 + n])
        data = data[5 + n :]
    assert frames.pop() == b"{}"
    responses = [pb.InteractResponse.FromString(f) for f in frames]
    assert [r.id for r in responses] == [0, 0, 1, 2] and {fate(r.status) for r in responses[1:]} == {("NOT_FOUND", "SESSION_NOT_FOUND")}


# --- by WebSocket --------------------------------------------------------------------------------------------------------------------------------


def socket(g, *protocols, **keys):
    return websockets.sync.client.connect(f"ws://{g.target}/v1/interact", subprotocols=list(protocols), compression=None, max_size=None, **keys)


def test_websocket_json(any_gateway):
    g = any_gateway
    names = create_many(g, 4, g.reactors)
    with socket(g, "envgate.v1.json") as ws:
        assert ws.subprotocol == "envgate.v1.json"
        assert json.loads(ws.recv(10)) == {"id": "0", "credit": CREDIT}
        for i, n in enumerate(names):
            ws.send(json.dumps({"id": i + 1, "step": {"session": n, "action": {"message": f"ü{i}"}, "request_id": f"r{i}"}}))
        got = {r["id"]: r for r in (json.loads(ws.recv(10)) for _ in names)}
        for i, n in enumerate(names):
            response = got[str(i + 1)]
            result = response["result"]
            assert (result["session"], result["step_index"], result["observation"]["echoed_message"]) == (n, "1", f"ü{i}")
            assert response["credit"] == 1 and result["done"] is False  # as REST has it
        ws.send(json.dumps({"id": "18446744073709551615", "get_state": {"session": names[0]}}))
        state = json.loads(ws.recv(10))
        assert state["id"] == "18446744073709551615" and state["state"]["session"] == names[0] and state["state"]["state"]["step_count"] == 1
        ws.send(json.dumps({"id": 9, "step": {"session": "sessions/none", "action": {}}}))
        assert json.loads(ws.recv(10))["status"]["details"][0]["reason"] == "SESSION_NOT_FOUND"
        # What is malformed ends it, and the last message says why.
        ws.send('{"id": 1, "stepp": {}}')
        last = json.loads(ws.recv(10))
        assert last["id"] == "0" and last["status"]["code"] == 3 and "stepp" in last["status"]["message"]
        with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
            ws.recv(10)
        assert closed.value.rcvd.code == 1008


def test_websocket_proto(any_gateway):
    g = any_gateway
    names = create_many(g, 4, g.reactors)
    with socket(g, "other", "envgate.v1.proto") as ws:
        assert ws.subprotocol == "envgate.v1.proto"

        def read():
            return pb.InteractResponse.FromString(ws.recv(30))

        assert read().credit == CREDIT
        for size in (3, 28_000, 3_000_000):
            for i, n in enumerate(names):
                ws.send(pb.InteractRequest(id=i, step=step(n, "x", fault="big", bytes=size)).SerializeToString())
            got = [read() for _ in names]
            assert {r.id for r in got} == set(range(4)) and all(echoed(r) == "x" and len(r.result.observation.json) >= size - 1000 for r in got)
        slow = step(names[1], "slow", "id", fault="slow", ms=400)
        ws.send(pb.InteractRequest(id=1, step=slow).SerializeToString())
        g.wait_for(lambda: g.metric("envgate_sessions", state="busy") == 1, what="the step")
    # The caller has gone: the step goes on, and is collected.
    assert g.sessions.Step(slow).step_index == 4
    with socket(g, "envgate.v1.proto") as ws:
        ws.send("text")
        with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
            while True:
                ws.recv(10)
        assert closed.value.rcvd.code == 1008


def test_websocket_unread_replies(gateway):
    g = gateway({"environments": {"e": builtin("echo", "--faults", sessions_per_worker=64)}})
    names = create_many(g, 64, 1)
    with socket(g, "envgate.v1.proto", max_queue=1) as ws:
        ws.recv(10)
        forget_peak(g.pid)
        before = memory_mib(g.pid, "VmRSS:")
        size = 2_000_000 if SLOW == 1 else 200_000
        for i, n in enumerate(names):
            ws.send(pb.InteractRequest(id=i, step=step(n, f"{i}", fault="big", bytes=size)).SerializeToString())
        time.sleep(2)
        got = [pb.InteractResponse.FromString(ws.recv(60)) for _ in names]
        assert sorted(r.id for r in got) == list(range(64)) and all(echoed(r) == f"{r.id}" for r in got)
        grown = memory_mib(g.pid, "VmHWM:") - before
        assert grown < 80 or SLOW > 1, f"{grown} MiB"


def test_websocket_drain(gateway):
    g = gateway({"environments": {"e": builtin("echo", "--faults", sessions_per_worker=64)}})
    (name,) = create_many(g, 1, 1)
    with socket(g, "envgate.v1.json") as ws:
        ws.recv(10)
        ws.send(json.dumps({"id": 1, "step": {"session": name, "action": {"message": "x", "fault": "slow", "ms": 500}}}))
        g.wait_for(lambda: g.metric("envgate_sessions", state="busy") == 1, what="the step")
        g.process.send_signal(signal.SIGTERM)
        assert json.loads(ws.recv(10))["result"]["observation"]["echoed_message"] == "x"
        assert json.loads(ws.recv(10))["status"]["details"][0]["reason"] == "DRAINING"
        with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
            ws.recv(10)
        assert closed.value.rcvd.code == 1012


def refused(g, *protocols, **keys):
    with pytest.raises(websockets.exceptions.InvalidStatus) as e, socket(g, *protocols, **keys):
        pass
    return e.value.response.status_code


def test_websocket_callers(guarded):
    """A browser's token is a subprotocol that is offered; others send Authorization."""
    g = guarded
    alice, robot = g.file.tokens["alice"], g.file.tokens["robot"]
    assert refused(g, "envgate.v1.json") == 401
    assert refused(g, "envgate.v1.json", "envgate.bearer.wrong") == 401
    assert refused(g, "envgate.v1.json", f"envgate.bearer.{robot}") == 403
    assert refused(g, "envgate.v1.json", f"envgate.bearer.{alice}", "envgate.bearer.wrong") == 401
    assert refused(g, "envgate.v1.json", f"envgate.bearer.{alice}", additional_headers={"Authorization": f"Bearer {alice}"}) == 401
    assert refused(g, f"envgate.bearer.{alice}") == 400
    assert refused(g, "envgate.v1.json", f"envgate.bearer.{alice}", origin="https://evil.example") == 403
    for protocols, keys in (
        (["envgate.v1.json", f"envgate.bearer.{alice}"], {"origin": f"http://{g.target}"}),
        ([f"envgate.bearer.{alice}", "envgate.v1.json"], {}),
        (["envgate.v1.json"], {"additional_headers": {"Authorization": f"Bearer {alice}"}}),
    ):
        with socket(g, *protocols, **keys) as ws:
            assert ws.subprotocol == "envgate.v1.json"
            ws.recv(10)
            ws.send(json.dumps({"id": 1, "create_session": {"environment": "e"}}))
            name = json.loads(ws.recv(30))["session"]["name"]
            assert fate_of_json(g, "bob", name) == "SESSION_NOT_FOUND"
    assert alice not in g.log_text()


def fate_of_json(g, principal, name):
    with socket(g, "envgate.v1.json", f"envgate.bearer.{g.file.tokens[principal]}") as ws:
        ws.recv(10)
        ws.send(json.dumps({"id": 1, "close_session": {"name": name}}))
        return json.loads(ws.recv(10))["status"]["details"][0]["reason"]
