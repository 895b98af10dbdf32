# SPDX-License-Identifier: Apache-2.0
"""Faults of every kind while 200 sessions step through one gateway. `make chaos` runs it; docs/CHAOS.md has what it checks and the run of record.

    build/venv/bin/python tests/chaos/chaos.py --seconds 600 --seed 1

The seed decides which faults come when, on which worker, and what each session does. Faults come one at a time, so that each failed call can be asked what it
failed of. Prints a summary; the exit code is 1 when anything was violated.
"""

import argparse
import asyncio
import collections
import concurrent.futures
import contextlib
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/integration"))

import conftest  # noqa: E402
import docker_engine  # noqa: E402
import docker_support  # noqa: E402

conftest.stubs()

import grpc  # noqa: E402
from envgate.v1 import payload_pb2, session_service_pb2 as pb, session_service_pb2_grpc  # noqa: E402

SLOW = conftest.SLOW
TOKEN = f"envgate-chaos-{os.getpid()}"  # in the environment of every worker, wherever it runs
SESSIONS = {"builtin": 120, "process": 32, "docker": 24, "proxied": 16, "openenv": 8}
IN_DOCKER = ("docker", "openenv")
ON_THIS_MACHINE = ("builtin", "process")
STEP_TIMEOUT_S = 6.0 if SLOW == 1 else 12.0
LOG_DISK_BYTES = 256 << 20
CHANNELS = 4
# A session or a launch may suffer from a fault for so long after its end: breakers wait for up to 30 s.
AFTERMATH_S = 45.0 * SLOW
# What each method may fail of here. Everything else, documented or not, is the gateway's fault: no call here is malformed, and none comes twice with other content.
LOSS = {"SESSION_LOST", "SESSION_NOT_FOUND", "WORKER_START_FAILED", "WORKER_UNREACHABLE"}
LATE = {"STEP_IN_PROGRESS", "STEP_NOT_STARTED"}
EXPECTED = {
    "CreateSession": {"NO_CAPACITY", "WORKER_START_FAILED", "WORKER_UNREACHABLE"},
    "Reset": LOSS | LATE,
    "Step": LOSS | LATE,
    "GetState": LOSS | LATE,
    "CloseSession": {"SESSION_NOT_FOUND"},
}
# With which status each may come.
CODES = {
    "SESSION_LOST": {"ABORTED"},
    "SESSION_NOT_FOUND": {"NOT_FOUND"},
    "WORKER_START_FAILED": {"FAILED_PRECONDITION", "UNAVAILABLE", "DEADLINE_EXCEEDED"},
    "WORKER_UNREACHABLE": {"UNAVAILABLE"},
    "NO_CAPACITY": {"RESOURCE_EXHAUSTED"},
}
MAX_MORE_DESCRIPTORS = 8
MAX_MORE_KIB = 8 << 10


def documented_reasons():
    """The reasons in the table of docs/API.md."""
    table = (ROOT / "docs/API.md").read_text(encoding="utf-8").split("## Reasons of errors")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `([A-Z_]+)` \|", table, re.MULTILINE))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# --- processes -----------------------------------------------------------------------------------------------------------------------------


def read_proc(pid, name):
    try:
        return pathlib.Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def start_time(pid):
    """With the pid it names one process for ever."""
    return read_proc(pid, "stat").rsplit(b")", 1)[-1].split()[19:20]


def ours():
    """All processes that were started for the run's workers, supervisors and init processes among them, as (environment, pid, words of the command line)."""
    found = []
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        match = re.search(rb"(?:^|\0)CHAOS=" + TOKEN.encode() + rb"\.(\w+)\0", read_proc(pid, "environ"))
        if match:
            found.append((match[1].decode(), pid, read_proc(pid, "cmdline").decode().split("\0")[:-1]))
    return found


def workers(*environments):
    """The workers' own processes."""
    return [(env, pid) for env, pid, words in ours() if env in environments and (words[1:2] == ["worker"] or "uvicorn" in words)]


def supervisors():
    return [(env, pid) for env, pid, words in ours() if env in ON_THIS_MACHINE and words and words[1:2] != ["worker"]]


def rss_kib(pid):
    return int(re.search(rb"VmRSS:\s+(\d+)", read_proc(pid, "status"))[1])


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


# --- the way to the static worker ----------------------------------------------------------------------------------------------------------


class Proxy:
    """Hands bytes between the gateway and a static worker, until it is told to stop."""

    def __init__(self, target):
        self.target, self.port = target, free_port()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server, self._writers, self._tasks = None, set(), set()

    async def listen(self):
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", self.port)

    async def _connection(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        self._writers.add(writer)
        far_writer = None
        try:
            await self._flowing.wait()
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers.add(far_writer)
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        except OSError:
            pass
        finally:
            for w in (writer, far_writer):
                if w:
                    w.transport.abort()
                    self._writers.discard(w)
            self._tasks.discard(asyncio.current_task())

    async def _pump(self, reader, writer):
        while data := await reader.read(65536):
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()
        await self._flowing.wait()
        writer.close()

    def freeze(self):
        self._flowing.clear()

    def thaw(self):
        self._flowing.set()

    def cut(self):
        """Resets what is connected."""
        for writer in self._writers:
            writer.transport.abort()

    async def refuse(self):
        self._server.close()
        self.cut()

    async def close(self):
        await self.refuse()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


# --- the run -------------------------------------------------------------------------------------------------------------------------------


class Ended(Exception):
    """The session is over; the message is the reason."""


class Run:
    """The gateway under test, what was done to it, and what came of it."""

    def __init__(self, engine, threads, disk, state_dir, seed, seconds):
        self.engine, self.disk, self.state_dir, self.seed, self.seconds = engine, disk, state_dir, seed, seconds
        self.threads = threads
        self.began = time.monotonic()
        self.port = free_port()
        self.documented = documented_reasons()
        self.violations = collections.defaultdict(list)
        self.failures = collections.Counter()  # (method, code, reason)
        self.first = {}  # the first message of each
        self.counts = collections.Counter()
        self.faults = collections.Counter()
        self.steps = collections.Counter()  # by environment
        self.last_step = {}  # by number of the caller, when it last had a step's reply
        self.hits = []  # [environment, begin, end]: what may have lost sessions
        self.downs = []  # [begin, end]: the gateway was not there
        self.stop = False
        self.channels = []
        self.gateway = self.proxy = self.base_kib = None

    def in_thread(self, function, *args):
        """What blocks. The threads outlive the Engine, which ends with the one that started it (PR_SET_PDEATHSIG)."""
        return asyncio.get_running_loop().run_in_executor(self.threads, function, *args)

    def say(self, text):
        print(f"{time.monotonic() - self.began:7.1f}  {text}", flush=True)

    def violated(self, kind, text):
        self.violations[kind].append(text)
        if len(self.violations[kind]) <= 10:
            self.say(f"VIOLATION {kind}: {text}")

    @contextlib.contextmanager
    def hit(self, *environments):
        """What happens within may lose sessions of these environments and fail their launches."""
        records = [[env, time.monotonic(), float("inf")] for env in environments]
        self.hits += records
        try:
            yield
        finally:
            for record in records:
                record[2] = time.monotonic()

    def justified(self, env, since):
        """A fault has struck the environment since then, or so shortly before that it still may."""
        return any(e == env and end + AFTERMATH_S >= since for e, _, end in self.hits)

    def was_down(self, since):
        return any(end + 3 * SLOW >= since for _, end in self.downs)

    # --- the gateway

    def config(self):
        delay = ["--delay-ms", "2"]
        serve = [str(conftest.BIN), "worker", "echo", *delay, "--listen"]
        environments = {
            "builtin": conftest.builtin("echo", *delay, sessions_per_worker=8, max_workers=17, min_workers=1),
            "process": {"process": {"command": [*serve, "unix:{socket}", "--capacity", "8"]}, "sessions_per_worker": 8, "max_workers": 5},
            "docker": docker_support.environment(self.engine, docker={"command": [*docker_support.SERVE, *delay, "--capacity", "8"]}, sessions_per_worker=8,
                                                 max_workers=4, min_workers=1)["environments"]["e"],
            "openenv": docker_support.environment(self.engine, docker_support.OPENENV_LIGHT, sessions_per_worker=4, max_workers=3)["environments"]["e"],
            "proxied": {"static": {"urls": [f"http://127.0.0.1:{self.proxy.port}"]}, "sessions_per_worker": SESSIONS["proxied"]},
        }  # fmt: skip
        for name, env in environments.items():
            env.update(step_timeout_s=STEP_TIMEOUT_S, lease_s=60, worker_idle_s=3, stop_grace_s=3)
            if name != "proxied":
                env["env_vars"] = {"CHAOS": f"{TOKEN}.{name}"}
        return {"environments": environments, "state_dir": str(self.state_dir), "shutdown_grace_s": 20, "threads": 2}

    def start_gateway(self):
        self.gateway = conftest.Gateway(self.config(), "--listen", f"127.0.0.1:{self.port}", tmp=self.disk)
        return self.gateway

    def end_gateway(self, sig):
        """Its exit code. What its log says must be no sanitizer's report."""
        g = self.gateway
        code = g.stop(sig)
        if "Sanitizer" in g.log_text() or "runtime error:" in g.log_text():
            self.violated("sanitizer", g.log_text()[-4000:])
        return code

    def logged(self, event):
        """How many events of that name this life of the gateway wrote. A full disk may have torn lines."""
        return sum(f'"event":"{event}"' in line for line in self.gateway.log_text().splitlines())

    # --- calls

    def stub(self, number):
        return session_service_pb2_grpc.SessionServiceStub(self.channels[number % CHANNELS])

    async def call(self, caller, method, request, timeout_s):
        """The reply, whatever it takes: a call whose fate is open is made again with the same request_id. Raises Ended."""
        deadline = time.monotonic() + 90 * SLOW
        while True:
            since = time.monotonic()
            if method != "CloseSession":
                request.timeout_s = timeout_s
            try:
                reply = await getattr(self.stub(caller.number), method)(request, timeout=timeout_s + 20 * SLOW)
                self.counts["calls"] += 1
                return reply
            except grpc.aio.AioRpcError as error:
                code, reason = conftest.code_of(error)
                text = f"{caller}: {method}: {code} {reason or 'without a reason'}: {error.details()}"
            self.counts["failed"] += 1
            self.failures[method, code, reason or "(connection lost)"] += 1
            self.first.setdefault((method, code, reason), text)
            timeout_s = 15 * SLOW  # the next try is patient
            if time.monotonic() > deadline:
                self.violated("hangs", text)
                raise Ended("HANGS")
            if reason in LATE and reason in EXPECTED[method]:
                self.counts["collected"] += 1
            elif not reason and self.was_down(since):
                await asyncio.sleep(0.1)
            else:
                self.judge(caller, method, code, reason, since, text)
                raise Ended(reason)

    def judge(self, caller, method, code, reason, since, text):
        if not reason:
            self.violated("hangs" if code == "DEADLINE_EXCEEDED" else "undocumented failures", text)
        elif reason not in self.documented:
            self.violated("undocumented failures", text)
        elif reason not in EXPECTED[method] or code not in CODES[reason]:
            self.violated("unexpected failures", text)
        elif reason == "SESSION_NOT_FOUND":
            if not any(begin >= caller.created for begin, _ in self.downs):
                self.violated("unjustified failures", text)
        elif not self.justified(caller.env, caller.created if method != "CreateSession" else since):
            self.violated("unjustified failures", text)


class Caller:
    """Has one session after another, and steps each."""

    def __init__(self, run, number, env):
        self.run, self.number, self.env = run, number, env
        self.rng = random.Random(f"{run.seed}.{number}")
        self.created = 0.0
        self.name, self.made, self.total = "", 0, 0

    def __str__(self):
        return f"caller {self.number} ({self.env}) {self.name}"

    def patience(self):
        """Most calls wait long enough; some give up while the step runs."""
        return self.rng.choice([0.001, 0.002, 0.003]) if self.rng.random() < 0.05 else 15 * SLOW

    def expect(self, what, got, wanted):
        if got != wanted:
            self.run.violated("wrong replies", f"{self}: {what} is {got!r}, not {wanted!r}")

    async def live(self):
        while not self.run.stop:
            self.name = ""
            self.created = time.monotonic()
            self.made += 1
            try:
                request = pb.CreateSessionRequest(environment=self.env, request_id=f"{TOKEN}.{self.number}.{self.made}")
                self.name = (await self.run.call(self, "CreateSession", request, 20 * SLOW)).name
                self.run.counts["sessions"] += 1
                self.total = 0
                for episode in range(self.rng.randrange(1, 4)):
                    await self.episode(f"{self.number}.{self.made}.{episode}", self.rng.randrange(5, 30))
                await self.check_state()
            except Ended:
                self.run.counts["sessions lost"] += bool(self.name)
                await asyncio.sleep(self.rng.uniform(0.2, 1.0))
            if self.name:
                with contextlib.suppress(Ended):
                    await self.run.call(self, "CloseSession", pb.CloseSessionRequest(name=self.name), 20 * SLOW)

    async def episode(self, episode, steps):
        request = pb.ResetRequest(session=self.name, episode_id=episode, request_id=f"{episode}.reset")
        reply = await self.run.call(self, "Reset", request, self.patience())
        self.expect("Reset's session, episode and step", (reply.session, reply.episode_id, reply.step_index), (self.name, episode, 0))
        for index in range(1, steps + 1):
            if self.run.stop:
                break
            await asyncio.sleep(self.rng.uniform(0.1, 0.8))
            await self.step(episode, index)

    async def step(self, episode, index):
        message = f"{TOKEN}.{episode}.{index}.{self.rng.getrandbits(64):x}"
        action = payload_pb2.Payload(json=conftest.json.dumps({"message": message}).encode())
        request = pb.StepRequest(session=self.name, action=action, request_id=f"{episode}.{index}", episode_id=episode, step_index=index)
        reply = await self.run.call(self, "Step", request, self.patience())
        self.total += 1
        self.run.steps[self.env] += 1
        self.run.last_step[self.number] = time.monotonic()
        self.expect("Step's session, episode and step", (reply.session, reply.episode_id, reply.step_index), (self.name, episode, index))
        observation = conftest.json.loads(reply.observation.json)
        if self.env == "openenv":
            self.expect("the message and the environment's own count", (observation["message"], observation["count"]), (message, index))
        else:
            metadata = conftest.json.loads(reply.metadata.json)
            self.expect("the message", observation["echoed_message"], message)
            self.expect("the environment's own count, and how often it saw the message", (metadata["step"], metadata["executions"]), (index, 1))

    async def check_state(self):
        """Every step of the session was taken once, and no other was."""
        state = conftest.json.loads((await self.run.call(self, "GetState", pb.GetStateRequest(session=self.name), 15 * SLOW)).state.json)
        if self.env != "openenv":
            self.expect("the number of steps taken, and of repeated ones", (state["total_steps"], state["repeated_steps"]), (self.total, 0))


# --- faults: each returns what it did to whom ----------------------------------------------------------------------------------------------


async def docker_kill(run, rng):
    """A worker's container."""
    env = rng.choice(IN_DOCKER)
    found = await run.in_thread(run.engine.docker, "ps", "--quiet", "--filter", f"label=envgate.environment={env}")
    containers = sorted(found.split())
    if not containers:
        return None
    with run.hit(env):
        await run.in_thread(run.engine.docker, "kill", rng.choice(containers))
    return env


async def kill_worker(run, rng):
    """A worker's process on this machine."""
    return kill_one(run, rng, workers(*ON_THIS_MACHINE))


async def kill_supervisor(run, rng):
    """The process between the gateway and its worker, which has to go with it."""
    return kill_one(run, rng, supervisors())


def kill_one(run, rng, candidates):
    env, pid = rng.choice(candidates)
    with run.hit(env):
        os.kill(pid, signal.SIGKILL)
    return env


async def pause_worker(run, rng):
    """SIGSTOP, and SIGCONT before the step's time is over: nothing is lost, nothing fails."""
    env, pid = rng.choice(workers(*SESSIONS))
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(STEP_TIMEOUT_S * 0.4)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    return env


async def freeze_worker(run, rng):
    """SIGSTOP for longer than a step may take; after SIGCONT it answers what nobody waits for any more."""
    env, pid = rng.choice(workers(*SESSIONS))
    with run.hit(env):
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(STEP_TIMEOUT_S * 1.3)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    return env


async def restart_dockerd(run, rng):
    """Its workers die with it."""
    sig = rng.choice([signal.SIGTERM, signal.SIGKILL])
    with run.hit(*IN_DOCKER):
        await run.in_thread(run.engine.stop, sig)
        await asyncio.sleep(rng.uniform(0, 2))
        await run.in_thread(run.engine.start)
    return sig.name


async def outlive(processes, seconds):
    """Those of (pid, start time) that are still there after that time."""
    end = time.monotonic() + seconds * SLOW
    while (left := [pid for pid, at in processes if at and start_time(pid) == at]) and time.monotonic() < end:
        await asyncio.sleep(0.1)
    return left


async def kill_gateway(run, rng):
    """The next one has the same state_dir: it adopts the containers, and the processes of the first are gone."""
    old = [(pid, start_time(pid)) for env, pid, _ in ours() if env in ON_THIS_MACHINE]
    ready = workers("docker")
    down = [time.monotonic(), float("inf")]
    run.downs.append(down)
    with run.hit(*SESSIONS):
        run.gateway.process.kill()
        run.gateway.process.wait()
        run.end_gateway(signal.SIGKILL)
        await run.in_thread(run.start_gateway)
        down[1] = time.monotonic()
    end = time.monotonic() + 15 * SLOW
    while time.monotonic() < end and not (run.logged("worker.adopted") or not ready):
        await asyncio.sleep(0.2)
    adopted = run.logged("worker.adopted")
    run.counts["adopted"] += adopted
    if ready and not adopted:
        run.violated("orphans", f"none of {len(ready)} containers was adopted")
    if left := await outlive(old, 5):
        run.violated("orphans", f"processes {left} outlive the killed gateway")
    return f"{adopted} adopted"


async def full_disk(run, rng):
    """For the log: nobody notices."""
    log, filler = run.gateway.log_path, run.disk / "filler"
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 20) if os.statvfs(run.disk).f_bavail > 256 else bytes(4096))
    size = log.stat().st_size
    await asyncio.sleep(3)
    lost = log.stat().st_size - size
    filler.unlink()
    if lost > 8192:
        run.violated("harness", f"the log grew by {lost} bytes on a full disk")
    await asyncio.sleep(0.5)
    if log.stat().st_size <= size:
        run.violated("log", "nothing is written after the disk has room again")
    for line in run.gateway.log_text().splitlines():
        if line.find('{"ts":', 1) >= 0:
            run.violated("log", f"two lines in one: {line}")
    return None


async def refused(run, rng):
    """The way to the static worker: connections are reset, and new ones refused."""
    with run.hit("proxied"):
        await run.proxy.refuse()
        await asyncio.sleep(rng.uniform(1, 3))
        await run.proxy.listen()
    return "proxied"


async def half_open(run, rng):
    """The way to the static worker: sockets stay, and nothing comes through. Afterwards all of it comes late, or the sockets are reset."""
    late = rng.random() < 0.5
    with run.hit("proxied"):
        run.proxy.freeze()
        await asyncio.sleep(STEP_TIMEOUT_S * 1.3)
        if not late:
            run.proxy.cut()
        run.proxy.thaw()
    return "late" if late else "reset"


FAULTS = [docker_kill, kill_worker, kill_supervisor, pause_worker, freeze_worker, restart_dockerd, kill_gateway, full_disk, refused, half_open]


def plan(rng, seconds):
    """Rounds of all faults, each round in an order of its own, without end. The gateway is killed in the first half only, so that the last one lives long."""
    began = time.monotonic()
    while True:
        order = rng.sample(FAULTS, len(FAULTS))
        order.remove(kill_gateway)
        if time.monotonic() - began < seconds / 2:
            order.insert(rng.randrange(len(FAULTS) // 2), kill_gateway)
        yield from order


# --- the course of it ----------------------------------------------------------------------------------------------------------------------


async def wait_until(run, condition, seconds, what):
    end = time.monotonic() + seconds * SLOW
    while time.monotonic() < end:
        if condition():
            return True
        await asyncio.sleep(0.2)
    run.violated("hangs", f"{what} did not come true in {seconds * SLOW} s")
    return False


async def inject(run):
    """Faults until the time is over, and each at least once."""
    rng = random.Random(run.seed)
    end = time.monotonic() + run.seconds
    for fault in plan(rng, run.seconds):
        if time.monotonic() >= end and len(run.faults) == len(FAULTS):
            return
        before, hits = run.steps.copy(), len(run.hits)
        began = time.monotonic()
        what = await fault(run, rng)
        took = time.monotonic() - began
        run.faults[fault.__name__] += 1
        await asyncio.sleep(rng.uniform(0.5, 2.5))
        run.say(f"{fault.__name__}{f' ({what})' if what else ''}: {took:.1f} s, {sum((run.steps - before).values())} steps meanwhile")
        spared = set(SESSIONS) - {env for env, _, _ in run.hits[hits:]}
        for env in sorted(spared):
            if run.steps[env] == before[env] and not run.justified(env, began):
                run.violated("hangs", f"no step of {env} while {fault.__name__} struck others")
        if fault is kill_gateway:
            await wait_until(run, lambda: all(t > run.downs[-1][1] for t in run.last_step.values()), 90, "all sessions step after the gateway's restart")
            run.base_kib = rss_kib(run.gateway.pid)


async def course(run):
    """The whole run."""
    worker_port = free_port()
    command = [str(conftest.BIN), "worker", "echo", "--delay-ms", "2", "--listen", f"127.0.0.1:{worker_port}", "--capacity", "64"]
    static = subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    run.proxy = Proxy(worker_port)
    try:
        await run.proxy.listen()
        await run.in_thread(run.start_gateway)
        try:
            await drive(run)
        finally:
            if run.gateway.process.poll() is None:
                run.counts["exit code"] = await run.in_thread(run.end_gateway, signal.SIGTERM)
            else:
                run.violated("exits", f"the gateway ended with exit code {run.gateway.process.returncode}: {run.gateway.log_text()[-2000:]}")
        if run.counts["exit code"]:
            run.violated("exits", f"exit code {run.counts['exit code']} on SIGTERM")
        await count_orphans(run)
    finally:
        await run.proxy.close()
        static.kill()
        static.wait()


def settled(run):
    """Only the workers of min_workers are there: one in docker, one builtin."""
    g = run.gateway
    counts = {env: (g.metric("envgate_environment_workers", environment=env), g.metric("envgate_environment_workers", environment=env, state="ready"))
              for env in SESSIONS if env != "proxied"}  # fmt: skip
    return g.metric("envgate_sessions") == 0 and counts == {"builtin": (1, 1), "docker": (1, 1), "process": (0, 0), "openenv": (0, 0)}


async def drive(run):
    g = run.gateway
    await wait_until(run, lambda: settled(run), 120, "the first workers' readiness")
    idle_descriptors = descriptors(g.pid)
    options = [("grpc.max_reconnect_backoff_ms", 300), ("grpc.initial_reconnect_backoff_ms", 100), ("grpc.min_reconnect_backoff_ms", 5000),
               ("grpc.use_local_subchannel_pool", 1)]  # fmt: skip
    run.channels = [grpc.aio.insecure_channel(f"127.0.0.1:{run.port}", options=options) for _ in range(CHANNELS)]
    callers = [Caller(run, n, env) for n, env in enumerate(env for env, count in SESSIONS.items() for _ in range(count))]
    tasks = [asyncio.create_task(caller.live()) for caller in callers]
    if await wait_until(run, lambda: len(run.last_step) == len(callers) or any(t.done() for t in tasks), 120, "a step of every session"):
        run.say(f"{len(callers)} sessions step")
        await inject(run)
        quiet = time.monotonic()
        run.say("no more faults")
        await wait_until(run, lambda: all(t > quiet for t in run.last_step.values()), 90, "every caller's next step after the last fault")
        run.say(f"all {len(callers)} callers step again")
    run.stop = True
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, BaseException):
            run.violated("harness", repr(result))
    for channel in run.channels:
        await channel.close()
    await wait_until(run, lambda: settled(run), 60, "the gateway's rest")
    g = run.gateway
    await wait_until(run, lambda: descriptors(g.pid) <= idle_descriptors + MAX_MORE_DESCRIPTORS, 15, f"at most {idle_descriptors} + {MAX_MORE_DESCRIPTORS} descriptors")
    run.counts["descriptors before"], run.counts["descriptors after"] = idle_descriptors, descriptors(g.pid)
    run.counts["KiB after"] = rss_kib(g.pid)
    # The sanitizer's quarantine grows for reasons of its own; it looks for leaks at the end.
    if SLOW == 1 and run.base_kib and run.counts["KiB after"] > run.base_kib + MAX_MORE_KIB:
        run.violated("memory", f"{run.base_kib} KiB after the last restart, {run.counts['KiB after']} KiB at the end")
    for metric in ("envgate_calls_in_flight", "envgate_session_queue_length", "envgate_worker_queue_length"):
        if (value := g.metric(metric)) > 0:
            run.violated("memory", f"{metric} is {value} at rest")


async def count_orphans(run):
    end = time.monotonic() + 3 * SLOW
    while ours() and time.monotonic() < end:
        await asyncio.sleep(0.1)
    for container in run.engine.containers("envgate.instance"):
        run.violated("orphans", f"container {container}")
    for env, pid, words in ours():
        run.violated("orphans", f"process {pid} of {env}: {' '.join(words)}")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # the machine is not left with it


KINDS = ["orphans", "wrong replies", "undocumented failures", "unexpected failures", "unjustified failures", "hangs", "memory", "log", "exits", "sanitizer", "harness"]


def summary(run, verbose):
    c = run.counts
    print(f"\nseed {run.seed}, {run.seconds:g} s of faults, {sum(SESSIONS.values())} sessions at a time ({', '.join(f'{n} {e}' for e, n in SESSIONS.items())})")
    print(f"faults: {', '.join(f'{n} {name}' for name, n in sorted(run.faults.items()))}")
    print(f"sessions: {c['sessions']}, of which {c['sessions lost']} were lost; containers adopted: {c['adopted']}")
    print(f"steps: {sum(run.steps.values())}; calls answered: {c['calls']}, failed: {c['failed']}, collected later by request_id: {c['collected']}")
    for (method, code, reason), n in sorted(run.failures.items()):
        print(f"  {n:6} {method} {code} {reason}")
    print(f"descriptors at rest: {c['descriptors before']} before, {c['descriptors after']} after")
    print(f"resident memory: {run.base_kib} KiB with all sessions after the gateway's last restart, {c['KiB after']} KiB at the end")
    print(f"exit code on SIGTERM: {c['exit code']}")
    if verbose:
        for text in run.first.values():
            print(f"  {text}")
    for kind in KINDS:
        print(f"{kind}: {len(run.violations[kind])}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="how long faults come; each comes once in any case (default 600)")
    parser.add_argument("--seed", type=int, default=1, help="what comes when (default 1)")
    parser.add_argument("--verbose", action="store_true", help="show a message of each kind of failure")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="envgate-chaos-", dir="/tmp")))
        disk = directory / "log"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={LOG_DISK_BYTES}", "envgate-chaos", disk], check=True)
        stack.callback(subprocess.run, ["umount", "--lazy", disk], check=True)
        threads = stack.enter_context(concurrent.futures.ThreadPoolExecutor(4))
        engine = stack.enter_context(docker_engine.own_engine())
        stack.enter_context(docker_support.images(engine))
        docker_support.load_openenv(engine, docker_support.OPENENV_LIGHT)
        run = Run(engine, threads, disk, directory / "state", args.seed, args.seconds)
        asyncio.run(course(run))
        summary(run, args.verbose)
    return 1 if any(run.violations.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
