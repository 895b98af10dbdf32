# SPDX-License-Identifier: Apache-2.0
"""Nothing leaks: 100,000 calls with faults among them, after which memory and descriptors are where they were.

Under the sanitizer build, which is slower, a quarter of them, and LeakSanitizer looks when the gateway ends (conftest checks what it says).
"""

import asyncio
import json
import os
import pathlib
import random

import grpc
from conftest import SLOW, builtin

from envgate.v1 import payload_pb2, session_service_pb2 as pb, session_service_pb2_grpc

CALLS = 100_000 if SLOW == 1 else 25_000
AT_ONCE = 32


def rss_kib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


FAULTS = [{"fault": "error"}, {"fault": "validation"}, {"fault": "slow", "ms": 3}, {"fault": "garbage"}, {"fault": "drop"}, {"fault": "close", "code": 1011}]
BAD = [b"", b"[1]", b'{"a":', b'{"message": "\xff"}', b'{"a":' * 100]


async def one_session(stub, rng, environment, calls):
    """Steps a session until it is lost or has had its calls; returns how many were made."""
    name = (await stub.CreateSession(pb.CreateSessionRequest(environment=environment), timeout=60)).name
    made = 2
    while made < calls:
        made += 1
        roll = rng.random()
        action, timeout = {"message": "m" * rng.randrange(200)}, 60
        if roll < 0.03:
            action.update(rng.choice(FAULTS))
            timeout = rng.choice([60, 0.002])
        body = rng.choice(BAD) if 0.03 < roll < 0.06 else json.dumps(action).encode()
        request = pb.StepRequest(session=name, action=payload_pb2.Payload(json=body), request_id=rng.choice(["", f"r{made}"]))
        try:
            if roll > 0.95:
                await stub.Reset(pb.ResetRequest(session=name), timeout=60)
            else:
                await stub.Step(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.ABORTED:
                break
            assert error.code().name in ("UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED"), error
    await stub.CloseSession(pb.CloseSessionRequest(name=name), timeout=60)
    return made


async def run(g, calls, seed):
    async with grpc.aio.insecure_channel(g.target) as channel:
        stub = session_service_pb2_grpc.SessionServiceStub(channel)
        rng = random.Random(seed)
        done = 0

        async def caller():
            nonlocal done
            while done < calls:
                made = await one_session(stub, rng, rng.choice(["ws", "ws", "http"]), 200)
                done += made

        await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    return done


def test_memory_is_flat_over_many_calls_with_faults(gateway):
    g = gateway(
        {
            "environments": {
                "ws": builtin("echo", "--faults", sessions_per_worker=64, max_workers=1),
                "http": builtin("echo", "--faults", "--dialect", "http", max_workers=AT_ONCE, worker_idle_s=600),
            }
        },
        "--log-level",
        "error",
    )
    asyncio.run(run(g, CALLS // 4, 1))
    g.wait_for(lambda: g.metric("envgate_sessions") == 0, what="no session is left")
    before, open_before = rss_kib(g.pid), descriptors(g.pid)
    asyncio.run(run(g, CALLS, 2))
    g.wait_for(lambda: g.metric("envgate_sessions") == 0, what="no session is left")
    g.wait_for(lambda: descriptors(g.pid) <= open_before + 2 * AT_ONCE + 8, what="descriptors are back, but for idle connections to plain HTTP workers")
    after = rss_kib(g.pid)
    print(f"{before} KiB before, {after} KiB after {CALLS} calls; {open_before} descriptors before, {descriptors(g.pid)} after")
    # A leak of 64 bytes a call would be 6 MiB. The sanitizer's quarantine grows for other reasons; it has its own check.
    if "asan" not in g.process.args[0]:
        assert after - before < 4096
    assert g.metric("envgate_calls_in_flight") == 0 and g.metric("envgate_session_queue_length") == 0
