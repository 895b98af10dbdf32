# SPDX-License-Identifier: Apache-2.0
"""The scripted session (README.md) by grpcurl, which knows the API from reflection only: a process for each call.

usage: grpcurl.py ADDRESS GRPCURL
"""

import base64
import json
import re
import subprocess
import sys
import time

address, grpcurl = sys.argv[1:]
CODES = {"Canceled": 1, "InvalidArgument": 3, "DeadlineExceeded": 4, "NotFound": 5}


def start(method, request, *options):
    command = [grpcurl, "-plaintext", *options, "-d", "@", address, f"envgate.v1.SessionService/{method}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdin.write(json.dumps(request))
    process.stdin.close()
    process.stdin = None
    return process


def call(method, request):
    out, err = start(method, request).communicate(timeout=60)
    return json.loads(out) if not err else sys.exit(err)


def failure(method, request, *options):
    """The code's number and the error's details by type."""
    out, err = start(method, request, *options).communicate(timeout=60)
    details = [json.loads(line) for line in re.findall(r"^\s+\d+\)\s+(\{.*\})$", err, re.M)]
    return CODES[re.search(r"Code: (\w+)", err).group(1)], {d["@type"].rpartition(".")[2]: d for d in details}


def payload(value):
    return {"json": base64.b64encode(json.dumps(value).encode()).decode()}


def text(payload):
    return base64.b64decode(payload["json"]).decode()


def show(what, r):
    print(f"{what} {r.get('stepIndex', 0)} reward {r.get('reward', 0):.2f} done {int(r.get('done', False))} {text(r['observation'])}")


def fnv(data):
    h = 2166136261
    for byte in data:
        h = (h ^ byte) * 16777619 & 0xFFFFFFFF
    return h


session = call("CreateSession", {"environment": "cartpole"})
name = session["name"]
print(f"create {session['environment']} {['', 'STATE_PROVISIONING', 'STATE_READY'].index(session['state'])}")
result = call("Reset", {"session": name, "seed": 7, "episodeId": "episode-1"})
show("reset", result)
for i in range(50):
    if result.get("done"):
        show("reset", call("Reset", {"session": name, "seed": 8, "episodeId": "episode-2"}))
    result = call("Step", {"session": name, "action": payload({"action": i % 2}), "requestId": f"step-{i}"})
    show("step", result)
print("state", text(call("GetState", {"session": name})["state"]))

code, details = failure("Step", {"session": name, "action": payload({"action": 7})})
info = details["ErrorInfo"]
print(f"invalid {code} {info['reason']} {info['domain']} {details['BadRequest']['fieldViolations'][0]['field']}")

slow = call("CreateSession", {"environment": "slow"})["name"]
late = {"session": slow, "action": payload({"message": "late"}), "requestId": "late"}
print(f"deadline {failure('Step', late, '-max-time', '0.15')[0]}")
print("collected", text(call("Step", late)["metadata"]))
never = {"session": slow, "action": payload({"message": "never mind"}), "requestId": "never"}
process = start("Step", never)
time.sleep(0.15)
process.terminate()  # it has no other way to cancel
process.communicate(timeout=60)
print(f"cancel {CODES['Canceled'] if process.returncode < 0 else 'not'}")
print("collected", text(call("Step", never)["metadata"]))

echo = call("CreateSession", {"environment": "echo"})["name"]
data = "".join(chr(97 + i % 26) for i in range(3 << 20))
large = text(call("Step", {"session": echo, "action": payload({"message": "large", "data": data})})["observation"]).encode()
print(f"large {len(large)} {fnv(large):08x}")

for each in (name, slow, echo):
    call("CloseSession", {"name": each})
code, details = failure("GetSession", {"name": name})
print(f"closed {code} {details['ErrorInfo']['reason']}")
