# SPDX-License-Identifier: Apache-2.0
"""The WebSocket layer, seen through the door that OpenEnv's clients use: upgrades, frames, limits, pings, ends."""

import json
import socket
import ssl
import time

import pytest
import requests
from certificates import make_ca, make_leaf
from conftest import SLOW, builtin
from websockets.sync.client import connect
from ws_client import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Socket, dial, frame, request

ECHO = {"environments": {"echo": builtin("echo", "--capacity", "100", "--faults", sessions_per_worker=100)}}
PATH = "/v1/environments/echo/ws"
RESET = b'{"type":"reset"}'
STATE = b'{"type":"state"}'


def step(message, **more):
    return json.dumps({"type": "step", "data": {"message": message, **more}}, ensure_ascii=False).encode()


def echoed(text):
    return json.loads(text)["data"]["observation"]["echoed_message"]


@pytest.fixture(scope="module")
def g(tmp_path_factory):
    from conftest import Gateway

    g = Gateway(ECHO, tmp=tmp_path_factory.mktemp("gateway"))
    yield g
    g.check_end()


@pytest.fixture
def ws(g):
    s = dial(g.listen).open(PATH)
    yield s
    s.close()


def none_left(g):
    g.wait_for(lambda: g.metric("envgate_websockets") == 0 and not g.get("/v1/sessions").json()["sessions"], what="every socket and session is gone")


def status_of(g, path=PATH, **headers):
    s = dial(g.listen)
    s.s.sendall(request(path, **headers))
    status, fields = s.head()
    s.close()
    return status, fields


# --- upgrades --------------------------------------------------------------------------------------------------------------------------------


def test_upgrades_that_are_none(g):
    assert status_of(g)[0] == 101
    for wrong in (
        {"Upgrade": None},
        {"Upgrade": "h2c"},
        {"Connection": "keep-alive"},
        {"Sec_WebSocket_Version": "8"},
        {"Sec_WebSocket_Version": None},
    ):
        status, fields = status_of(g, **wrong)
        assert (status, fields["upgrade"], fields["sec-websocket-version"]) == (426, "websocket", "13"), wrong
    for key in ("", "short", "dGhlIHNhbXBsZSBub25jZQaa", None):
        assert status_of(g, Sec_WebSocket_Key=key)[0] in (400, 426), key
    assert status_of(g, "/v1/environments/none/ws")[0] == 404
    assert status_of(g, "/v1/environments/echo/x/ws")[0] == 404
    assert status_of(g, "/v1/sessions/nonsense/ws")[0] == 404
    assert status_of(g, PATH + "?timeout_s=soon")[0] == 400
    assert requests.get(g.url + PATH, timeout=10).status_code == 426
    none_left(g)


def test_pages_of_other_origins_are_refused(g):
    assert status_of(g, Origin="https://evil.example")[0] == 403
    assert status_of(g, Origin="null")[0] == 403
    assert status_of(g, Origin="http://gateway")[0] == 101
    none_left(g)


def test_no_extension_is_accepted(g):
    status, fields = status_of(g, Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits", Sec_WebSocket_Protocol="a, b")
    assert status == 101 and "sec-websocket-extensions" not in fields and "sec-websocket-protocol" not in fields
    with connect(f"ws://{g.listen}{PATH}") as ws:  # which offers it
        ws.send(RESET.decode())
        assert json.loads(ws.recv())["type"] == "observation"


def test_what_comes_with_the_request_is_read(g):
    s = dial(g.listen).open(PATH, behind=frame(TEXT, RESET) + frame(TEXT, step("early")))
    s.frame()
    assert echoed(s.frame()[1]) == "early"
    s.close()


def test_a_kept_alive_connection_may_upgrade(g):
    s = dial(g.listen)
    s.s.sendall(b"GET /healthz HTTP/1.1\r\nHost: g\r\n\r\n")
    status, fields = s.head()
    assert status == 200 and s.read(int(fields["content-length"])) == b"ok\n"
    s.open(PATH)
    assert "observation" in s.text(RESET)
    s.close()


# --- frames ----------------------------------------------------------------------------------------------------------------------------------


def test_fragments(ws):
    ws.text(RESET)
    text = step("f" * 300 + "ü")
    for size in (1, 7, 128, 200):
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        out = b""
        for i, piece in enumerate(pieces):
            out += frame(CONTINUATION if i else TEXT, piece, fin=i == len(pieces) - 1)
            if i == 0:
                out += frame(PING, b"between") + frame(CONTINUATION, b"", fin=False)
        ws.s.sendall(out)
        assert ws.frame() == (PONG, b"between")
        assert echoed(ws.frame()[1]) == "f" * 300 + "ü"


def test_bytes_one_at_a_time(ws):
    for b in frame(TEXT, RESET) + frame(TEXT, step("slowly")):
        ws.s.sendall(bytes([b]))
    ws.frame()
    assert echoed(ws.frame()[1]) == "slowly"


def test_pings(ws):
    for payload in (b"", b"x" * 125):
        ws.send(PING, payload)
        assert ws.frame() == (PONG, payload)
    ws.send(PONG, b"unasked")
    assert "observation" in ws.text(RESET)


def test_a_flood_of_pings_takes_no_memory(g, ws):
    ws.s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    ws.s.settimeout(0.2)
    flood = frame(PING, b"p" * 125) * 4000
    try:
        for _ in range(10):  # 5 MB, and no pong is read
            ws.s.sendall(flood)
    except TimeoutError:
        pass
    held = sum(map(int, open(f"/proc/{g.pid}/statm").read().split()[1:2])) * 4096
    assert held < 200e6 * SLOW
    assert g.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "code, bytes",
    [
        (1002, frame(TEXT, RESET, mask=False)),
        (1002, frame(TEXT, RESET, rsv=4)),
        (1002, frame(3, b"")),
        (1002, frame(11, b"")),
        (1002, frame(CONTINUATION, b"of nothing")),
        (1002, frame(TEXT, b"a", fin=False) + frame(TEXT, b"b")),
        (1002, frame(PING, b"a", fin=False)),
        (1002, frame(PING, b"a" * 126)),
        (1002, frame(CLOSE, b"\x03")),
        (1002, frame(CLOSE, b"\x03\xed")),
        (1007, frame(TEXT, b'{"type":"\xff"}')),
        (1007, frame(TEXT, b"\xed\xa0\x80")),
        (1007, frame(TEXT, b"\xc3", fin=False) + frame(CONTINUATION, b"x")),
        (1009, frame(TEXT, b"", length=(16 << 20) + 1)),
        (1009, frame(TEXT, b"", length=1 << 62)),
        (1009, frame(TEXT, b"x" * 1000, fin=False) + frame(CONTINUATION, b"", length=16 << 20)),
        (1000, frame(CLOSE, b"\x03\xe8bye")),
        (4321, frame(CLOSE, b"\x10\xe1")),
        (1005, frame(CLOSE, b"")),
    ],
    ids=lambda v: v if isinstance(v, int) else "",  # masks are random, and pytest's processes must agree on names
)
def test_ends(g, code, bytes):
    s = dial(g.listen).open(PATH)
    s.text(RESET)
    s.s.sendall(bytes + frame(TEXT, STATE))
    assert s.closed() == code
    s.close()
    none_left(g)


def test_a_character_may_be_cut_between_fragments(ws):
    ws.text(RESET)
    text = step("ü")
    cut = text.index("ü".encode()) + 1
    ws.s.sendall(frame(TEXT, text[:cut], fin=False) + frame(CONTINUATION, text[cut:]))
    assert echoed(ws.frame()[1]) == "ü"


def test_large_messages_both_ways(g):
    s = dial(g.listen).open(PATH)
    s.text(RESET)
    for size in (70_000, 3 << 20, 15 << 20):
        text = "ä" * (size // 2)
        assert echoed(s.text(step(text))) == text
    reply = s.text(step("m", fault="big", bytes=30 << 20))
    assert len(reply) >= 30 << 20 and json.loads(reply)["type"] == "observation"
    s.close()


# --- pace ------------------------------------------------------------------------------------------------------------------------------------


def test_what_is_sent_ahead_is_answered_in_order(ws):
    ws.s.sendall(frame(TEXT, RESET) + b"".join(frame(TEXT, step(str(i))) for i in range(500)))
    ws.frame()
    assert [echoed(ws.frame()[1]) for i in range(500)] == [str(i) for i in range(500)]


def test_a_client_that_does_not_read_is_not_served_ahead(g):
    s = dial(g.listen).open(PATH)
    s.text(RESET)
    before = g.metric("envgate_websocket_messages_received_total")
    s.s.sendall(b"".join(frame(TEXT, step("m", fault="big", bytes=1 << 20)) for _ in range(200)))
    time.sleep(1)
    taken = g.metric("envgate_websocket_messages_received_total") - before
    assert 1 <= taken < 60, taken  # what waits here, and what the kernel's buffers took
    for _ in range(200):
        assert len(s.frame()[1]) >= 1 << 20
    s.close()
    none_left(g)


# --- ends ------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fin", "reset", "in a step", "pipelined"])
def test_a_connection_that_breaks_frees_its_session(g, how):
    s = dial(g.listen).open(PATH)
    s.text(RESET)
    slow = frame(TEXT, step("slow", fault="slow", ms=1500))
    if how == "in a step":
        s.s.sendall(slow)
        g.wait_for(lambda: g.metric("envgate_sessions", state="busy") == 1, what="it steps")
    if how == "pipelined":
        s.s.sendall(slow + frame(TEXT, STATE) * 100)
        g.wait_for(lambda: g.metric("envgate_sessions", state="busy") == 1, what="it steps")
    if how == "reset":
        s.s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    started = time.monotonic()
    s.close()
    none_left(g)
    assert time.monotonic() - started < 1 * SLOW
    assert g.log("websocket.closed")[-1]["code"] == 1006


def test_sockets_that_end_as_their_sessions_begin(g):
    for i in range(400):
        s = dial(g.listen)
        s.s.sendall(request(PATH))
        if i % 4 == 0:
            s.head()
        elif i % 4 == 1:
            time.sleep(i % 16 * 0.0001)
        s.close()
    none_left(g)


def test_a_thousand_sockets_come_and_go(g):
    for _ in range(20):
        some = [dial(g.listen) for _ in range(50)]
        for s in some:
            s.s.sendall(request(PATH) + frame(TEXT, RESET))
        for i, s in enumerate(some):
            assert s.head()[0] == 101
            assert s.frame()[0] == TEXT
            if i % 2:
                s.send(CLOSE, b"\x03\xe8")
                assert s.closed() == 1000
            s.close()
    none_left(g)
    g.wait_for(lambda: g.metric("envgate_connections") <= 2, what="connections are gone")


# --- TLS -------------------------------------------------------------------------------------------------------------------------------------


def test_over_tls(gateway, tmp_path):
    ca = make_ca(tmp_path, "ca")
    server = make_leaf(ca, "server")
    g = gateway(ECHO, "--tls-cert-file", str(server.cert), "--tls-key-file", str(server.key), ca=ca.cert)
    context = ssl.create_default_context(cafile=ca.cert)
    with connect(f"wss://localhost:{g.listen.rsplit(':', 1)[1]}{PATH}", ssl=context, max_size=None) as ws:
        ws.send(RESET.decode())
        ws.recv()
        for i in range(100):
            ws.send(step(str(i)).decode())
            assert echoed(ws.recv()) == str(i)
        large = "x" * (5 << 20)
        ws.send(step(large).decode())
        assert echoed(ws.recv()) == large
    none_left(g)
    raw = context.wrap_socket(dial(g.listen).s, server_hostname="localhost")
    s = Socket(raw).open(PATH)
    s.text(RESET)
    raw.close()
    none_left(g)


def test_on_a_unix_socket(gateway, tmp_path):
    g = gateway(ECHO, "--listen", f"unix:{tmp_path}/g.sock")
    raw = socket.socket(socket.AF_UNIX)
    raw.connect(f"{tmp_path}/g.sock")
    s = Socket(raw).open(PATH)
    assert "observation" in s.text(RESET)
    s.close()
    none_left(g)
