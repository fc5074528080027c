"""One connection: what `link.Connection` takes for a socket, and the pipes behind it.

To the server: the socket takes what its buffer has room for, sometimes less; bytes arrive after a
latency, in order; room comes back when the server reads.  Messages are taken out of the stream where
it enters, so that the judge knows what is handed over whole; a stream that is no clean WebSocket
stream is `Wrong`.

To the client: bytes arrive after a latency, whole or in pieces, with marks that tell the judge what
the client has read.  FIN ends behind what was sent; RST ends at once and may throw away what is unread.
"""

from __future__ import annotations

import select
from collections import deque
from random import Random
from typing import TYPE_CHECKING, Any, Final

from tests.sim.judge import Judge
from tests.sim.pacing import Wrong
from tests.sim.view import Item

if TYPE_CHECKING:
    from tests.sim.scheduler import Scheduler
    from tests.sim.servers import Session

BINARY: Final = 0x82
_CLOSE, _PING, _PONG = 0x88, 0x89, 0x8A
_MEANWHILE: Final = 0.2
_FILENO_FIRST: Final = 1 << 20


class ClientStream:
    """Takes whole messages out of what the client sends; strictly."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.offset = 0
        self._closed = False

    @property
    def between_frames(self) -> bool:
        """Whether what comes next is the beginning of a frame."""
        return not self._buffer

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """(end of the message in the stream, its first byte, payload) of each whole one."""
        if self._closed:
            raise Wrong("the client sent something behind its CLOSE")
        buffer = self._buffer
        buffer += data
        found = []
        start = 0
        while len(buffer) - start >= 6:
            first, length, head = buffer[start], buffer[start + 1], 6
            if not length & 0x80:
                raise Wrong("the client sent a frame without a mask")
            length &= 0x7F
            if length == 126:
                if len(buffer) - start < 8:
                    break
                length, head = int.from_bytes(buffer[start + 2 : start + 4], "big"), 8
                if length < 126:
                    raise Wrong("the client sent a length that is not the shortest")
            elif length == 127:
                raise Wrong("the client sent a frame of more than 64 KiB")
            end = start + head + length
            if len(buffer) < end:
                break
            if first not in (BINARY, _CLOSE, _PING, _PONG):
                raise Wrong(f"the client sent a frame that begins with {first:#x}")
            key = bytes(buffer[start + head - 4 : start + head])
            payload = int.from_bytes(buffer[start + head : end], "little")
            pad = int.from_bytes((key * (length // 4 + 1))[:length], "little")
            found.append((self.offset + end, first, (payload ^ pad).to_bytes(length, "little")))
            self._closed = first == _CLOSE
            start = end
        self.offset += start
        del buffer[:start]
        return found


class Wire:
    """See the module's text.  The client side looks like a socket; ``session`` is the server's."""

    _count = 0

    def __init__(
        self, scheduler: Scheduler, judge: Judge, endpoint: int, *, latency: tuple[int, int], room_nbytes: int
    ) -> None:
        self._scheduler = scheduler
        self._rng: Random = scheduler.rng
        self._judge = judge
        self._latency = latency
        self._room_nbytes = room_nbytes
        self._fileno = _FILENO_FIRST + endpoint
        self.endpoint = endpoint
        self.life = 0  # whose dictionary is told over it
        self.session: Session
        # to the server
        self._stream = ClientStream()
        self._in_flight = 0
        self._arriving: deque[int] = deque()
        self._arrive_millis = 0
        self._messages: deque[tuple[int, int, bytes]] = deque()
        self._arrived = 0
        self._read = 0
        self.reading = True
        # to the client
        self._coming: deque[tuple[bytes, list[tuple[int, Item]]]] = deque()
        self._come_millis = 0
        self._inbound = bytearray()
        self._items: deque[tuple[int, Item]] = deque()
        self._written = 0
        self._taken = 0
        self._fin = False
        self._reset = False
        self._server_gone = False
        self._full = False  # it did not take all that was to be sent
        self.closed = False

    # -- the client's socket ---------------------------------------------------------------------
    def fileno(self) -> int:
        return -1 if self.closed else self._fileno

    def send(self, data: Any) -> int:
        if self.closed:
            raise Wrong("a send on a socket that is closed")
        if self._rng.random() < _MEANWHILE:  # something comes after the last look and before this
            self._scheduler.run_until(self._scheduler.now_millis)
        if self._reset:
            if not (data[0] == _CLOSE and self._stream.between_frames):  # the client leaves for a reason of its own
                self._judge.broke(self)
            raise ConnectionResetError(104, "Connection reset by peer")
        room = self._room_nbytes - self._in_flight
        if room <= 0:
            self._full = True
            raise BlockingIOError
        if self._full:
            self._judge.has_room_again(self)
        count = min(len(data), room)
        if count > 1 and self._rng.random() < 0.1:
            count = 1 + int(self._rng.random() * count)
        self._full = count < len(data)
        found = self._stream.feed(bytes(data[:count]))
        self._judge.handed(self, count, found)
        self._messages += found
        self._in_flight += count
        if self._server_gone:  # the answer to it is a reset
            self._scheduler.at(self._scheduler.now_millis + 1, self._reset_now)
        else:
            self._arriving.append(count)
            self._arrive_millis = max(self._arrive_millis, self._later())
            self._scheduler.at(self._arrive_millis, self._arrive)
        return count

    def recv(self, nbytes: int) -> bytes:
        if self.closed:
            raise Wrong("a recv on a socket that is closed")
        data = bytes(self._inbound[:nbytes])
        del self._inbound[:nbytes]
        self._taken += len(data)
        items = self._items
        while items and items[0][0] <= self._taken:
            self._judge.took(self, items.popleft()[1])
        if data:
            self._judge.heard()
            return data
        if self._reset:
            self._judge.took(self, Item("reset"))
            raise ConnectionResetError(104, "Connection reset by peer")
        if self._fin:
            self._judge.took(self, Item("fin"))
            return b""
        raise BlockingIOError

    def shutdown(self, _: int) -> None:
        """What only a copy of the descriptor would feel; the end is `close`."""

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._judge.closed(self, bool(self._items))

    @property
    def overlooked(self) -> bool:
        """Whether the client has something, with the 101, that it has not looked at."""
        return bool(self._items) and self._items[0][0] <= self._taken

    def readiness(self, mask: int) -> int:
        """What poll says of it."""
        if self.closed:
            return select.POLLNVAL
        if self._reset:
            return (mask & (select.POLLIN | select.POLLOUT)) | select.POLLHUP | select.POLLERR
        found = select.POLLIN if self._inbound or self._fin else 0
        if self._in_flight < self._room_nbytes:
            found |= mask & select.POLLOUT
        return found

    # -- the server's end ------------------------------------------------------------------------
    def respond(self, data: bytes, item: Item, *, piece: int = 0) -> None:
        """Sends; the client has read ``item`` when it has read all of ``data``."""
        if self.closed or self._server_gone:
            return
        self._written += len(data)
        pieces = [data] if not piece else [data[:piece], data[piece:]]
        for index, part in enumerate(pieces):
            marks = [(self._written, item)] if index == len(pieces) - 1 else []
            self._coming.append((part, marks))
            self._come_millis = max(self._come_millis, self._later())
            self._scheduler.at(self._come_millis, self._come)

    def beforehand(self, data: bytes, item: Item) -> bytes:
        """What comes in one piece with the 101: the client has it without a recv."""
        self._written += len(data)
        self._taken += len(data)
        self._items.append((self._written, item))
        return data

    def finish(self) -> None:
        """FIN behind what was sent; what the client sends from now on is answered by RST."""
        if self._server_gone:
            return
        self._server_gone = True
        self._come_millis = max(self._come_millis, self._later())
        self._scheduler.at(self._come_millis, self._fin_comes)

    def break_off(self) -> None:
        """RST: overtakes nothing that has arrived, may throw it away."""
        self._server_gone = True
        self._coming.clear()
        self._scheduler.at(self._later(), self._reset_now)

    def break_off_behind(self) -> None:
        """RST behind what was sent, which can still be read."""
        self._server_gone = True
        self._come_millis = max(self._come_millis, self._later())
        self._scheduler.at(self._come_millis, self._reset_behind)

    def _later(self) -> int:
        low, high = self._latency
        return self._scheduler.now_millis + low + int(self._rng.random() * (high - low + 1))

    def _arrive(self) -> None:
        if not self._arriving:
            return
        self._arrived += self._arriving.popleft()
        if self.reading and not self._server_gone:
            self.read()

    def read(self) -> None:
        """The server takes what has arrived; room for more comes back."""
        self._in_flight = sum(self._arriving)
        messages = self._messages
        while messages and messages[0][0] <= self._arrived and self.reading and not self._server_gone:
            self._read, first, payload = messages.popleft()
            self.session.took(first, payload)
        if self._arrived > self._read:
            self.session.took_part()

    def _come(self) -> None:
        if self._coming:
            data, items = self._coming.popleft()
            self._inbound += data
            self._items += items

    def _fin_comes(self) -> None:
        self._fin = True

    def _reset_behind(self) -> None:
        while self._coming:
            self._come()
        self._reset = True

    def _reset_now(self) -> None:
        if not self._reset:
            self._reset = True
            self._coming.clear()
            if self._rng.random() < 0.5:
                self._inbound.clear()
                self._items = deque(item for item in self._items if item[0] <= self._taken)  # the client has these


class TlsWire(Wire):
    """What looks encrypted: `Connection` then sends a record at a time and reads until there is nothing."""

    def pending(self) -> int:
        return 0
