# SPDX-License-Identifier: Apache-2.0
"""A TCP way to a gateway that can be cut at the worst moment: when a request has got there, and before its reply comes back."""

import contextlib
import socket
import threading


class Cut:
    """Listens on `address` and passes bytes to and from the gateway. After arm(), the next large enough piece of a reply is swallowed and the connection is
    broken; connections after that are whole again."""

    def __init__(self, target):
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        self._armed, self.cuts, self._sockets = 0, 0, []
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, size=60):
        """`size` tells a reply from HTTP/2's settings, pings and acknowledgements."""
        self._armed = size

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            self._sockets += [near, far]
            for one, other, reply in ((near, far, False), (far, near, True)):
                threading.Thread(target=self._pass, args=(one, other, reply), daemon=True).start()

    def _pass(self, one, other, reply):
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                if reply and self._armed and len(data) >= self._armed:
                    self._armed, self.cuts = 0, self.cuts + 1
                    break
                other.sendall(data)
        for s in (one, other):
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)

    def close(self):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for s in [self._listener, *self._sockets]:
            s.close()
