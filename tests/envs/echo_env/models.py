# SPDX-License-Identifier: Apache-2.0
"""What goes into the echo environment and what comes out."""

from typing import Optional

from openenv.core.env_server.types import Action, Observation


class EchoAction(Action):
    message: str
    sleep_s: float = 0.0  # the step takes so long
    boom: Optional[str] = None  # the step raises, with this text
    exit_code: Optional[int] = None  # the worker's process ends on the spot


class EchoObservation(Observation):
    message: str
    count: int  # steps of the episode
    pid: int  # the worker's process
    label: str = ""  # the environment variable ECHO_LABEL
