# SPDX-License-Identifier: Apache-2.0
"""The provider docker and its images: pulled from a real registry, and whatever they do when they are started."""

import io
import json
import os
import re
import tarfile
import threading
import time

import docker_engine
import docker_registry
import docker_support
import make_image
import pytest
from conftest import SLOW
from docker_support import SERVE, WORKER, container_of, environment, none_left
from test_cli_remote import on_terminal, start

from envgate.v1 import environment_service_pb2
from envgate.v1.launch_pb2 import LaunchProgress

LAYERS, LAYER_BYTES = 3, 24 << 20


pytestmark = pytest.mark.usefixtures("no_container_left")


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with docker_registry.registry(tmp_path_factory.mktemp("registry")) as r:
        yield r


def add_layer(engine, image, to, path, content, *changes):
    """`to` becomes `image` with one file more."""
    container = engine.docker("create", image)
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            info = tarfile.TarInfo(path)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        docker_support.put_archive(engine, container, buffer.getvalue())
    engine.docker("commit", *(word for change in changes for word in ("--change", change)), container, to)
    engine.docker("rm", container)


@pytest.fixture(scope="module")
def large_image(engine, registry):
    """A worker with some layers that do not compress, in the registry and not on the Engine."""
    name = f"{registry.address}/large:1"
    base = WORKER
    for n in range(LAYERS):
        add_layer(engine, base, name, f"layer{n}", os.urandom(LAYER_BYTES))
        base = name
    engine.docker("push", name)
    return name


def forget(engine, image):
    engine.docker("image", "rm", "--force", image)


# --- pulls -------------------------------------------------------------------------------------------------------------------------------


def test_a_pull_is_shared_and_tells_how_far_it_is(engine, gateway, registry, large_image):
    forget(engine, large_image)
    g = gateway(environment(engine, large_image, max_workers=4))
    started = registry.requests("GET /v2/large/manifests")
    blobs = registry.requests("GET /v2/large/blobs")
    sessions, seen = [], []

    def create():
        sessions.append(g.create("e", timeout_s=0.05))

    threads = [threading.Thread(target=create) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    deadline = time.monotonic() + 60 * SLOW
    while time.monotonic() < deadline:
        state = [g.get(s).json() for s in sessions]
        seen.append(state[0].get("launch_progress", {}))
        if all(s["state"] == "STATE_READY" for s in state):
            break
        assert all(s["state"] in ("STATE_PROVISIONING", "STATE_READY") for s in state), [s.get("error") for s in state]
        time.sleep(0.02)
    else:
        raise AssertionError(state)
    pulling = [p for p in seen if p.get("phase") == "PHASE_PULLING"]
    counts = [[int(p.get(key, 0)) for key in ("layers", "layers_done", "bytes", "bytes_done")] for p in pulling]
    assert all(a <= b for before, after in zip(counts, counts[1:]) for a, b in zip(before, after)), counts
    assert counts[-1][0] == LAYERS + 1
    assert counts[-1][2] >= LAYERS * LAYER_BYTES
    assert len({c[3] for c in counts}) > 2, counts  # it was told on the way
    # One pull for all.
    assert registry.requests("GET /v2/large/manifests") - started <= 2
    assert registry.requests("GET /v2/large/blobs") - blobs <= LAYERS + 2
    (line,) = g.log("docker.pulled")
    assert (line["layers"], line["bytes"] >= LAYERS * LAYER_BYTES) == (LAYERS + 1, True)
    assert len(engine.containers("envgate.environment=e")) == 4


def test_a_preload_tells_how_far_the_pull_is(engine, gateway, large_image):
    """To a stream of the API, to `envgate preload` on a terminal, and to it elsewhere; one pull for all three."""
    forget(engine, large_image)
    g = gateway(environment(engine, large_image, max_workers=2))
    shown, streamed = [], []

    def stream():
        streamed.extend(g.environments.Preload(environment_service_pb2.PreloadRequest(environment="environments/e", workers=2), timeout=120))

    threads = [threading.Thread(target=stream), threading.Thread(target=lambda: shown.append(on_terminal(g, "preload", "e", "-w", "2")))]
    for t in threads:
        t.start()
    lines, errors = start(g, "preload", "e", "--workers", "2").communicate(timeout=120)
    for t in threads:
        t.join()

    pulling = [m.progress for m in streamed if m.progress.phase == LaunchProgress.PHASE_PULLING]
    for key in ("layers", "layers_done", "bytes", "bytes_done"):
        counts = [getattr(p, key) for p in pulling]
        assert counts == sorted(counts), (key, counts)
    assert pulling[-1].layers == LAYERS + 1 and pulling[-1].bytes >= LAYERS * LAYER_BYTES
    assert len({p.bytes_done for p in pulling}) > 2
    assert (streamed[-1].ready_workers, streamed[-1].HasField("progress")) == (2, False)

    lines = lines.decode().splitlines()
    assert errors == b"" and lines[-1] == "e: 2/2 ready, 0 starting"
    assert any(re.fullmatch(rf"e: 0/2 ready, 2 starting: pulling \d/{LAYERS + 1} layers, \d+\.\d/\d+\.\d MiB", line) for line in lines), lines
    ((text, code),) = shown
    states = [state.removesuffix("\033[K").rstrip() for state in text.rstrip("\r\n").split("\r") if state]
    bars = {state.split("[")[1].split("]")[0].count("#") for state in states if "pulling" in state}
    assert code == 0 and states[-1] == f"e [{'#' * 24}] 2/2 ready" and len(bars) > 2, states
    assert len(g.log("docker.pulled")) == 1


def test_a_pull_that_nobody_waits_for_is_given_up(engine, gateway, large_image):
    forget(engine, large_image)
    g = gateway(environment(engine, large_image))
    g.create("e", timeout_s=0.05)
    began = time.monotonic()
    assert g.stop() == 0
    assert time.monotonic() - began < 5 * SLOW


def test_images_that_cannot_be_pulled(engine, gateway, registry):
    cases = {
        f"{registry.address}/missing:2": "manifest for 127.0.0.1",
        f"{registry.address}/large:no-such-tag": "manifest for 127.0.0.1",
        "127.0.0.1:1/nobody:3": "connection refused",
        "UPPER/case:1": "repository name must be lowercase",
    }
    for image, words in cases.items():
        g = gateway(environment(engine, image))
        reply = g.post("/v1/sessions", {"environment": "e"})
        assert "WORKER_START_FAILED" in reply.text, image
        assert words in reply.text, (image, reply.text)
        assert image in reply.text


def test_a_pull_that_is_refused(engine, gateway, tmp_path):
    """A registry that wants a password."""
    (tmp_path / "htpasswd").write_text("nobody:$2y$05$abcdefghijklmnopqrstuuVYyGWZbDYWcXvxT1Yq3eZ4YFJq3mN1C\n")
    auth = f"auth: {{htpasswd: {{realm: basic-realm, path: {tmp_path}/htpasswd}}}}"
    with docker_registry.registry(tmp_path, auth) as r:
        g = gateway(environment(engine, f"{r.address}/secret:1"))
        reply = g.post("/v1/sessions", {"environment": "e"})
        assert "no basic auth credentials" in reply.text, reply.text


# --- ports -------------------------------------------------------------------------------------------------------------------------------


def image_with_ports(engine, name, ports):
    """The same worker; whatever the tests' images expose is taken out, as only an import without EXPOSE can."""
    tar = make_image.program_tar(docker_support.BIN)
    changes = [f"EXPOSE {port}" for port in ports]
    engine.docker("import", *(word for change in changes for word in ("--change", change)), str(tar), name)
    return name


@pytest.mark.parametrize("publish", [False, True], ids=["address", "published"])
@pytest.mark.parametrize(
    "exposed, listens",
    [([7860], 7860), ([9000], 9000), ([9001, 7860, 5000], 7860), ([9001, 8000, 7860], 8000), ([9002, 9001], 9001), (["9001/udp"], 7860), ([], 8000), ([], 7860)],
    ids=str,
)
def test_ports_that_the_image_exposes(engine, gateway, exposed, listens, publish):
    image = image_with_ports(engine, "envgate-test/ports:1", exposed)
    g = gateway(environment(engine, image, {"publish": publish, "command": [*SERVE[:-1], f"0.0.0.0:{listens}"]}))
    session = g.create("e")
    assert g.post(session + "/reset").status_code == 200


def test_nothing_exposed_and_nothing_answers(engine, gateway):
    image = image_with_ports(engine, "envgate-test/ports:1", [])
    g = gateway(environment(engine, image, {"command": [*SERVE[:-1], "0.0.0.0:9999"]}, ready_timeout_s=1))
    text = g.post("/v1/sessions", {"environment": "e"}).text
    assert "answers at port 8000 or 7860" in text and '\\"port\\"' in text
    none_left(engine, g)


# --- what images do ----------------------------------------------------------------------------------------------------------------------

SERVER = """
import http.server
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else {status})
        self.send_header("Content-Length", "0")
        self.end_headers()
http.server.ThreadingHTTPServer(("0.0.0.0", 8000), H).serve_forever()
"""


def python(script):
    return {"command": [make_image.PYTHON, "-u", "-c", script]}


def test_exits_at_boot(engine, light_image, gateway):
    g = gateway(environment(engine, light_image, python("print('no license'); raise SystemExit(4)")))
    text = g.post("/v1/sessions", {"environment": "e"}).text
    assert "the worker exited with code 4\\nIts last output:\\nno license" in text
    none_left(engine, g)


def test_listens_on_another_port(engine, gateway):
    g = gateway(environment(engine, docker={"command": [*SERVE[:-1], "0.0.0.0:8001"]}, ready_timeout_s=1))
    text = g.post("/v1/sessions", {"environment": "e"}).text
    assert "not ready in time" in text and ":8000" in text and "ready_timeout_s is 1" in text
    none_left(engine, g)


def test_hangs_at_boot(engine, light_image, gateway):
    g = gateway(environment(engine, light_image, python("import time; print('loading'); time.sleep(1000)"), ready_timeout_s=1, stop_grace_s=1))
    text = g.post("/v1/sessions", {"environment": "e"}).text
    assert "not ready in time" in text and "loading" in text
    none_left(engine, g)


def test_health_without_websocket(engine, light_image, gateway):
    """404 is a worker of the older kind, which has none; anything that may pass is not ready."""
    g = gateway(environment(engine, light_image, python(SERVER.format(status=404))))
    assert g.get(g.create("e")).json()["state"] == "STATE_READY"
    assert g.stop() == 0
    g = gateway(environment(engine, light_image, python(SERVER.format(status=503)), ready_timeout_s=1.5))
    text = g.post("/v1/sessions", {"environment": "e"}).text
    assert "not ready in time" in text and "/ws" in text
    none_left(engine, g)


# --- what containers may -----------------------------------------------------------------------------------------------------------------

LOOK = """
import json, os
def write(path):
    try:
        open(path, "w").close()
        return True
    except OSError:
        return False
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({"env": sorted(os.environ), "caps": int(status["CapBnd"], 16), "nnp": int(status["NoNewPrivs"]), "root": write("/x"), "tmp": write("/tmp/x"),
                  "ro": write("/mnt/ro/x"), "rw": write("/mnt/rw/x")}))
raise SystemExit(5)
"""


def looked(engine, light_image, gateway, docker, **keys):
    g = gateway(environment(engine, light_image, {**docker, **python(LOOK)}, **keys), env={**os.environ, "GATEWAY_ONLY": "1"})
    text = g.post("/v1/sessions", {"environment": "e"}).json()
    none_left(engine, g)
    return json.loads(text["error"]["message"].split("Its last output:\n")[1])


def test_by_default_a_container_may_little(engine, light_image, gateway):
    seen = looked(engine, light_image, gateway, {}, env_vars={"MINE": "x"})
    assert (seen["caps"], seen["nnp"], seen["root"], seen["tmp"]) == (0, 1, True, True)
    assert {"MINE", "PATH", "PYTHONPATH"} <= set(seen["env"]) and "GATEWAY_ONLY" not in seen["env"]


def test_read_only_mounts_and_capabilities(engine, light_image, gateway, tmp_path):
    for name in ("ro", "rw"):
        (tmp_path / name).mkdir()
    mounts = [f"{tmp_path}/ro:/mnt/ro:ro", f"{tmp_path}/rw:/mnt/rw"]
    seen = looked(engine, light_image, gateway, {"read_only": True, "mounts": mounts, "cap_add": ["SETUID"]})
    assert (seen["caps"], seen["root"], seen["tmp"], seen["ro"], seen["rw"]) == (1 << 7, False, True, False, True)
    g = gateway(environment(engine, light_image, {"mounts": [f"{tmp_path}/none:/mnt/x"]}))
    assert f"{tmp_path}/none" in g.post("/v1/sessions", {"environment": "e"}).text


def test_limits_by_default(engine, gateway):
    g = gateway(environment(engine, env_vars={"SECRET": "s3cr3t-value"}))
    g.create("e")
    container = container_of(engine)
    host = container["HostConfig"]
    assert (host["Memory"], host["PidsLimit"], host["NanoCpus"], host["ReadonlyRootfs"], host["Privileged"]) == (4 << 30, 2048, 0, False, False)
    assert not host["Binds"] and not host.get("Mounts") and not host["CapAdd"]
    assert host["LogConfig"] == {"Type": "local", "Config": {"max-file": "2", "max-size": "10m"}}
    # A secret is in the container's environment and nowhere else.
    assert "SECRET=s3cr3t-value" in container["Config"]["Env"]
    assert "s3cr3t-value" not in json.dumps(container["Config"]["Labels"]) + container["Name"] + g.log_text()
