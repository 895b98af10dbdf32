# SPDX-License-Identifier: Apache-2.0
"""Who may call what: tokens, client certificates, scopes, owners and quotas, over gRPC and REST."""

import hashlib
import importlib
import os
import subprocess
import threading
import time

import grpc
import h2_client
import pytest
import requests
from certificates import make_ca, make_leaf
from conftest import BIN, ROOT, SLOW, builtin, code_of
from google.protobuf import message_factory
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from envgate.v1 import environment_service_pb2 as epb, payload_pb2, session_service_pb2 as pb

NOBODY = ("UNAUTHENTICATED", "CREDENTIALS_MISSING")
UNKNOWN = ("UNAUTHENTICATED", "CREDENTIALS_UNKNOWN")
DENIED = ("PERMISSION_DENIED", "SCOPE_DENIED")
ROOMY = {"environments": {"echo": builtin("echo", "--capacity", "100", sessions_per_worker=100)}}
FULL = ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")


def methods():
    """Every method of the API: (path, its descriptor, its request's class)."""
    for path in sorted((ROOT / "proto/envgate/v1").glob("*.proto")):
        module = importlib.import_module(f"envgate.v1.{path.stem}_pb2")
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                yield f"/{service.full_name}/{method.name}", method, message_factory.GetMessageClass(method.input_type)


METHODS = {path: (method, request) for path, method, request in methods()}


def new_token(principal, scope, *args):
    """(token, line for auth_file), by the command for it."""
    done = subprocess.run([BIN, "token", "new", "--principal", principal, "--scope", scope, *args], capture_output=True, text=True, timeout=30, check=True)
    token, line = done.stdout.splitlines()
    return token, line


class File:
    """An auth_file, and the tokens in it by principal."""

    def __init__(self, path):
        self.path, self.lines, self.tokens = path, [], {}

    def add(self, principal, scope, *args):
        token, line = new_token(principal, scope, *args)
        self.lines.append(line)
        self.tokens[principal] = token
        return token

    def write(self):
        new = self.path.with_suffix(".new")
        new.write_text("\n".join(["# made by a test", *self.lines]) + "\n")
        os.rename(new, self.path)


@pytest.fixture
def file(tmp_path):
    f = File(tmp_path / "auth")
    for principal, scope in (("alice", "trainer"), ("bob", "trainer"), ("root", "admin"), ("robot", "agent")):
        f.add(principal, scope)
    f.write()
    return f


class Caller:
    """A principal's clients."""

    def __init__(self, g, token, client=None):
        self.g = g
        self.metadata = [("authorization", f"Bearer {token}")] if token else []
        self.headers = dict(self.metadata)
        self.channel = g.new_channel(client, **{"grpc.use_local_subchannel_pool": 1})
        self.rest = requests.Session()
        self.rest.headers.update(self.headers)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()
        self.rest.close()

    def call(self, name, message, timeout=30):
        """A call's reply, or of a stream the replies."""
        path = name if name.startswith("/") else f"/envgate.v1.SessionService/{name}"
        method, request = METHODS[path]
        kind = ("stream_" if method.client_streaming else "unary_") + ("stream" if method.server_streaming else "unary")
        make = getattr(self.channel, kind)
        stub = make(path, request_serializer=request.SerializeToString, response_deserializer=message_factory.GetMessageClass(method.output_type).FromString)
        reply = stub(iter([message]) if method.client_streaming else message, metadata=self.metadata, timeout=timeout * SLOW)
        return list(reply) if method.server_streaming else reply

    def fails(self, name, message):
        """How a call fails: (code, reason)."""
        with pytest.raises(grpc.RpcError) as error:
            self.call(name, message)
        self.error = error.value
        return code_of(error.value)

    def http(self, verb, path, body=None):
        return self.rest.request(verb, self.g.url + path, json=body, timeout=60)

    def create(self, **fields):
        return self.call("CreateSession", pb.CreateSessionRequest(environment="echo", **fields)).name


@pytest.fixture
def start(gateway, file):
    """start(*args) starts a gateway with the file; callers are made by its `as_`."""
    opened = []

    def go(*args, config=None, **kwargs):
        g = gateway(config or ROOMY, "--auth-file", str(file.path), "--threads", "2", *args, **kwargs)

        def as_(principal, **kw):
            opened.append(Caller(g, file.tokens.get(principal, principal), **kw))
            return opened[-1]

        g.as_ = as_
        g.http.headers["Authorization"] = f"Bearer {file.tokens['root']}"
        return g

    yield go
    for caller in opened:
        caller.__exit__()


def filled(request, session):
    """A request that is good in itself: for that session, where it names one."""
    q = request()
    for field in q.DESCRIPTOR.fields:
        if field.message_type and field.name == "session":  # what CreateSessions makes
            q.count, q.session.environment = 2, "environments/echo"
        elif field.name == "session" or (field.name == "name" and "Session" in q.DESCRIPTOR.name):
            setattr(q, field.name, session)
        if field.name in ("environment", "name") and "Session" not in q.DESCRIPTOR.name and field.name != "session":
            setattr(q, field.name, "environments/echo")
        if field.name == "action":
            q.action.json = b'{"message": "m"}'
        if field.name == "items":
            item = q.items.add(session=session)
            if hasattr(item, "action"):
                item.action.json = b'{"message": "m"}'
    return q


# --- every method ---


@pytest.mark.parametrize("scheme", ["", "Bearer nonsense", "Basic YTpi", "Bearer", "Bearer " + "x" * 5000])
def test_nobody_may_call_anything(start, scheme):
    g = start()
    with Caller(g, "") as nobody:
        nobody.metadata = [("authorization", scheme)] if scheme else []
        want = UNKNOWN if scheme.strip() else NOBODY
        for path, (_, request) in METHODS.items():
            assert nobody.fails(path, filled(request, "sessions/00" + "a" * 24)) == want, path
        assert len(METHODS) >= 11
        for verb, path in (("GET", "/v1/sessions"), ("POST", "/v1/sessions"), ("GET", "/v1/environments"), ("DELETE", "/v1/sessions/x")):
            reply = requests.request(verb, g.url + path, headers={"Authorization": scheme} if scheme else {}, json={"environment": "echo"}, timeout=30)
            assert reply.status_code == 401 and reply.headers["www-authenticate"] == "Bearer"
            assert reply.json()["error"]["status"] == "UNAUTHENTICATED"
    assert g.metric("envgate_auth_refused_total") >= len(METHODS) + 4


def test_agents_may_use_tools_only(start):
    g = start()
    robot = g.as_("robot")
    for path, (method, request) in METHODS.items():
        if method.name not in ("CallTool", "ListTools"):
            assert robot.fails(path, filled(request, "sessions/00" + "a" * 24)) == DENIED, path
    assert robot.http("GET", "/v1/sessions").status_code == 403
    assert robot.http("GET", "/metrics").status_code == 403


def test_workers_are_for_admins(start):
    g = start()
    alice = g.as_("alice")
    for path, (method, request) in METHODS.items():
        if "WorkerService" in path or method.name == "Preload":
            assert alice.fails(path, filled(request, "x")) == DENIED, path
    assert alice.call("/envgate.v1.EnvironmentService/ListEnvironments", epb.ListEnvironmentsRequest()).environments


def test_sessions_are_their_owners(start):
    g = start()
    alice, bob, root = g.as_("alice"), g.as_("bob"), g.as_("root")
    for creator in range(4):  # on both reactors
        session = alice.create(request_id=f"r{creator}")
        alice.call("Reset", pb.ResetRequest(session=session))
        tried = 0
        for path, (method, request) in METHODS.items():
            q = filled(request, session)
            if "SessionService" not in path or method.name in ("CreateSession", "CreateSessions", "ListSessions"):
                continue
            tried += 1
            if method.name.endswith("Batch"):
                status = bob.call(path, q).items[0].status
                assert status.code == 5, path
            elif method.client_streaming:
                continue  # each message has a status of its own; tested where the stream is
            else:
                assert bob.fails(path, q) == ("NOT_FOUND", "SESSION_NOT_FOUND"), path
        assert tried >= 6
        path = "/v1/" + session
        assert [bob.http(*r).status_code for r in (("GET", path), ("POST", path + "/step", {"action": {}}), ("DELETE", path))] == [404] * 3
        # It is as if it were not there at all.
        other = bob.http("GET", "/v1/sessions/" + session[-1:] * 26).json()["error"]
        assert bob.http("GET", path).json()["error"]["message"].replace(session, "S") == other["message"].replace("sessions/" + session[-1:] * 26, "S")
        # Its owner and an admin have it as before.
        assert alice.call("GetSession", pb.GetSessionRequest(name=session)).step_index == 0
        step = pb.StepRequest(session=session, action=payload_pb2.Payload(json=b'{"message": "m"}'))
        assert root.call("Step", step).step_index == 1
        assert alice.call("StepBatch", pb.StepBatchRequest(items=[step])).items[0].result.step_index == 2
    mine = {alice.create() for _ in range(3)} | {s.name for s in alice.call("ListSessions", pb.ListSessionsRequest()).sessions}
    theirs = {bob.create() for _ in range(3)}
    assert {s.name for s in bob.call("ListSessions", pb.ListSessionsRequest()).sessions} == theirs
    assert {s.name for s in alice.call("ListSessions", pb.ListSessionsRequest()).sessions} == mine
    assert {s.name for s in root.call("ListSessions", pb.ListSessionsRequest()).sessions} == mine | theirs
    assert {s["name"] for s in bob.http("GET", "/v1/sessions").json()["sessions"]} == theirs
    paged, token = set(), ""
    while True:
        page = bob.call("ListSessions", pb.ListSessionsRequest(page_size=1, page_token=token))
        paged |= {s.name for s in page.sessions}
        token = page.next_page_token
        if not token:
            break
    assert paged == theirs
    bob.call("CloseSession", pb.CloseSessionRequest(name=theirs.pop()))
    root.call("CloseSession", pb.CloseSessionRequest(name=theirs.pop()))
    assert len(bob.call("ListSessions", pb.ListSessionsRequest()).sessions) == 1


def test_a_batch_of_two_owners(start):
    g = start()
    alice, bob = g.as_("alice"), g.as_("bob")
    sessions = [alice.create(request_id=f"a{i}") for i in range(6)] + [bob.create(request_id=f"b{i}") for i in range(6)]
    for s in sessions:
        (alice if s in sessions[:6] else bob).call("Reset", pb.ResetRequest(session=s))
    items = [pb.StepRequest(session=s, action=payload_pb2.Payload(json=b'{"message": "m"}')) for s in sessions]
    for caller, own in ((alice, sessions[:6]), (bob, sessions[6:])):
        reply = caller.call("StepBatch", pb.StepBatchRequest(items=items))
        assert [item.status.code for item in reply.items] == [0 if s in own else 5 for s in sessions]


def test_request_ids_are_their_owners(start):
    g = start()
    alice, bob = g.as_("alice"), g.as_("bob")
    first = alice.create(request_id="one")
    assert alice.create(request_id="one") == first
    other = bob.create(request_id="one")
    assert other != first and bob.create(request_id="one") == other


# --- what needs no credential ---


def test_what_is_open(start):
    g = start()
    with Caller(g, "") as nobody:
        for path in ("/", "/healthz", "/readyz", "/openapi.json"):
            assert nobody.http("GET", path).status_code == 200
        from grpc_health.v1 import health_pb2, health_pb2_grpc
        from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

        assert health_pb2_grpc.HealthStub(nobody.channel).Check(health_pb2.HealthCheckRequest(), timeout=10).status == 1
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        reply = next(reflection_pb2_grpc.ServerReflectionStub(nobody.channel).ServerReflectionInfo(iter([ask]), timeout=10))
        assert len(reply.list_services_response.service) > 3
        assert nobody.http("GET", "/metrics").status_code == 401
    assert g.as_("alice").http("GET", "/metrics").status_code == 200


def test_metrics_may_be_open(start):
    g = start("--metrics-open")
    assert requests.get(g.url + "/metrics", timeout=10).status_code == 200


def test_without_a_file_all_is_open(shared_gateway):
    with Caller(shared_gateway, "whatever") as anybody:
        session = anybody.create()
        anybody.call("CloseSession", pb.CloseSessionRequest(name=session))
        assert anybody.http("GET", "/metrics").status_code == 200
    assert not shared_gateway.log("gateway.exposed")


def test_connect_and_grpc_web(start):
    """Every protocol goes through the same place."""
    g = start()
    alice, bob, path = g.as_("alice"), g.as_("bob"), "/envgate.v1.SessionService/GetSession"
    session = alice.create()
    for caller, status, code in ((alice, 200, None), (bob, 404, "not_found"), (g.as_("robot"), 403, "permission_denied"), (Caller(g, ""), 401, "unauthenticated")):
        reply = caller.http("POST", path, {"name": session})
        assert reply.status_code == status and reply.json().get("code") == code
        assert status != 401 or reply.headers["www-authenticate"] == "Bearer"
        message = h2_client.message(pb.GetSessionRequest(name=session).SerializeToString())
        web = caller.rest.post(g.url + path, data=message, headers={"content-type": "application/grpc-web+proto"}, timeout=30)
        numbers = {None: 0, "not_found": 5, "permission_denied": 7, "unauthenticated": 16}
        told = web.headers.get("grpc-status") or web.content.rsplit(b"grpc-status:", 1)[1].split()[0].decode()
        assert web.status_code == 200 and int(told) == numbers[code]


# --- connections and new files ---


def test_one_connection_many_callers(start, file):
    """A proxy's connection: each request is its own caller's, whatever came before on it."""
    g = start()
    alice, session = file.tokens["alice"], g.as_("alice").create()
    wrong = alice[:-1] + ("0" if alice[-1] != "0" else "1")
    for order in ([alice, "", wrong, alice], [file.tokens["bob"], alice, file.tokens["robot"], alice]):
        want = {alice: 200, "": 401, wrong: 401, file.tokens["bob"]: 404, file.tokens["robot"]: 403}
        with requests.Session() as s:
            for token in order * 2:
                got = s.get(f"{g.url}/v1/{session}", headers={"Authorization": f"Bearer {token}"} if token else {}, timeout=10)
                assert got.status_code == want[token]


def test_two_authorizations(start, file):
    g = start()
    with h2_client.dial(g.listen) as s:
        lines = "".join(f"Authorization: Bearer {file.tokens[p]}\r\n" for p in ("alice", "bob"))
        s.sendall(f"GET /v1/sessions HTTP/1.1\r\nHost: g\r\n{lines}\r\n".encode())
        assert s.recv(4096).startswith(b"HTTP/1.1 401")
    with g.as_("alice") as alice:
        alice.metadata = alice.metadata * 2
        assert alice.fails("ListSessions", pb.ListSessionsRequest()) == UNKNOWN


def test_the_file_is_read_again(start, file):
    g = start()
    alice, bob = g.as_("alice"), g.as_("bob")
    session = alice.create()
    old = file.tokens["alice"]
    file.lines = [line for line in file.lines if "principal=alice" not in line]
    file.add("alice", "trainer")
    file.add("carol", "trainer")
    file.write()
    g.wait_for(lambda: g.log("auth.reloaded"), what="the new file")
    g.wait_for(lambda: [g.as_("carol").http("GET", "/v1/sessions").status_code for _ in range(6)] == [200] * 6, what="the new token on each reactor")
    assert alice.fails("GetSession", pb.GetSessionRequest(name=session)) == UNKNOWN  # on the connection that it was known on
    assert alice.http("GET", "/v1/sessions").status_code == 401
    assert g.as_("alice").call("GetSession", pb.GetSessionRequest(name=session)).name == session  # the session is still hers
    assert bob.create()
    # A file with a mistake changes nothing.
    file.path.write_text("nonsense\n" + file.path.read_text())
    g.wait_for(lambda: g.log("auth.not_reloaded"), what="the complaint")
    assert "line 1:" in g.log("auth.not_reloaded")[0]["reason"]
    assert bob.create()
    # Secrets are nowhere in the log.
    assert old not in g.log_text() and file.tokens["alice"] not in g.log_text()
    assert hashlib.sha256(old.encode()).hexdigest() not in g.log_text()


def test_new_files_under_load(start, file):
    g = start()
    failures, stop, done = [], threading.Event(), [0, 0]

    def load(i):
        try:
            with Caller(g, file.tokens["bob"]) as bob:
                while not stop.is_set():
                    bob.call("CloseSession", pb.CloseSessionRequest(name=bob.create()))
                    assert bob.http("GET", "/v1/environments").status_code == 200
                    done[i] += 1
        except Exception as e:
            failures.append(e)

    threads = [threading.Thread(target=load, args=(i,)) for i in range(2)]
    for t in threads:
        t.start()
    for i in range(3):
        file.add(f"new-{i}", "agent")
        file.write()
        g.wait_for(lambda: len(g.log("auth.reloaded")) > i, what="the new file")
    stop.set()
    for t in threads:
        t.join()
    assert not failures and min(done) > 3, (failures, done)


@pytest.mark.parametrize("text, why", [(None, "No such file"), ("x y\n", "line 1:"), ("cn:a principal=a scope=root\n", "scope must be")])
def test_a_wrong_file_at_start(gateway, tmp_path, text, why):
    path = tmp_path / "auth"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RuntimeError, match=f"auth_file: {path}: .*{why}"):
        gateway(None, "--auth-file", str(path))


# --- certificates ---


def test_certificates(start, gateway, file, tmp_path):
    ca = make_ca(tmp_path, "ca")
    server = make_leaf(ca, "server")
    by_uri = make_leaf(ca, "one", names="URI:spiffe://example.org/trainer")
    by_dns = make_leaf(ca, "two", names="DNS:two.example.org,DNS:other.example.org")
    by_cn = make_leaf(ca, "three", subject="/O=envgate/CN=carol")
    unknown = make_leaf(ca, "four")
    file.lines += [
        "uri:spiffe://example.org/trainer principal=alice scope=trainer",
        "dns:other.example.org principal=bob scope=trainer",
        "cn:carol principal=carol scope=admin",
    ]
    file.write()
    args = ("--tls-cert-file", server.cert, "--tls-key-file", server.key, "--tls-client-ca-file", ca.cert)
    g = start(*map(str, args), ca=ca.cert, client=by_cn)
    g.http.headers.clear()
    callers = [g.as_("", client=c) for c in (by_uri, by_dns, by_cn)]
    alice, bob, carol = callers
    session = alice.create()
    assert bob.fails("GetSession", pb.GetSessionRequest(name=session)) == ("NOT_FOUND", "SESSION_NOT_FOUND")
    assert carol.call("GetSession", pb.GetSessionRequest(name=session)).name == session
    assert g.as_("", client=unknown).fails("ListSessions", pb.ListSessionsRequest()) == UNKNOWN
    # REST, too.
    with requests.Session() as rest:
        rest.trust_env, rest.verify, rest.cert = False, str(ca.cert), (by_uri.cert, by_uri.key)
        assert rest.get(f"{g.url}/v1/{session}", timeout=10).status_code == 200
    with requests.Session() as rest:
        rest.trust_env, rest.verify, rest.cert = False, str(ca.cert), (by_dns.cert, by_dns.key)
        assert rest.get(f"{g.url}/v1/{session}", timeout=10).status_code == 404
    # A token says more than a certificate, also a wrong one.
    assert g.as_("bob", client=by_uri).fails("GetSession", pb.GetSessionRequest(name=session)) == ("NOT_FOUND", "SESSION_NOT_FOUND")
    assert g.as_("nonsense", client=by_uri).fails("GetSession", pb.GetSessionRequest(name=session)) == UNKNOWN
    assert {line["principal"] for line in g.log("call") if "principal" in line} >= {"alice", "bob", "carol"}


# --- quotas ---


def retry_after(error):
    for detail in rpc_status.from_call(error).details:
        info = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            return info.retry_delay.ToTimedelta().total_seconds()
    return None


def test_quota_of_sessions(start, file):
    file.add("small", "trainer", "--sessions", "2")
    file.write()
    g = start()
    small, bob = g.as_("small"), g.as_("bob")
    sessions = [small.create(request_id=f"s{i}") for i in range(2)]
    for i in range(4):  # whichever reactor
        assert small.fails("CreateSession", pb.CreateSessionRequest(environment="echo", request_id=f"t{i}")) == FULL
        assert retry_after(small.error) > 0
    assert small.create(request_id="s0") == sessions[0]  # a retry takes nothing
    refused = small.http("POST", "/v1/sessions", {"environment": "echo"})
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
    assert bob.create()
    small.call("CloseSession", pb.CloseSessionRequest(name=sessions[1]))
    assert small.create()
    assert g.metric("envgate_quota_refused_total") == 5


def test_quota_of_failed_sessions_is_given_back(start, file):
    file.add("small", "trainer", "--sessions", "1")
    file.write()
    config = {"environments": {"echo": builtin("echo", max_workers=1), "broken": {"process": {"command": ["/bin/false", "{port}"]}, "ready_timeout_s": 1}}}
    g = start(config=config)
    small = g.as_("small")
    for _ in range(3):
        assert small.fails("CreateSession", pb.CreateSessionRequest(environment="broken"))[0] in ("UNAVAILABLE", "FAILED_PRECONDITION")
    session = small.create(lease_s=1)
    assert small.fails("CreateSession", pb.CreateSessionRequest(environment="echo")) == FULL
    g.wait_for(lambda: g.log("session.expired"), what="the lease's end")
    assert small.create() != session


def test_quota_of_calls_at_a_time(start, file):
    file.add("small", "trainer", "--calls", "2")
    file.write()
    config = {"environments": {"echo": builtin("echo", "--delay-ms", str(500 * SLOW))}}
    g = start(config=config)
    small = g.as_("small")
    sessions = [small.create() for _ in range(3)]
    for s in sessions:
        small.call("Reset", pb.ResetRequest(session=s))
    results = []

    def step(session):
        q = pb.StepRequest(session=session, action=payload_pb2.Payload(json=b'{"message": "m"}'))
        with Caller(g, file.tokens["small"]) as one:
            try:
                results.append(one.call("Step", q).step_index)
            except grpc.RpcError as e:
                results.append(code_of(e))

    threads = [threading.Thread(target=step, args=(s,)) for s in sessions]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(results, key=str) == [FULL, 1, 1]
    for _ in range(5):  # all was given back, by refused calls and failed ones, too
        assert small.fails("GetSession", pb.GetSessionRequest(name="sessions/x"))[0] in ("NOT_FOUND", "INVALID_ARGUMENT")
    assert small.call("GetState", pb.GetStateRequest(session=sessions[0]))


def test_quota_of_calls_a_second(start, file):
    file.add("slow", "trainer", "--calls-per-s", "5")
    file.write()
    g = start("--quota-calls-per-s", "100000")
    callers = [g.as_("slow") for _ in range(4)]  # on both reactors
    good, refused, begin = 0, 0, time.monotonic()
    while time.monotonic() - begin < 2:
        for c in callers:
            try:
                c.call("ListSessions", pb.ListSessionsRequest())
                good += 1
            except grpc.RpcError as e:
                assert code_of(e) == FULL and 0 < retry_after(e) <= 0.3
                refused += 1
        time.sleep(0.02)
    took = time.monotonic() - begin
    assert 5 + 5 * (took - 1) - 3 <= good <= 5 + 5 * took + 1 and refused > 20
    bob = g.as_("bob")
    for _ in range(50):
        bob.call("ListSessions", pb.ListSessionsRequest())


@pytest.mark.parametrize("line", [None, "0", "2"])
def test_quotas_as_options(start, file, line):
    """They hold for principals whose line says nothing; 0 there lifts them."""
    file.add("small", "trainer", *(("--sessions", line) if line else ()))
    file.write()
    g = start("--quota-sessions", "1")
    small = g.as_("small")
    good = {None: 1, "0": 3, "2": 2}[line]
    for i in range(3):
        if i < good:
            assert small.create()
        else:
            assert small.fails("CreateSession", pb.CreateSessionRequest(environment="echo")) == FULL


# --- the command line and the log ---


def test_tokens_are_strong():
    tokens = [new_token("a", "agent")[0] for _ in range(20)]
    assert len(set(tokens)) == 20 and all(len(t) == len("envgate_") + 52 for t in tokens)
    token, line = new_token("a.b", "admin", "--sessions", "1", "--calls-per-s", "2.5")
    assert line == f"sha256:{hashlib.sha256(token.encode()).hexdigest()} principal=a.b scope=admin sessions=1 calls_per_s=2.5"


@pytest.mark.parametrize(
    "args",
    [
        "",
        "old",
        "new",
        "new x",
        "new --what",
        "new --principal",
        "new --principal a",
        "new --principal a --scope root",
        "new --principal a/b --scope agent",
        "new --principal a --scope agent --calls -1",
    ],
)
def test_wrong_usage(args):
    done = subprocess.run([BIN, "token", *args.split()], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and not done.stdout and len(done.stderr.splitlines()) == 1 and done.stderr.startswith("envgate token: ")


@pytest.mark.parametrize("auth, tls, warnings", [(False, False, ["everybody"]), (True, False, ["plaintext"]), (True, True, [])])
def test_exposure_is_warned_of(gateway, file, tmp_path, auth, tls, warnings):
    args = ["--listen", "0.0.0.0:0"]
    ca = make_ca(tmp_path, "ca") if tls else None
    if auth:
        args += ["--auth-file", str(file.path)]
    if tls:
        leaf = make_leaf(ca, "server")
        args += ["--tls-cert-file", str(leaf.cert), "--tls-key-file", str(leaf.key)]
    g = gateway(None, *args)
    found = [line["reason"] for line in g.log("gateway.exposed")]
    assert len(found) == len(warnings) and all(w in reason for w, reason in zip(warnings, found))


def test_the_command_line_shows_its_token(start, file):
    g = start()

    def workers(token):
        env = {**os.environ, "ENVGATE_TOKEN": token}
        return subprocess.run([BIN, "workers", "--json", "--server", g.url], env=env, capture_output=True, text=True, timeout=30)

    assert workers(file.tokens["root"]).returncode == 0
    for token, reason in ((file.tokens["robot"], "SCOPE_DENIED"), ("no-such-token", "CREDENTIALS_UNKNOWN"), ("", "CREDENTIALS_MISSING")):
        refused = workers(token)
        assert refused.returncode == 1 and reason in refused.stderr, refused.stderr
        assert not token or token not in refused.stderr
