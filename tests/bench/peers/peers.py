# SPDX-License-Identifier: Apache-2.0
"""What envgate is compared with: proxies, and bridges from gRPC to a worker. tools/bench-deps.sh builds them into build/peers.

build/venv/bin/python tests/bench/peers/peers.py --check [NAME…]     starts each, sends steps through it and looks at the replies
"""

import argparse
import contextlib
import json
import pathlib
import socket
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import stand

BUILT = stand.ROOT / "build/peers"


# --- processes -----------------------------------------------------------------------------------------------------------------------------


class Bridge(stand.Process):
    """A program of this folder. It says where it listens."""

    def __init__(self, folder, worker, upstream, *command):
        url = f"{upstream}://{worker.address}" + ("/ws" if upstream == "ws" else "")
        super().__init__(stand.MIDDLE, [*command, "--listen", "127.0.0.1:0", "--worker", url], folder / "bridge.log")
        self.address = self.first_line("listening on ").split("listening on ")[1].strip()


class Proxy(stand.Process):
    """A proxy with a configuration file of this folder. `command` ends with the option that takes the file."""

    def __init__(self, folder, worker, template, *command):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        host, _, worker_port = worker.address.rpartition(":")
        values = {"PORT": port, "WORKER": worker.address, "WORKER_HOST": host, "WORKER_PORT": worker_port, "DESCRIPTORS": BUILT / "gen/bridge.pb"}
        text = (HERE / template).read_text()
        for name, value in values.items():
            text = text.replace(f"@{name}@", str(value))
        file = folder / template
        file.write_text(text)
        log = folder / "proxy.log"
        super().__init__(stand.MIDDLE, [*command, file], log)
        self.wait(port, log)

    def wait(self, port, log):
        end = time.monotonic() + 20
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.01)
        self.stop()
        raise SystemExit(f"peers: {self.command[0]} did not start: {log.read_text()[-2000:]}")


def haproxy(folder, worker):
    return Proxy(folder, worker, "haproxy.cfg", "/usr/sbin/haproxy", "-db", "-f")


def envoy(template):
    def start(folder, worker):
        # The program itself: the wheel's script of that name is a Python process around it.
        program = next(BUILT.glob("venv/lib/python3*/site-packages/envoy/_bin/envoy"), "envoy")
        options = "--concurrency 1 --disable-hot-restart --log-level error -c".split()
        return Proxy(folder, worker, template, program, *options)

    return start


def bridge(upstream, *command):
    return lambda folder, worker: Bridge(folder, worker, upstream, *command)


# --- peers ---------------------------------------------------------------------------------------------------------------------------------


class Peer:
    """One way to a worker of the dialect `both` that listens on TCP.

    `front` is "http" (POST /step, as to the worker itself) or "grpc" (`path`, messages of bridge.proto), `upstream` is "http" or "ws".
    start(folder, worker) returns a stand.Process on the core stand.MIDDLE, with an `address`, that is ready for calls.
    """

    def __init__(self, name, title, front, upstream, start, method=""):
        self.name, self.title, self.front, self.upstream, self.start, self.method = name, title, front, upstream, start, method
        self.path = f"/envgate.bench.v1.Bridge/{method}" if method else "/step"

    def messages(self):
        """The request's and the reply's class of the gRPC method."""
        pb2 = bridge_pb2()
        return getattr(pb2, f"{self.method}Request"), getattr(pb2, f"{self.method}Reply")

    def request(self, action, session):
        """A step's gRPC request. The session is for a WebSocket upstream only; it is opened by its first step."""
        message = self.messages()[0](session=f"sessions/{session}" if self.upstream == "ws" else "")
        if self.method == "StepBytes":
            message.action = action.encode()
        else:
            message.action.update(json.loads(action))
        return message

    def requests(self, action, callers):
        """The gRPC requests of so many callers, one after the other, each with gRPC's prefix (a zero and its length in four bytes)."""
        messages = [self.request(action, i).SerializeToString() for i in range(callers)]
        return b"".join(b"\0" + len(m).to_bytes(4, "big") + m for m in messages)


def bridge_pb2():
    """What tools/bench-deps.sh generated."""
    if str(BUILT / "gen") not in sys.path:
        sys.path.insert(0, str(BUILT / "gen"))
    import bridge_pb2 as module

    return module


GO = ("env", "GOMAXPROCS=1", BUILT / "bin/go-bridge")
RUST = (BUILT / "bin/rust-bridge",)
PYTHON = (BUILT / "venv/bin/python", HERE / "python/bridge.py")

PEERS = [
    Peer("nginx", "nginx, HTTP → HTTP", "http", "http", stand.Nginx),
    Peer("haproxy", "haproxy, HTTP → HTTP", "http", "http", haproxy),
    Peer("envoy-http", "Envoy, HTTP → HTTP", "http", "http", envoy("envoy-http.yaml")),
    Peer("envoy", "Envoy's reverse transcoder, gRPC → HTTP, Struct", "grpc", "http", envoy("envoy-grpc.yaml"), "Step"),
    Peer("rust", "Rust (tonic, hyper), gRPC → HTTP, Struct", "grpc", "http", bridge("http", *RUST), "Step"),
    Peer("rust-bytes", "Rust (tonic, hyper), gRPC → HTTP, bytes", "grpc", "http", bridge("http", *RUST), "StepBytes"),
    Peer("rust-ws", "Rust (tonic, tungstenite), gRPC → /ws, Struct", "grpc", "ws", bridge("ws", *RUST), "Step"),
    Peer("rust-ws-bytes", "Rust (tonic, tungstenite), gRPC → /ws, bytes", "grpc", "ws", bridge("ws", *RUST), "StepBytes"),
    Peer("go", "Go (grpc-go, net/http), gRPC → HTTP, Struct", "grpc", "http", bridge("http", *GO), "Step"),
    Peer("go-bytes", "Go (grpc-go, net/http), gRPC → HTTP, bytes", "grpc", "http", bridge("http", *GO), "StepBytes"),
    Peer("go-ws", "Go (grpc-go, gorilla), gRPC → /ws, Struct", "grpc", "ws", bridge("ws", *GO), "Step"),
    Peer("go-ws-bytes", "Go (grpc-go, gorilla), gRPC → /ws, bytes", "grpc", "ws", bridge("ws", *GO), "StepBytes"),
    Peer("python", "Python (grpc.aio, aiohttp), gRPC → HTTP, Struct", "grpc", "http", bridge("http", *PYTHON), "Step"),
]


# --- the check -----------------------------------------------------------------------------------------------------------------------------


class CheckFailed(Exception):
    pass


class Refused(Exception):
    """The peer said no to a step."""


@contextlib.contextmanager
def client(peer, address):
    """A function that takes a step by a client of the front's kind, and returns the reply as the worker's JSON has it."""
    if peer.front == "http":
        import requests

        with requests.Session() as http:
            yield lambda action, _: over_http(http, f"http://{address}{peer.path}", action)
    else:
        import grpc

        with grpc.insecure_channel(address) as channel:
            _, reply = peer.messages()
            call = channel.unary_unary(peer.path, lambda m: m.SerializeToString(), reply.FromString)
            yield lambda action, session: over_grpc(call, peer.request(action, session))


def over_http(http, url, action):
    reply = http.post(url, data=f'{{"action":{action}}}', headers={"Content-Type": "application/json"}, timeout=10)
    if reply.status_code != 200:
        raise Refused(f"HTTP {reply.status_code}")
    return reply.json()


def over_grpc(call, message):
    import grpc
    from google.protobuf import json_format

    try:
        reply = call(message, timeout=10)
    except grpc.RpcError as e:
        raise Refused(f"{e.code().name}: {e.details()}") from e
    if hasattr(reply, "reply"):
        return json.loads(reply.reply)
    return json_format.MessageToDict(reply, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def expect(what, got, wanted):
    if got != wanted:
        raise CheckFailed(f"{what} is {got!r} and should be {wanted!r}")


def steps(peer, take):
    action = '{"message":"héllo","data":{"list":[1.5,null,true,"x"]}}'
    reply = take(action, 0)
    expect("the echo", reply["observation"]["echoed_message"], "héllo")
    expect("the data", reply["observation"]["data"], {"list": [1.5, None, True, "x"]})
    expect("reward", reply["reward"], 0.5)
    expect("done", reply["done"], False)
    expect("the step", reply["metadata"]["step"], 1)
    expect("the second step", take(action, 0)["metadata"]["step"], 2)
    # By plain HTTP the worker has one episode for all, by WebSocket each session has its own.
    expect("another caller's step", take(action, 1)["metadata"]["step"], 1 if peer.upstream == "ws" else 3)
    with contextlib.suppress(Refused):
        raise CheckFailed(f"an action that the worker refuses was answered with {take('{}', 0)}")
    expect("the step after a refused one", take(action, 0)["metadata"]["step"], 3 if peer.upstream == "ws" else 4)


def check(peer, folder):
    with contextlib.ExitStack() as stack:
        worker = stand.Worker(folder, stand.PAYLOADS["small"], "both")
        stack.callback(worker.stop)
        process = peer.start(folder, worker)
        stack.callback(process.stop)
        steps(peer, stack.enter_context(client(peer, process.address)))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--check", nargs="*", metavar="NAME", required=True, help="these, or all")
    names = p.parse_args().check or [peer.name for peer in PEERS]
    unknown = set(names) - {peer.name for peer in PEERS}
    if unknown:
        p.error(f"there is no peer {', '.join(sorted(unknown))}")
    failed = 0
    for peer in PEERS:
        if peer.name not in names:
            continue
        with tempfile.TemporaryDirectory(prefix="envgate-peers-") as folder:
            try:
                check(peer, pathlib.Path(folder))
                print(f"{peer.name}: ok")
            except (CheckFailed, Refused) as e:
                failed += 1
                print(f"{peer.name}: FAILED: {e}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
