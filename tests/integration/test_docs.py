# SPDX-License-Identifier: Apache-2.0
"""What the documentation says is what the program does."""

import copy
import json
import os
import pathlib
import re
import subprocess

import jsonschema
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = os.environ.get("ENVGATE_BIN", str(ROOT / "build/envgate"))


def printed(*args):
    return subprocess.run([BIN, *args], capture_output=True, text=True, timeout=30, check=True).stdout


@pytest.mark.parametrize(
    "path, command",
    [
        ("docs/OPTIONS.md", ["docs", "options"]),
        ("docs/METRICS.md", ["docs", "metrics"]),
        ("docs/config.schema.json", ["docs", "schema"]),
        ("docs/config.schema.json", ["check", "--schema"]),
    ],
)
def test_generated(path, command):
    assert (ROOT / path).read_text() == printed(*command), f"run: envgate {' '.join(command)} > {path}"


def test_api_names_every_reason():
    lines = set((ROOT / "docs/API.md").read_text().splitlines())
    missing = [line for line in printed("docs", "reasons").splitlines() if line not in lines]
    assert not missing, "these lines are missing in docs/API.md:\n" + "\n".join(missing)


def proto_names():
    """Every method of the API and every field of its messages."""
    for path in sorted((ROOT / "proto/envgate/v1").glob("*.proto")):
        text = re.sub(r"//[^\n]*", "", path.read_text())
        yield from re.findall(r"\brpc\s+(\w+)", text)
        yield from re.findall(r"^\s*(?:optional\s+|repeated\s+)?(?:map<[^>]*>|[\w.]+)\s+(\w+)\s*=\s*\d+\s*(?:\[[^\]]*\])?;", text, re.M)


def test_api_names_every_method_and_field():
    words = set(re.findall(r"\w+", (ROOT / "docs/API.md").read_text()))
    names = set(proto_names())
    assert len(names) > 40  # the expressions above still find them
    assert not names - words, f"missing in docs/API.md: {sorted(names - words)}"


def test_metrics_are_those_of_a_scrape(shared_gateway):
    from prometheus_client.parser import text_string_to_metric_families

    documented = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", (ROOT / "docs/METRICS.md").read_text(), re.M))
    shared_gateway.get("/v1/environments")
    reply = shared_gateway.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    scraped = {}
    for family in text_string_to_metric_families(reply.text):
        name = family.name + ("_total" if family.type == "counter" else "")
        assert name not in scraped, f"{name} comes in two pieces"
        scraped[name] = family.type
    assert scraped == documented


def test_links_of_the_readme():
    for path in ROOT.glob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
            assert (path.parent / link).exists(), f"{path.name}: {link}"


def test_links_of_docs():
    for path in (ROOT / "docs").rglob("*.md"):
        text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.S | re.M)
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (path.parent / link).exists(), f"{path.relative_to(ROOT)}: {link}"


# --- the schema and `envgate check` give the same verdict ---

BASE = {
    "listen": "127.0.0.1:0",
    "log_level": "debug",
    "access_log": True,
    "max_message_bytes": "8MiB",
    "threads": 2,
    "header_timeout_s": 2.5,
    "body_timeout_s": 3.5,
    "idle_connection_s": 1.5,
    "state_dir": "/run/envgate",
    "environments": {
        "s": {"provider": "static", "static": {"urls": ["http://10.0.0.1:8000", "https://[::1]/base", "unix:/run/w"], "ca_file": "ca.pem"}},
        "p": {"process": {"command": ["w", "--port", "{port}"], "cwd": "/srv"}, "env_vars": {"A": "b"}},
        "u": {"uv": {"space": "openenv/echo_env", "app": "server.app:app", "args": ["--offline"]}},
        "d": {
            "description": "d",
            "headers": {"Authorization": "Bearer x"},
            "lease_s": 0.5,
            "docker": {"image": "a/b:c", "port": 7860, "cpus": 0.5, "memory_bytes": "1.5GiB", "labels": {"a.b/c": ""}, "init": False},
        },
        "b": {"builtin": {"environment": "cartpole", "args": []}},
    },
}

DELETE = object()
CHANGES = [
    ("listen", "8080"),
    ("listen", "127.0.0.1:99999"),
    ("listen", "localhost:65535"),
    ("listen", "[::1]:1"),
    ("listen", None),
    ("threads", 256),
    ("threads", 257),
    ("threads", 1.0),
    ("threads", 1.5),
    ("threads", "1"),
    ("threads", True),
    ("access_log", "true"),
    ("log_level", "trace"),
    ("log_format", "json"),
    ("max_message_bytes", 1024),
    ("max_message_bytes", 1023),
    ("max_message_bytes", "8MB"),
    ("max_message_bytes", "8192"),
    ("state_dir", "run"),
    ("state_dir", "/" + "x" * 64),
    ("unknown", 1),
    ("$schema", "https://example.com/schema"),
    ("environments", {}),
    ("environments", []),
    ("environments", DELETE),
    ("environments.Upper", {"builtin": {"environment": "echo"}}),
    ("environments.a-", {"builtin": {"environment": "echo"}}),
    ("environments.new", {}),
    ("environments.new", {"provider": "builtin"}),
    ("environments.b.provider", "builtin"),
    ("environments.b.provider", "docker"),
    ("environments.b.provider", "kubernetes"),
    ("environments.b.docker", {"image": "a"}),
    ("environments.b.builtin.environment", "doom"),
    ("environments.b.builtin.environment", DELETE),
    ("environments.b.builtin.args", "x"),
    ("environments.b.builtin.args", [1]),
    ("environments.b.builtin.image", "x"),
    ("environments.b.queue_limit", 0),
    ("environments.b.queue_limit", -1),
    ("environments.b.lease_s", 0),
    ("environments.b.max_reply_bytes", "100MiB"),
    ("environments.b.listen", "127.0.0.1:1"),
    ("environments.b.headers", {"a b": "c"}),
    ("environments.b.headers", {"a": "b\nc"}),
    ("environments.b.headers", {"a": 1}),
    ("environments.b.forward_headers", ["X-User", "x-team"]),
    ("environments.b.forward_headers", ["a b"]),
    ("environments.b.env_vars", {"1A": "b"}),
    ("environments.b.env_vars", {"A": {"file": "/run/a"}, "B": {"env": "B"}}),
    ("environments.b.env_vars", {"A": {"file": "a"}}),
    ("environments.b.env_vars", {"A": {"env": "a b"}}),
    ("environments.b.env_vars", {"A": {}}),
    ("environments.b.env_vars", {"A": {"file": "/a", "env": "A"}}),
    ("environments.b.env_vars", {"A": {"vault": "a"}}),
    ("environments.b.headers", {"A": {"env": "A"}}),
    ("environments.b.pass_env", ["A", "UV_*"]),
    ("environments.b.pass_env", ["*"]),
    ("environments.d.docker.labels", {"a": {"env": "A"}}),
    ("environments.u.uv.extra_env", {"A": {"env": "A"}}),
    ("environments.u.uv.port", 65536),
    ("environments.u.uv.host", "::"),
    ("environments.u.uv.workers", 0),
    ("environments.u.uv.memory_bytes", "1GiB"),
    ("environments.d.docker.image", DELETE),
    ("environments.d.docker.image", "-v"),
    ("environments.d.docker.port", 0),
    ("environments.d.docker.port", 65536),
    ("environments.d.docker.labels", {"": "x"}),
    ("environments.d.docker.host", "unix:///run/podman/podman.sock"),
    ("environments.d.docker.host", "tcp://127.0.0.1:2375"),
    ("environments.d.docker", None),
    ("environments.u.uv", {}),
    ("environments.u.uv.project", "."),
    ("environments.u.uv.space", "echo_env"),
    ("environments.u.uv.space", DELETE),
    ("environments.u.uv.app", "server"),
    ("environments.s.static.urls", []),
    ("environments.s.static.urls", ["wss://a:1", "ws://a/base"]),
    ("environments.s.static.urls", ["ftp://a:1"]),
    ("tls_client_cert", "optional"),
    ("tls_client_cert", "maybe"),
    ("tls_plaintext", "allow"),
    ("tls_handshake_timeout_s", 0),
    ("environments.s.static.urls", ["http://a:65536"]),
    ("environments.s.static.urls", ["http://u:p@a"]),
    ("environments.s.static.urls", ["http://a-b.example:1/base/x"]),
    ("environments.s.static.urls", DELETE),
    ("environments.p.process.command", []),
    ("environments.p.process.cwd", ""),
    (None, None),
]


@pytest.fixture(scope="module")
def schema():
    schema = json.loads(printed("check", "--schema"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("place, value", CHANGES)
def test_schema_agrees_with_check(schema, tmp_path, place, value):
    config = copy.deepcopy(BASE)
    if place:
        *parents, key = place.split(".")
        at = config
        for parent in parents:
            at = at[parent]
        if value is DELETE:
            del at[key]
        else:
            at[key] = value
    path = tmp_path / "c.json"
    path.write_text(json.dumps(config))
    checked = subprocess.run([BIN, "check", str(path)], capture_output=True, text=True, timeout=30)
    errors = [error.message[:300] for error in schema.iter_errors(config)]
    assert (checked.returncode == 0) == (not errors), (checked.stderr, errors)


def test_the_cases_are_of_both_kinds(schema):
    assert schema.is_valid(BASE)
    assert not schema.is_valid({**BASE, "unknown": 1})
