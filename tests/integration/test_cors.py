# SPDX-License-Identifier: Apache-2.0
"""Pages of another origin (cors_allowed_origins): preflights, and what a page may read of answers, by every protocol on HTTP/1.1 and HTTP/2. What a real browser makes
of it tests/clients/browser.py shows."""

import socket
import subprocess

import pytest
from conftest import BIN
from h2_client import message
from test_protocols import CARRIERS, Caller

LAB, OTHER = "https://lab.example.org", "http://localhost:3000"
CREATE = "/envgate.v1.SessionService/CreateSession"
# What each protocol's client in a browser asks to send: connect-web and grpc-web send no more than this by themselves.
PREFLIGHTS = {
    "connect": ("POST", CREATE, "authorization,connect-protocol-version,connect-timeout-ms,content-type"),
    "connect-get": ("GET", "/envgate.v1.SessionService/GetSession?connect=v1", "authorization,x-mine"),
    "grpc-web": ("POST", CREATE, "authorization,content-type,grpc-timeout,x-grpc-web,x-user-agent"),
    "rest": ("POST", "/v1/sessions", "authorization,content-type,x-request-id,traceparent"),
    "rest-delete": ("DELETE", "/v1/sessions/x", "authorization"),
    "own": ("GET", "/readyz", ""),
}
CALLS = {
    "connect": (CREATE, "application/json", b'{"environment":"echo"}', 200),
    "connect-error": (CREATE, "application/json", b'{"environment":"none"}', 404),
    "connect-type": (CREATE, "text/plain", b"x", 415),
    "grpc-web": (CREATE, "application/grpc-web+proto", message(b"\x0a\x04echo"), 200),
    "grpc-web-error": (CREATE, "application/grpc-web+proto", message(b"\x0a\x04none"), 200),
    "rest": ("/v1/sessions", "application/json", b'{"environment":"echo"}', 200),
    "rest-error": ("/v1/sessions", "application/json", b'{"environment":"none"}', 404),
    "no-path": ("/v2", "application/json", b"{}", 404),
}


def token(tmp_path):
    done = subprocess.run([BIN, "token", "new", "--principal", "alice", "--scope", "trainer"], capture_output=True, text=True, check=True)
    secret, line = done.stdout.splitlines()
    file = tmp_path / "auth"
    file.write_text(line + "\n")
    return secret, str(file)


@pytest.fixture(params=CARRIERS)
def carrier(request):
    return request.param


@pytest.fixture
def call(gateway, carrier):
    def start(*args):
        return Caller(gateway(None, *args), carrier)

    return start


def fields_of(fields):
    return {k: v for k, v in fields.items() if k.startswith("access-control-") or k == "vary"}


@pytest.mark.parametrize("allowed", [LAB, "*", f"{OTHER},{LAB}"])
def test_preflights(call, allowed, tmp_path):
    """A preflight shows no credential, and is answered without one."""
    _, file = token(tmp_path)
    call = call("--cors-allowed-origins", allowed, "--auth-file", file)
    for verb, path, names in PREFLIGHTS.values():
        asks = {"origin": LAB, "access-control-request-method": verb}
        if names:
            asks["access-control-request-headers"] = names
        status, fields, body = call("OPTIONS", path, asks)
        assert (status, body) == (204, b"")
        assert fields["access-control-allow-origin"] == ("*" if allowed == "*" else LAB)
        assert verb in fields["access-control-allow-methods"].split(", ")
        assert fields.get("access-control-allow-headers", "") == names
        assert fields["access-control-max-age"] == "7200" and fields["vary"] == "Origin"
        assert fields.get("access-control-allow-credentials") == (None if allowed == "*" else "true")


@pytest.mark.parametrize("allowed", [LAB, "*"])
def test_answers(call, allowed):
    call = call("--cors-allowed-origins", allowed)
    for name, (path, kind, body, status) in CALLS.items():
        got, fields, _ = call("POST", path, {"content-type": kind, "origin": LAB}, body)
        assert got == status, name
        assert fields["access-control-allow-origin"] == ("*" if allowed == "*" else LAB), name
        assert fields["vary"] == "Origin"
        assert fields.get("access-control-allow-credentials") == (None if allowed == "*" else "true")
        exposed = fields["access-control-expose-headers"].split(", ")
        assert {"grpc-status", "grpc-message", "grpc-status-details-bin", "grpc-encoding", "connect-content-encoding", "x-request-id", "retry-after"} <= set(exposed)
        # whatever else there is a page may read anyway, or has no use for
        unsafe = set(fields) - set(exposed) - {"content-type", "content-length", "date", "vary", "connection", ":status"}
        assert all(name.startswith("access-control-") for name in unsafe), unsafe


def test_refusals_can_be_read(call, tmp_path):
    """A page must be able to tell a missing token from a broken connection; and its own origin's token works."""
    secret, file = token(tmp_path)
    call = call("--cors-allowed-origins", LAB, "--auth-file", file, "--max-message-bytes", "1KiB")
    headers = {"content-type": "application/json", "origin": LAB}
    status, fields, _ = call("POST", "/v1/sessions", headers, b"{}")
    assert status == 401 and fields["access-control-allow-origin"] == LAB and "www-authenticate" in fields["access-control-expose-headers"]
    status, fields, _ = call("POST", "/v1/sessions", headers, b" " * 2000)
    assert status == 413 and fields["access-control-allow-origin"] == LAB
    status, fields, _ = call("GET", "/metrics", {"origin": LAB})
    assert status == 401 and fields["access-control-allow-origin"] == LAB
    status, fields, _ = call("POST", "/v1/sessions", {**headers, "authorization": "Bearer " + secret}, b'{"environment":"echo"}')
    assert status == 200 and fields["access-control-allow-origin"] == LAB


@pytest.mark.parametrize("origin", [OTHER, LAB + ".evil.example", LAB + ":444", "http://lab.example.org", "null", "https://LAB.example.org", "https://lab.example.or", None])
def test_other_origins(call, origin):
    """Their pages learn nothing, and caches keep the answers apart; who is no browser is served as ever."""
    call = call("--cors-allowed-origins", LAB)
    headers = {"origin": origin} if origin else {}
    status, fields, _ = call("OPTIONS", "/v1/sessions", {**headers, "access-control-request-method": "POST"})
    assert status == 405 and fields_of(fields) == {"vary": "Origin"}
    status, fields, _ = call("POST", "/v1/sessions", {**headers, "content-type": "application/json"}, b'{"environment":"echo"}')
    assert status == 200 and fields_of(fields) == {"vary": "Origin"}


def test_websockets(gateway):
    """CORS is not about them, so the gateway itself must look."""
    g = gateway(None, "--cors-allowed-origins", LAB)
    for origin, status in ((LAB, 101), (OTHER, 403), (LAB + ":444", 403), (None, 101)):
        lines = ["GET /v1/environments/echo/ws HTTP/1.1", "Host: gateway", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
        lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", *([f"Origin: {origin}"] if origin else [])]
        host, port = g.listen.split(":")
        with socket.create_connection((host, int(port)), timeout=20) as s:
            s.sendall("\r\n".join([*lines, "", ""]).encode())
            assert int(s.recv(100).split()[1]) == status, origin


def test_off_by_default(call):
    call = call()
    status, fields, _ = call("OPTIONS", "/v1/sessions", {"origin": LAB, "access-control-request-method": "POST"})
    assert status == 405 and not fields_of(fields)
    status, fields, _ = call("GET", "/healthz", {"origin": LAB})
    assert status == 200 and not fields_of(fields)


def test_options_that_are_no_preflights(call):
    call = call("--cors-allowed-origins", LAB)
    status, fields, _ = call("OPTIONS", "/v1/sessions", {"origin": LAB})
    assert status == 405 and fields["access-control-allow-origin"] == LAB and "access-control-allow-methods" not in fields


def test_hostile_preflights(call):
    """What is asked for comes back as it is, or not at all; the next request is answered as ever."""
    call = call("--cors-allowed-origins", "*")
    for names in ("x" * 9000, "a, b;c=\"d\", <script>", ","):
        status, fields, _ = call("OPTIONS", "/v1/sessions", {"origin": LAB, "access-control-request-method": "POST", "access-control-request-headers": names})
        assert status == 204 and fields["access-control-allow-headers"] == names
    assert call("GET", "/healthz", {"origin": LAB})[0] == 200


@pytest.mark.parametrize("value", ["lab.example.org", "https://Lab.example.org", "https://lab.example.org/", LAB + ",", ",", "https://*.example.org", "null", LAB + " " + OTHER])
def test_wrong_origins(value):
    done = subprocess.run([BIN, "serve", "--cors-allowed-origins", value], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and "--cors-allowed-origins must be '*' or an origin" in done.stderr


def test_the_command_line_wins_over_the_file(gateway):
    g = gateway({"cors_allowed_origins": [OTHER], "environments": {"echo": {"builtin": {"environment": "echo"}}}}, "--cors-allowed-origins", LAB)
    allowed = [g.get("/healthz", headers={"origin": o}).headers.get("access-control-allow-origin") for o in (LAB, OTHER)]
    assert allowed == [LAB, None]
    h = gateway({"cors_allowed_origins": [OTHER, LAB], "environments": {"echo": {"builtin": {"environment": "echo"}}}})
    assert [h.get("/healthz", headers={"origin": o}).headers.get("access-control-allow-origin") for o in (LAB, OTHER)] == [LAB, OTHER]


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_what_needs_no_preflight_does_nothing(call, kind):
    """What any page may have a browser send (Fetch's "simple" requests)."""
    call = call("--cors-allowed-origins", LAB)
    create, preload = ("/v1/sessions", b'{"environment":"echo"}'), ("/v1/environments/echo:preload", b"")
    headers = {"origin": OTHER, **({"content-type": kind} if kind else {})}
    for path, body in (create, preload):
        assert call("POST", path, headers, body)[0] == 415, path
    for path in (CREATE, "/envgate.v1.EnvironmentService/Preload"):
        assert call("POST", path, headers, create[1])[0] == 415, path
    assert call("GET", "/v1/sessions", {})[2] == b'{"sessions":[],"next_page_token":""}'
    if not kind:  # those that may call, and who is no page
        for headers in ({"origin": LAB}, {}):
            assert call("POST", *create[:1], headers, create[1])[0] == 200
