# SPDX-License-Identifier: Apache-2.0
"""Where a gateway is, and how it is called so that nothing is done twice."""

import asyncio
import json
import pathlib
import time
from urllib.parse import urlsplit

import grpc

from .errors import of_call

MARGIN_S = 1.0  # the gateway ends a call at its deadline with what there is; only then does the caller stop waiting
FIRST_DELAY_S, LONGEST_DELAY_S = 0.05, 2.0


class Gateway:
    """Where a gateway is.

    `address` is "host:port", "unix:/path", or a URL: http://host:port, or https://host:port for TLS. A URL may go on with /v1/environments/NAME, as OpenEnv's
    clients have it; `environment` is that name then. `token` goes along as the bearer token, `headers` (a dict) go along as they are. `ca`, `cert` and `key` are files:
    who signs the gateway's certificate (default: the system's), and the client's own.
    """

    def __init__(self, address, *, token=None, headers=None, ca=None, cert=None, key=None):
        self.environment, self.tls = None, False
        self.target = address
        if "://" in address:
            url = urlsplit(address)
            scheme = {"ws": "http", "wss": "https"}.get(url.scheme, url.scheme)
            if scheme not in ("http", "https") or not url.hostname:
                raise ValueError(f"{address!r} is not host:port, unix:/path, http://… or https://…")
            self.tls = scheme == "https"
            self.target = url.netloc if url.port else f"{url.netloc}:{443 if self.tls else 80}"
            path = url.path.rstrip("/")
            if path:
                start, name = path[: len("/v1/environments/")], path[len("/v1/environments/") :]
                if start != "/v1/environments/" or not name or "/" in name:
                    raise ValueError(f"{address!r}: after the host there may only be /v1/environments/NAME")
                self.environment = name
        self.metadata = [(name.lower(), value) for name, value in (headers or {}).items()]
        if token:
            self.metadata.append(("authorization", f"Bearer {token}"))
        self._files = [pathlib.Path(f).read_bytes() if f else None for f in (ca, key, cert)]

    def channel(self, aio=False):
        """A new channel with a connection of its own: the sessions that are made by it are stepped where it ends, without a way between threads."""
        kind = grpc.aio if aio else grpc
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        if not self.tls:
            return kind.insecure_channel(self.target, options=options)
        return kind.secure_channel(self.target, grpc.ssl_channel_credentials(*self._files), options=options)

    def environment_of(self, environment):
        """The name that is given, or else that of the URL."""
        name = environment or self.environment
        if not name:
            raise ValueError("which environment? Name it, or let the address end with /v1/environments/NAME")
        return name.removeprefix("environments/")


class Patience:
    """A call's time, and the waits between its tries. A request that is sent again is the same to the byte, request_ids and all, so it is done once."""

    def __init__(self, seconds):
        self.end = time.monotonic() + seconds
        self._delay = FIRST_DELAY_S

    def left(self):
        return max(self.end - time.monotonic(), 0.001)

    def over(self):
        return time.monotonic() >= self.end

    def next_delay(self, error):
        """Seconds until the next try; raises the error where there is none."""
        delay = self._delay
        if not error.retry or time.monotonic() + delay >= self.end:
            raise error
        self._delay = min(2 * delay, LONGEST_DELAY_S)
        return delay


def call(method, request, seconds, metadata=(), first=None):
    """A call's reply, after as many tries as it takes. `first` is the future of a try that is under way."""
    patience = Patience(seconds)
    while True:
        try:
            if first is not None:
                return first.result()
            return method(request, timeout=patience.left() + MARGIN_S, metadata=metadata)
        except grpc.RpcError as e:
            error = of_call(e)
        first = None
        time.sleep(patience.next_delay(error))


async def call_async(method, request, seconds, metadata=()):
    """The same in asyncio."""
    patience = Patience(seconds)
    while True:
        try:
            return await method(request, timeout=patience.left() + MARGIN_S, metadata=metadata)
        except grpc.RpcError as e:
            error = of_call(e)
        await asyncio.sleep(patience.next_delay(error))


def to_json(value):
    """A payload's bytes."""
    return json.dumps(value, separators=(",", ":")).encode()
