"""One WebSocket connection, non-blocking: what to send is queued, what came is taken.

Owned by the I/O thread; `abort` may be called from any thread and makes every call fail soon.
Outgoing control frames stand between whole data frames, never inside one.  The pump of a later
issue does `queue_run`, `flush` and the counting of OKs without the GIL, in the place of these calls.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import Final

from spoolq.link.inbound import Close, FrameReader, Inbound, Lost, Ping
from spoolq.link.mask_plain import BINARY, MaskKeys, frame, pack_run
from spoolq.qwp.upgrade import Accepted
from spoolq.spool import Run

_CLOSE, _PONG = 0x88, 0x8A
_RECEIVE_NBYTES: Final = 1 << 16
_RECEIVES_MAX: Final = 16  # a chattering peer must not keep the thread from sending


class Connection:
    """A socket after its upgrade; ``rest`` are bytes that came behind the response."""

    def __init__(self, sock: socket.socket, upgrade: Accepted, rest: bytes = b"") -> None:
        self.upgrade = upgrade
        self._socket = sock
        self._reader = FrameReader()
        self._rest = rest
        self._keys = MaskKeys(int.from_bytes(os.urandom(8), "little"))
        self._out = bytearray()
        self._sent = 0
        self._closed = False

    def fileno(self) -> int:
        """For select; -1 after `close`."""
        return self._socket.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether something is queued."""
        return self._sent < len(self._out)

    def queue_run(self, run: Run) -> None:
        """Queues every frame of a run as a binary message."""
        pack_run(run.data, self._keys, self._out)

    def queue_message(self, payload: bytes) -> None:
        """Queues one binary message."""
        self._out += frame(BINARY, payload, self._keys.next())

    def flush(self) -> bool:
        """Sends what the socket takes; True when nothing is left.  Raises OSError."""
        view = memoryview(self._out)
        try:
            while self._sent < len(view):
                self._sent += self._socket.send(view[self._sent : self._sent + (1 << 20)])
        except BlockingIOError:
            return False
        finally:
            view.release()
        self._out.clear()
        self._sent = 0
        return True

    def receive(self) -> list[Inbound]:
        """Everything that came; PINGs are answered here.  Never blocks, never raises."""
        found: list[Inbound] = []
        rest, self._rest = self._rest, b""
        if rest:
            found += self._take(rest)
        for _ in range(_RECEIVES_MAX):
            try:
                data = self._socket.recv(_RECEIVE_NBYTES)
            except BlockingIOError:
                break
            except OSError as error:
                found.append(Lost(f"the connection broke: {error.strerror or error}"))
                break
            if not data:
                found.append(Lost("the server ended the connection without a CLOSE"))
                break
            found += self._take(data)
            if len(data) < _RECEIVE_NBYTES:
                break
        return found

    def close(self, code: int | None = 1000) -> None:
        """Says CLOSE if the socket takes it at once, and closes; a second call does nothing.

        None closes this process's copy of the socket without a word: a forked child's.
        """
        if self._closed:
            return
        self._closed = True
        if code is not None and not self.wants_write:  # a CLOSE in the middle of a frame would be garbage
            with contextlib.suppress(OSError):
                self._socket.send(frame(_CLOSE, struct.pack(">H", code), self._keys.next()))
        self._socket.close()

    def abort(self) -> None:
        """Cuts whatever the connection is doing; from any thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _take(self, data: bytes) -> list[Inbound]:
        found: list[Inbound] = []
        for item in self._reader.feed(data):
            if isinstance(item, Ping):
                self._out += frame(_PONG, item.payload, self._keys.next())
            else:
                found.append(item)
                if isinstance(item, Close):
                    echo = b"" if item.code is None else struct.pack(">H", item.code)
                    self._out += frame(_CLOSE, echo, self._keys.next())
        return found
