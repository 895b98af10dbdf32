# SPDX-License-Identifier: Apache-2.0
"""One environment over gRPC, shaped as OpenEnv's EnvClient: reset, step, state, close; asyncio's as it is, and plain calls by sync()."""

import json
import uuid
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .errors import Error
from .gateway import Gateway, call, call_async, to_json
from .v1 import payload_pb2, session_service_pb2 as pb
from .v1.session_service_pb2_grpc import SessionServiceStub

ObsT = TypeVar("ObsT")


@dataclass
class StepResult(Generic[ObsT]):
    """What a reset or a step led to. The first four are OpenEnv's."""

    observation: ObsT
    reward: float | None = None
    done: bool = False
    metadata: dict[str, Any] | None = None
    terminated: bool | None = None  # None: the environment does not tell
    truncated: bool | None = None
    episode_id: str = ""
    step_index: int = 0


class _Shapes:
    """How actions, results and states look to the caller. OpenEnv's names, so that its clients' classes can take these over: here they are plain dicts."""

    def _step_payload(self, action):
        """The action as the environment's JSON has it."""
        if hasattr(action, "model_dump"):
            return action.model_dump()
        return action

    def _parse_result(self, payload):
        """A StepResult of {"observation": …, "reward": …, "done": …, "metadata": …}."""
        return StepResult(**payload)

    def _parse_state(self, payload):
        return payload


class _Requests:
    """A client's requests and what their replies become, without any I/O."""

    def __init__(self, shapes, environment, options):
        self.shapes, self.environment, self.options = shapes, environment, options
        self.session = ""

    def create(self):
        lease = {k: v for k, v in self.options.items() if v is not None}
        return pb.CreateSessionRequest(environment=self.environment, request_id=str(uuid.uuid4()), **lease)

    def reset(self, seed=None, episode_id=None, request_id=None, **options):
        payload = payload_pb2.Payload(json=to_json(options)) if options else None
        request_id = request_id or str(uuid.uuid4())
        return pb.ResetRequest(session=self.session, seed=seed, episode_id=episode_id or "", options=payload, request_id=request_id)

    def step(self, action, request_id=None):
        payload = payload_pb2.Payload(json=to_json(self.shapes._step_payload(action)))
        return pb.StepRequest(session=self.session, action=payload, request_id=request_id or str(uuid.uuid4()))

    def state(self):
        return pb.GetStateRequest(session=self.session)

    def close(self):
        return pb.CloseSessionRequest(name=self.session)

    def result(self, reply):
        told = {name: getattr(reply, name) for name in ("reward", "terminated", "truncated") if reply.HasField(name)}
        metadata = json.loads(reply.metadata.json) if reply.HasField("metadata") else None
        observation = json.loads(reply.observation.json)
        payload = {"observation": observation, "done": reply.done, "metadata": metadata, "episode_id": reply.episode_id, "step_index": reply.step_index}
        return self.shapes._parse_result(payload | told)

    def state_of(self, reply):
        return self.shapes._parse_state(json.loads(reply.state.json))


def _timed(request, seconds):
    """The gateway is told how long the caller waits."""
    request.timeout_s = seconds
    return request


class EnvClient(_Shapes):
    """One environment, for asyncio:

        async with EnvClient("http://gateway:8080/v1/environments/echo") as env:
            result = await env.reset(seed=7)
            result = await env.step({"message": "hello"})

    and by plain calls: `with EnvClient(…).sync() as env: env.reset(seed=7)`.

    A step is taken once, however often it has to be sent: when the connection breaks it is sent again with the same request_id, until message_timeout_s are
    over. After a Timeout, step(action, request_id=…) with the id that was given to the first call collects its reply.
    """

    def __init__(self, base_url, environment=None, *, connect_timeout_s=300.0, message_timeout_s=60.0, lease_s=None, idle_timeout_s=None, **connection):
        self._gateway = Gateway(base_url, **connection)
        self._environment = self._gateway.environment_of(environment)
        self._connect_timeout_s, self._message_timeout_s = connect_timeout_s, message_timeout_s
        self._requests = _Requests(self, self._environment, {"lease_s": lease_s, "idle_timeout_s": idle_timeout_s})
        self._channel = self._stub = None

    @classmethod
    def from_env(cls, environment, base_url="127.0.0.1:8080", **options):
        """A client of a gateway's environment, to be awaited or to be made .sync(): `env = await EnvClient.from_env("echo")`."""
        return cls(base_url, environment, **options)

    @property
    def session(self):
        """Its session's name; "" while it has none."""
        return self._requests.session

    def sync(self):
        """The same by plain calls."""
        return SyncEnvClient(self)

    async def connect(self):
        """Opens the session, for which a worker may have to be launched. reset, step and state do so by themselves."""
        if not self.session:
            if self._channel is None:
                self._channel = self._gateway.channel(aio=True)
                self._stub = SessionServiceStub(self._channel)
            reply = await self._call(self._stub.CreateSession, self._requests.create(), self._connect_timeout_s)
            self._requests.session = reply.name
        return self

    async def reset(self, **kwargs):
        """Begins an episode: seed, episode_id, and what else the environment's reset takes."""
        await self.connect()
        return self._requests.result(await self._call(self._stub.Reset, self._requests.reset(**kwargs)))

    async def step(self, action, *, request_id=None):
        """Takes a step."""
        await self.connect()
        return self._requests.result(await self._call(self._stub.Step, self._requests.step(action, request_id)))

    async def state(self):
        """The environment's own state."""
        await self.connect()
        return self._requests.state_of(await self._call(self._stub.GetState, self._requests.state()))

    async def close(self):
        """Closes the session. Once more does nothing."""
        try:
            if self.session:
                await call_async(self._stub.CloseSession, self._requests.close(), self._message_timeout_s, self._gateway.metadata)
        except Error as e:
            if e.code != "NOT_FOUND":  # gone already
                raise
        finally:
            self._requests.session = ""
            if self._channel is not None:
                await self._channel.close()
                self._channel = None

    async def _call(self, method, request, seconds=None):
        seconds = seconds or self._message_timeout_s
        return await call_async(method, _timed(request, seconds), seconds, self._gateway.metadata)

    def __await__(self):
        return self.connect().__await__()

    async def __aenter__(self):
        return await self.connect()

    async def __aexit__(self, *_):
        await self.close()


class SyncEnvClient:
    """An EnvClient by plain calls."""

    def __init__(self, client):
        self._client, self._requests, self._gateway = client, client._requests, client._gateway
        self._channel = self._stub = None

    @property
    def session(self):
        """Its session's name; "" while it has none."""
        return self._requests.session

    def connect(self):
        """Opens the session, for which a worker may have to be launched. reset, step and state do so by themselves."""
        if not self.session:
            if self._channel is None:
                self._channel = self._gateway.channel()
                self._stub = SessionServiceStub(self._channel)
            reply = self._call(self._stub.CreateSession, self._requests.create(), self._client._connect_timeout_s)
            self._requests.session = reply.name
        return self

    def reset(self, **kwargs):
        """Begins an episode: seed, episode_id, and what else the environment's reset takes."""
        self.connect()
        return self._requests.result(self._call(self._stub.Reset, self._requests.reset(**kwargs)))

    def step(self, action, *, request_id=None):
        """Takes a step."""
        self.connect()
        return self._requests.result(self._call(self._stub.Step, self._requests.step(action, request_id)))

    def state(self):
        """The environment's own state."""
        self.connect()
        return self._requests.state_of(self._call(self._stub.GetState, self._requests.state()))

    def close(self):
        """Closes the session. Once more does nothing."""
        try:
            if self.session:
                call(self._stub.CloseSession, self._requests.close(), self._client._message_timeout_s, self._gateway.metadata)
        except Error as e:
            if e.code != "NOT_FOUND":  # gone already
                raise
        finally:
            self._requests.session = ""
            if self._channel is not None:
                self._channel.close()
                self._channel = None

    def _call(self, method, request, seconds=None):
        seconds = seconds or self._client._message_timeout_s
        return call(method, _timed(request, seconds), seconds, self._gateway.metadata)

    def __enter__(self):
        return self.connect()

    def __exit__(self, *_):
        self.close()
