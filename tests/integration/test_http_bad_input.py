# SPDX-License-Identifier: Apache-2.0
"""What callers of the HTTP/1 front get wrong, on purpose or not: each has its documented status, reason and field, and hurts nobody else."""

import ctypes
import json
import re
import socket
import subprocess

import conftest
import pytest

LIMIT = 4194304  # max_message_bytes
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def session(shared_gateway):
    path = shared_gateway.create("echo")
    assert shared_gateway.post(path + "/reset").status_code == 200
    return path


@pytest.fixture(autouse=True)
def still_serves(shared_gateway):
    yield
    assert shared_gateway.get("/healthz").status_code == 200


def fault_of(reply):
    """(HTTP status, reason, field, message) of an error's reply."""
    assert reply.headers["content-type"] == "application/json", reply.text
    error = reply.json()["error"]
    assert error["code"] == reply.status_code
    details = {d["@type"].rsplit(".", 1)[1]: d for d in error["details"]}
    info = details["ErrorInfo"]
    assert info["domain"] == "envgate"
    field = details["BadRequest"]["field_violations"][0]["field"] if "BadRequest" in details else ""
    return reply.status_code, info["reason"], field, error["message"]


def send(g, verb, path, body=None, headers=JSON):
    return g.http.request(verb, g.url + path, data=body, headers=headers, timeout=60)


BODIES = {
    # name: (body, reason, field)
    "not-json": ('{"action":', "INVALID_REQUEST", None),
    "trailing": ('{"action":{}} x', "INVALID_REQUEST", None),
    "array": ("[]", "INVALID_REQUEST", None),
    "nul": ('{"action":{"message":"\0"}}', "INVALID_REQUEST", None),
    "bad-utf8": (b'{"action":{"message":"\xff"}}', "INVALID_REQUEST", None),
    "bom": (b"\xef\xbb\xbf{}", "INVALID_REQUEST", None),
    "no-action": ("{}", "INVALID_REQUEST", "action"),
    "action-no-object": ('{"action":1}', "INVALID_REQUEST", "action"),
    "unknown-field": ('{"action":{},"acton":{}}', "INVALID_REQUEST", "acton"),
    "wrong-type": ('{"action":{},"timeout_s":"soon"}', "INVALID_REQUEST", "timeout_s"),
    "wrong-type-int": ('{"action":{},"step_index":1.5}', "INVALID_REQUEST", "step_index"),
    "int-too-large": ('{"action":{},"step_index":9223372036854775808}', "INVALID_REQUEST", "step_index"),
    "bad-enum": ('{"action":{},"payload_format":"PAYLOAD_FORMAT_NOPE"}', "INVALID_REQUEST", "payload_format"),
    "duplicate": ('{"action":{},"session":"sessions/other"}', "INVALID_REQUEST", "session"),
    "too-deep": ('{"action":{"message":' + "[" * 100 + "]" * 100 + "}}", "JSON_TOO_DEEP", "action"),
    "far-too-deep": ("[" * 1_000_000, None, None),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies(shared_gateway, session, name):
    body, reason, field = BODIES[name]
    status, got_reason, got_field, message = fault_of(send(shared_gateway, "POST", session + "/step", body))
    assert status == 400 and message
    assert reason is None or got_reason == reason
    if field is not None:
        assert got_field == field and field in message


QUERIES = {
    "unknown": ("nope=1", "nope"),
    "wrong-type": ("page_size=many", "page_size"),
    "twice": ("page_size=1&page_size=2", "page_size"),
    "bad-escape": ("page_token=%zz", "page_token"),
    "cut-escape": ("page_token=%4", "page_token"),
    "nul": ("page_token=%00", "page_token"),
    "bad-utf8": ("page_token=%ff", "page_token"),
}


@pytest.mark.parametrize("name", QUERIES)
def test_queries(shared_gateway, name):
    query, field = QUERIES[name]
    status, _, _, body = raw(shared_gateway, f"GET /v1/sessions?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    error = json.loads(body)["error"]
    violations = error["details"][1]["field_violations"]
    assert status == 400 and violations[0]["field"] == field and field in error["message"]


@pytest.mark.parametrize("path", ["/v1/sessions/%zz", "/v1/sessions/%", "/v1/sessions/%00", "/v1/sessions/%C0%AF"])
def test_path_escapes(shared_gateway, path):
    status, _, _, body = raw(shared_gateway, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    error = json.loads(body)["error"]
    assert status == 400 and error["details"][1]["field_violations"][0]["field"] == "name"


def test_unknown(shared_gateway, session):
    assert fault_of(shared_gateway.get("/v1/nothing"))[:2] == (404, "METHOD_NOT_FOUND")
    assert fault_of(shared_gateway.get("/v1/sessions/nope"))[:2] == (404, "SESSION_NOT_FOUND")
    assert fault_of(shared_gateway.post("/v1/sessions/nope/step", {"action": {}}))[:2] == (404, "SESSION_NOT_FOUND")
    assert fault_of(shared_gateway.post("/v1/sessions", {"environment": "nope"}))[:2] == (404, "ENVIRONMENT_NOT_FOUND")
    assert fault_of(shared_gateway.post("/v1/sessions", {}))[:3] == (400, "INVALID_REQUEST", "environment")


def test_methods(shared_gateway, session):
    refused = send(shared_gateway, "PUT", session)
    assert fault_of(refused)[:2] == (405, "METHOD_NOT_FOUND")
    assert set(refused.headers["allow"].split(", ")) == {"GET", "DELETE"}
    assert fault_of(send(shared_gateway, "GET", session + "/step"))[:2] == (405, "METHOD_NOT_FOUND")


@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "application/grpc"])
def test_media_types(shared_gateway, session, media):
    assert fault_of(send(shared_gateway, "POST", session + "/step", "{}", {"Content-Type": media}))[:2] == (415, "MEDIA_TYPE")


@pytest.mark.parametrize("media", ["application/json", "Application/JSON; charset=utf-8", "application/json ;x=y"])
def test_good_media_types(shared_gateway, session, media):
    assert send(shared_gateway, "POST", session + "/step", '{"action":{"message":"x"}}', {"Content-Type": media}).status_code == 200


def test_bodies_where_none_is_taken(shared_gateway, session):
    assert fault_of(send(shared_gateway, "GET", session, "{}"))[0] == 400
    assert fault_of(send(shared_gateway, "DELETE", session, "{}"))[0] == 400
    assert shared_gateway.get(session).status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_too_large(shared_gateway, session, chunked):
    body = b'{"action":{"message":"' + b"x" * LIMIT + b'"}}'
    data = iter([body[:1000], body[1000:]]) if chunked else body
    status, reason, _, message = fault_of(send(shared_gateway, "POST", session + "/step", data))
    assert (status, reason) == (413, "MESSAGE_TOO_LARGE") and str(LIMIT) in message


def test_just_not_too_large(shared_gateway, session):
    body = b'{"action":{"message":"' + b"x" * (LIMIT - 25) + b'"}}'
    assert len(body) == LIMIT
    assert send(shared_gateway, "POST", session + "/step", body).status_code == 200


# --- requests that no client library would send


def raw(g, data, end=False):
    """Sends bytes. Returns (status, headers, closed, body) of the first reply; status 0: the connection was closed without one."""
    host, port = g.listen.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=20 * conftest.SLOW) as s:
        s.sendall(data)
        if end:
            s.shutdown(socket.SHUT_WR)
        f = s.makefile("rb")
        line = f.readline()
        if not line:
            return 0, {}, True, b""
        headers = {}
        while (field := f.readline().strip()) != b"":
            key, _, value = field.decode().partition(":")
            headers[key.lower()] = value.strip()
        body = f.read(int(headers.get("content-length", 0)))
        closed = headers.get("connection", "") == "close"
        if closed:
            f.read()
        return int(line.split()[1]), headers, closed, body


def post(*fields, body=b"{}"):
    return b"\r\n".join([b"POST /v1/sessions HTTP/1.1", *fields]) + b"\r\n\r\n" + body


CHUNKS = b"2\r\n{}\r\n0\r\n\r\n"
# What two readers might see differently must not get through: the connection is closed, so that no rest is taken for a request.
SMUGGLING = {
    "no-host": post(b"Content-Length: 2"),
    "two-hosts": post(b"Host: x", b"Host: y", b"Content-Length: 2"),
    "two-lengths": post(b"Host: x", b"Content-Length: 2", b"Content-Length: 3"),
    "same-length-twice": post(b"Host: x", b"Content-Length: 2", b"Content-Length: 2"),
    "length-list": post(b"Host: x", b"Content-Length: 2, 2"),
    "length-sign": post(b"Host: x", b"Content-Length: +2"),
    "length-negative": post(b"Host: x", b"Content-Length: -2"),
    "length-hex": post(b"Host: x", b"Content-Length: 0x2"),
    "length-and-chunked": post(b"Host: x", b"Content-Length: 2", b"Transfer-Encoding: chunked", body=CHUNKS),
    "two-encodings": post(b"Host: x", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=CHUNKS),
    "encoding-list": post(b"Host: x", b"Transfer-Encoding: gzip, chunked", body=CHUNKS),
    "encoding-odd": post(b"Host: x", b"Transfer-Encoding: xchunked", body=CHUNKS),
    "chunk-size": post(b"Host: x", b"Transfer-Encoding: chunked", body=b"zz\r\n{}\r\n0\r\n\r\n"),
    "space-before-colon": post(b"Host: x", b"Content-Length : 2"),
    "folded-length": post(b"Host: x", b"X-A: b", b" Content-Length: 2"),
    "no-colon": post(b"Host: x", b"nonsense"),
    "space-in-target": b"GET /v1/ sessions HTTP/1.1\r\nHost: x\r\n\r\n",
    "byte-in-target": b"GET /v1/s\xc3\xa4 HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("name", SMUGGLING)
def test_framing(shared_gateway, name):
    status, _, closed, _ = raw(shared_gateway, SMUGGLING[name] + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status == 400 and closed


# What libmicrohttpd 0.9.75 hides from the gateway (docs/SECURITY.md).
HIDDEN = {
    "obs-fold": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: b\r\n c\r\n\r\n",
    "bare-lf": b"GET /healthz HTTP/1.1\nHost: x\n\n",
    "bare-lf-in-the-fields": b"GET /healthz HTTP/1.1\r\nHost: x\nX-A: b\r\n\r\n",
    "nul-in-a-value": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: b\0c\r\n\r\n",
    "nul-in-the-target": b"GET /healthz\0x HTTP/1.1\r\nHost: x\r\n\r\n",
    "empty-name": b"GET /healthz HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n",
    "spaces-in-the-request-line": b"GET  /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
}


def microhttpd_version():
    """Of the library that the program loads, as (major, minor, patch)."""
    loaded = subprocess.run(["ldd", conftest.BIN], capture_output=True, text=True, check=True).stdout
    (path,) = re.findall(r"libmicrohttpd\.so\S* => (\S+)", loaded)
    version = ctypes.CDLL(path).MHD_get_version
    version.restype = ctypes.c_char_p
    return tuple(map(int, version().decode().split(".")[:3]))


@pytest.mark.parametrize("name", HIDDEN)
def test_what_0_9_75_hides(shared_gateway, name):
    status, _, closed, body = raw(shared_gateway, HIDDEN[name])
    if microhttpd_version() >= (1, 0, 0):
        assert status == (0 if name == "nul-in-the-target" else 400) and closed
    else:
        assert status == 200 and body == b"ok\n"


OTHERS = {
    # name: (bytes, status; 0: closed without a word)
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 0),
    "version": (b"GET / HTTP/3.7\r\nHost: x\r\n\r\n", 505),
    "long-target": (b"GET /" + b"a" * 60_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "large-header": (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 17_000 + b"\r\n\r\n", 431),
    "huge-header": (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 60_000 + b"\r\n\r\n", 431),
    "many-headers": (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 5_000 + b"\r\n", 431),
    "length-asked": (post(b"Host: x", b"Content-Length: %d" % (LIMIT + 1), b"Expect: 100-continue", body=b""), 413),
    "length-huge": (post(b"Host: x", b"Content-Length: 999999999999", body=b""), 413),
    "length-overflow": (post(b"Host: x", b"Content-Length: 18446744073709551618"), 413),
}


@pytest.mark.parametrize("name", OTHERS)
def test_others(shared_gateway, name):
    data, expected = OTHERS[name]
    status, _, closed, _ = raw(shared_gateway, data)
    assert status == expected and closed


def test_absolute_target(shared_gateway):
    assert raw(shared_gateway, b"GET http://gateway/healthz HTTP/1.1\r\nHost: gateway\r\n\r\n")[0] == 200


def test_http_1_0(shared_gateway):
    status, _, closed, body = raw(shared_gateway, b"GET /healthz HTTP/1.0\r\n\r\n")
    assert status == 200 and closed and body == b"ok\n"


def test_truncated_body(shared_gateway):
    """A caller that stops in the middle of its body gets nothing run."""
    before = len(shared_gateway.get("/v1/sessions?page_size=1000").json()["sessions"])
    assert raw(shared_gateway, post(b"Host: x", b"Content-Length: 99", body=b'{"environment":"echo"}'), end=True)[0] in (0, 400)
    assert len(shared_gateway.get("/v1/sessions?page_size=1000").json()["sessions"]) == before


def test_payloads_stay_out_of_the_log(gateway):
    g = gateway(None, "--log-level", "debug")
    g.post("/v1/sessions", {"environment": "echo", "s3cret-field": "s3cret-value"})
    assert "s3cret" not in g.log_text()
