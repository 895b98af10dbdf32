# SPDX-License-Identifier: Apache-2.0
"""One environment behind a gateway as a gymnasium.Env: a vector of one."""

import gymnasium
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import concatenate, create_empty_array, iterate

from .errors import BatchError
from .vector import VectorEnv


class _One(VectorEnv):
    """A vector of one, with its infos as the environment tells them."""

    def _add_info(self, vector_infos, env_info, env_num):
        return {**vector_infos, **env_info}


class Env(gymnasium.Env):
    """An environment behind a gateway. Arguments, spaces and errors are VectorEnv's."""

    metadata = {"render_modes": []}

    def __init__(self, address, environment=None, **options):
        self._vector = _One(address, environment, 1, autoreset_mode=AutoresetMode.DISABLED, **options)
        self.observation_space = self._vector.single_observation_space
        self.action_space = self._vector.single_action_space

    def _first(self, observations):
        return next(iter(iterate(self._vector.observation_space, observations)))

    def reset(self, *, seed=None, options=None):
        """Begins an episode."""
        super().reset(seed=seed)
        observations, infos = _of_one(lambda: self._vector.reset(seed=seed, options=options))
        return self._first(observations), infos

    def step(self, action):
        """Takes a step. After a Timeout the call is to be made again, and collects what that same step led to."""
        actions = concatenate(self.action_space, [action], create_empty_array(self.action_space, 1))
        step = self._vector.step_wait if self._vector.waiting else lambda: self._vector.step(actions)
        observations, rewards, terminations, truncations, infos = _of_one(step)
        return self._first(observations), float(rewards[0]), bool(terminations[0]), bool(truncations[0]), infos

    def close(self):
        """Closes the session."""
        self._vector.close()


def _of_one(action):
    """The error of the one is the error."""
    try:
        return action()
    except BatchError as e:
        raise e.errors[0] from None


def make(address, environment=None, *, num_envs=None, **options):
    """An Env, or with num_envs a VectorEnv of so many."""
    if num_envs is None:
        return Env(address, environment, **options)
    return VectorEnv(address, environment, num_envs, **options)
