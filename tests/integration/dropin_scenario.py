# SPDX-License-Identifier: Apache-2.0
"""One scripted scenario for OpenEnv's own clients, unmodified: what they see at URL, which is a worker's or an environment's of the gateway.

usage: dropin_scenario.py KIND URL     prints the transcript, a JSON array

Each KIND is run by a Python that has the client: `legacy` openenv-core 0.1.0's HTTPEnvClient, `ws` EnvClient of any openenv from 0.2.0 on, `mcp` openenv 0.10.0's
MCPToolClient (against tests/envs/tools_env), and `mcp-http` without its WebSocket; `http` requests.Session; `mcp-ws` a WebSocket at /mcp. What differs from run to run (ids, processes) is left out of the transcript.
"""

import asyncio
import json
import sys

# uvicorn closes a connection on which an exception was answered, which a request that is sent meanwhile does not survive.
ONCE = {"connection": "close"}

# (name, arguments): done in this order.
STATEFUL = [
    ("reset", {}),
    ("step", {"message": "one"}),
    ("step", {"message": "two, ünï ✓"}),
    ("state", {}),
    ("step", {"message": "x", "boom": "told to"}),  # the environment raises
    ("step", {"message": "three"}),
    ("step", {"wrong": 1}),  # no such action
    ("step", {"message": "four"}),
    ("state", {}),
    ("reset", {}),
    ("step", {"message": "again"}),
    ("state", {}),
]


def stable(value):
    """Without what no two runs have in common."""
    if isinstance(value, dict):
        return {k: stable(v) for k, v in value.items() if k not in ("pid", "episode_id", "session_id") and not (k == "metadata" and not v)}
    if isinstance(value, list):
        return [stable(v) for v in value]
    return value


def played(client, script=STATEFUL):
    """The transcript of a client with reset(), step(action) and state(), which return JSON or raise."""
    transcript = []
    for name, arguments in script:
        try:
            seen = client.step(arguments) if name == "step" else getattr(client, name)(**arguments)
            transcript.append([name, stable(seen)])
        except Exception as e:
            status = getattr(getattr(e, "response", None), "status_code", None)
            transcript.append([name, "raises", type(e).__name__, status or getattr(e, "code", None)])
    return transcript


def seen(result):
    return {"observation": result.observation, "reward": result.reward, "done": result.done}


def legacy(url):
    from openenv_core.client_types import StepResult
    from openenv_core.http_env_client import HTTPEnvClient

    class Client(HTTPEnvClient):
        def _step_payload(self, action):
            return action

        def _parse_result(self, payload):
            return StepResult(observation=payload["observation"], reward=payload["reward"], done=payload["done"])

        def _parse_state(self, payload):
            return payload

    client = Client(base_url=url, default_headers=ONCE)

    class Adapter:
        reset = staticmethod(lambda: seen(client.reset()))
        step = staticmethod(lambda action: seen(client.step(action)))
        state = staticmethod(client.state)

    transcript = played(Adapter)
    client.close()
    return transcript


def ws(url):
    from openenv.core.client_types import StepResult
    from openenv.core.env_client import EnvClient

    class Client(EnvClient):
        def _step_payload(self, action):
            return action

        def _parse_result(self, payload):
            return StepResult(observation=payload["observation"], reward=payload["reward"], done=payload["done"])

        def _parse_state(self, payload):
            return payload

    client = Client(base_url=url)
    client = client.sync() if hasattr(client, "sync") else client
    with client:

        class Adapter:
            reset = staticmethod(lambda **arguments: seen(client.reset(**arguments)))
            step = staticmethod(lambda action: seen(client.step(action)))
            state = staticmethod(client.state)

        return played(Adapter)


def http(url):
    """The HTTP endpoints that need no episode, as every openenv from 0.2.0 on serves them."""
    import requests

    session, transcript = requests.Session(), []
    session.headers.update(ONCE)

    def note(name, reply):
        kind = reply.headers["content-type"].split(";")[0]
        transcript.append([name, reply.status_code, kind, stable(reply.json()) if kind == "application/json" else reply.text])

    for path in ("/health", "/schema", "/metadata"):
        note(path, session.get(url + path, timeout=60))
    note("reset", session.post(url + "/reset", json={"seed": 7, "episode_id": "mine"}, timeout=60))
    note("step", session.post(url + "/step", json={"action": {"message": "one"}, "timeout_s": 30, "request_id": "r"}, timeout=60))
    for name, body in [
        ("no such member", {"action": {"wrong": 1}}),
        ("a member's type", {"action": {"message": 7}}),
        ("no action", {}),
        ("no object", {"action": [1]}),
        ("timeout", {"action": {"message": "x"}, "timeout_s": 0}),
        ("raises", {"action": {"message": "x", "boom": "told to"}}),
    ]:
        note(name, session.post(url + "/step", json=body, timeout=60))
    for name, method, params in [
        ("tools", "tools/list", {}),
        ("call", "tools/call", {"name": "x", "arguments": {}}),
        ("no method", "no/method", {}),
        ("close", "openenv/session/close", {}),
        ("close", "openenv/session/close", {"session_id": "nobody's"}),
        ("list", "tools/list", {"session_id": "nobody's"}),
    ]:
        note(name, session.post(url + "/mcp", json={"jsonrpc": "2.0", "method": method, "params": params, "id": "an id"}, timeout=60))
    note("garbage", session.post(url + "/mcp", data=b"{", headers={"content-type": "application/json"}, timeout=60))
    return transcript


async def tools(url, reset):
    from openenv.core.mcp_client import MCPToolClient

    transcript = []
    client = MCPToolClient(base_url=url)
    try:
        if reset:  # by the WebSocket, in the session that HTTP made
            await client.connect()
            result = await client.reset(seed=7)
            transcript.append(["reset", stable({"reward": result.reward, "done": result.done})])
        transcript.append(["tools", [tool.model_dump() for tool in await client.list_tools()]])
        for name, arguments in [("add", {"a": 2, "b": 40}), ("count", {}), ("count", {}), ("nobody", {}), ("fail", {"text": "ouch"}), ("count", {})]:
            try:
                transcript.append([name, await client.call_tool(name, **arguments)])
            except RuntimeError as e:
                transcript.append([name, "raises", str(e)])
        if reset:
            transcript.append(["state", (await client.state()).step_count])
    finally:
        await client.close()
    return transcript


def mcp_ws(url):
    """MCP by its WebSocket."""
    from websockets.sync.client import connect

    transcript = []
    with connect(url.replace("http", "ws", 1) + "/mcp", compression=None) as ws:

        def ask(message):
            ws.send(message if isinstance(message, str) else json.dumps({"jsonrpc": "2.0", "id": len(transcript), **message}))
            reply = json.loads(ws.recv(timeout=60))
            if reply.get("error", {}).get("code") in (-32600, -32700):
                reply["error"]["message"] = reply["error"]["message"].split(":")[0]  # what follows is Python's own
            transcript.append(stable(reply))
            return reply

        ask({"method": "tools/list"})
        for _ in range(2):
            ask({"method": "tools/call", "params": {"name": "count", "arguments": {}}})
        ask({"method": "tools/call", "params": {"name": "fail", "arguments": {"text": "ouch"}}})
        ask({"method": "tools/call", "params": {"name": "nobody"}})
        ask({"method": "no/method"})
        ask("{")
        own = ask({"method": "openenv/session/create"})["result"]["session_id"]
        ask({"method": "openenv/session/close"})
        ask({"method": "openenv/session/close", "params": {"session_id": own}})
        ask({"method": "openenv/session/close", "params": {"session_id": "nobody's"}})
        ask({"method": "tools/call", "params": {"name": "count", "arguments": {}}})
    return transcript


def main(kind, url):
    kinds = {
        "legacy": legacy,
        "ws": ws,
        "http": http,
        "mcp-ws": mcp_ws,
        "mcp-http": lambda url: asyncio.run(tools(url, False)),
        "mcp": lambda url: asyncio.run(tools(url, True)),
    }
    print(json.dumps(kinds[kind](url)))


if __name__ == "__main__":
    main(*sys.argv[1:])
