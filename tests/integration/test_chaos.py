# SPDX-License-Identifier: Apache-2.0
"""A short run of `make chaos`: each kind of fault once, at 200 sessions. docs/CHAOS.md has what it checks, and the long run."""

import re
import subprocess
import sys

from conftest import ROOT

SECONDS, SEED = 40, 7  # it goes on until each fault has come once


def test_each_fault_once():
    command = [sys.executable, str(ROOT / "tests/chaos/chaos.py"), "--seconds", str(SECONDS), "--seed", str(SEED)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=280)
    print(run.stdout)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-4000:]
    assert "\norphans: 0\n" in run.stdout and "\nwrong replies: 0\n" in run.stdout
    assert len(re.findall(r"\d+ \w+", re.search("^faults: (.*)$", run.stdout, re.MULTILINE)[1])) == 10
    assert int(re.search(r"^steps: (\d+)", run.stdout, re.MULTILINE)[1]) > 2000
