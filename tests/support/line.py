"""A network connection to a server that a test can cut and mend."""

from __future__ import annotations

import contextlib
import socket
import threading
from urllib.parse import urlsplit


class Line:
    """Passes connections on to ``url``, from a port of its own.

    :param url: ``http://host:port``
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (str(parts.hostname), int(parts.port or 80))
        self._port = 0
        self._open: set[socket.socket] = set()
        self.mend()
        self.url = f"http://127.0.0.1:{self._port}"

    def mend(self) -> None:
        """Accept connections, on the same port as before."""
        self._listener = socket.create_server(("127.0.0.1", self._port), backlog=64)
        self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Refuse connections, and break those that are open."""
        self._close(self._listener)
        self.break_all()

    def break_all(self) -> None:
        """Break the connections that are open. New connections are accepted."""
        for end in list(self._open):
            self._close(end)

    def _connect(self) -> socket.socket:
        return socket.create_connection(self._target, 10)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                try:
                    far = self._connect()
                except OSError:
                    near.close()
                    continue
                self._open |= {near, far}
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                self._send(target, data)
        self._close(source)
        self._close(target)

    def _send(self, target: socket.socket, data: bytes) -> None:
        target.sendall(data)

    def _close(self, end: socket.socket) -> None:
        self._open.discard(end)
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
