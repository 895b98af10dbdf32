# SPDX-License-Identifier: Apache-2.0
"""Workers over https and wss, with certificates that openssl makes here."""

import contextlib
import http.server
import json
import socket
import ssl
import subprocess
import threading
import time
from collections import namedtuple

import grpc
import pytest
from certificates import make_ca, make_leaf
from conftest import ROOT, SLOW, VENVS, code_of

from envgate.v1 import payload_pb2, session_service_pb2 as pb

ENVS = ROOT / "tests/envs"
WORKERS = {  # by dialect: Python environment, folder, application
    "ws": ("openenv-0.10.0", ENVS / "echo_env", "server.app:app"),
    "http": ("openenv-core-0.1.0", ENVS / "legacy_env_0_1", "app:app"),
}
LARGE = "ä" * 1_500_000  # 3 MB

@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def ca(folder):
    return make_ca(folder, "ca")


@pytest.fixture(scope="module", params=list(WORKERS))
def worker(request, folder, ca):
    """A real OpenEnv server by TLS: its port; `dialect` says which."""
    version, cwd, app = WORKERS[request.param]
    leaf = make_leaf(ca, f"worker-{request.param}")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [VENVS[version] / "bin/python", "-m", "uvicorn", app, "--port", str(port), "--ssl-certfile", leaf.cert, "--ssl-keyfile", leaf.key]
    log_path = folder / f"{request.param}.log"
    with open(log_path, "w") as log:
        process = subprocess.Popen(command, cwd=cwd, stdout=log, stderr=log)
        end = time.monotonic() + 90 * SLOW
        while "running on https" not in log_path.read_text():
            assert process.poll() is None and time.monotonic() < end, log_path.read_text()
            time.sleep(0.05)
        yield namedtuple("Worker", "dialect port log_path")(request.param, port, log_path)
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def tls_server(leaf):
    """One that says it is healthy to whoever takes its certificate: its port, and what it was asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_):
            pass  # the client went away in the handshake, as it should

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(leaf.cert, leaf.key)
    server = Server(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1], asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def static(port, ca_file=None, host="127.0.0.1", scheme="https", **keys):
    settings = {"urls": [f"{scheme}://{host}:{port}"]}
    if ca_file is not None:
        settings["ca_file"] = str(ca_file)
    return {"environments": {"e": {"static": settings, "ready_timeout_s": 30, **keys}}}


def refusal(gateway, config):
    """Why no session could be made on a worker."""
    config["environments"]["e"]["ready_timeout_s"] = 0.5 * SLOW
    g = gateway(config)
    with pytest.raises(grpc.RpcError) as error:
        g.sessions.CreateSession(pb.CreateSessionRequest(environment="e"), timeout=30)
    assert code_of(error.value) == ("UNAVAILABLE", "WORKER_UNREACHABLE"), error.value.details()
    assert "certificate" in error.value.details()
    assert g.metric("envgate_sessions") == 0
    return error.value.details()


@pytest.mark.parametrize("host, scheme", [("127.0.0.1", "https"), ("localhost", "wss")])
def test_session(gateway, worker, ca, host, scheme):
    g = gateway(static(worker.port, ca.cert, host, scheme))
    s = g.sessions
    session = s.CreateSession(pb.CreateSessionRequest(environment="e"), timeout=60).name
    s.Reset(pb.ResetRequest(session=session, seed=1), timeout=60)
    for i, message in enumerate(("hi", LARGE, "hé")):
        action = payload_pb2.Payload(json=json.dumps({"message": message}, ensure_ascii=False).encode())
        step = s.Step(pb.StepRequest(session=session, action=action), timeout=60)
        assert json.loads(step.observation.json)["message"] == message and step.step_index == i + 1
    assert json.loads(s.GetState(pb.GetStateRequest(session=session), timeout=60).state.json)["step_count"] == 3
    s.CloseSession(pb.CloseSessionRequest(name=session), timeout=60)
    log = worker.log_path.read_text()
    assert ("WebSocket /ws" in log and "[accepted]" in log) if worker.dialect == "ws" else "POST /step" in log


def test_system_has_not_that_ca(gateway, worker):
    assert "local issuer" in refusal(gateway, static(worker.port))


def test_other_ca(gateway, worker, folder):
    other = make_ca(folder, f"other-{worker.dialect}")
    refusal(gateway, static(worker.port, other.cert))


def test_ca_files_do_not_mix(gateway, worker, ca, folder):
    """Two environments with the same worker: a connection that one CA has vouched for is not used under another, nor under the system's."""
    other = make_ca(folder, f"mixed-{worker.dialect}")
    config = static(worker.port, ca.cert)
    for name, file in (("wrong", other.cert), ("system", None)):
        config["environments"][name] = static(worker.port, file, ready_timeout_s=0.5 * SLOW)["environments"]["e"]
    g = gateway(config, "--threads", "1")
    for _ in range(2):
        path = g.create("e")
        assert g.post(path + "/reset").status_code == 200
        for name in ("wrong", "system"):
            refused = g.post("/v1/sessions", {"environment": name})
            assert refused.status_code == 503 and "certificate" in refused.json()["error"]["message"]
        g.delete(path)


@pytest.mark.parametrize(
    "fault, words", [({"names": "DNS:elsewhere.example,IP:127.0.0.2"}, "name"), ({"days": -1}, "expired")], ids=["other-host", "expired"]
)
def test_bad_certificate(gateway, ca, fault, words):
    leaf = make_leaf(ca, f"bad-{words}", **fault)
    with tls_server(leaf) as (port, asked):
        assert words in refusal(gateway, static(port, ca.cert))
        assert words in refusal(gateway, static(port, ca.cert, "localhost"))
    assert asked == []


def test_https_where_there_is_none(gateway):
    """A worker that speaks plain HTTP gets no session and no request in the clear."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        got = []

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = server.accept()
                    got.append(peer.recv(100))
                    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    peer.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        g = gateway(static(server.getsockname()[1], ready_timeout_s=0.5 * SLOW))
        reply = g.post("/v1/sessions", {"environment": "e"})
        server.shutdown(socket.SHUT_RDWR)
    thread.join()
    assert reply.status_code == 503 and "SSL" in reply.json()["error"]["message"]
    assert got and all(first[:1] == b"\x16" for first in got)  # a handshake
