# SPDX-License-Identifier: Apache-2.0
"""schemathesis makes requests of /openapi.json, right and wrong ones, and looks at what comes: no 5xx, no status, header or body that the document does not know."""

import os
import pathlib
import subprocess

from conftest import ROOT, SLOW, builtin

TOOL = ROOT / "build/venv-schemathesis/bin/st"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance"


def test_openapi_holds(gateway, tmp_path):
    echo = builtin("echo", "--capacity", "4096", sessions_per_worker=4096, max_workers=1)
    g = gateway({"environments": {"echo": echo}})
    command = [str(TOOL), "run", g.url + "/openapi.json", "--checks", CHECKS, "--phases", "coverage,fuzzing", "--max-examples", "40", "--seed", "6"]
    # An environment without tools answers 501 there, as it should.
    command += ["--exclude-path-regex", "/tools"]
    command += ["--generation-database", "none", "--continue-on-failure", "--no-color"]
    env = os.environ | {"SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(pathlib.Path(__file__).parent), "GATEWAY_URL": g.url}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200 * SLOW)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    # It reached what is behind the names: sessions were made and closed, and steps taken.
    for method in ("CreateSession", "CreateSessions", "Reset", "Step", "StepBatch", "ResetBatch", "GetState", "CloseSession"):
        assert g.metric("envgate_calls_total", method=f"envgate.v1.SessionService/{method}", code="OK") > 0, method
