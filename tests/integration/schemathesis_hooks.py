# SPDX-License-Identifier: Apache-2.0
"""Loaded by schemathesis (test_schemathesis.py): gives most of what it makes up the name of a session or environment that is there, since names that are not end at
404 and test nothing behind it."""

import json
import os
import urllib.request

import schemathesis

URL = os.environ["GATEWAY_URL"]
turn = 0
session = None


def post(path, body):
    request = urllib.request.Request(URL + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


def is_there(name):
    try:
        urllib.request.urlopen(f"{URL}/v1/{name}", timeout=30).close()
        return True
    except urllib.error.HTTPError:
        return False


def live_session():
    global session
    if session is None or not is_there(session):
        session = post("/v1/sessions", {"environment": "echo"})["name"]
    return session


def live_worker():
    with urllib.request.urlopen(f"{URL}/v1/{live_session()}", timeout=30) as reply:
        return json.load(reply)["worker"]


def without_short_deadline(fields):
    """A deadline that passes is an answer of 504, as it should be; 5xx is what this looks for."""
    timeout = fields.get("timeout_s", fields.get("timeoutS"))
    if isinstance(timeout, (int, float)) and not isinstance(timeout, bool) and 0 < timeout < 30:
        fields.pop("timeout_s", None)
        fields.pop("timeoutS", None)


def likely_step(fields):
    """Every other action is one that the environment takes, in the episode that is."""
    if "action" in fields and turn % 2:
        fields["action"] = {"message": "hi"}
        for name in ("episode_id", "episodeId", "step_index", "stepIndex"):
            fields.pop(name, None)


@schemathesis.deserializer("application/x-ndjson")
def first_line(context, response):
    """Of a stream: its first line, which is never the error that a later one may be."""
    return json.loads(response.content.split(b"\n")[0])


@schemathesis.hook
def before_call(context, case, kwargs):
    global turn
    turn += 1
    path, body, query = case.path_parameters, case.body, case.query
    # Also where names stay as they were made up: it takes some from replies, so they may be of what is there.
    for fields in (query, body):
        if isinstance(fields, dict):
            without_short_deadline(fields)
    if isinstance(query, dict):
        query.pop("follow", None)  # lasts as long as the worker
    if turn % 5 == 0:
        return
    if path and "session" in path:
        path["session"] = live_session().removeprefix("sessions/")
    if path and "worker" in path and case.method == "GET":
        path["worker"] = live_worker()
    if path and "environment" in path:
        path["environment"] = "echo"
    if isinstance(body, dict):
        if isinstance(body.get("environment"), str):
            body["environment"] = "echo"
        if isinstance(body.get("session"), dict):  # what CreateSessions makes
            body["session"]["environment"] = "echo"
            body["session"].pop("source", None)
            without_short_deadline(body["session"])
            body["count"] = body["count"] % 8 if isinstance(body.get("count"), int) else 2
        likely_step(body)
        if isinstance(body.get("items"), list) and turn % 2:  # a batch has either, and JSON no tensors
            for name in ("stacked_actions", "stackedActions", "stacked", "tensors"):
                body.pop(name, None)
        for item in body["items"] if isinstance(body.get("items"), list) else []:
            if isinstance(item, dict):
                without_short_deadline(item)
                likely_step(item)
                if isinstance(item.get("session"), str):
                    item["session"] = live_session()
