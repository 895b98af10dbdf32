# SPDX-License-Identifier: Apache-2.0
"""SIGTERM while a worker steps, whatever launched it: the step that ends within the grace, and the one that does not."""

import contextlib
import json
import signal
import time

import grpc
import h2_client
import pytest
from conftest import SLOW, code_of

from envgate.v1 import payload_pb2, session_service_pb2 as pb

SERVICE = "/envgate.v1.SessionService/"


@contextlib.contextmanager
def stepping(g, environment, sleep_s):
    """Yields (the session's name, the future of a step that sleeps so long, a raw connection that has begun to ask for the session and for another one)."""
    name = g.sessions.CreateSession(pb.CreateSessionRequest(environment=environment), timeout=60 * SLOW).name
    g.sessions.Reset(pb.ResetRequest(session=name))
    action = json.dumps({"message": "last", "sleep_s": sleep_s}).encode()
    with h2_client.Client(g.target) as client:
        asked, another = (client.start(SERVICE + method) for method in ("GetSession", "CreateSession"))
        step = g.sessions.Step.future(pb.StepRequest(session=name, action=payload_pb2.Payload(json=action)))
        g.wait_for(lambda: g.get("/v1/" + name).json()["state"] == "STATE_BUSY", what="the step to run")
        assert "expire_time" not in g.get("/v1/" + name).json()  # its lease does not run meanwhile
        yield name, step, client, asked, another


def a_step_ends_in_a_drain(g, environment):
    """The gateway's shutdown_grace_s is 20 at least. What its callers are told meanwhile, and that it ends right after the step."""
    with stepping(g, environment, 2) as (name, step, client, asked, another):
        before = time.monotonic()
        g.process.send_signal(signal.SIGTERM)
        client.pump(lambda: client.goaway is not None)
        assert client.goaway == 0 and not step.done()
        # Calls that had begun are answered: when the session ends at the latest, and that there are no new ones.
        client.send(asked, h2_client.message(pb.GetSessionRequest(name=name).SerializeToString()), end=True)
        told = pb.Session.FromString(client.finish(asked).messages()[0])
        assert told.state == pb.Session.STATE_BUSY
        assert time.time() < told.expire_time.ToDatetime().timestamp() < time.time() + 20
        client.send(another, h2_client.message(pb.CreateSessionRequest(environment=environment).SerializeToString()), end=True)
        assert client.finish(another).reason == "DRAINING"
        assert not step.done()
        assert b"last" in step.result(20 * SLOW).observation.json
    assert g.process.wait(20 * SLOW) == 0
    assert time.monotonic() - before < 12 * SLOW
    assert g.log("gateway.draining") and g.log("gateway.stopped") and not g.log("session.lost")


def a_step_does_not_end_in_a_drain(g, environment):
    """The gateway's shutdown_grace_s is 6, a worker's stop_grace_s 1."""
    with stepping(g, environment, 100) as (_, step, _, _, _):
        before = time.monotonic()
        g.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as given_up:
            step.result(20 * SLOW)
        assert code_of(given_up.value) == ("ABORTED", "SESSION_CLOSED") and "shutting down" in given_up.value.details()
        assert time.monotonic() - before > 2.5
    assert g.process.wait(20 * SLOW) == 0
    assert time.monotonic() - before < 6 + 2 * SLOW
