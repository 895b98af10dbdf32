# SPDX-License-Identifier: Apache-2.0
"""An environment of tools (MCP), by OpenEnv's own FastMCP base class (0.10.0).

    cd tests/envs/tools_env && uvicorn app:app --port 8000
"""

import asyncio
import os
import uuid

from fastmcp import FastMCP
from openenv.core.env_server.http_server import create_app
from openenv.core.env_server.mcp_environment import MCPEnvironment
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation
from openenv.core.env_server.types import Observation, State


class ToolsEnvironment(MCPEnvironment):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self):
        mcp = FastMCP("tools")
        self._state = State(episode_id=str(uuid.uuid4()), step_count=0)
        self._calls = 0  # of count, in the session

        @mcp.tool()
        def add(a: int, b: int) -> int:
            """Adds two integers."""
            return a + b

        @mcp.tool()
        async def count(sleep_s: float = 0.0) -> int:
            """How often it has been called in this session."""
            self._calls += 1
            await asyncio.sleep(sleep_s)
            return self._calls

        @mcp.tool()
        def fail(text: str) -> str:
            """Raises an exception."""
            raise RuntimeError(text)

        super().__init__(mcp)

    def reset(self, seed=None, episode_id=None, **_):
        self._state = State(episode_id=episode_id or str(uuid.uuid4()), step_count=0)
        return Observation(done=False, reward=0.0, metadata={"seed": seed, "calls": self._calls})

    def _step_impl(self, action, timeout_s=None, **_):
        return Observation(done=False, reward=0.0)

    @property
    def state(self):
        return self._state


app = create_app(
    ToolsEnvironment,
    CallToolAction,
    CallToolObservation,
    env_name="tools_env",
    max_concurrent_envs=int(os.environ.get("ECHO_MAX_SESSIONS", "1")),
)
