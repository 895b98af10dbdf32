# SPDX-License-Identifier: Apache-2.0
"""Serves several of tests/envs, each in a process and on a port of its own: what takes seconds to import is imported once, and the processes are forked from there. For
environments.py, by the Python of OpenEnv's virtual environment. Ends when its standard input does.

usage: environments_boot.py '[{"folder": …, "variables": {…}, "port": …, "log": …}, …]'
"""

import json
import os
import signal
import sys

import gymnasium  # noqa: F401
import openenv.core.env_server.http_server  # noqa: F401
import uvicorn


def serve(folder, variables, port, log):
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for fd in (1, 2):
        os.dup2(out, fd)
    os.environ.update(variables)
    os.chdir(folder)
    sys.path.insert(0, folder)
    uvicorn.run("server.app:app", host="127.0.0.1", port=port)


children = []
for one in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        os.close(0)
        serve(**one)
        os._exit(0)
    children.append(child)
sys.stdin.read()
for child in children:
    os.kill(child, signal.SIGTERM)
for child in children:
    os.waitpid(child, 0)
