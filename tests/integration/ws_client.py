# SPDX-License-Identifier: Apache-2.0
"""A WebSocket client of bare bytes, for what no decent client sends. Decent ones are websockets' and OpenEnv's own."""

import base64
import os
import socket
import struct

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(opcode, payload=b"", *, fin=True, rsv=0, mask=True, length=None):
    """One frame's bytes. `length`: announced in place of the payload's own."""
    n = len(payload) if length is None else length
    head = bytes([fin << 7 | rsv << 4 | opcode])
    bit = 0x80 if mask else 0
    if n < 126:
        head += bytes([bit | n])
    elif n < 65536:
        head += bytes([bit | 126]) + struct.pack(">H", n)
    else:
        head += bytes([bit | 127]) + struct.pack(">Q", n)
    if not mask:
        return head + payload
    key, n = os.urandom(4), len(payload)
    keys = (key * (n // 4 + 1))[:n]
    return head + key + (int.from_bytes(payload, "little") ^ int.from_bytes(keys, "little")).to_bytes(n, "little")


def request(path, host="gateway", **headers):
    """An upgrade request's bytes."""
    fields = {
        "Host": host,
        "Upgrade": "websocket",
        "Connection": "keep-alive, Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
        **{k.replace("_", "-"): v for k, v in headers.items()},
    }
    return f"GET {path} HTTP/1.1\r\n".encode() + b"".join(f"{k}: {v}\r\n".encode() for k, v in fields.items() if v is not None) + b"\r\n"


class Socket:
    """`s`: a connected socket. After open(), frames go and come."""

    def __init__(self, s):
        self.s, self.got = s, b""
        s.settimeout(30)

    def read(self, n):
        parts, have = [self.got], len(self.got)
        while have < n:
            more = self.s.recv(1 << 20)
            if not more:
                raise EOFError(b"".join(parts))
            parts.append(more)
            have += len(more)
        whole = b"".join(parts)
        self.got = whole[n:]
        return whole[:n]

    def head(self):
        """An HTTP reply's head: (status, headers in lower case)."""
        while b"\r\n\r\n" not in self.got:
            more = self.s.recv(65536)
            if not more:
                raise EOFError(self.got)
            self.got += more
        head, self.got = self.got.split(b"\r\n\r\n", 1)
        first, *lines = head.decode().split("\r\n")
        return int(first.split()[1]), {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}

    def open(self, path, behind=b"", **headers):
        self.s.sendall(request(path, **headers) + behind)
        status, self.headers = self.head()
        assert status == 101, (status, self.headers, self.got)
        return self

    def send(self, *args, **keys):
        self.s.sendall(frame(*args, **keys))

    def frame(self):
        """The next frame: (opcode, payload); a ping is answered first."""
        while True:
            opcode, payload = self.any_frame()
            if opcode != PING:
                return opcode, payload
            self.send(PONG, payload)

    def any_frame(self):
        first, second = self.read(2)
        assert first & 0x80 and not first & 0x70 and not second & 0x80, "a server's frame is whole, plain and not masked"
        n = second & 127
        if n == 126:
            (n,) = struct.unpack(">H", self.read(2))
        elif n == 127:
            (n,) = struct.unpack(">Q", self.read(8))
        return first & 15, self.read(n)

    def text(self, message):
        """Sends a text and returns the next."""
        self.send(TEXT, message.encode() if isinstance(message, str) else message)
        opcode, payload = self.frame()
        assert opcode == TEXT, (opcode, payload)
        return payload.decode()

    def closed(self):
        """Waits for the close frame, and the connection's end behind it; the code (None: there was no frame)."""
        code = None
        try:
            while True:
                opcode, payload = self.frame()
                if opcode == CLOSE:
                    code = struct.unpack(">H", payload[:2])[0] if payload else 1005
                    self.send(CLOSE, payload[:2])
        except (EOFError, ConnectionError):
            return code

    def close(self):
        self.s.close()


def dial(where):
    """A connection to "host:port", "http://host:port" or "unix:/path"."""
    if where.startswith("unix:"):
        s = socket.socket(socket.AF_UNIX)
        s.connect(where.removeprefix("unix:"))
        return Socket(s)
    host, port = where.removeprefix("http://").rstrip("/").rsplit(":", 1)
    return Socket(socket.create_connection((host, int(port))))
