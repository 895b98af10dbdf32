# SPDX-License-Identifier: Apache-2.0
"""The echo environment on a real OpenEnv server (0.2.0 and later).

    uv run --project tests/envs/echo_env -- server --host 127.0.0.1 --port 8000
    cd tests/envs/echo_env && uvicorn server.app:app --port 8000
"""

import argparse
import os

from openenv.core.env_server.http_server import create_app

try:
    from ..models import EchoAction, EchoObservation
    from .echo_environment import EchoEnvironment
except ImportError:  # run by uvicorn from the project's folder
    from models import EchoAction, EchoObservation
    from server.echo_environment import EchoEnvironment

app = create_app(
    EchoEnvironment,
    EchoAction,
    EchoObservation,
    env_name="echo_env",
    max_concurrent_envs=int(os.environ.get("ECHO_MAX_SESSIONS", "1")),
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
