# SPDX-License-Identifier: Apache-2.0
"""OpenEnv's own client, for launch.py: N times from_docker_image, side by side; a line of JSON says how long each took and all together, or its error.

Run by the Python of OpenEnv's virtual environment: launch_openenv.py IMAGE N
"""

import json
import sys
import threading
import time

from openenv.core import GenericEnvClient
from openenv.core.containers.runtime import LocalDockerProvider

PATIENCE_S = 300


class Patient(LocalDockerProvider):
    """As the client's own, which gives up after 30 s: on a small machine 20 at once need longer."""

    def wait_for_ready(self, base_url, timeout_s=PATIENCE_S):
        super().wait_for_ready(base_url, PATIENCE_S)


def launch(image, clients, results):
    began = time.monotonic()
    try:
        clients.append(GenericEnvClient.from_docker_image(image, provider=Patient()).sync())
        results.append(time.monotonic() - began)
    except Exception as e:  # whatever it is, it is told
        results.append(f"{type(e).__name__}: {e}"[:300])


image, n = sys.argv[1], int(sys.argv[2])
clients, results = [], []
threads = [threading.Thread(target=launch, args=(image, clients, results)) for _ in range(n)]
start = time.monotonic()
for t in threads:
    t.start()
    time.sleep(0.002)  # its containers are named by the millisecond
for t in threads:
    t.join()
total = time.monotonic() - start
closing = [threading.Thread(target=c.close) for c in clients]
for t in closing:
    t.start()
for t in closing:
    t.join()
print(json.dumps({"each": results, "total": total}))
