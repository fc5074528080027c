"""A listening thread that does what a test says with each connection it gets."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from types import TracebackType

from spoolq.link import Endpoint
from spoolq.qwp.upgrade import accept_key

Talk = Callable[[socket.socket], None]


class Peer:
    """Runs ``talk`` on each accepted connection, then closes it; `seen` are the requests `request` read."""

    def __init__(self, talk: Talk, host: str = "127.0.0.1", family: socket.AddressFamily = socket.AF_INET) -> None:
        self._talk = talk
        self._listener = socket.create_server((host, 0), family=family)
        self.endpoint = Endpoint(host, self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._run)
        self._stopping = False
        self.error: BaseException | None = None

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        while not self._stopping:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock:
                sock.settimeout(20)
                try:
                    self._talk(sock)
                except OSError as error:
                    self.error = error


def request(sock: socket.socket) -> bytes:
    """The head of the upgrade request."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        piece = sock.recv(1 << 16)
        if not piece:
            raise OSError("the client ended its request early")
        data += piece
    return data


def accepted(head: bytes, *headers: str) -> bytes:
    """The 101 for a request."""
    found = re.search(rb"Sec-WebSocket-Key: (\S+)", head)
    assert found is not None
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept_key(found[1].decode())}",
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def wait_for_end(sock: socket.socket) -> None:
    """Until the client is gone."""
    while sock.recv(1 << 16):
        pass
