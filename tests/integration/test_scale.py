# SPDX-License-Identifier: Apache-2.0
"""10,000 sessions on 10,000 sockets to a worker: an idle one costs little memory, and all of them step."""

import asyncio
import pathlib
import resource

import grpc
from conftest import SLOW, builtin

from envgate.v1 import payload_pb2, session_service_pb2 as pb, session_service_pb2_grpc

SESSIONS = 10_000
MAX_BYTES_A_SESSION = 12 << 10


def rss(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


async def create(stub, names, count):
    for _ in range(count):
        names.append((await stub.CreateSession(pb.CreateSessionRequest(environment="e"), timeout=60 * SLOW)).name)


async def step(stub, names):
    for name in names:
        reply = await stub.Step(pb.StepRequest(session=name, action=payload_pb2.Payload(json=b'{"message":"x"}')), timeout=60 * SLOW)
        assert reply.step_index == 1


async def run(g, names):
    async with grpc.aio.insecure_channel(g.target) as channel:
        stub = session_service_pb2_grpc.SessionServiceStub(channel)
        await create(stub, names, 100)
        before = rss(g.pid)
        await asyncio.gather(*(create(stub, names, (SESSIONS - 100) // 50) for _ in range(50)))
        after = rss(g.pid)
        await asyncio.gather(*(step(stub, names[i::50]) for i in range(50)))
    return (after - before) / (SESSIONS - 100)


def test_ten_thousand_sessions(gateway):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert hard > SESSIONS * 11 // 10, f"this test wants {SESSIONS} descriptors, and the hard limit is {hard}: raise it (ulimit -Hn)"
    g = gateway(
        {"access_log": False, "environments": {"e": builtin("echo", sessions_per_worker=SESSIONS, max_workers=1, lease_s=3600)}},
        "--log-level",
        "warn",
        "--threads",
        "2",
    )
    names = []
    each = asyncio.run(run(g, names))
    print(f"{each:.0f} bytes of resident memory for an idle session")
    assert len(set(names)) == SESSIONS
    assert g.metric("envgate_sessions", state="ready") == SESSIONS
    if "asan" not in g.process.args[0]:  # the sanitizer's red zones are not the gateway's
        assert each <= MAX_BYTES_A_SESSION
