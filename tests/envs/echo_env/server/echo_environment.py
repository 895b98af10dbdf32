# SPDX-License-Identifier: Apache-2.0
"""An environment that echoes, counts, and misbehaves on demand."""

import os
import sys
import time
import uuid

from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import State

try:
    from ..models import EchoObservation
except ImportError:  # run by uvicorn from the project's folder
    from models import EchoObservation


class EchoEnvironment(Environment):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self):
        super().__init__()
        self._state = State(episode_id=str(uuid.uuid4()), step_count=0)

    def _observe(self, message, reward):
        return EchoObservation(
            message=message,
            count=self._state.step_count,
            pid=os.getpid(),
            label=os.environ.get("ECHO_LABEL", ""),
            reward=reward,
            done=False,
        )

    def reset(self, seed=None, episode_id=None, **_):
        self._state = State(episode_id=episode_id or str(uuid.uuid4()), step_count=0)
        return self._observe(f"seed {seed}", 0.0)

    def step(self, action, timeout_s=None, **_):
        if action.sleep_s:
            time.sleep(action.sleep_s)
        if action.exit_code is not None:
            print(f"echo_env: told to exit with {action.exit_code}", file=sys.stderr, flush=True)
            os._exit(action.exit_code)
        if action.boom is not None:
            raise RuntimeError(action.boom)
        self._state.step_count += 1
        return self._observe(action.message, float(len(action.message)))

    @property
    def state(self):
        return self._state
