# SPDX-License-Identifier: Apache-2.0
"""The echo environment on openenv-core 0.1.0, whose worker is one session over plain HTTP.

    cd tests/envs/legacy_env_0_1 && uvicorn app:app --port 8000
"""

import os
import sys
import time
import uuid
from dataclasses import dataclass
from typing import Optional

from openenv_core.env_server import Action, Environment, Observation, State, create_fastapi_app


@dataclass(kw_only=True)
class EchoAction(Action):
    message: str
    sleep_s: float = 0.0
    boom: Optional[str] = None
    exit_code: Optional[int] = None


@dataclass(kw_only=True)
class EchoObservation(Observation):
    message: str
    count: int
    pid: int
    label: str = ""


class EchoEnvironment(Environment):
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
        )

    def reset(self):
        self._state = State(episode_id=str(uuid.uuid4()), step_count=0)
        return self._observe("reset", 0.0)

    def step(self, action):
        if action.sleep_s:
            time.sleep(action.sleep_s)
        if action.exit_code is not None:
            print(f"legacy_env: told to exit with {action.exit_code}", file=sys.stderr, flush=True)
            os._exit(action.exit_code)
        if action.boom is not None:
            raise RuntimeError(action.boom)
        self._state.step_count += 1
        return self._observe(action.message, float(len(action.message)))

    @property
    def state(self):
        return self._state


app = create_fastapi_app(EchoEnvironment(), EchoAction, EchoObservation)
