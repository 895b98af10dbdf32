# SPDX-License-Identifier: Apache-2.0
"""An HTTP/2 client for tests that speaks in single frames and keeps no rules of its own."""

import base64
import socket
import time
import urllib.parse

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
from google.rpc import error_details_pb2, status_pb2

GRPC = (("content-type", "application/grpc"), ("te", "trailers"))
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def message(body=b"", flag=0):
    """A gRPC message with its prefix."""
    return bytes([flag]) + len(body).to_bytes(4, "big") + body


def frame(type, flags=0, stream=0, payload=b""):
    """An HTTP/2 frame."""
    return len(payload).to_bytes(3, "big") + bytes([type, flags]) + stream.to_bytes(4, "big") + payload


def dial(target):
    """A plain connection to "host:port" or "unix:/path"."""
    if target.startswith("unix:"):
        s = socket.socket(socket.AF_UNIX)
        s.connect(target[5:])
    else:
        host, port = target.rsplit(":", 1)
        s = socket.create_connection((host, int(port)))
    s.settimeout(20)
    return s


class Reply:
    """What came back on a stream."""

    def __init__(self):
        self.headers, self.trailers, self.data = {}, {}, b""
        self.ended, self.reset, self.reset_at = False, None, None

    def fields(self):
        return {**self.headers, **self.trailers}

    @property
    def status(self):
        return int(self.fields()["grpc-status"])

    @property
    def text(self):
        return urllib.parse.unquote(self.fields().get("grpc-message", ""))

    @property
    def reason(self):
        """ErrorInfo.reason of grpc-status-details-bin."""
        raw = self.fields()["grpc-status-details-bin"]
        status = status_pb2.Status.FromString(base64.b64decode(raw + "=" * (-len(raw) % 4)))
        assert status.code == self.status and status.message == self.text
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                assert info.domain == "envgate"
                return info.reason
        return ""

    def messages(self):
        out, rest = [], self.data
        while rest:
            n = int.from_bytes(rest[1:5], "big")
            assert rest[0] == 0 and len(rest) >= 5 + n
            out.append(rest[5 : 5 + n])
            rest = rest[5 + n :]
        return out


class Client:
    def __init__(self, target, settings=None):
        self.socket = dial(target)
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False)
        self.h2 = h2.connection.H2Connection(config)
        if settings:
            self.h2.local_settings.update(settings)
            self.h2.local_settings.acknowledge()
        self.h2.initiate_connection()
        self.replies = {}
        self.goaway = None  # its error code
        self.pings = 0  # answers to ours
        self.closed = False
        self.next = 1
        self.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def raw(self, data):
        self.socket.sendall(data)

    def flush(self):
        self.raw(self.h2.data_to_send())

    def start(self, path=CHECK, headers=GRPC, method="POST", end=False):
        stream, self.next = self.next, self.next + 2
        self.replies[stream] = Reply()
        pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "test")]
        self.h2.send_headers(stream, pseudo + list(headers), end_stream=end)
        self.flush()
        return stream

    def send(self, stream, data, end=False):
        while len(data) > 16384:
            self.h2.send_data(stream, data[:16384])
            data = data[16384:]
        self.h2.send_data(stream, data, end_stream=end)
        self.flush()

    def call(self, path=CHECK, body=message(), **keys):
        """A whole call: its reply."""
        stream = self.start(path, **keys)
        self.send(stream, body, end=True)
        return self.finish(stream)

    def pump(self, until, seconds=20):
        """Reads until `until()` is true or the peer closes."""
        end = time.monotonic() + seconds
        while not until() and not self.closed:
            assert time.monotonic() < end, "nothing more came"
            self.socket.settimeout(max(0.01, end - time.monotonic()))
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                continue
            except ConnectionError:
                data = b""
            if not data:
                self.closed = True
                break
            for event in self.h2.receive_data(data):
                self.take(event)
            out = self.h2.data_to_send()
            if out:
                try:
                    self.raw(out)
                except ConnectionError:
                    pass
        return self

    def take(self, event):
        reply = self.replies.get(getattr(event, "stream_id", None), Reply())
        if isinstance(event, h2.events.ResponseReceived):
            reply.headers = dict(event.headers)
        elif isinstance(event, h2.events.TrailersReceived):
            reply.trailers = dict(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            reply.data += event.data
            if event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            reply.ended = True
        elif isinstance(event, h2.events.StreamReset):
            reply.reset = event.error_code
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = event.error_code
            # For this library that is the connection's end; but streams that had begun go on (RFC 9113, 6.8).
            self.h2.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN
        elif isinstance(event, h2.events.PingAckReceived):
            self.pings += 1

    def finish(self, stream):
        reply = self.replies[stream]
        self.pump(lambda: reply.ended or reply.reset is not None)
        assert reply.ended or reply.reset is not None, f"the connection closed, GOAWAY {self.goaway}"
        return reply
