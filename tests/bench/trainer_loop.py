# SPDX-License-Identifier: Apache-2.0
"""The client's side of trainer.py: a process that plays as it is told, a line of JSON for each run, and answers with a line of JSON.

In:  {"way": "openenv" or "vector", "url": …, "environment": "cartpole" or "pixels", "n": …, "seconds": …, "warmup": …, "watch": [pid, …]}
Out: {"steps": …, "seconds": …, "client_s": …, "watched_s": {pid: …}}, where *_s is processor time
"""

import asyncio
import json
import pathlib
import sys
import time


def processor_s(pid):
    """Processor time of a process, all threads, user and system."""
    return sum(int(p.read_text().split()[0]) for p in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


class Clock:
    """What passes between begin() and end()."""

    def __init__(self, run):
        self.watch = run["watch"]

    def begin(self, steps):
        self.steps, self.watched = steps, {pid: processor_s(pid) for pid in self.watch}
        self.client, self.began = time.process_time(), time.monotonic()

    def end(self, steps):
        seconds, client = time.monotonic() - self.began, time.process_time() - self.client
        watched = {pid: processor_s(pid) - before for pid, before in self.watched.items()}
        return {"steps": steps - self.steps, "seconds": seconds, "client_s": client, "watched_s": watched}


# --- OpenEnv's async client: so many of them in one loop -----------------------------------------------------------------------------------


def openenv_action(environment, observation, count):
    if environment == "pixels":
        return {"action": count % 18}
    state = observation["state"]
    return {"action": int(state[2] + state[3] > 0)}  # keeps the pole up for a while


async def openenv(run):
    from openenv.core import GenericEnvClient

    environment, counts, stop = run["environment"], [0] * run["n"], False
    clients = [GenericEnvClient(base_url=run["url"], connect_timeout_s=60) for _ in range(run["n"])]

    async def play(i):
        env = clients[i]
        result = await env.reset(seed=i)
        while not stop:
            result = await env.step(openenv_action(environment, result.observation, counts[i]))
            counts[i] += 1
            if result.done:
                result = await env.reset()

    for env in clients:
        await env.connect()
    playing = [asyncio.create_task(play(i)) for i in range(run["n"])]
    clock = Clock(run)
    await asyncio.sleep(run["warmup"])
    clock.begin(sum(counts))
    await asyncio.sleep(run["seconds"])
    report = clock.end(sum(counts))
    stop = True
    await asyncio.gather(*playing)
    await asyncio.gather(*(env.close() for env in clients))
    return report


# --- envgate.VectorEnv ---------------------------------------------------------------------------------------------------------------------


def vector(run):
    import envgate
    import gymnasium
    import numpy as np

    if run["environment"] == "pixels":
        spaces = {"observation_space": gymnasium.spaces.Box(0, 255, (84, 84), np.uint8), "observation_path": "/frame"}
    else:
        spaces = {}
    envs = envgate.VectorEnv(run["url"], run["environment"], run["n"], **spaces)
    observations, _ = envs.reset(seed=0)
    counts = np.arange(run["n"])
    over = np.zeros(run["n"], bool)
    steps, clock, warm, end = 0, Clock(run), time.monotonic() + run["warmup"], None
    while True:
        now = time.monotonic()
        if end is None and now >= warm:
            clock.begin(steps)
            end = now + run["seconds"]
        elif end is not None and now >= end:
            break
        if run["environment"] == "pixels":
            actions = counts = (counts + 1) % 18
        else:
            actions = (observations[:, 2] + observations[:, 3] > 0).astype(np.int64)
        steps += run["n"] - int(over.sum())  # those whose episode was over are reset by this call
        observations, _, terminations, truncations, _ = envs.step(actions)
        over = terminations | truncations
    report = clock.end(steps)
    envs.close()
    return report


def main():
    for line in sys.stdin:
        run = json.loads(line)
        try:
            report = asyncio.run(openenv(run)) if run["way"] == "openenv" else vector(run)
        except Exception as e:  # it is told, and the next run may go well
            report = {"error": f"{type(e).__name__}: {e}"[:500]}
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
