# SPDX-License-Identifier: Apache-2.0
"""An environment of Gymnasium on a real OpenEnv server.

    GYMNASIUM_ENV=Pendulum-v1 uv run --project tests/envs/gymnasium_env -- server --host 127.0.0.1 --port 8000
    cd tests/envs/gymnasium_env && GYMNASIUM_ENV=ALE/Pong-v5 uvicorn server.app:app --port 8000
"""

import argparse
import os

from openenv.core.env_server.http_server import create_app

try:
    from .gymnasium_environment import GymnasiumAction, GymnasiumEnvironment, GymnasiumObservation
except ImportError:  # run by uvicorn from the project's folder
    from server.gymnasium_environment import GymnasiumAction, GymnasiumEnvironment, GymnasiumObservation

app = create_app(
    GymnasiumEnvironment,
    GymnasiumAction,
    GymnasiumObservation,
    env_name="gymnasium_env",
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
