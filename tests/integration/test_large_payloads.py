# SPDX-License-Identifier: Apache-2.0
"""Large replies: every byte arrives, a caller that does not read costs at most a fixed buffer, and nobody else waits for it."""

import http
import http.client
import json
import os
import pathlib
import random
import signal
import string
import threading
import time

import grpc
import h2.events
import h2.settings
import pytest
import websockets.sync.server
from conftest import SLOW, builtin, code_of
from h2_client import GRPC, Client, dial, message

from envgate.v1 import payload_pb2, session_service_pb2 as pb, session_service_pb2_grpc

MB = 1 << 20
STEP = "/envgate.v1.SessionService/Step"
STREAMS = 128
BIG = 8 * MB if SLOW == 1 else MB  # with a sanitizer there is no bound to keep, only races and leaks to look for
BUDGET_MIB = 16


def big(n, tag=""):
    return json.dumps({"message": tag, "fault": "big", "bytes": n}).encode()


def memory_mib(pid, field):
    (line,) = [x for x in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith(field)]
    return int(line.split()[1]) / 1024


def forget_peak(pid):
    pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")  # VmHWM begins anew


class Reader(Client):
    """Reads only when it is told to, and checks replies as they end, which are thrown away then."""

    def __init__(self, target, window=2**31 - 1):
        super().__init__(target)
        self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        if window > 65535:
            self.h2.increment_flow_control_window(2**31 - 1 - 65535)
        self.flush()
        self.acknowledges = True

    def take(self, event):
        if not isinstance(event, h2.events.DataReceived):
            return super().take(event)
        reply = self.replies[event.stream_id]
        if not reply.data:
            reply.data = bytearray()
        reply.data += event.data
        if self.acknowledges and event.flow_controlled_length:
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def step(self, session, action, **fields):
        body = pb.StepRequest(session=session, action=payload_pb2.Payload(json=action), **fields).SerializeToString()
        stream = self.start(STEP, headers=GRPC)
        self.send(stream, message(body), end=True)
        return stream

    def result(self, stream):
        reply = self.replies[stream]
        assert reply.status == 0, reply.fields()
        data, reply.data = bytes(reply.data), b""
        assert data[0] == 0 and int.from_bytes(data[1:5], "big") == len(data) - 5
        return pb.StepResult.FromString(data[5:])

    def read_all(self, streams, check, seconds=60):
        """Reads until all have ended, and checks each as soon as it has."""
        left = set(streams)

        def done():
            for stream in [s for s in left if self.replies[s].ended]:
                check(stream, self.result(stream))
                left.discard(stream)
            return not left

        self.pump(done, seconds * SLOW)
        assert not left, f"{len(left)} streams are left, GOAWAY {self.goaway}"


def check_big(result, n, tag):
    observation = json.loads(result.observation.json)
    assert observation["echoed_message"] == tag
    assert n <= len(result.observation.json) + 1000 and len(result.observation.json) <= n


class Stepper(threading.Thread):
    """Another caller, which steps small steps on a connection of its own."""

    def __init__(self, g):
        super().__init__()
        self.channel = grpc.insecure_channel(g.target, options=[("grpc.use_local_subchannel_pool", 1)])
        self.stub = session_service_pb2_grpc.SessionServiceStub(self.channel)
        self.session = self.stub.CreateSession(pb.CreateSessionRequest(environment="e"), timeout=60).name
        self.took, self.stopped, self.problem = [], threading.Event(), None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.join()
        self.channel.close()
        assert self.problem is None, self.problem

    def run(self):
        try:
            while not self.stopped.wait(0.005):
                began = time.monotonic()
                self.stub.Step(pb.StepRequest(session=self.session, action=payload_pb2.Payload(json=b'{"message":"x"}')), timeout=30)
                self.took.append(time.monotonic() - began)
        except Exception as problem:
            self.problem = problem

    def p99(self):
        return sorted(self.took)[len(self.took) * 99 // 100]


def start(gateway, *args, env=None, **top):
    environment = builtin("echo", "--faults", *(env or {}).pop("args", ()), sessions_per_worker=1000, max_workers=1, **(env or {}))
    return gateway({"access_log": False, "environments": {"e": environment}, **top}, *args)


def sessions_of(g, n):
    return [g.create("e").removeprefix("/v1/") for _ in range(n)]


def paused(g):
    return g.metric("envgate_replies_paused_total")


# --- every byte ------------------------------------------------------------------------------------------------------------------------


def text_of(n, rng):
    return "".join(rng.choices(string.ascii_letters + string.digits, k=997)) * (n // 997) + "é" * (n % 997 // 2)


SIZES = [7_000, 8_150, 8_200, 16_300, 28_000, 65_400, 65_600, 131_000, 131_200, 500_000, 3 * MB]


@pytest.mark.parametrize("dialect", ["both", "http"])
def test_replies_of_every_size_are_whole(gateway, dialect):
    g = gateway({"environments": {"e": builtin("echo", "--dialect", dialect, sessions_per_worker=1 if dialect == "http" else 9, max_workers=9)}}, "--threads", "2")
    rng, names = random.Random(7), sessions_of(g, 3)
    for n in SIZES:
        text = text_of(n, rng)
        action = json.dumps({"message": text}, ensure_ascii=False).encode()
        for name in names:  # some on the other reactor
            request = pb.StepRequest(session=name, action=payload_pb2.Payload(json=action))
            result = g.sessions.Step(request, timeout=60)
            assert json.loads(result.observation.json)["echoed_message"] == text and result.session == name
            request.payload_format = payload_pb2.PAYLOAD_FORMAT_VALUE
            assert g.sessions.Step(request, timeout=60).observation.value.struct_value["echoed_message"] == text
            reply = g.post(f"/v1/{name}/step", {"action": {"message": text}})
            assert reply.json()["observation"]["echoed_message"] == text and reply.json()["session"] == name
        items = [pb.StepRequest(session=name, action=payload_pb2.Payload(json=json.dumps({"message": name + text[: n // 4]}).encode())) for name in names]
        for name, item in zip(names, g.sessions.StepBatch(pb.StepBatchRequest(items=items), timeout=60).items):
            assert json.loads(item.result.observation.json)["echoed_message"] == name + text[: n // 4] and item.result.session == name


def test_a_kept_reply_is_whole_when_it_is_asked_for_again(gateway):
    g = start(gateway)
    (name,) = sessions_of(g, 1)
    request = pb.StepRequest(session=name, action=payload_pb2.Payload(json=big(MB, "kept")), request_id="r")
    first = g.sessions.Step(request, timeout=60)
    for _ in range(3):
        again = g.sessions.Step(request, timeout=60)
        assert again.observation == first.observation and again.step_index == first.step_index == 1


@pytest.mark.parametrize("front, home", [("grpc", 0), ("grpc", 1), ("rest", 0)])
def test_a_hundred_megabytes_are_in_memory_once_or_twice(gateway, front, home):
    """Twice only where the call came by another reactor than the session's."""
    n = 100_000_000 if SLOW == 1 else 20_000_000
    g = start(gateway, "--threads", "1" if home == 0 else "2")
    (name,) = sessions_of(g, 1)
    while home == 1 and g.metric("envgate_calls_crossed_total") == 0:
        g.http.close()  # the next connection may be another reactor's
        (name,) = sessions_of(g, 1)
        g.sessions.GetState(pb.GetStateRequest(session=name), timeout=60)
    g.sessions.Step(pb.StepRequest(session=name, action=payload_pb2.Payload(json=big(1000, "warm"))), timeout=60)
    before = memory_mib(g.pid, "VmRSS:")
    forget_peak(g.pid)
    began = time.monotonic()
    if front == "grpc":
        result = g.sessions.Step(pb.StepRequest(session=name, action=payload_pb2.Payload(json=big(n, "whole"))), timeout=60)
        check_big(result, n, "whole")
    else:
        reply = g.post(f"/v1/{name}/step", {"action": json.loads(big(n, "whole"))})
        assert reply.status_code == 200 and n - 1000 < len(reply.content) < n + 1000 and reply.json()["observation"]["echoed_message"] == "whole"
    peak = memory_mib(g.pid, "VmHWM:")
    print(f"{front}, {home}: {n} bytes in {time.monotonic() - began:.2f} s; {before:.0f} MiB before, {peak:.0f} MiB at most")
    if SLOW == 1:
        assert peak - before < (1.2 if home == 0 else 2.2) * n / MB


# --- callers that do not read ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stops, threads, size", [("socket", 1, BIG), ("window", 2, BIG // 4)])
def test_a_caller_that_does_not_read_costs_a_fixed_buffer(gateway, stops, threads, size):
    g = start(gateway, "--threads", str(threads))
    names = sessions_of(g, STREAMS)  # by a connection of their own: with two reactors some or all steps cross
    with Stepper(g) as other, Reader(g.target, window=2**31 - 1 if stops == "socket" else 65535) as caller:
        before = memory_mib(g.pid, "VmRSS:")
        forget_peak(g.pid)
        streams = {caller.step(name, big(size, name)): name for name in names}
        g.wait_for(lambda: paused(g) >= STREAMS // 2, what="the workers' pause")
        caller.acknowledges = stops == "socket"
        end = time.monotonic() + 2
        if stops == "window":  # its HTTP/2 stack reads, its application does not
            caller.pump(lambda: time.monotonic() > end - 0.5, 2)
        time.sleep(max(0, end - time.monotonic()))
        held = memory_mib(g.pid, "VmHWM:")
        if stops == "window":
            caller.acknowledges = True
            for stream in streams:
                caller.h2.increment_flow_control_window(size, stream)
            caller.h2.increment_flow_control_window(2**31 - 1 - 65535)
            caller.flush()
        began = time.monotonic()
        caller.read_all(streams, lambda stream, result: check_big(result, size, streams[stream]))
        took, peak = time.monotonic() - began, memory_mib(g.pid, "VmHWM:")
    print(f"{before:.0f} MiB before, {held:.0f} while nothing was read, {peak:.0f} at most; read in {took:.1f} s; others' p99 {other.p99() * 1e3:.1f} ms")
    assert other.p99() < 1.5 * SLOW and len(other.took) > 50
    if SLOW == 1:
        assert held - before < BUDGET_MIB + 64 and peak - before < BUDGET_MIB + 64


class Held:
    """A caller that has had more large replies made than the budget is for, and reads none of them."""

    def __init__(self, g, n=8, size=8 * MB, **fields):
        self.g, self.size = g, size
        self.names = sessions_of(g, n)
        self.caller = Reader(g.target)
        before = paused(g)
        self.streams = {self.caller.step(name, big(size, name), **fields): name for name in self.names}
        g.wait_for(lambda: paused(g) - before >= n // 2, what="the workers' pause")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.caller.socket.close()

    def in_flight(self):
        return self.g.metric("envgate_calls_in_flight")

    def read(self):
        self.caller.read_all(self.streams, lambda stream, result: check_big(result, self.size, self.streams[stream]))

    def step_each(self, after=1):
        """Each session goes on as if nothing had been."""
        for name in self.names:
            result = self.g.sessions.Step(pb.StepRequest(session=name, action=payload_pb2.Payload(json=b'{"message":"on"}')), timeout=30 * SLOW)
            assert result.step_index == after + 1 and json.loads(result.observation.json)["echoed_message"] == "on"


def test_calls_that_are_cancelled_while_paused_leave_their_sessions_usable(gateway):
    g = start(gateway)
    with Held(g) as held:
        for stream in held.streams:
            held.caller.h2.reset_stream(stream, 8)
        held.caller.flush()
        g.wait_for(lambda: held.in_flight() == 0, what="the calls' end")
        held.step_each()
        assert memory_mib(g.pid, "VmHWM:") < 3 * BUDGET_MIB + 64 or SLOW > 1  # what nobody waits for has its budget, too


def test_a_caller_that_dies_leaves_its_sessions_usable(gateway):
    g = start(gateway)
    with Held(g) as held:
        held.caller.socket.close()
        g.wait_for(lambda: held.in_flight() == 0, what="the calls' end")
        held.step_each()


def test_a_worker_that_dies_ends_the_calls_that_are_paused(gateway):
    g = start(gateway)
    with Held(g) as held:
        for pid, command in g.children():
            if " worker " in command:
                os.kill(pid, signal.SIGKILL)
        held.caller.pump(lambda: all(held.caller.replies[s].ended for s in held.streams), 30 * SLOW)
        statuses = [held.caller.replies[stream].status for stream in held.streams]
        assert set(statuses) <= {0, 10} and statuses.count(10) >= 4  # ABORTED
        assert {held.caller.replies[s].reason for s in held.streams if held.caller.replies[s].status} == {"SESSION_LOST"}
        for stream in held.streams:
            if not held.caller.replies[stream].status:
                check_big(held.caller.result(stream), held.size, held.streams[stream])


def test_deadlines_hold_while_paused_and_a_retry_collects_the_reply(gateway):
    g = start(gateway)
    with Held(g, timeout_s=1.0, request_id="r") as held:
        time.sleep(1.5)
        for stream, name in held.streams.items():
            again = pb.StepRequest(session=name, action=payload_pb2.Payload(json=big(held.size, name)), timeout_s=30 * SLOW, request_id="r")
            check_big(g.sessions.Step(again, timeout=30 * SLOW), held.size, name)
        held.step_each()
        held.caller.pump(lambda: all(held.caller.replies[s].ended for s in held.streams), 30 * SLOW)
        for stream, name in held.streams.items():
            reply = held.caller.replies[stream]
            if reply.status:
                assert reply.status == 4 and reply.reason == "STEP_IN_PROGRESS"
            else:
                check_big(held.caller.result(stream), held.size, name)
        assert any(held.caller.replies[s].status for s in held.streams)


def test_a_retry_by_another_caller_is_not_held_up(gateway):
    g = start(gateway)
    with Held(g, request_id="r") as held:
        began = time.monotonic()
        for name in held.names:
            again = pb.StepRequest(session=name, action=payload_pb2.Payload(json=big(held.size, name)), request_id="r")
            check_big(g.sessions.Step(again, timeout=30 * SLOW), held.size, name)
        assert time.monotonic() - began < 10 * SLOW
        held.read()


def test_a_pause_does_not_count_as_the_workers_time(gateway):
    limit = 2 if SLOW == 1 else 6
    g = start(gateway, env={"step_timeout_s": limit})
    with Held(g, n=6) as held:
        time.sleep(1.5 * limit + 1)  # and less than a caller may take nothing
        held.read()
        held.step_each()


def test_a_caller_that_takes_nothing_at_all_is_told_so(gateway):
    g = start(gateway, idle_connection_s=2)
    with Held(g) as held:
        # Its socket is full, too, so the connection is given up after the same time; a caller whose HTTP/2 stack reads hears of it.
        g.wait_for(lambda: held.in_flight() == 0, 20, what="the calls' end")
        held.step_each()
    with Reader(g.target, window=100_000) as caller:
        names = sessions_of(g, 6)
        streams = {caller.step(name, big(8 * MB, name)): name for name in names}
        caller.acknowledges = False
        caller.pump(lambda: caller.closed or sum(caller.replies[s].ended for s in streams) >= 4, 20 * SLOW)
        refused = [caller.replies[s] for s in streams if caller.replies[s].ended]
        assert len(refused) >= 4 and {(r.status, r.reason) for r in refused} == {(8, "REPLIES_UNREAD")}
        assert "request_id" not in refused[0].text and str(8 * MB)[:3] in refused[0].text
    for name in names:
        assert g.sessions.Step(pb.StepRequest(session=name, action=payload_pb2.Payload(json=b'{"message":"on"}')), timeout=30).step_index == 2


def test_plain_http_workers_are_paused_too(gateway):
    n = 8
    g = gateway({"environments": {"e": builtin("echo", "--faults", "--dialect", "http", max_workers=n + 2)}})
    with Held(g, n) as held, Stepper(g) as other:
        time.sleep(1)
        peak = memory_mib(g.pid, "VmHWM:")
        held.read()
        held.step_each()
    print(f"{peak:.0f} MiB at most; others' p99 {other.p99() * 1e3:.1f} ms")
    assert peak < BUDGET_MIB + 64 or SLOW > 1
    assert other.p99() < 1.5 * SLOW


def stalling_worker():
    """A worker that answers a step with the first MB of 10 MB, and then with nothing more. Returns it and its port."""
    stop = threading.Event()

    def health(connection, request):
        return connection.respond(http.HTTPStatus.OK, '{"status":"healthy"}') if request.path == "/health" else None

    def serve(connection):
        for text in connection:
            if json.loads(text)["type"] == "state":
                connection.send('{"type":"state","data":{"episode_id":"e","step_count":0}}')
            else:
                connection.socket.sendall(b"\x81\x7f" + (10 * MB).to_bytes(8, "big") + b" " * MB)
                stop.wait(60)

    server = websockets.sync.server.serve(serve, "127.0.0.1", 0, process_request=health, compression=None)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def end():
        stop.set()
        server.shutdown()
        thread.join()

    return server.socket.getsockname()[1], end


def test_slow_workers_do_not_hold_up_a_caller_that_reads(gateway):
    """Workers that stop in the middle of large replies have all of the budget, and others' replies come all the same."""
    port, end = stalling_worker()
    stalling = {"static": {"urls": [f"http://127.0.0.1:{port}"]}, "sessions_per_worker": 2}
    g = gateway({"environments": {"e": builtin("echo", "--faults", sessions_per_worker=9), "stalls": stalling}})
    try:
        stalled = [g.create("stalls").removeprefix("/v1/") for _ in range(2)]
        names = sessions_of(g, 4)
        with Reader(g.target) as caller:
            for name in stalled:
                caller.step(name, b'{"message":"never"}')
            g.wait_for(lambda: paused(g) == 1, what="the second one's pause")
            time.sleep(1.5 * SLOW)  # then it is let in
            began = time.monotonic()
            streams = {caller.step(name, big(8 * MB, name)): name for name in names}
            caller.read_all(streams, lambda stream, result: check_big(result, 8 * MB, streams[stream]))
            assert paused(g) > 1 and time.monotonic() - began < 6 * SLOW
    finally:
        end()


def test_batches_of_large_replies(gateway):
    g = start(gateway)
    names = sessions_of(g, 64)
    items = [pb.StepRequest(session=name, action=payload_pb2.Payload(json=big(MB, name))) for name in names]
    reply = g.sessions.StepBatch(pb.StepBatchRequest(items=items), timeout=60 * SLOW)  # larger than the budget, and in memory once
    for name, item in zip(names, reply.items):
        check_big(item.result, MB, name)
    with Reader(g.target) as caller:
        body = [pb.StepBatchRequest(items=items[at : at + 16]).SerializeToString() for at in (0, 16, 32, 48)]
        streams = [caller.start(STEP + "Batch", headers=GRPC) for _ in body]
        for stream, bytes_ in zip(streams, body):
            caller.send(stream, message(bytes_), end=True)
        g.wait_for(lambda: paused(g) > 0, what="a pause")
        caller.pump(lambda: all(caller.replies[s].ended for s in streams), 60 * SLOW)
        for n, stream in enumerate(streams):
            got = pb.StepBatchResponse.FromString(caller.replies[stream].data[5:])
            for name, item in zip(names[n * 16 :], got.items):
                check_big(item.result, MB, name)


def test_rest_callers_that_do_not_read(gateway):
    """A connection has one reply at a time, and it is in memory once."""
    g = start(gateway)
    n = 8
    names = sessions_of(g, n)
    with Stepper(g) as other:
        before = memory_mib(g.pid, "VmRSS:")
        forget_peak(g.pid)
        callers = []
        for name in names:
            body = json.dumps({"action": json.loads(big(BIG, name))}).encode()
            s = dial(g.target)
            s.sendall(b"POST /v1/%s/step HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (name.encode(), len(body), body))
            callers.append(s)
        g.wait_for(lambda: g.metric("envgate_calls_in_flight") == 0, what="the replies")
        time.sleep(1)
        held = memory_mib(g.pid, "VmHWM:")
        callers.pop().close()  # one leaves
        for s, name in zip(callers, names):
            reply = http.client.HTTPResponse(s)
            reply.begin()
            assert reply.status == 200
            got = json.loads(reply.read())
            assert got["observation"]["echoed_message"] == name and len(json.dumps(got["observation"])) > BIG - 1000
            s.close()
    print(f"{held - before:.0f} MiB for {n} replies of {BIG / MB:.0f} MB; others' p99 {other.p99() * 1e3:.1f} ms")
    assert other.p99() < 1.5 * SLOW
    assert held - before < n * BIG / MB * 1.1 + 32 or SLOW > 1
