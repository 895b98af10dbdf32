# SPDX-License-Identifier: Apache-2.0
"""Payloads in tensor form, through the real daemon: sessions, calls, batches, actions, and what is wrong with them."""

import json

import grpc
import numpy as np
import pytest
from conftest import builtin, code_of
from test_step_batch import create_many, fate, field

from envgate.v1 import payload_pb2, session_service_pb2 as pb

TENSORS = payload_pb2.PAYLOAD_FORMAT_TENSORS
FRAME = payload_pb2.TensorSpec(path="/frame", dtype=payload_pb2.DTYPE_UINT8)
STATE = payload_pb2.TensorSpec(path="/state", dtype=payload_pb2.DTYPE_FLOAT32)
LEGAL = payload_pb2.TensorSpec(path="/legal_actions", dtype=payload_pb2.DTYPE_INT64)


def array(t):
    name = payload_pb2.Dtype.Name(t.dtype).removeprefix("DTYPE_").lower()
    return np.frombuffer(t.data, np.dtype(name).newbyteorder("<")).reshape(t.shape)


def action(**members):
    return payload_pb2.Payload(json=json.dumps(members).encode())


def scalar(v, dtype=payload_pb2.DTYPE_INT64, numpy=np.int64):
    return payload_pb2.Tensor(dtype=dtype, data=numpy(v).tobytes())


@pytest.fixture(params=[1, 2], ids=["one reactor", "two reactors"])
def g(gateway, request):
    environments = {
        "pixels": builtin("pixels", sessions_per_worker=64),
        "cartpole": builtin("cartpole", sessions_per_worker=64),
        "echo": builtin("echo", "--faults", sessions_per_worker=64),
    }
    started = gateway({"environments": environments}, "--threads", str(request.param))
    started.threads = request.param
    return started


def session(g, environment, **fields):
    return g.sessions.CreateSession(pb.CreateSessionRequest(environment=environment, **fields)).name


# --- replies -----------------------------------------------------------------------------------------------------------------------------


def test_frames(g):
    name = session(g, "pixels", payload_format=TENSORS, tensors=[FRAME])
    shown = g.sessions.GetSession(pb.GetSessionRequest(name=name))
    assert shown.payload_format == TENSORS and list(shown.tensors) == [FRAME]
    for i in range(5):
        q = pb.ResetRequest(session=name, seed=3, request_id=f"r{i}") if i == 0 else pb.StepRequest(session=name, action=action(action=i), request_id=f"r{i}")
        call = g.sessions.Reset if i == 0 else g.sessions.Step
        reply = call(q)
        assert reply.observation.WhichOneof("form") == "tensors"
        tensors = reply.observation.tensors
        # The same reply once more, as JSON.
        q.payload_format = payload_pb2.PAYLOAD_FORMAT_JSON
        same = json.loads(call(q).observation.json)
        frame = array(tensors.tensors["/frame"])
        assert frame.dtype == np.uint8 and frame.shape == (84, 84) and np.array_equal(frame, same.pop("frame"))
        assert len(tensors.tensors) == 1 and json.loads(tensors.json) == same
        if reply.HasField("metadata"):
            assert json.loads(reply.metadata.json) is not None


def test_small_observations(g):
    name = session(g, "cartpole")
    g.sessions.Reset(pb.ResetRequest(session=name, seed=7))
    both = [STATE, LEGAL, payload_pb2.TensorSpec(path="/terminated", dtype=payload_pb2.DTYPE_BOOL), payload_pb2.TensorSpec(path="/none", dtype=6)]
    q = pb.StepRequest(session=name, action=action(action=1), request_id="a", payload_format=TENSORS, tensors=both)
    got = g.sessions.Step(q).observation.tensors
    q.payload_format = payload_pb2.PAYLOAD_FORMAT_JSON
    same = json.loads(g.sessions.Step(q).observation.json)
    state = array(got.tensors["/state"])
    assert state.dtype == np.float32 and state.tolist() == np.array(same["state"], np.float32).tolist() and state.shape == (4,)
    assert array(got.tensors["/legal_actions"]).tolist() == [0, 1]
    assert array(got.tensors["/terminated"]).shape == () and not array(got.tensors["/terminated"])
    assert set(got.tensors) == {"/state", "/legal_actions", "/terminated"} and set(json.loads(got.json)) == set(same) - {"state", "legal_actions", "terminated"}
    # The state: by the call's own paths, else by the session's.
    spec = payload_pb2.TensorSpec(path="/step_count", dtype=payload_pb2.DTYPE_INT32)
    state = g.sessions.GetState(pb.GetStateRequest(session=name, payload_format=TENSORS, tensors=[spec])).state.tensors
    assert array(state.tensors["/step_count"]) == 1 and "step_count" not in json.loads(state.json)


def test_json_codecs_keep_the_json(g):
    reply = g.post("/v1/sessions", {"environment": "pixels", "payload_format": "PAYLOAD_FORMAT_TENSORS", "tensors": [{"path": "/frame", "dtype": "DTYPE_UINT8"}]})
    path = "/v1/" + reply.json()["name"]
    assert reply.json()["tensors"] == [{"path": "/frame", "dtype": "DTYPE_UINT8"}]
    assert np.array(g.post(path + "/reset").json()["observation"]["frame"]).shape == (84, 84)


def test_mismatches_lose_nothing(g):
    name = session(g, "cartpole")
    g.sessions.Reset(pb.ResetRequest(session=name, seed=7))
    wrong = payload_pb2.TensorSpec(path="/state", dtype=payload_pb2.DTYPE_UINT8)
    q = pb.StepRequest(session=name, action=action(action=1), request_id="once", payload_format=TENSORS, tensors=[wrong])
    for _ in range(2):
        with pytest.raises(grpc.RpcError) as e:
            g.sessions.Step(q)
        assert code_of(e.value) == ("INVALID_ARGUMENT", "TENSOR_MISMATCH")
        assert '"/state"' in e.value.details() and "at [0]" in e.value.details() and "request_id" in e.value.details()
    q.payload_format = payload_pb2.PAYLOAD_FORMAT_JSON
    assert g.sessions.Step(q).step_index == 1
    assert json.loads(g.sessions.GetState(pb.GetStateRequest(session=name)).state.json)["step_count"] == 1


@pytest.mark.parametrize(
    "fields, blamed",
    [
        ({}, "tensors"),
        ({"tensors": [payload_pb2.TensorSpec(path="frame", dtype=6)]}, "tensors[0].path"),
        ({"tensors": [payload_pb2.TensorSpec(path="/frame")]}, "tensors[0].dtype"),
        ({"tensors": [FRAME, FRAME]}, "tensors[1].path"),
    ],
)
def test_what_is_refused(g, fields, blamed):
    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    def refused(call, q):
        with pytest.raises(grpc.RpcError) as e:
            call(q)
        assert code_of(e.value) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
        bad = error_details_pb2.BadRequest()
        assert any(d.Unpack(bad) for d in rpc_status.from_call(e.value).details)
        return bad.field_violations[0].field

    assert refused(g.sessions.CreateSession, pb.CreateSessionRequest(environment="pixels", payload_format=TENSORS, **fields)) == blamed
    name = session(g, "pixels")
    assert refused(g.sessions.Reset, pb.ResetRequest(session=name, payload_format=TENSORS, **fields)) == blamed
    assert refused(g.sessions.Step, pb.StepRequest(session=name, action=action(action=1), payload_format=TENSORS, **fields)) == blamed
    assert refused(g.sessions.GetState, pb.GetStateRequest(session=name, payload_format=TENSORS, **fields)) == blamed
    items = [pb.StepRequest(session=name, action=action(action=1), payload_format=TENSORS, **fields)]
    assert field(g.sessions.StepBatch(pb.StepBatchRequest(items=items)).items[0].status) == "items[0]." + blamed


# --- actions -----------------------------------------------------------------------------------------------------------------------------


def test_actions(g):
    name = session(g, "cartpole")
    twin = session(g, "cartpole")
    g.sessions.Reset(pb.ResetRequest(session=name, seed=7))
    g.sessions.Reset(pb.ResetRequest(session=twin, seed=7))
    for i in range(5):
        tensors = payload_pb2.Tensors(tensors={"/action": scalar(i % 2)})
        one = g.sessions.Step(pb.StepRequest(session=name, action=payload_pb2.Payload(tensors=tensors)))
        other = g.sessions.Step(pb.StepRequest(session=twin, action=action(action=i % 2)))
        assert one.observation.json == other.observation.json and one.step_index == i + 1
    for tensors, what in [
        (payload_pb2.Tensors(tensors={"/action": scalar(np.nan, payload_pb2.DTYPE_FLOAT64, np.float64)}), "NaN"),
        (payload_pb2.Tensors(tensors={"/action": payload_pb2.Tensor(dtype=6, shape=[3], data=b"1")}), "bytes of data"),
        (payload_pb2.Tensors(tensors={"": scalar(1)}), "object"),
        (payload_pb2.Tensors(tensors={"/x" * 40: payload_pb2.Tensor(dtype=6, shape=[1] * 32, data=b"1")}), "deeper"),
    ]:
        with pytest.raises(grpc.RpcError) as e:
            g.sessions.Step(pb.StepRequest(session=name, action=payload_pb2.Payload(tensors=tensors)))
        assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT and what in e.value.details()
    # A repeated request_id finds the reply of the same action in another form.
    q = pb.StepRequest(session=name, action=payload_pb2.Payload(tensors=payload_pb2.Tensors(tensors={"/action": scalar(1)})), request_id="x")
    first = g.sessions.Step(q)
    q.action.CopyFrom(payload_pb2.Payload(json=b'{"action":1}'))
    assert g.sessions.Step(q).observation.json == first.observation.json


# --- batches -----------------------------------------------------------------------------------------------------------------------------


def test_batches_of_items(g):
    n = 20
    names = create_many(g, n, g.threads, "pixels")
    resets = g.sessions.ResetBatch(pb.ResetBatchRequest(items=[pb.ResetRequest(session=s, seed=i, payload_format=TENSORS, tensors=[FRAME]) for i, s in enumerate(names)]))
    assert all(array(i.result.observation.tensors.tensors["/frame"]).shape == (84, 84) for i in resets.items)
    items = [pb.StepRequest(session=s, action=action(action=1), request_id="s", tensors=[FRAME]) for s in names]
    items[3].tensors[0].path = "/shape"
    items[4].tensors[0].path = "/shape"
    items[4].tensors[0].dtype = payload_pb2.DTYPE_BOOL
    items[5].ClearField("tensors")
    items[6].payload_format = payload_pb2.PAYLOAD_FORMAT_JSON
    reply = g.sessions.StepBatch(pb.StepBatchRequest(items=items, payload_format=TENSORS))
    for q in items:
        q.payload_format = payload_pb2.PAYLOAD_FORMAT_JSON
    same = g.sessions.StepBatch(pb.StepBatchRequest(items=[q for i, q in enumerate(items) if i != 5]))
    same = list(same.items)
    same.insert(5, None)
    for i, item in enumerate(reply.items):
        if i == 4:
            assert fate(item.status) == ("INVALID_ARGUMENT", "TENSOR_MISMATCH") and field(item.status) == "items[4].tensors"
        elif i == 5:
            assert fate(item.status) == ("INVALID_ARGUMENT", "INVALID_REQUEST") and field(item.status) == "items[5].tensors"
        elif i == 6:
            assert item.result.observation.json == same[i].result.observation.json
        else:
            path = items[i].tensors[0].path
            expected = json.loads(same[i].result.observation.json)
            assert array(item.result.observation.tensors.tensors[path]).tolist() == expected.pop(path[1:])
            assert json.loads(item.result.observation.tensors.json) == expected
    assert list(reply.failed) == [4, 5]


# --- stacked -----------------------------------------------------------------------------------------------------------------------------


def numbers(stacked):
    return {k: array(getattr(stacked, k)) for k in ("rewards", "done", "terminated", "truncated", "step_indices")}


def stacked_actions(names, values, request_id="", path="/action"):
    rows = payload_pb2.Tensor(dtype=payload_pb2.DTYPE_INT64, shape=[len(names)], data=np.array(values, np.int64).tobytes())
    return pb.StackedActions(sessions=names, actions=payload_pb2.Tensors(tensors={path: rows}), request_id=request_id)


@pytest.mark.parametrize("environment, spec, n", [("pixels", FRAME, 33), ("cartpole", STATE, 64), ("pixels", FRAME, 1)])
def test_stacked_batches(g, environment, spec, n):
    names = create_many(g, n, g.threads, environment)
    resets = [pb.ResetRequest(session=s, seed=i, request_id="r") for i, s in enumerate(names)]
    reply = g.sessions.ResetBatch(pb.ResetBatchRequest(items=resets, stacked=True, tensors=[spec]))
    same = [json.loads(g.sessions.Reset(q).observation.json) for q in resets]
    observed = array(reply.stacked.observations[spec.path])
    expected = np.array([o.pop(spec.path[1:]) for o in same], observed.dtype)
    assert not reply.failed and len(reply.items) == n and observed.tobytes() == expected.tobytes() and observed.shape == expected.shape
    assert [json.loads(i.result.observation.tensors.json) for i in reply.items] == same
    assert numbers(reply.stacked)["step_indices"].tolist() == [0] * n
    for k in range(1, 4):
        reply = g.sessions.StepBatch(pb.StepBatchRequest(stacked_actions=stacked_actions(names, [(i + k) % 2 for i in range(n)], f"s{k}"), stacked=True, tensors=[spec]))
        # Each item by itself: the same request_id and the same action.
        items = [pb.StepRequest(session=s, action=payload_pb2.Payload(json=b'{"action":%d}' % ((i + k) % 2)), request_id=f"s{k}-{i}") for i, s in enumerate(names)]
        single = [i.result for i in g.sessions.StepBatch(pb.StepBatchRequest(items=items)).items]
        same = [json.loads(r.observation.json) for r in single]
        observed = array(reply.stacked.observations[spec.path])
        assert observed.tobytes() == np.array([o.pop(spec.path[1:]) for o in same], observed.dtype).tobytes()
        assert [json.loads(i.result.observation.tensors.json) for i in reply.items] == same
        assert [i.result.metadata.json for i in reply.items] == [r.metadata.json for r in single]
        got = numbers(reply.stacked)
        assert got["rewards"].tolist() == [r.reward for r in single] and got["step_indices"].tolist() == [k] * n
        assert got["done"].tolist() == [r.done for r in single] and got["terminated"].tolist() == [r.terminated for r in single]


def test_stacked_items_that_fail(g):
    n = 12
    names = create_many(g, n, g.threads, "pixels")
    items = [pb.StepRequest(session=s, action=action(action=1), request_id="x") for s in names]
    items[2].action.json = b'{"action":99}'
    items[5].session = "sessions/nobody"
    reply = g.sessions.StepBatch(pb.StepBatchRequest(items=items, stacked=True, tensors=[FRAME]))
    frames = array(reply.stacked.observations["/frame"])
    assert list(reply.failed) == [2, 5] and frames.shape == (n, 84, 84)
    assert [bool(f.any()) for f in frames] == [i not in (2, 5) for i in range(n)]
    assert numbers(reply.stacked)["step_indices"].tolist() == [int(i not in (2, 5)) for i in range(n)]
    assert fate(reply.items[2].status) == ("INVALID_ARGUMENT", "INVALID_ACTION") and not reply.items[2].HasField("result")
    # All of them.
    reply = g.sessions.StepBatch(pb.StepBatchRequest(items=items[5:6] * 3, stacked=True, tensors=[FRAME]))
    assert list(reply.failed) == [0, 1, 2] and not reply.stacked.observations and numbers(reply.stacked)["rewards"].tolist() == [0] * 3
    # A path that is not there; no reward is NaN.
    nothing = payload_pb2.TensorSpec(path="/nothing", dtype=6)
    reply = g.sessions.StepBatch(pb.StepBatchRequest(items=[items[0]], stacked=True, tensors=[FRAME, nothing]))
    assert fate(reply.items[0].status) == ("INVALID_ARGUMENT", "TENSOR_MISMATCH") and field(reply.items[0].status) == "items[0].tensors"
    reply = g.sessions.ResetBatch(pb.ResetBatchRequest(items=[pb.ResetRequest(session=names[0])], stacked=True, tensors=[FRAME]))
    assert np.isnan(numbers(reply.stacked)["rewards"]).tolist() == [True]


def test_shapes_that_differ(g):
    """Where the shape is another than the first one's, the item fails, and nothing is lost."""
    names = create_many(g, 8, g.threads, "echo")
    spec = payload_pb2.TensorSpec(path="/data", dtype=payload_pb2.DTYPE_INT16)

    def step(tag, data):
        items = [pb.StepRequest(session=s, action=action(message="m", data=data(i)), request_id=tag) for i, s in enumerate(names)]
        reply = g.sessions.StepBatch(pb.StepBatchRequest(items=items, stacked=True, tensors=[spec]))
        for i in reply.failed:
            status = reply.items[i].status
            assert fate(status) == ("INVALID_ARGUMENT", "TENSOR_MISMATCH") and field(status) == f"items[{i}].tensors" and '"/data"' in status.message
            assert json.loads(g.sessions.Step(items[i]).observation.json)["data"] == data(i)
        assert not any(reply.items[i].HasField("result") for i in reply.failed)
        return reply

    def check(tag, data, failed):
        """The items that come first decide, and that is the first one on each reactor, in the order of the items there."""
        reply = step(tag, data)
        assert list(reply.failed) == failed
        rows = array(reply.stacked.observations["/data"])
        assert rows.tolist() == [np.zeros_like(data(0)).tolist() if i in failed else data(i) for i in range(8)]

    check("same", lambda i: [[i, -i], [i, 1]], [])
    check("one", lambda i: [i] * (3 if i == 4 else 2), [4])
    check("ragged", lambda i: [[i], [i, 2]] if i == 5 else [[i], [2]], [5])
    check("text", lambda i: ["a", "b"] if i == 3 else [i, 2], [3])
    check("odd", lambda i: [i] * (2 + i % 2), [1, 3, 5, 7])
    total = sum(json.loads(g.sessions.GetState(pb.GetStateRequest(session=s)).state.json)["step_count"] for s in names)
    assert total == 8 * 5
    check("empty", lambda i: [[], []], [])


def test_stacked_json(g):
    names = create_many(g, 3, g.threads, "cartpole")
    body = {
        "stacked": True,
        "tensors": [{"path": "/state", "dtype": "DTYPE_FLOAT64"}],
        "stacked_actions": {"sessions": names, "actions": {"tensors": {"/action": {"dtype": "DTYPE_UINT8", "shape": ["3"], "data": "AQAB"}}}},
    }
    import base64

    reply = g.post("/v1/sessions:stepBatch", body)
    assert reply.status_code == 200, reply.text
    stacked = reply.json()["stacked"]
    t = stacked["observations"]["/state"]
    assert t["dtype"] == "DTYPE_FLOAT64" and t["shape"] == ["3", "4"] and len(base64.b64decode(t["data"])) == 96
    assert "legal_actions" in reply.json()["items"][0]["result"]["observation"] and "state" not in reply.json()["items"][0]["result"]["observation"]


def test_stacked_requests_that_are_wrong(g):
    names = create_many(g, 2, g.threads, "cartpole")
    good = stacked_actions(names, [0, 1])

    def refused(**fields):
        with pytest.raises(grpc.RpcError) as e:
            g.sessions.StepBatch(pb.StepBatchRequest(**fields))
        assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        return e.value.details()

    assert "tensors is required" in refused(stacked_actions=good, stacked=True)
    assert "tensors[0].path" in refused(stacked_actions=good, stacked=True, tensors=[payload_pb2.TensorSpec(path="x", dtype=6)])
    assert "exclude" in refused(stacked_actions=good, items=[pb.StepRequest(session=names[0])])
    assert "3 rows" in refused(stacked_actions=pb.StackedActions(sessions=names, actions=stacked_actions(names + names[:1], [0, 1, 1]).actions))
    assert "required" in refused(stacked_actions=pb.StackedActions(sessions=names))
    assert "sessions" in refused(stacked_actions=pb.StackedActions(actions=good.actions))
    assert "member" in refused(stacked_actions=stacked_actions(names, [0, 1], path=""))
    assert "request_id" in refused(stacked_actions=stacked_actions(names, [0, 1], "x" * 121))
    assert "rows" in refused(stacked_actions=pb.StackedActions(sessions=names, actions=payload_pb2.Tensors(tensors={"/action": scalar(1)})))
    # NaN in one row is that item's alone.
    rows = payload_pb2.Tensor(dtype=payload_pb2.DTYPE_FLOAT64, shape=[2], data=np.array([1, np.nan]).tobytes())
    reply = g.sessions.StepBatch(pb.StepBatchRequest(stacked_actions=pb.StackedActions(sessions=names, actions=payload_pb2.Tensors(tensors={"/action": rows}))))
    assert "NaN" in reply.items[1].status.message and list(reply.failed)[-1:] == [1]


def test_stacked_any(g):
    """What is pending has a row of zeros, and is collected by its request_id."""
    names = create_many(g, 6, g.threads, "echo")
    spec = payload_pb2.TensorSpec(path="/message_length", dtype=payload_pb2.DTYPE_INT32)

    def item(i):
        slow = {"fault": "slow", "ms": 1500} if i == 2 else {}
        return pb.StepRequest(session=names[i], action=action(message="ab", **slow), request_id="a")

    q = pb.StepBatchRequest(items=[item(i) for i in range(6)], stacked=True, tensors=[spec], wait=pb.StepBatchRequest.WAIT_ANY, min_ready=5)
    reply = g.sessions.StepBatch(q)
    assert [i.pending for i in reply.items] == [i == 2 for i in range(6)] and not reply.failed
    assert array(reply.stacked.observations["/message_length"]).tolist() == [2, 2, 0, 2, 2, 2]
    assert numbers(reply.stacked)["step_indices"].tolist() == [1, 1, 0, 1, 1, 1]
    reply = g.sessions.StepBatch(pb.StepBatchRequest(items=[item(2)], stacked=True, tensors=[spec]))
    assert array(reply.stacked.observations["/message_length"]).tolist() == [2] and numbers(reply.stacked)["step_indices"].tolist() == [1]
