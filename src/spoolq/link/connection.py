"""One WebSocket connection, non-blocking: what to send is queued, what came is taken.

Owned by the I/O thread; `abort` may be called from any thread and makes every call fail soon.

```
queue_run / queue_message   behind what is queued already
queue_ping                  the same; one PING waits at most
flush                       until True, or until the socket is full; then again when it takes more
receive                     when the socket is readable, and once at the beginning (`unread`)
close                       at the end, also after an error
```
Before the answers of a `receive` are looked at while a `flush` is not done, `unsent_messages` says
how much of what is queued the peer cannot have whole.

Outgoing control frames stand between whole data frames, never inside one.  PONG and PING wait for what is
queued; while a PONG waits a newer one takes its place (RFC 6455 5.5.3 allows to answer only the last
PING), so that a flood of PINGs grows nothing.  The pump of a later issue does `queue_run`, `flush`
and the counting of OKs without the GIL, in the place of these calls.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import threading
from typing import Final

from spoolq.link.inbound import Close, FrameReader, Inbound, Lost, Ping
from spoolq.link.masking import BINARY, MaskKeys, frame, pack_run
from spoolq.qwp.upgrade import Accepted
from spoolq.spool import Run

_CLOSE, _PING, _PONG = 0x88, 0x89, 0x8A
_RECEIVE_NBYTES: Final = 1 << 16
_RECEIVES_MAX: Final = 16  # a chattering peer must not keep the thread from sending
_SEND_NBYTES: Final = 1 << 20
_RECORD_NBYTES: Final = 1 << 14  # a TLS record: what is given to OpenSSL in one piece is gone whole or not at all


def again() -> tuple[type[OSError], ...]:
    """The exceptions of a non-blocking socket that is not ready; ``ssl`` is not imported for it."""
    ssl = sys.modules.get("ssl")
    return (BlockingIOError,) if ssl is None else (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Connection:
    """A socket after its upgrade; ``rest`` are bytes that came behind the response."""

    def __init__(self, sock: socket.socket, upgrade: Accepted, rest: bytes = b"") -> None:
        self.upgrade = upgrade
        self._socket = sock
        self._again = again()
        self._encrypted = hasattr(sock, "pending")
        self._send_nbytes = _RECORD_NBYTES if self._encrypted else _SEND_NBYTES
        self._reader = FrameReader()
        self._rest = rest
        self._keys = MaskKeys(int.from_bytes(os.urandom(8), "little"))
        self._out = bytearray()
        self._sent = 0
        self._pong: bytes | None = None
        self._ping = False
        #: Bytes that came from the peer.
        self.received_nbytes = 0
        self._lock = threading.Lock()  # `abort` must not meet a descriptor that `close` gave back
        self._closed = False

    def fileno(self) -> int:
        """For select; -1 after `close`."""
        return self._socket.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether something is queued."""
        return self._sent < len(self._out) or self._pong is not None or self._ping

    @property
    def unread(self) -> bool:
        """Whether `receive` has something to say that no select shows."""
        return bool(self._rest)

    def queue_run(self, run: Run, max_frame_nbytes: int | None = None) -> int:
        """Queues the frames of a run as binary messages, up to the first above the bound; their number.

        Raises StorageError for a stored length that leaves the run.
        """
        return pack_run(run.data, self._keys, self._out, max_frame_nbytes)

    def queue_message(self, payload: bytes) -> None:
        """Queues one binary message."""
        self._out += frame(BINARY, payload, self._keys.next())

    def queue_ping(self) -> None:
        """Queues an empty PING (wire.md 6.5)."""
        self._ping = True

    def unsent_messages(self) -> int:
        """How many queued messages have not been handed to the socket whole."""
        count, offset, out = 0, 0, self._out
        while offset < len(out):
            binary, length, offset = out[offset] == BINARY, out[offset + 1] & 0x7F, offset + 2
            if length >= 126:
                size = 2 if length == 126 else 8
                length, offset = int.from_bytes(out[offset : offset + size], "big"), offset + size
            offset += 4 + length
            count += binary and offset > self._sent
        return count

    def unacknowledged_nbytes(self) -> int:
        """What the system holds of what was sent because the peer's TCP has not confirmed it; 0 when unknown."""
        with contextlib.suppress(ImportError, OSError, ValueError):
            import fcntl  # not on every platform, and seldom needed
            import termios

            return int.from_bytes(fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        return 0

    def flush(self) -> bool:
        """Sends what the socket takes; True when nothing is left.  Raises OSError."""
        while self.wants_write:
            if not self._send_out():
                return False
            self._out.clear()
            self._sent = 0
            if self._pong is not None:
                self._out += frame(_PONG, self._pong, self._keys.next())
                self._pong = None
            if self._ping:
                self._out += frame(_PING, b"", self._keys.next())
                self._ping = False
        return True

    def _send_out(self) -> bool:
        with memoryview(self._out) as view:
            while self._sent < len(view):
                # Released at once: the traceback of a failed TLS send would keep it, and `_out` could not grow.
                with view[self._sent : self._sent + self._send_nbytes] as piece:
                    try:
                        self._sent += self._socket.send(piece)
                    except self._again:  # a TLS read that OpenSSL wants first is done by `receive`
                        return False
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
            except self._again:
                break
            except OSError as error:
                found.append(Lost(f"the connection broke: {error.strerror or error}"))
                break
            if not data:
                found.append(Lost("the server ended the connection without a CLOSE"))
                break
            self.received_nbytes += len(data)
            found += self._take(data)
            if len(data) < _RECEIVE_NBYTES and not self._encrypted:  # TLS gives a record at a time, whole
                break
        return found

    def close(self, code: int | None = 1000) -> None:
        """Says CLOSE if the socket takes it at once, and closes; a second call does nothing.

        ``code`` None closes the descriptor alone, for a forked child: the connection is its parent's.
        """
        if code is None:  # the lock may be held by a thread that does not exist here
            self._closed = True
            self._socket.close()
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._sent >= len(self._out):  # a CLOSE in the middle of a frame would be garbage
                with contextlib.suppress(OSError):
                    self._socket.send(frame(_CLOSE, struct.pack(">H", code), self._keys.next()))
            self._out.clear()
            self._rest, self._pong, self._ping, self._sent = b"", None, False, 0
            with contextlib.suppress(OSError):  # a child forked in the middle of the connect may have a copy of it
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()

    def abort(self) -> None:
        """Cuts whatever the connection is doing; from any thread."""
        with self._lock, contextlib.suppress(OSError):
            # not the TLS socket's own, which forgets that it is encrypted before it shuts down
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _take(self, data: bytes) -> list[Inbound]:
        found: list[Inbound] = []
        for item in self._reader.feed(data):
            if isinstance(item, Ping):
                self._pong = item.payload
            else:
                found.append(item)
                if isinstance(item, Close):
                    echo = b"" if item.code is None else struct.pack(">H", item.code)
                    self._out += frame(_CLOSE, echo, self._keys.next())
        return found
