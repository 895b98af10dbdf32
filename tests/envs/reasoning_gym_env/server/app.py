# SPDX-License-Identifier: Apache-2.0
"""Tasks of reasoning-gym on a real OpenEnv server.

    uv run --project tests/envs/reasoning_gym_env -- server --host 127.0.0.1 --port 8000
    cd tests/envs/reasoning_gym_env && REASONING_GYM_DATASET=leg_counting uvicorn server.app:app --port 8000
"""

import argparse
import os

from openenv.core.env_server.http_server import create_app

try:
    from ..models import ReasoningAction, ReasoningObservation
    from .reasoning_gym_environment import ReasoningEnvironment
except ImportError:  # run by uvicorn from the project's folder
    from models import ReasoningAction, ReasoningObservation
    from server.reasoning_gym_environment import ReasoningEnvironment

app = create_app(
    ReasoningEnvironment,
    ReasoningAction,
    ReasoningObservation,
    env_name="reasoning_gym_env",
    max_concurrent_envs=int(os.environ.get("MAX_SESSIONS", "16")),
)


def main():
    import uvicorn

    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args()
    uvicorn.run(app, host=args.host, port=args.port)


if __name__ == "__main__":
    main()
