# SPDX-License-Identifier: Apache-2.0
"""Runs a program of node/page.js in Debian's Chromium, headless, on a page of its own origin, and prints what it writes. Before the session, a page of another
origin (localhost is another than 127.0.0.1) must have been refused.

usage: browser.py PORT GATEWAY-URL PROGRAM [TRANSPORT]      PORT: the page's, which the gateway allows as http://127.0.0.1:PORT
"""

import http.server
import os
import pathlib
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.parse

SECONDS = 90
# Nothing that calls home; and the certificate is the test's own.
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync
    --disable-default-apps --disable-extensions --disable-dev-shm-usage --ignore-certificate-errors --enable-logging=stderr""".split()
ended = queue.Queue()


class Page(http.server.BaseHTTPRequestHandler):
    script = pathlib.Path("page/page.js").read_bytes()

    def reply(self, kind, body):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/page.js":
            self.reply("text/javascript", self.script)
        else:
            self.reply("text/html", b"<!doctype html><meta charset=utf-8><link rel=icon href=data:,><script type=module src=/page.js></script>")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        self.reply("text/plain", b"")
        ended.put((self.path == "/done", body))

    def log_message(self, *args):
        pass


def run(host, port, **query):
    """What the program wrote."""
    url = f"http://{host}:{port}/?{urllib.parse.urlencode(query)}"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, tempfile.TemporaryFile("w+") as log:
        chromium = subprocess.Popen(
            ["chromium", *FLAGS, f"--user-data-dir={profile}", url], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            ok, written = ended.get(timeout=SECONDS)
        except queue.Empty:
            ok, written = False, f"nothing came from the page within {SECONDS} s\n"
        os.killpg(chromium.pid, signal.SIGKILL)
        chromium.wait()
        if not ok:
            log.seek(0)
            sys.exit(f"{url}\n{written}{log.read()[-2000:]}")
    return written


def main():
    port, gateway, program = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    if program == "session":
        stranger = run("localhost", port, program="stranger", gateway=gateway)
        if stranger != "refused\n":
            sys.exit(f"a page of another origin: {stranger}")
    sys.stdout.write(run("127.0.0.1", port, program=program, gateway=gateway, transport=sys.argv[4] if len(sys.argv) > 4 else "connect"))


main()
