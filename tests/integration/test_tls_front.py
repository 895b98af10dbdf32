# SPDX-License-Identifier: Apache-2.0
"""TLS on the one port: handshakes, ALPN, client certificates, new files, and bytes through to both fronts, with real clients."""

import contextlib
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time

import grpc
import h2_client
import pytest
from certificates import make_ca, make_leaf
from conftest import SLOW, builtin, code_of

from envgate.v1 import payload_pb2, session_service_pb2 as pb

LARGE = "ä" * 1_500_000  # 3 MB
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: g\r\n\r\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def ca(folder):
    return make_ca(folder, "ca")


@pytest.fixture(scope="module")
def server(ca):
    return make_leaf(ca, "server")


@pytest.fixture(scope="module")
def client(ca):
    return make_leaf(ca, "client")


def tls(server, *args):
    return ("--tls-cert-file", str(server.cert), "--tls-key-file", str(server.key), *args)


def context(ca, alpn=None, client=None):
    c = ssl.create_default_context(cafile=ca.cert)
    if alpn:
        c.set_alpn_protocols(alpn)
    if client:
        c.load_cert_chain(client.cert, client.key)
    return c


def dial(g, context):
    return context.wrap_socket(h2_client.dial(g.listen), server_hostname="localhost")


def get(s, bytes=HEALTH):
    s.sendall(bytes)
    return s.recv(4096)


def s_client(g, *args, input=b""):
    """openssl's own client: (exit code, what it printed)."""
    done = subprocess.run(
        ["openssl", "s_client", "-connect", g.listen, *map(str, args)], input=input, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30 * SLOW
    )
    return done.returncode, done.stdout.decode(errors="replace")


def episode(g, stub, message="hi"):
    session = stub.CreateSession(pb.CreateSessionRequest(environment="echo"), timeout=60).name
    stub.Reset(pb.ResetRequest(session=session), timeout=60)
    action = payload_pb2.Payload(json=json.dumps({"message": "m", "data": message}, ensure_ascii=False).encode())
    step = stub.Step(pb.StepRequest(session=session, action=action), timeout=60)
    assert json.loads(step.observation.json)["data"] == message
    stub.CloseSession(pb.CloseSessionRequest(name=session), timeout=60)


# --- both fronts on one port ---


@pytest.mark.parametrize("threads", [1, 2])
def test_grpc_and_rest(gateway, ca, server, threads):
    g = gateway(None, *tls(server, "--threads", str(threads)), ca=ca.cert)
    for message in ("hi", LARGE):
        episode(g, g.sessions, message)
        path = g.create("echo")
        g.post(path + "/reset")
        body = json.dumps({"action": {"message": "m", "data": message}}, ensure_ascii=False).encode()
        step = g.http.post(g.url + path + "/step", data=body, headers={"Content-Type": "application/json"}, timeout=60)
        assert step.json()["observation"]["data"] == message
    calls = g.log("call")
    assert {c["protocol"] for c in calls} == {"grpc", "http"}
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+", c["peer"]) for c in calls)
    assert g.metric("envgate_tls_handshakes_total") >= 2 and g.metric("envgate_tls_handshakes_failed_total") == 0


def test_curl(gateway, ca, server):
    g = gateway(None, *tls(server), ca=ca.cert)
    command = ["curl", "-sS", "--cacert", str(ca.cert), "-w", "%{http_version} %{ssl_verify_result}", g.url + "/healthz"]
    done = subprocess.run([*command, "--http1.1"], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "ok\n1.1 0"


def test_many_channels_and_calls(gateway, ca, server):
    g = gateway(None, *tls(server, "--threads", "2"), ca=ca.cert)

    def work(failures):
        try:
            with g.new_channel(**{"grpc.use_local_subchannel_pool": 1}) as channel:
                from envgate.v1 import session_service_pb2_grpc

                stub = session_service_pb2_grpc.SessionServiceStub(channel)
                for i in range(5):
                    episode(g, stub, "x" * (i * 50_000))
        except Exception as e:  # the main thread tells
            failures.append(e)

    failures = []
    threads = [threading.Thread(target=work, args=(failures,)) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures, failures


# --- the handshake ---


def test_alpn(gateway, ca, server):
    g = gateway(None, *tls(server), ca=ca.cert)
    with dial(g, context(ca, ["h2", "http/1.1"])) as s:
        assert s.selected_alpn_protocol() == "h2" and s.version() == "TLSv1.3"
        s.sendall(h2_client.PREFACE + h2_client.frame(4))
        assert s.recv(9)[3] == 4  # SETTINGS
    with dial(g, context(ca, ["http/1.1", "h2"])) as s:
        assert s.selected_alpn_protocol() == "h2"  # the gateway's order
    with dial(g, context(ca, ["http/1.1"])) as s:
        assert s.selected_alpn_protocol() == "http/1.1"
        assert get(s).startswith(b"HTTP/1.1 200")
    with dial(g, context(ca)) as s:  # none: the first bytes decide
        assert s.selected_alpn_protocol() is None
        assert get(s).startswith(b"HTTP/1.1 200")
    with dial(g, context(ca)) as s:
        s.sendall(h2_client.PREFACE + h2_client.frame(4))
        assert s.recv(9)[3] == 4
    with dial(g, context(ca)) as s:
        for byte in HEALTH:
            s.sendall(bytes([byte]))
        assert s.recv(4096).startswith(b"HTTP/1.1 200")
    with pytest.raises(ssl.SSLError, match="(?i)no.application.protocol"):
        dial(g, context(ca, ["spdy/3"]))


def test_versions_and_ciphers(gateway, ca, server):
    g = gateway(None, *tls(server), ca=ca.cert)
    assert "Protocol  : TLSv1.2" in s_client(g, "-tls1_2")[1]
    assert "TLSv1.3, Cipher is" in s_client(g, "-tls1_3")[1].replace("New, ", "")
    for old in ("-tls1", "-tls1_1"):
        code, text = s_client(g, old, "-cipher", "ALL:@SECLEVEL=0")
        assert code != 0 and "alert protocol version" in text, text
    code, text = s_client(g, "-tls1_2", "-cipher", "AES128-SHA:ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
    assert code != 0 and "handshake failure" in text, text
    assert g.wait_for(lambda: g.metric("envgate_tls_handshakes_failed_total") >= 3)
    assert g.log("tls.refused")[0]["peer"].startswith("127.0.0.1:")


def test_no_renegotiation(gateway, ca, server):
    g = gateway(None, *tls(server), ca=ca.cert)
    process = subprocess.Popen(["openssl", "s_client", "-tls1_2", "-connect", g.listen], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    process.stdin.write(b"R\n")
    process.stdin.flush()
    out = process.communicate(timeout=30)[0].decode()
    assert "no renegotiation" in out and process.returncode != 0, out


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_sessions_resume(gateway, ca, server, client, tmp_path, version):
    g = gateway(None, *tls(server, "--tls-client-ca-file", str(ca.cert), "--threads", "2"), ca=ca.cert, client=client)
    mine = ("-cert", client.cert, "-key", client.key, version, "-ign_eof")
    close = HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    for i in range(4):
        code, text = s_client(g, *mine, *(["-sess_in", tmp_path / "s"] if i else []), *([] if i else ["-sess_out", tmp_path / "s"]), input=close)
        assert "HTTP/1.1 200" in text and ("Reused, " in text) == (i > 0), text


def test_garbage(gateway, ca, server):
    g = gateway(None, *tls(server), ca=ca.cert)
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(508)
    for junk in (b"\x16\x03\x01", b"\x16" * 600, b"\x16\x03\x01\xff\xff" + bytes(300), b"\x16" + os.urandom(4000), hello, b"\x80\x2e\x01\x00\x02"):
        with h2_client.dial(g.listen) as s:
            s.sendall(junk)
            s.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while s.recv(4096):
                    pass
    episode(g, g.sessions)
    with dial(g, context(ca, ["h2"])) as s:  # TLS is good, what is in it not
        s.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(100))
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while s.recv(4096):
                pass
    episode(g, g.sessions)


def test_slow_handshakes(gateway, ca, server):
    g = gateway(None, *tls(server, "--tls-handshake-timeout-s", "1", "--tls-max-handshakes", "1", "--threads", "1"), ca=ca.cert)
    slow = [h2_client.dial(g.listen) for _ in range(3)]
    for s in slow:
        s.sendall(b"\x16\x03")
    time.sleep(0.1)
    start = time.monotonic()
    good = h2_client.dial(g.listen)  # waits for the first one's end
    wrapped = context(ca, ["http/1.1"]).wrap_socket(good, server_hostname="localhost")
    waited = time.monotonic() - start
    assert get(wrapped).startswith(b"HTTP/1.1 200") and 0.5 < waited < 5 * SLOW
    wrapped.close()
    for s in slow:
        assert s.recv(100) == b"" or True
        s.close()
    # One that has shaken hands, but says nothing.
    with dial(g, context(ca)) as s:
        start = time.monotonic()
        assert s.recv(1) == b"" and time.monotonic() - start < 5 * SLOW
    assert g.metric("envgate_tls_handshakes_failed_total") >= 3
    assert g.log("tls.refused")[0]["reason"] == "it took longer than tls_handshake_timeout_s"


# --- plaintext ---


def test_plaintext_is_refused(gateway, ca, server):
    g = gateway(None, *tls(server), ca=ca.cert)
    with h2_client.dial(g.listen) as s:
        s.sendall(HEALTH)
        reply = b"".join(iter(lambda: s.recv(4096), b""))
    head, body = reply.split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and f"content-length: {len(body)}".encode() in head.lower() and b"https" in body
    import h2.config
    import h2.connection
    import h2.events

    with h2_client.dial(g.listen) as s:
        peer = h2.connection.H2Connection(h2.config.H2Configuration())
        peer.initiate_connection()
        s.sendall(peer.data_to_send())
        events = peer.receive_data(b"".join(iter(lambda: s.recv(4096), b"")))
    gone = [e for e in events if isinstance(e, h2.events.ConnectionTerminated)]
    assert gone, events
    assert gone[0].error_code == 0xC and gone[0].additional_data == b"this port takes TLS only"


@pytest.mark.parametrize("rule", ["loopback", "allow"])
def test_plaintext_may_be_allowed(gateway, ca, server, rule):
    g = gateway(None, *tls(server, "--tls-plaintext", rule))
    episode(g, g.sessions)
    assert g.get("/healthz").text == "ok\n"
    with dial(g, context(ca, ["http/1.1"])) as s:
        assert get(s).startswith(b"HTTP/1.1 200")


def test_tls_on_a_unix_socket(gateway, ca, server, tmp_path):
    g = gateway(None, *tls(server, "--tls-plaintext", "loopback", "--listen", f"unix:{tmp_path}/s"))
    episode(g, g.sessions)
    s = context(ca, ["http/1.1"]).wrap_socket(h2_client.dial(g.listen), server_hostname="localhost")
    assert get(s).startswith(b"HTTP/1.1 200")
    s.close()
    assert g.log("call")[0]["peer"] == "unix"


# --- client certificates ---


def test_client_certificates(gateway, folder, ca, server, client):
    g = gateway(None, *tls(server, "--tls-client-ca-file", str(ca.cert)), ca=ca.cert, client=client)
    episode(g, g.sessions)
    assert g.get("/healthz").text == "ok\n"
    stranger = make_leaf(make_ca(folder, "other-ca"), "stranger")
    expired = make_leaf(ca, "expired", days=-1)
    for wrong, why in ((None, "peer did not return a certificate"), (stranger, "certificate verify failed"), (expired, "certificate verify failed")):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            with dial(g, context(ca, ["http/1.1"], wrong)) as s:
                get(s)
                get(s)
        with g.new_channel(wrong) as channel, pytest.raises(grpc.RpcError) as error:
            from envgate.v1 import session_service_pb2_grpc

            session_service_pb2_grpc.SessionServiceStub(channel).ListSessions(pb.ListSessionsRequest(), timeout=10)
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        g.wait_for(lambda: any(why in line["reason"] for line in g.log("tls.refused")), what=why)
        time.sleep(1.1)  # a line a second


def test_client_certificates_may_be_optional(gateway, ca, server, client):
    g = gateway(None, *tls(server, "--tls-client-ca-file", str(ca.cert), "--tls-client-cert", "optional"), ca=ca.cert)
    episode(g, g.sessions)
    with dial(g, context(ca, ["http/1.1"], client)) as s:
        assert get(s).startswith(b"HTTP/1.1 200")


# --- files ---


def serial(g, ca, **kwargs):
    with dial(g, context(ca, ["http/1.1"], **kwargs)) as s:
        return s.getpeercert()["serialNumber"]


def put(pair, to):
    """As certbot and Kubernetes do: new files, renamed over the old ones."""
    for source, target in zip(pair, to):
        shutil.copy(source, f"{target}.new")
        os.rename(f"{target}.new", target)


def test_new_files_under_load(gateway, folder, ca, tmp_path):
    first, second, used = make_leaf(ca, "first"), make_leaf(ca, "second"), [tmp_path / "cert.pem", tmp_path / "key.pem"]
    put(first, used)
    g = gateway(None, "--tls-cert-file", str(used[0]), "--tls-key-file", str(used[1]), "--threads", "2", ca=ca.cert)
    before = serial(g, ca)
    failures, stop, done = [], threading.Event(), [0]

    def load():
        try:
            while not stop.is_set():
                with dial(g, context(ca, ["http/1.1"])) as s:
                    assert get(s).startswith(b"HTTP/1.1 200")
                done[0] += 1
        except Exception as e:
            failures.append(e)

    threads = [threading.Thread(target=load) for _ in range(3)]
    kept = dial(g, context(ca, ["http/1.1"]))
    for t in threads:
        t.start()
    put(second, used)
    g.wait_for(lambda: serial(g, ca) != before, what="the new certificate")
    g.wait_for(lambda: len({serial(g, ca) for _ in range(16)}) == 1, what="the new certificate on each reactor")
    used[0].write_text("nonsense")
    g.wait_for(lambda: g.log("tls.not_reloaded"), what="the complaint")
    assert "tls_cert_file" in g.log("tls.not_reloaded")[0]["reason"]
    put(first, used)
    g.wait_for(lambda: serial(g, ca) == before, what="the old certificate")
    stop.set()
    for t in threads:
        t.join()
    assert not failures and done[0] > 10, failures
    assert get(kept).startswith(b"HTTP/1.1 200")  # a connection lives on
    kept.close()
    assert len(g.log("tls.not_reloaded")) == 1


def test_new_client_authorities(gateway, folder, ca, server, client, tmp_path):
    file = tmp_path / "clients.pem"
    shutil.copy(ca.cert, file)
    g = gateway(None, *tls(server, "--tls-client-ca-file", str(file)), ca=ca.cert, client=client)
    old = context(ca, ["http/1.1"], client)
    with dial(g, old) as s:
        assert get(s).startswith(b"HTTP/1.1 200")
        session = s.session  # a ticket
    shutil.copy(make_ca(folder, "new-ca").cert, f"{file}.new")
    os.rename(f"{file}.new", file)
    g.wait_for(lambda: g.log("tls.reloaded"), what="the new authorities")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        with old.wrap_socket(h2_client.dial(g.listen), server_hostname="localhost", session=session) as s:
            get(s)
            get(s)
    g.http.cert = None
    g.ca = None  # nobody can get in any more


@pytest.mark.parametrize("broken", ["cert", "key", "pair", "ca", "none"])
def test_wrong_files_at_start(gateway, folder, ca, server, client, tmp_path, broken):
    bad = tmp_path / "bad.pem"
    bad.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    args = {
        "cert": ["--tls-cert-file", bad],
        "key": ["--tls-cert-file", server.cert],
        "pair": ["--tls-cert-file", server.cert, "--tls-key-file", client.key],
        "ca": ["--tls-cert-file", server.cert, "--tls-key-file", server.key, "--tls-client-ca-file", bad],
        "none": ["--tls-cert-file", tmp_path / "none.pem"],
    }[broken]
    with pytest.raises(RuntimeError, match=r"envgate: tls_(cert|key|client_ca)_file: /"):
        gateway(None, *map(str, args))


# --- the pump of HTTP/1.1 ---


def request(method, path, body):
    data = json.dumps(body).encode()
    return f"{method} {path} HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


def test_a_client_that_leaves_cancels(gateway, ca, server):
    config = {"environments": {"slow": builtin("echo", "--delay-ms", str(3000 * SLOW))}}
    g = gateway(config, *tls(server), ca=ca.cert)
    for how in ("close", "half"):
        path = g.create("slow")
        g.post(path + "/reset")
        s = dial(g, context(ca, ["http/1.1"]))
        s.sendall(request("POST", path + "/step", {"action": {"message": "m"}}))
        time.sleep(0.3)
        raw = s.detach()
        raw = socket.socket(fileno=raw)
        raw.shutdown(socket.SHUT_WR) if how == "half" else raw.close()
        g.wait_for(lambda: [c for c in g.log("call") if c["code"] == "CANCELLED" and c["session"] in path], 2, what=f"the end of the call ({how})")
        raw.close()


def test_a_client_that_reads_slowly(gateway, ca, server):
    config = {"environments": {"big": builtin("echo", "--reply-bytes", str(8 << 20))}}
    g = gateway(config, *tls(server), ca=ca.cert)
    path = g.create("big")
    g.post(path + "/reset")
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    host, port = g.listen.split(":")
    raw.connect((host, int(port)))
    with context(ca, ["http/1.1"]).wrap_socket(raw, server_hostname="localhost") as s:
        s.sendall(request("POST", path + "/step", {"action": {"message": "m"}}))
        time.sleep(0.5)
        assert g.get("/healthz").text == "ok\n"
        got, f = b"", s.makefile("rb")
        while b"\r\n\r\n" not in got:
            got += f.readline()
        length = int(re.search(rb"(?i)content-length: (\d+)", got).group(1))
        assert length > 8 << 20
        body = f.read(length)
        assert len(body) == length and json.loads(body)["step_index"] == "1"
        assert get(s).startswith(b"HTTP/1.1 200")  # and it is kept alive


def test_pipelined_and_closing(gateway, ca, server):
    g = gateway(None, *tls(server), ca=ca.cert)
    with dial(g, context(ca, ["http/1.1"])) as s:
        s.sendall(HEALTH * 50 + HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        reply = b"".join(iter(lambda: s.recv(65536), b""))  # ends with close_notify, else ssl raises
    assert reply.count(b"HTTP/1.1 200") == 51
    g.wait_for(lambda: g.metric("envgate_connections") <= 1, what="the end of the connection")


def test_drain_finishes_what_runs(gateway, ca, server):
    config = {"environments": {"slow": builtin("echo", "--delay-ms", str(700 * SLOW))}}
    g = gateway(config, *tls(server), ca=ca.cert)
    path = g.create("slow")
    session = g.sessions.CreateSession(pb.CreateSessionRequest(environment="slow"), timeout=60).name
    g.post(path + "/reset")
    g.sessions.Reset(pb.ResetRequest(session=session), timeout=60)
    results = {}
    action = payload_pb2.Payload(json=b'{"message": "m"}')
    calls = [
        threading.Thread(target=lambda: results.update(rest=g.post(path + "/step", {"action": {"message": "m"}}).status_code)),
        threading.Thread(target=lambda: results.update(grpc=g.sessions.Step(pb.StepRequest(session=session, action=action), timeout=60).step_index)),
    ]
    idle = dial(g, context(ca, ["http/1.1"]))
    half = h2_client.dial(g.listen)
    half.sendall(b"\x16\x03")
    for c in calls:
        c.start()
    time.sleep(0.3)
    g.process.terminate()
    for c in calls:
        c.join()
    assert results == {"rest": 200, "grpc": 1}
    assert g.process.wait(20 * SLOW) == 0
    idle.close()
    half.close()
