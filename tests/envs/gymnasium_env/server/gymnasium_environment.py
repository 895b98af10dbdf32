# SPDX-License-Identifier: Apache-2.0
"""The environment of Gymnasium that GYMNASIUM_ENV names."""

import os
import uuid

import gymnasium
import numpy as np
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import State

try:
    from ..models import models
except ImportError:  # run by uvicorn from the project's folder
    from models import models

ENV_ID = os.environ.get("GYMNASIUM_ENV", "CartPole-v1")


def make():
    if not ENV_ID.startswith("ALE/"):
        return gymnasium.make(ENV_ID)
    import ale_py

    gymnasium.register_envs(ale_py)
    return gymnasium.wrappers.AtariPreprocessing(gymnasium.make(ENV_ID, frameskip=1))


def plain(value):
    """A value as JSON has it."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


_first = make()
GymnasiumAction, GymnasiumObservation = models(_first)
_first.close()


class GymnasiumEnvironment(Environment):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self):
        super().__init__()
        self._env = make()
        self._state = State(episode_id=str(uuid.uuid4()), step_count=0)

    def _observe(self, observation, info, terminated=False, truncated=False, reward=None):
        # What kind of end it was has no place of its own in OpenEnv's replies: it goes with the metadata.
        metadata = {**plain(info), "terminated": bool(terminated), "truncated": bool(truncated)}
        return GymnasiumObservation(observation=plain(observation), metadata=metadata, reward=reward, done=bool(terminated or truncated))

    def reset(self, seed=None, episode_id=None, **options):
        self._state = State(episode_id=episode_id or str(uuid.uuid4()), step_count=0)
        return self._observe(*self._env.reset(seed=seed, options=options or None))

    def step(self, action, timeout_s=None, **_):
        given = action.action
        if isinstance(given, list):
            given = np.asarray(given, self._env.action_space.dtype)
        observation, reward, terminated, truncated, info = self._env.step(given)
        self._state.step_count += 1
        return self._observe(observation, info, terminated, truncated, float(reward))

    @property
    def state(self):
        return self._state

    def close(self):
        self._env.close()
