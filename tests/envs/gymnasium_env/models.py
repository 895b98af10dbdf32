# SPDX-License-Identifier: Apache-2.0
"""What goes into an environment of Gymnasium and what comes out, as its spaces have it."""

import math
from typing import Annotated

from gymnasium import spaces
from openenv.core.env_server.types import Action, Observation
from pydantic import Field, create_model


def field_of(space):
    """The type of a space's values in JSON."""
    if isinstance(space, spaces.Discrete):
        return Annotated[int, Field(ge=int(space.start), le=int(space.start + space.n - 1))]
    if not isinstance(space, spaces.Box):
        raise TypeError(f"no model for {space}")
    whole = space.dtype.kind in "iu"
    bounds = {"ge": space.low.min().item(), "le": space.high.max().item()}
    bounds = {name: bound for name, bound in bounds.items() if math.isfinite(bound)}
    kind = Annotated[int if whole else float, Field(**bounds)]
    for n in reversed(space.shape):
        kind = Annotated[list[kind], Field(min_length=n, max_length=n)]
    return kind


def models(env):
    """The Action and the Observation of an environment."""
    action = create_model("GymnasiumAction", __base__=Action, action=(field_of(env.action_space), ...))
    # The 7,056 numbers of a frame come from the environment itself and are not looked at one by one, but the schema tells what they are.
    observation = create_model("GymnasiumObservation", __base__=Observation, observation=(list | int, ...))
    schema = create_model("Seen", observation=(field_of(env.observation_space), ...)).model_json_schema()["properties"]["observation"]
    observation.model_config["json_schema_extra"] = lambda s: s["properties"].update(observation=schema)
    observation.model_rebuild(force=True)
    return action, observation
