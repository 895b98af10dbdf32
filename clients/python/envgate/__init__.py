# SPDX-License-Identifier: Apache-2.0
"""Client of envgate, a gateway for reinforcement learning environments.

VectorEnv and Env are Gymnasium's (and want `pip install envgate[gymnasium]`), EnvClient is shaped as OpenEnv's, and envgate.v1 has the API's own stubs.
"""

from importlib import import_module

_FROM = {
    "Env": "env",
    "make": "env",
    "VectorEnv": "vector",
    "EnvClient": "client",
    "SyncEnvClient": "client",
    "StepResult": "client",
    "Gateway": "gateway",
    "BatchError": "errors",
    "Error": "errors",
    "SessionLost": "errors",
    "Timeout": "errors",
}
__all__ = sorted(_FROM)


# Each is imported when it is asked for: who wants the stubs only needs neither NumPy nor Gymnasium.
def __getattr__(name):
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FROM[name]}"), name)


def __dir__():
    return [*globals(), *__all__]
