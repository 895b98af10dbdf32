# SPDX-License-Identifier: Apache-2.0
"""Real environments from PyPI as OpenEnv projects, by every door: directly, by the gateway's WebSocket for OpenEnv's clients, by the typed API, and by the Python package's clients. The transcripts are the same."""

import asyncio
import json
import random

import envgate
import gymnasium
import numpy as np
import pytest
from conftest import Gateway
from environments import ENVIRONMENTS, config, workers
from websockets.sync.client import connect

from envgate.v1 import payload_pb2, session_service_pb2 as pb

SEED = 11


@pytest.fixture(scope="module")
def gateway_and_workers(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("environments")
    with workers(ENVIRONMENTS, tmp) as at:
        g = Gateway(config(at), tmp=tmp)
        yield g, at
        g.check_end()


@pytest.fixture(params=list(ENVIRONMENTS))
def door(request, gateway_and_workers):
    g, at = gateway_and_workers
    return g, request.param, at[request.param]


def actions(name):
    """The script's actions."""
    rng = random.Random(SEED)
    if name == "reasoning":
        return [{"answer": "forty-two"}]
    if name == "pendulum":
        return [{"action": [rng.uniform(-2, 2)]} for _ in range(30)]
    choices = {"cartpole": 2, "frozenlake": 4, "pong": 6}[name]
    return [{"action": rng.randrange(choices)} for _ in range(12)]


def line(data):
    """A result as it is compared."""
    return [data["observation"], data.get("reward"), data["done"], data.get("metadata")]


def by_websocket(url, name):
    """As OpenEnv's clients do it."""
    transcript = []
    with connect(url, compression=None, max_size=None) as ws:

        def ask(message):
            ws.send(json.dumps(message))
            reply = json.loads(ws.recv(timeout=60))
            assert reply["type"] == message["type"].replace("reset", "observation").replace("step", "observation"), reply
            return reply["data"]

        transcript.append(line(ask({"type": "reset", "data": {"seed": SEED}})))
        for action in actions(name):
            transcript.append(line(ask({"type": "step", "data": action})))
            if transcript[-1][2]:
                break
        transcript.append(ask({"type": "state"})["step_count"])
    return transcript


def by_grpc(g, name):
    s = g.sessions
    session = s.CreateSession(pb.CreateSessionRequest(environment=name), timeout=60).name

    def read(result):
        return [
            json.loads(result.observation.json),
            result.reward if result.HasField("reward") else None,
            result.done,
            json.loads(result.metadata.json) if result.HasField("metadata") else None,
        ]

    transcript = [read(s.Reset(pb.ResetRequest(session=session, seed=SEED), timeout=60))]
    for action in actions(name):
        transcript.append(read(s.Step(pb.StepRequest(session=session, action=payload_pb2.Payload(json=json.dumps(action).encode())), timeout=60)))
        if transcript[-1][2]:
            break
    transcript.append(json.loads(s.GetState(pb.GetStateRequest(session=session)).state.json)["step_count"])
    s.CloseSession(pb.CloseSessionRequest(name=session))
    return transcript


def by_sync_client(g, name):
    with envgate.EnvClient.from_env(name, base_url=g.target).sync() as env:
        results = [env.reset(seed=SEED)]
        for action in actions(name):
            results.append(env.step(action))
            if results[-1].done:
                break
        return [[r.observation, r.reward, r.done, r.metadata] for r in results] + [env.state()["step_count"]]


async def by_async_client(g, name):
    async with envgate.EnvClient(f"{g.url}/v1/environments/{name}") as env:
        results = [await env.reset(seed=SEED)]
        for action in actions(name):
            results.append(await env.step(action))
            if results[-1].done:
                break
        return [[r.observation, r.reward, r.done, r.metadata] for r in results] + [(await env.state())["step_count"]]


def test_the_same_by_every_door(door):
    g, name, address = door
    direct = by_websocket(f"ws://{address}/ws", name)
    assert len(direct) > 2 and direct[-1] == len(direct) - 2
    assert by_websocket(f"ws://{g.listen}/v1/environments/{name}/ws", name) == direct
    assert by_grpc(g, name) == direct
    assert by_sync_client(g, name) == direct
    assert asyncio.run(by_async_client(g, name)) == direct
    if name == "pong":
        assert np.shape(direct[0][0]["observation"]) == (84, 84)


@pytest.mark.parametrize("name", [n for n, (folder, _) in ENVIRONMENTS.items() if folder == "gymnasium_env" and n != "pong"])
def test_it_is_gymnasiums(gateway_and_workers, name):
    """The environment is really that one: its trajectory is that of the same package in this process."""
    g, _ = gateway_and_workers
    with gymnasium.make(ENVIRONMENTS[name][1]["GYMNASIUM_ENV"]) as env:
        observation, info = env.reset(seed=SEED)
        expected = [[np.asarray(observation).tolist(), None, False]]
        for action in actions(name):
            given = action["action"]
            observation, reward, terminated, truncated, _ = env.step(np.asarray(given, np.float32) if isinstance(given, list) else given)
            expected.append([np.asarray(observation).tolist(), float(reward), terminated or truncated])
            if terminated or truncated:
                break
    assert [[o["observation"], r, d] for o, r, d, _ in by_grpc(g, name)[:-1]] == expected
