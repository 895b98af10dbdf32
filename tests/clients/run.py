# SPDX-License-Identifier: Apache-2.0
"""Builds clients with the stubs and runs their programs against a gateway (README.md). Closes with "N passed, N failed".

usage: run.py [CLIENT…]
"""

import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build/clients"
sys.path.insert(0, str(ROOT / "tests/integration"))
from certificates import make_ca, make_leaf  # noqa: E402
from conftest import Gateway, builtin  # noqa: E402

CONFIG = {
    "environments": {
        "cartpole": builtin("cartpole", sessions_per_worker=64),
        "echo": builtin("echo"),
        "slow": builtin("echo", "--delay-ms", "400"),
    }
}
# What the types promise is compiled, too.
NODE = [
    ["npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"],
    ["node_modules/.bin/tsc", "-p", "."],
]
BUNDLE = ["node_modules/.bin/esbuild", "page.js", "--bundle", "--format=esm", "--outdir=page", "--log-level=warning"]
BROWSER = [sys.executable, str(HERE / "browser.py"), "PORT"]
PIP = [str(BUILD / "venv/bin/pip"), "install", "-q", "--disable-pip-version-check"]
RUST = str(ROOT / "build/stubs-tools/rust")  # what the generator is made of is built there already
GO_ENV = {"GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local"}


def cmake(*extra):
    return [
        ["cmake", "-S", ".", "-B", "out", "-DCMAKE_BUILD_TYPE=None", *extra],
        ["cmake", "--build", "out", "-j", str(os.cpu_count())],
    ]


# What is copied into build/clients/FOLDER, where the page's program goes in it, how it is built there, and how each program is run: ADDRESS is the
# gateway's, which speaks TLS, too, and PORT that of web pages which may call it. A folder that two clients share is built once, but for "and".
CLIENTS = {
    "grpcurl": {"session": [sys.executable, str(HERE / "grpcurl.py"), "ADDRESS", str(ROOT / "build/tools/grpcurl")]},
    "python": {
        "page": ("python.md", "python", "trainer.py"),
        "build": [
            [str(ROOT / "tools/deps.sh"), "venv", "build/clients/venv", "tests/clients/python/requirements.txt"],
            [*PIP, "--no-deps", "--no-build-isolation", "--force-reinstall", str(ROOT / "build/stubs/python")],
        ],
        "session": [str(BUILD / "venv/bin/python"), "session.py", "ADDRESS"],
        "trainer": [str(BUILD / "venv/bin/python"), "trainer.py", "ADDRESS"],
    },
    # As one installs it from the checkout.
    "gymnasium": {
        "page": ("gymnasium.md", "python", "trainer.py"),
        "build": [
            [str(ROOT / "tools/deps.sh"), "venv", "build/clients/venv-gymnasium", "tests/clients/gymnasium/requirements.txt"],
            [str(BUILD / "venv-gymnasium/bin/pip"), *PIP[1:], "--no-deps", "--no-build-isolation", "--force-reinstall", str(ROOT / "clients/python")],
        ],
        "trainer": [str(BUILD / "venv-gymnasium/bin/python"), "trainer.py", "ADDRESS"],
    },
    "go": {
        "page": ("go.md", "go", "trainer/main.go"),
        "build": [["go", "build", "-o", "bin/", "./session", "./trainer"]],
        "env": GO_ENV,
        "session": ["bin/session", "ADDRESS"],
        "trainer": ["bin/trainer", "ADDRESS"],
    },
    "java": {
        "page": ("java.md", "java", "Trainer.java"),
        "build": [["./build.sh"]],
        "session": ["./run.sh", "ScriptedSession", "ADDRESS"],
        "trainer": ["./run.sh", "Trainer", "ADDRESS"],
    },
    "node": {
        "page": ("node.md", "js", "trainer.js"),
        "build": NODE,
        "session": ["node", "session.js", "ADDRESS"],
        "trainer": ["node", "trainer.js", "ADDRESS"],
    },
    "connect-grpc": {"folder": "node", "build": NODE, "session": ["node", "connect.js", "ADDRESS", "grpc"]},
    "connect": {"folder": "node", "build": NODE, "session": ["node", "connect.js", "ADDRESS", "node"]},
    "web": {
        "folder": "node",
        "page": ("web.md", "js", "web.js"),
        "build": NODE,
        "session": ["node", "connect.js", "ADDRESS", "web"],
        "trainer": ["node", "-e", 'import("./web.js").then(({ train }) => train("http://ADDRESS", console.log))'],
    },
    "browser": {
        "folder": "node",
        "page": ("web.md", "js", "web.js"),
        "build": NODE,
        "and": [BUNDLE],
        "session": [*BROWSER, "http://ADDRESS", "session"],
        "trainer": [*BROWSER, "http://ADDRESS", "trainer"],
    },
    "browser-grpc-web": {
        "folder": "node",
        "page": ("web.md", "js", "web.js"),
        "build": NODE,
        "and": [BUNDLE],
        "session": [*BROWSER, "https://ADDRESS", "session", "grpc-web"],
    },
    "rust": {
        "page": ("rust.md", "rust", "src/bin/trainer.rs"),
        "build": [["cargo", "build", "-q", "--locked", "--target-dir", RUST]],
        "session": [f"{RUST}/debug/session", "ADDRESS"],
        "trainer": [f"{RUST}/debug/trainer", "ADDRESS"],
    },
    "cpp": {
        "page": ("cpp.md", "cpp", "trainer.cc"),
        "build": cmake("-DCMAKE_CXX_FLAGS=-O0"),
        "session": ["out/session", "ADDRESS"],
        "trainer": ["out/trainer", "ADDRESS"],
    },
    "c": {
        "page": ("c.md", "c", "trainer.c"),
        "build": cmake(),
        "session": ["out/session", "ADDRESS"],
        "trainer": ["out/trainer", "ADDRESS"],
    },
}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


def page(name, language):
    """The program on a page and what the page says it prints."""
    text = (ROOT / "docs/clients" / name).read_text()
    (program,) = re.findall(rf"^```{language}\n(.*?)^```$", text, re.S | re.M)
    (printed,) = re.findall(r"^```text\n(.*?)^```$", text, re.S | re.M)
    return program, printed


def run(command, folder, seconds, env=None):
    """What it prints; raises with both outputs when it fails."""
    done = subprocess.run(command, cwd=folder, env=os.environ | (env or {}), capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def prepare(name, client, built):
    folder = client.get("folder", name)
    there = BUILD / folder
    source = HERE / folder
    if source.exists() and folder not in built:
        shutil.copytree(source, there, dirs_exist_ok=True)
    there.mkdir(parents=True, exist_ok=True)
    if "page" in client:
        file, language, target = client["page"]
        (there / target).parent.mkdir(parents=True, exist_ok=True)
        (there / target).write_text(page(file, language)[0])
    if folder not in built:
        for command in client.get("build", []):
            run(command, ROOT if command[0].endswith("deps.sh") else there, 500, client.get("env"))
        built.add(folder)
    for command in client.get("and", []):
        run(command, there, 60)
    return there


def difference(got, want):
    for i, (a, b) in enumerate(zip(got.splitlines() + [""], want.splitlines() + [""])):
        if a != b:
            return f"line {i + 1} is\n  {a[:300]}\nnot\n  {b[:300]}"
    return "it ends early" if got != want else ""


class Report:
    def __init__(self):
        self.passed = self.failed = 0

    def step(self, what, action):
        """Runs a part and counts it; the text that it returns says what is wrong."""
        start = time.monotonic()
        try:
            problem = action() or ""
        except (AssertionError, OSError, ValueError, subprocess.TimeoutExpired) as error:
            problem = str(error) or type(error).__name__
        print(f"{'FAILED' if problem else 'ok':6} {time.monotonic() - start:6.1f} s  {what}" + (f"\n{problem}" if problem else ""), flush=True)
        self.passed += not problem
        self.failed += bool(problem)
        return not problem


def main():
    names = sys.argv[1:] or list(CLIENTS)
    report, built, folders = Report(), set(), {}

    def build(name):
        folders[name] = prepare(name, CLIENTS[name], built)

    def check(name, program, want):
        command = [part.replace("ADDRESS", gateway.listen).replace("PORT", str(port)) for part in CLIENTS[name][program]]
        return difference(run(command, folders[name], 120), want)

    ready = [name for name in names if report.step(f"{name}: build", lambda name=name: build(name))]
    transcript = (HERE / "transcript.txt").read_text()
    with tempfile.TemporaryDirectory() as tmp:
        folder = pathlib.Path(tmp)
        pair = make_leaf(make_ca(folder, "authority"), "server")
        tls = ["--tls-cert-file", str(pair.cert), "--tls-key-file", str(pair.key), "--tls-plaintext", "allow"]
        port = free_port()
        gateway = Gateway(CONFIG, "--state-dir", tmp, *tls, "--cors-allowed-origins", f"http://127.0.0.1:{port}", tmp=folder)
        for name in ready:
            if "session" in CLIENTS[name]:
                report.step(f"{name}: session", lambda name=name: check(name, "session", transcript))
            if "trainer" in CLIENTS[name]:
                printed = page(*CLIENTS[name]["page"][:2])[1]
                report.step(f"{name}: trainer", lambda name=name, printed=printed: check(name, "trainer", printed))
        report.step("the gateway ends", gateway.check_end)
    print(f"\n{report.passed} passed, {report.failed} failed")
    sys.exit(0 if report.passed and not report.failed else 1)


if __name__ == "__main__":
    main()
