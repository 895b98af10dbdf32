# SPDX-License-Identifier: Apache-2.0
"""What the docker tests share: their images and environments.

The images "openenv" are real OpenEnv servers with tests/envs/echo_env (0.2.0 boots in a second, 0.10.0 takes five), "worker" is this gateway's own reference worker.
"""

import contextlib
import subprocess

import docker_engine
import make_image
from conftest import BIN, VENVS

OPENENV, OPENENV_LIGHT, WORKER = "envgate-test/openenv:0.10.0", "envgate-test/openenv:0.2.0", "envgate-test/worker:latest"
SERVE = [f"/{BIN.name}", "worker", "echo", "--listen", "0.0.0.0:8000"]


@contextlib.contextmanager
def images(engine):
    """Has the image "worker" there, and none of the tests' at the end."""
    engine.load(make_image.program_tar(BIN), WORKER, SERVE)
    try:
        yield
    finally:
        if not isinstance(engine, docker_engine.OwnEngine):
            for image in dict.fromkeys(engine.docker("image", "ls", "--quiet", "envgate-test/*").split()):  # the newest first, as none goes before its children
                engine.docker("image", "rm", "--force", image)


def load_openenv(engine, image=OPENENV):
    """Has one of the OpenEnv images there, and returns its name."""
    venv = VENVS[image.removeprefix("envgate-test/").replace(":", "-")]
    engine.load(make_image.openenv_tar(venv), image, make_image.OPENENV_COMMAND, env=make_image.OPENENV_ENV)
    return image


def put_archive(engine, container, tar):
    """Unpacks a tar file's bytes in a container's root."""
    subprocess.run(["docker", "--host", engine.host, "cp", "-", f"{container}:/"], input=tar, check=True, capture_output=True, timeout=120)


def environment(engine, image=WORKER, docker=None, **keys):
    settings = {"image": image, "host": engine.host, **(docker or {})}
    return {"environments": {"e": {"docker": settings, "ready_timeout_s": 60, **keys}}}


def container_of(engine, worker=None):
    """The one container of environment e, or of one of its workers, as the Engine shows it."""
    labels = ["envgate.environment=e", *([f"envgate.worker={worker}"] if worker else [])]
    (container,) = engine.containers(*labels)
    return engine.inspect(container)


def none_left(engine, g):
    """A failed launch is told at once; its container goes right after."""
    g.wait_for(lambda: not engine.containers("envgate.environment=e"), 10, "the container's removal")
