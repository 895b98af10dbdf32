# SPDX-License-Identifier: Apache-2.0
"""A question and its answer."""

from openenv.core.env_server.types import Action, Observation


class ReasoningAction(Action):
    answer: str


class ReasoningObservation(Observation):
    question: str
