# SPDX-License-Identifier: Apache-2.0
"""A real image registry on 127.0.0.1, whose images an Engine really pulls: Debian's docker-registry."""

import contextlib
import shutil
import socket
import subprocess
import time

import docker_engine
import requests

CONFIG = """
version: 0.1
log: {{accesslog: {{disabled: false}}, level: warn}}
storage: {{filesystem: {{rootdirectory: {root}/data}}}}
http: {{addr: "127.0.0.1:{port}"}}
{auth}
"""


class Registry:
    def __init__(self, port, log_path):
        self.address = f"127.0.0.1:{port}"
        self.log_path = log_path

    def requests(self, what):
        """How many requests there were whose line has this."""
        return sum(what in line for line in self.log_path.read_text(errors="replace").splitlines())


@contextlib.contextmanager
def registry(root, auth=""):
    if not shutil.which("docker-registry"):
        raise docker_engine.EngineError("the docker tests need docker-registry: run `make deps`")
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]  # free in a moment
    (root / "config.yml").write_text(CONFIG.format(root=root, port=port, auth=auth))
    r = Registry(port, root / "log")
    with open(r.log_path, "wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", root / "config.yml"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while True:
            assert process.poll() is None and time.monotonic() < deadline, r.log_path.read_text()[-2000:]
            with contextlib.suppress(requests.ConnectionError):
                requests.get(f"http://{r.address}/v2/", timeout=5)
                break
            time.sleep(0.05)
        yield r
    finally:
        process.terminate()
        process.wait(30)
