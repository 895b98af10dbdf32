# SPDX-License-Identifier: Apache-2.0
"""Many environments behind a gateway as one gymnasium.vector.VectorEnv."""

import json
import time
import uuid

import grpc
import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space, iterate

from . import spaces as codec
from .errors import BatchError, Error, Timeout, of_call, of_status
from .gateway import MARGIN_S, Gateway, Patience, call, to_json
from .v1 import environment_service_pb2 as environment_pb, payload_pb2, session_service_pb2 as pb
from .v1.environment_service_pb2_grpc import EnvironmentServiceStub
from .v1.session_service_pb2_grpc import SessionServiceStub

ITEMS_MAX = 1024  # of a batch
KNOWN_INFOS = 512  # how many metadata's bytes are remembered with what they say
NOT_INFOS = ("terminated", "truncated")  # which step() returns anyway


class _Batch:
    """A request under way for some of the environments."""

    def __init__(self, method, request, index):
        self.method, self.request, self.index = method, request, index  # index: an array, or None for all
        self.future = self.reply = None


class _Rows:
    """What batches brought, a row for each environment."""

    def __init__(self, n):
        self.parts = []  # (index or None for all, {path: array})
        self.rewards = np.zeros(n, np.float64)
        self.terminations = np.zeros(n, np.bool_)
        self.truncations = np.zeros(n, np.bool_)
        self.infos = []  # (index, metadata)
        self.errors = {}


class VectorEnv(gymnasium.vector.VectorEnv):
    """So many sessions of an environment, stepped side by side by one call.

        envs = envgate.VectorEnv("127.0.0.1:8080", "cartpole", 64)
        observations, infos = envs.reset(seed=1)
        observations, rewards, terminations, truncations, infos = envs.step(envs.action_space.sample())

    Where the spaces are not given, they are what the environment's JSON Schemas tell, and so are the paths (JSON Pointers) at which they lie in observations
    and actions. Spaces of numbers only (Box, Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple of them) travel as one stacked array for each path; others,
    as Text, as JSON.

    A reward that the environment does not tell is 0. Where it tells `done` only, that is a termination. Its metadata are the infos; `infos=False` leaves them
    out. Observations are copies of their own, unless `copy=False`: then they may be read-only.

    What goes wrong with some of the environments is a BatchError, when the others have been stepped; replace() gives those that are lost new sessions. A
    Timeout, after step_timeout_s, loses nothing: step_wait() goes on waiting for the same step.
    """

    def __init__(
        self,
        address,
        environment=None,
        num_envs=1,
        *,
        observation_space=None,
        action_space=None,
        observation_path=None,
        action_path=None,
        autoreset_mode=AutoresetMode.NEXT_STEP,
        infos=True,
        copy=True,
        step_timeout_s=60.0,
        start_timeout_s=300.0,
        lease_s=None,
        **connection,
    ):
        self.closed = True  # until there is something to close
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}; at least 1")
        self.num_envs, self.copy = num_envs, copy
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {"autoreset_mode": self.autoreset_mode}
        self.step_timeout_s, self.start_timeout_s = step_timeout_s, start_timeout_s
        self._gateway = Gateway(address, **connection)
        self.environment = self._gateway.environment_of(environment)
        self._lease_s, self._infos, self._known_infos = lease_s, infos, {}
        self._channel = self._gateway.channel()
        self._stub = SessionServiceStub(self._channel)
        self.sessions = []
        self.closed = False
        try:
            self._check_capacity()
            self._set_spaces(observation_space, observation_path, action_space, action_path)
            self.sessions = self._create(num_envs)
        except BaseException:
            self.close()
            raise
        self._autoreset = np.zeros(num_envs, np.bool_)
        self._last = None  # the last observations: [(index or None, {path: array})]
        self._under_way = None  # a step or reset: its generator, and the batches that it waits for
        self._ids, self._count = uuid.uuid4().hex, 0
        self._step_all = self._step_request(None) if self._stacked and num_envs <= ITEMS_MAX else None

    # --- spaces

    def _set_spaces(self, observation_space, observation_path, action_space, action_path):
        schema = {}
        if None in (observation_space, observation_path, action_space, action_path):
            request = environment_pb.GetSchemaRequest(environment=self.environment)
            try:
                reply = call(EnvironmentServiceStub(self._channel).GetSchema, request, self.start_timeout_s, self._gateway.metadata)
                schema = json.loads(reply.schema.json)
            except Error as e:
                if e.reason != "SCHEMA_NOT_PUBLISHED":
                    raise

        def choose(what, space, path, leave_out):
            derived = codec.from_schema(schema.get(what, {}), leave_out)
            if space is None:
                if path is not None or derived is None:
                    raise ValueError(f"the environment's schema says too little of its {what}s: give {what}_space, and {what}_path, where in the JSON it lies")
                return derived
            if path is None:
                if isinstance(space, gymnasium.spaces.Dict):
                    return space, ""
                if derived is None or isinstance(derived[0], gymnasium.spaces.Dict):
                    raise ValueError(f"give {what}_path, where in the {what}'s JSON the {what}_space lies, as '/state'")
                path = derived[1]
            return space, path

        self.single_observation_space, self._observation_path = choose("observation", observation_space, observation_path, codec.OF_ALL_OBSERVATIONS)
        self.single_action_space, self._action_path = choose("action", action_space, action_path, codec.OF_ALL_ACTIONS)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._observed = codec.leaves(self.single_observation_space, self._observation_path)
        self._acted = codec.leaves(self.single_action_space, self._action_path)
        self._stacked = codec.all_arrays(self._observed) and codec.all_arrays(self._acted) and not codec.has_tuple(self.single_action_space)

    # --- sessions

    def _check_capacity(self):
        """That so many may be there at all, which waiting would not change."""
        request = environment_pb.GetEnvironmentRequest(name=f"environments/{self.environment}")
        e = call(EnvironmentServiceStub(self._channel).GetEnvironment, request, self.step_timeout_s, self._gateway.metadata)
        most = e.max_workers * e.sessions_per_worker
        if self.num_envs > most:
            what = f"max_workers {e.max_workers} × sessions_per_worker {e.sessions_per_worker}"
            raise Error(f"num_envs is {self.num_envs}, and the gateway's configuration allows {most} of {self.environment!r}: {what}", "RESOURCE_EXHAUSTED", "NO_CAPACITY")

    def _create(self, n):
        """The names of so many new sessions."""
        names, patience = [], Patience(self.start_timeout_s)
        try:
            for first in range(0, n, ITEMS_MAX):
                like = pb.CreateSessionRequest(environment=self.environment, lease_s=self._lease_s, request_id=uuid.uuid4().hex, timeout_s=patience.left())
                request = pb.CreateSessionsRequest(count=min(n - first, ITEMS_MAX), session=like)
                names += [s.name for s in call(self._stub.CreateSessions, request, patience.left(), self._gateway.metadata).sessions]
        except Error:
            self._close_sessions(names)
            raise
        return names

    def _close_sessions(self, names):
        closing = [
            self._stub.CloseSession.future(pb.CloseSessionRequest(name=name), timeout=self.step_timeout_s, metadata=self._gateway.metadata) for name in names
        ]
        errors = []
        for future in closing:
            try:
                future.result()
            except grpc.RpcError as e:
                errors.append(of_call(e))
        errors = [e for e in errors if e.code != "NOT_FOUND"]  # gone already
        if errors:
            raise errors[0]

    def replace(self, indices, *, seed=None):
        """Puts new sessions into the places of these environments, and begins an episode in each. Returns what reset() does."""
        indices = sorted(set(indices))
        new = self._create(len(indices))
        old = [self.sessions[i] for i in indices]
        for i, name in zip(indices, new, strict=True):
            self.sessions[i] = name
        if self._step_all is not None:
            self._step_all = self._step_request(None)
        self._close_sessions(old)
        mask = np.zeros(self.num_envs, np.bool_)
        mask[indices] = True
        return self.reset(seed=seed, options={"reset_mask": mask})

    def close_extras(self, **kwargs):
        """Closes the sessions, and so frees their workers' slots."""
        self._under_way = None
        sessions, self.sessions = self.sessions, []
        try:
            self._close_sessions(sessions)
        finally:
            self._channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # --- requests

    def _next_id(self):
        self._count += 1
        return f"{self._ids}-{self._count}"

    def _names(self, index):
        return self.sessions if index is None else [self.sessions[i] for i in index]

    def _pieces(self, index):
        """The same environments in as many pieces as make batches."""
        n = self.num_envs if index is None else len(index)
        if n <= ITEMS_MAX:
            return [index]
        index = np.arange(n) if index is None else index
        return [index[i : i + ITEMS_MAX] for i in range(0, n, ITEMS_MAX)]

    def _format(self):
        """How replies are written."""
        if self._stacked:
            specs = [payload_pb2.TensorSpec(path=leaf.path, dtype=codec.DTYPES[leaf.dtype]) for leaf in self._observed]
            return {"stacked": True, "tensors": specs, "payload_format": payload_pb2.PAYLOAD_FORMAT_TENSORS}
        return {"payload_format": payload_pb2.PAYLOAD_FORMAT_JSON}

    def _step_request(self, index):
        """A stacked StepBatch without its actions."""
        request = pb.StepBatchRequest(**self._format())
        request.stacked_actions.sessions.extend(self._names(index))
        for leaf in self._acted:
            tensor = request.stacked_actions.actions.tensors[leaf.path]
            tensor.dtype = codec.DTYPES[leaf.dtype]
            tensor.shape.extend((len(request.stacked_actions.sessions), *leaf.shape))
        return request

    def _step_batch(self, actions, index):
        """The steps of some environments, with the actions of all."""
        if not self._stacked:
            return self._json_step_batch(actions, index)
        request = self._step_all if index is None else self._step_request(index)
        stacked = request.stacked_actions
        stacked.request_id = self._next_id()
        values = codec.scatter(self.single_action_space, self._action_path, actions, {})
        for leaf in self._acted:
            value = np.asarray(values[leaf.path]).astype(leaf.dtype, casting="same_kind", copy=False)
            if value.shape != (self.num_envs, *leaf.shape):
                raise ValueError(f"the actions' shape is {value.shape}, and the action_space's {(self.num_envs, *leaf.shape)}")
            stacked.actions.tensors[leaf.path].data = (value if index is None else value[index]).tobytes()
        return _Batch(self._stub.StepBatch, request, index)

    def _json_step_batch(self, actions, index):
        request = pb.StepBatchRequest(**self._format())
        actions = list(iterate(self.action_space, actions))
        if len(actions) != self.num_envs:
            raise ValueError(f"the actions' shape is that of {len(actions)}, and there are {self.num_envs} environments")
        keys = codec.Leaf(self._action_path, self.single_action_space, None, ()).keys
        for i in range(self.num_envs) if index is None else index:
            action = codec.put(None, keys, codec.to_json_value(self.single_action_space, actions[i]))
            request.items.add(session=self.sessions[i], request_id=self._next_id(), action=payload_pb2.Payload(json=to_json(action)))
        return _Batch(self._stub.StepBatch, request, index)

    def _reset_batch(self, index, seeds=None, options=None):
        request = pb.ResetBatchRequest(**self._format())
        payload = payload_pb2.Payload(json=to_json(options)) if options else None
        for i in range(self.num_envs) if index is None else index.tolist():
            seed = None if seeds is None else seeds[i]
            request.items.add(session=self.sessions[i], request_id=self._next_id(), seed=seed, options=payload)
        return _Batch(self._stub.ResetBatch, request, index)

    # --- sending them, and what comes back

    def _send(self, batches):
        """Sends them off, and returns at once."""
        for batch in batches:
            batch.request.timeout_s = self.step_timeout_s
            batch.future = batch.method.future(batch.request, timeout=self.step_timeout_s + MARGIN_S, metadata=self._gateway.metadata)

    def _receive(self, batches, seconds):
        """Waits until each batch has its reply, in which nothing is under way any more. What was not done in time is asked for again, by the same request."""
        patience = Patience(seconds)
        if len(batches) > 1:
            self._send([b for b in batches[1:] if b.future is None and b.reply is None])
        for batch in batches:
            while batch.reply is None:
                first, batch.future = batch.future, None
                batch.request.timeout_s = patience.left()
                reply = call(batch.method, batch.request, patience.left(), self._gateway.metadata, first)
                errors = {k: of_status(reply.items[k].status) for k in reply.failed}
                refused = [e for e in errors.values() if e.retry]
                late = [e for e in errors.values() if isinstance(e, Timeout)]
                if refused:
                    time.sleep(patience.next_delay(refused[0]))
                elif late and patience.over():
                    raise late[0]
                elif not late:
                    batch.reply, batch.errors = reply, errors

    def _arrays(self, batch, rows):
        """The observations of a batch's reply, by path."""
        n = self.num_envs if batch.index is None else len(batch.index)
        if self._stacked:
            values = {leaf.path: self._array(batch.reply.stacked.observations, leaf, n) for leaf in self._observed}
        else:
            values = {leaf.path: [None] * n if leaf.dtype is None else np.zeros((n, *leaf.shape), leaf.dtype) for leaf in self._observed}
            for k, item in enumerate(batch.reply.items):
                if item.HasField("result"):
                    observation = json.loads(item.result.observation.json)
                    for leaf in self._observed:
                        values[leaf.path][k] = codec.pick(observation, leaf.keys)
        rows.parts.append((batch.index, values))

    @staticmethod
    def _array(tensors, leaf, n):
        """One path's rows."""
        if leaf.path not in tensors:  # all of them failed
            return np.zeros((n, *leaf.shape), leaf.dtype)
        tensor = tensors[leaf.path]
        if tuple(tensor.shape) != (n, *leaf.shape):
            raise Error(f"the observations at {leaf.path!r} have the shape {tuple(tensor.shape[1:])}, and their space {leaf.shape}", "INVALID_ARGUMENT")
        return np.frombuffer(tensor.data, leaf.dtype).reshape(n, *leaf.shape)

    def _note(self, batch, rows):
        """What a reply has beside observations and rewards: infos and errors."""
        index = batch.index
        for k, error in batch.errors.items():
            rows.errors[k if index is None else int(index[k])] = error
        if not self._infos:
            return
        known = self._known_infos
        for k, item in enumerate(batch.reply.items):
            text = item.result.metadata.json
            if not text:
                continue
            info = known.get(text)
            if info is None:
                info = {name: value for name, value in json.loads(text).items() if name not in NOT_INFOS}
                if len(known) < KNOWN_INFOS and all(isinstance(v, (bool, int, float, str)) for v in info.values()):
                    known[text] = info
            if info:
                rows.infos.append((k if index is None else int(index[k]), info))

    def _judge(self, batch, rows):
        """The rewards and ends of a batch of steps."""
        at = slice(None) if batch.index is None else batch.index
        if self._stacked:
            s = batch.reply.stacked
            reward = np.frombuffer(s.rewards.data, np.float64)
            done, terminated, truncated = (np.frombuffer(t.data, np.bool_) for t in (s.done, s.terminated, s.truncated))
        else:
            results = [item.result for item in batch.reply.items]
            reward = np.array([r.reward for r in results], np.float64)
            done, terminated, truncated = (np.array([getattr(r, name) for r in results], np.bool_) for name in ("done", "terminated", "truncated"))
        rows.rewards[at] = np.where(np.isnan(reward), 0.0, reward)
        rows.terminations[at] = terminated | (done & ~truncated)
        rows.truncations[at] = truncated

    # --- an episode's life. Each of these is a generator that yields the batches it needs, and goes on when they have their replies.

    def _resetting(self, index, seeds, options):
        rows = _Rows(self.num_envs)
        batches = [self._reset_batch(piece, seeds, options) for piece in self._pieces(index)]
        yield batches
        for batch in batches:
            self._arrays(batch, rows)
            self._note(batch, rows)
        self._autoreset[slice(None) if index is None else index] = False
        return rows

    def _stepping(self, actions):
        rows = _Rows(self.num_envs)
        steps, resets = None, None
        if self._autoreset.any():
            if self.autoreset_mode == AutoresetMode.DISABLED:
                raise Error(f"the episodes of {np.flatnonzero(self._autoreset).tolist()} are over: reset them, by options={{'reset_mask': …}}", "FAILED_PRECONDITION")
            if self.autoreset_mode == AutoresetMode.NEXT_STEP:
                steps, resets = np.flatnonzero(~self._autoreset), np.flatnonzero(self._autoreset)
        step_batches = [self._step_batch(actions, piece) for piece in self._pieces(steps)] if steps is None or len(steps) else []
        reset_batches = [self._reset_batch(piece) for piece in self._pieces(resets)] if resets is not None else []
        yield step_batches + reset_batches
        for batch in step_batches:
            self._arrays(batch, rows)
            self._note(batch, rows)
            self._judge(batch, rows)
        for batch in reset_batches:
            self._arrays(batch, rows)
            self._note(batch, rows)
        over = rows.terminations | rows.truncations
        for batch in reset_batches:
            over[batch.index[list(batch.errors)]] = True  # the next step tries again
        if self.autoreset_mode == AutoresetMode.SAME_STEP:
            index = np.flatnonzero(over)
            if len(index):
                final, infos = self._rows_of(rows.parts, index), dict(rows.infos)
                rows.infos = [(i, info) for i, info in rows.infos if not over[i]]
                again = [self._reset_batch(piece) for piece in self._pieces(index)]
                yield again
                for k, i in enumerate(index.tolist()):
                    rows.infos.append((i, {"final_obs": final[k], "final_info": infos.get(i, {})}))
                for batch in again:
                    self._arrays(batch, rows)
                    self._note(batch, rows)
        else:
            self._autoreset = over
        return rows

    def _rows_of(self, parts, index):
        """The observations of some environments, each as its space has it."""
        batch = self._observations(parts)
        every = list(iterate(self.observation_space, batch))
        return [every[i] for i in index]

    def _observations(self, parts):
        """The batch of all observations, as Gymnasium has it."""
        values = {}
        for leaf in self._observed:
            whole = parts[0][1][leaf.path] if parts[0][0] is None else None
            if leaf.dtype is None:
                whole = [""] * self.num_envs if whole is None else list(whole)
                for index, value in parts[parts[0][0] is None :]:
                    for k, i in enumerate(index):
                        whole[i] = value[leaf.path][k]
                values[leaf.path] = tuple(whole)
                continue
            if whole is None:
                whole = np.zeros((self.num_envs, *leaf.shape), leaf.dtype)
            elif len(parts) > 1 or self.copy:
                whole = whole.copy()
            for index, value in parts[parts[0][0] is None :]:
                whole[index] = value[leaf.path]
            values[leaf.path] = whole
        return codec.gather(self.single_observation_space, self._observation_path, values)

    # --- Gymnasium's calls

    def reset(self, *, seed=None, options=None):
        """Begins episodes in all environments, or in those of options["reset_mask"] (a boolean array). A seed n is n, n+1, …; a list has one for each. The
        other options go to the environments' reset."""
        if isinstance(seed, (int, np.integer)):
            super().reset(seed=int(seed))
            seed = [int(seed) + i for i in range(self.num_envs)]
        if seed is not None and len(seed) != self.num_envs:
            raise ValueError(f"{len(seed)} seeds for {self.num_envs} environments")
        options = dict(options or {})
        index = None
        if "reset_mask" in options:
            mask = options.pop("reset_mask")
            if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,) or not mask.any():
                raise ValueError(f"options['reset_mask'] must be a boolean array of shape ({self.num_envs},), with a True in it")
            index = None if mask.all() else np.flatnonzero(mask)
        if index is None and not self.closed:
            self._under_way = None  # a step that nobody waits for any more
        self._idle()
        self._begin(self._resetting(index, seed, options))
        rows = self._drive(self.start_timeout_s)
        if index is not None and self._last is not None:
            rows.parts = [*self._last, *rows.parts]
        return self._finish(rows, lambda observations, infos: (observations, infos))

    def step_async(self, actions):
        """Sends the actions off; step_wait() returns what they led to."""
        self._idle()
        self._begin(self._stepping(actions))
        self._send(self._under_way[1])

    def step_wait(self, timeout=None):
        """What step_async() or a step that ended in a Timeout led to. Waits for at most so many seconds (default: step_timeout_s)."""
        if self._under_way is None:
            raise Error("no step is under way: call step() or step_async()", "FAILED_PRECONDITION")
        rows = self._drive(self.step_timeout_s if timeout is None else timeout)
        return self._finish(rows, lambda observations, infos: (observations, rows.rewards, rows.terminations, rows.truncations, infos))

    def step(self, actions):
        """Takes a step in each environment."""
        self._idle()
        self._begin(self._stepping(actions))
        return self.step_wait()

    @property
    def waiting(self):
        """Whether a step is under way, for step_wait() to collect."""
        return self._under_way is not None

    def _idle(self):
        if self.closed:
            raise Error("it is closed", "FAILED_PRECONDITION")
        if self._under_way is not None:
            raise Error("a step is under way: collect it by step_wait()", "FAILED_PRECONDITION")

    def _begin(self, generator):
        self._under_way = generator, next(generator)

    def _drive(self, seconds):
        """Goes on with what is under way until it is done. After a Timeout it is under way still."""
        while True:
            generator, batches = self._under_way
            try:
                self._receive(batches, seconds)
            except Error as e:
                if not e.retry and not isinstance(e, Timeout):
                    self._under_way = None
                raise
            try:
                self._under_way = generator, next(generator)
            except StopIteration as end:
                self._under_way = None
                return end.value

    def _finish(self, rows, shape):
        observations = self._observations(rows.parts)
        self._last = rows.parts
        infos = {}
        for i, info in rows.infos:
            infos = self._add_info(infos, info, i)
        results = shape(observations, infos)
        if rows.errors:
            raise BatchError(rows.errors, results)
        return results
