# SPDX-License-Identifier: Apache-2.0
"""The tasks of reasoning-gym that REASONING_GYM_DATASET names."""

import os
import random
import uuid

import reasoning_gym
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import State

try:
    from ..models import ReasoningObservation
except ImportError:  # run by uvicorn from the project's folder
    from models import ReasoningObservation


class ReasoningEnvironment(Environment):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self):
        super().__init__()
        self._state = State(episode_id=str(uuid.uuid4()), step_count=0)
        self._tasks = self._task = None

    def reset(self, seed=None, episode_id=None, **_):
        seed = random.getrandbits(31) if seed is None else seed
        self._tasks = reasoning_gym.create_dataset(os.environ.get("REASONING_GYM_DATASET", "chain_sum"), size=1, seed=seed)
        self._task = self._tasks[0]
        self._state = State(episode_id=episode_id or str(uuid.uuid4()), step_count=0)
        return ReasoningObservation(question=self._task["question"])

    def step(self, action, timeout_s=None, **_):
        if self._task is None:
            raise RuntimeError("there is no question: reset first")
        self._state.step_count += 1
        score = self._tasks.score_answer(action.answer, self._task)
        return ReasoningObservation(question=self._task["question"], reward=float(score), done=True, metadata={"answer": self._task["answer"]})

    @property
    def state(self):
        return self._state
