"""The official client as a peer: what it sends for given rows, and what we would send for the same.

`RecordingPeer`     an endpoint of plain sockets on a thread of its own that keeps every binary message of every
                    connection and answers cumulative OKs.  Shares no code with link/ or server/.
`official(...)`     runs batches of rows through ``questdb.Sender`` against it: `Sent`
`ours(...)`         the same batches through `RowBuffer` and `encode`, without a socket: `Sent`
`ours_over_a_socket(...)` the same by `spoolq.Sender`: its messages
`translated(value)` one of our wrappers as the official client's

A batch is a list of `Row`; each batch ends with a flush.  Rows hold our wrappers.  A row that a client refuses is
noted in ``Sent.refused`` and the batch goes on without it, in both clients.

Nothing waits by time: the official client's ``close()`` returns when all is acknowledged, and a message is kept
before it is acknowledged.
"""

from __future__ import annotations

import base64
import hashlib
import selectors
import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import questdb

import spoolq
from spoolq import limits
from spoolq.columns import RowBuffer, SymbolTable
from spoolq.errors import SpoolqError
from spoolq.qwp import encode
from spoolq.values import Char, DateMillis, Geohash, Long256, ServerTimestamp, TimestampMicros, TimestampNanos

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_BINARY, _CLOSE, _PING, _PONG = 0x2, 0x8, 0x9, 0xA
_FIN, _MASKED = 0x80, 0x80
_READ_BYTES = 1 << 18
NO_AUTO_FLUSH = "auto_flush=off;"
FLUSH = -1


class Row(NamedTuple):
    """The arguments of one ``row()`` call; ``at`` and values are ours or plain Python."""

    table: str
    symbols: Mapping[str, str | None]
    columns: Mapping[str, Any]
    at: Any


Batches = Sequence[Sequence[Row]]


class Sent(NamedTuple):
    """Messages in order, and why which row was refused: (batch, row) -> name of the error's class and its text."""

    messages: list[bytes]
    refused: dict[tuple[int, int], str]


class _Peer:
    """One connection, from its request to its end."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.messages: list[bytes] = []
        self._buffer = bytearray()
        self._upgraded = False
        self._acked = 0

    def read(self) -> bool:
        """Takes what has arrived and answers it; False when the connection is over."""
        try:
            data = self.socket.recv(_READ_BYTES)
        except ConnectionError:
            return False
        if not data:
            return False
        self._buffer += data
        if not self._upgraded and not self._upgrade():
            return True
        while (frame := self._next_frame()) is not None:
            opcode, payload = frame
            if opcode == _BINARY:
                self.messages.append(payload)
            elif opcode == _PING:
                self._send(_PONG, payload)
            elif opcode == _CLOSE:
                self._send(_CLOSE, payload[:2])
                return False
            else:
                raise AssertionError(f"a frame with opcode {opcode} from the client")
        if len(self.messages) > self._acked:
            self._acked = len(self.messages)
            self._send(_BINARY, struct.pack("<BqH", 0, self._acked - 1, 0))
        return True

    def _upgrade(self) -> bool:
        head, blank, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if not blank:
            return False
        headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
        key = next(value for name, value in headers.items() if name.lower() == b"sec-websocket-key")
        accept = base64.b64encode(hashlib.sha1(key + _GUID).digest())
        self.socket.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\nX-QWP-Version: 1\r\nX-QWP-Max-Batch-Size: 2097138\r\n\r\n"
        )
        self._upgraded = True
        self._buffer[:] = rest
        return True

    def _next_frame(self) -> tuple[int, bytes] | None:
        """A whole frame, unmasked and taken from the buffer."""
        data = self._buffer
        if len(data) < 2:
            return None
        assert data[0] & 0xF0 == _FIN, "client frames are whole"
        assert data[1] & _MASKED, "client frames are masked"
        extended = {126: 2, 127: 8}.get(data[1] & 0x7F, 0)
        start = 2 + extended + 4
        if len(data) < start:
            return None
        length = int.from_bytes(data[2 : 2 + extended], "big") if extended else data[1] & 0x7F
        if len(data) < start + length:
            return None
        payload = _unmasked(data[start : start + length], bytes(data[start - 4 : start]))
        opcode = data[0] & 0x0F
        del data[: start + length]
        return opcode, payload

    def _send(self, opcode: int, payload: bytes) -> None:
        self.socket.sendall(bytes((_FIN | opcode, len(payload))) + payload)


def _unmasked(payload: bytearray, mask: bytes) -> bytes:
    size = len(payload)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "little")
    return (int.from_bytes(payload, "little") ^ key).to_bytes(size, "little")


class RecordingPeer:
    """An endpoint for a ``with`` block; ``take()`` gives the messages of each connection since the last call."""

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stop, self._stopped = socket.socketpair()
        self.port = self._listener.getsockname()[1]
        self._connections: list[_Peer] = []
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="recording-peer", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.close()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    @property
    def conf(self) -> str:
        """The start of a connect string."""
        return f"ws::addr=127.0.0.1:{self.port};"

    def take(self) -> list[list[bytes]]:
        """Messages by connection, in order of connecting; forgets them."""
        taken, self._connections = self._connections, []
        return [connection.messages for connection in taken]

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector, self._listener, self._stopped:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._stopped, selectors.EVENT_READ)
            try:
                while self._step(selector):
                    pass
            except BaseException as error:  # comes out of the with block, on the test's thread
                self._failure = error
            for key in list(selector.get_map().values()):
                if isinstance(key.data, _Peer):
                    key.data.socket.close()

    def _step(self, selector: selectors.BaseSelector) -> bool:
        for key, _ in selector.select():
            if key.fileobj is self._stopped:
                return False
            if key.fileobj is self._listener:
                sock, _ = self._listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                peer = _Peer(sock)
                self._connections.append(peer)
                selector.register(sock, selectors.EVENT_READ, peer)
            elif not key.data.read():
                selector.unregister(key.fileobj)
                key.data.socket.close()
        return True


def translated(value: Any) -> Any:
    """One of our wrappers as the official client's; anything else as it is."""
    kind = type(value)
    if kind in _SAME:
        return _SAME[kind](value.value)
    if kind is Geohash:
        return questdb.Geohash(value.bits, value.precision)
    return questdb.ServerTimestamp if value is ServerTimestamp else value


_SAME = {
    TimestampMicros: questdb.TimestampMicros,
    TimestampNanos: questdb.TimestampNanos,
    DateMillis: questdb.DateMillis,
    Char: questdb.Char,
    Long256: questdb.Long256,
}


def write_official(sender: Any, batches: Batches) -> dict[tuple[int, int], str]:
    """Rows and flushes of an open ``questdb.Sender``; what it refused, a flush under the row number `FLUSH`."""
    refused = {}
    for batch_index, batch in enumerate(batches):
        for row_index, row in enumerate(batch):
            try:
                columns = {name: translated(value) for name, value in row.columns.items()}
                sender.row(row.table, symbols=dict(row.symbols), columns=columns, at=translated(row.at))
            except Exception as error:  # it raises whatever it likes: that is what is noted
                refused[batch_index, row_index] = f"{type(error).__name__}: {error}"
        try:
            sender.flush()
        except questdb.QuestDBError as error:
            refused[batch_index, FLUSH] = f"{type(error).__name__}: {error}"
    return refused


def official(peer: RecordingPeer, batches: Batches) -> Sent:
    """What the official client sends, on a connection of its own."""
    peer.take()
    with questdb.Sender.from_conf(peer.conf + NO_AUTO_FLUSH) as sender:
        refused = write_official(sender, batches)
    (messages,) = peer.take()
    return Sent(messages, refused)


def new_symbols() -> SymbolTable:
    """The dictionary of a new connection, with the limits of the wire."""
    return SymbolTable(limits.DICTIONARY_ENTRIES_MAX, limits.DICTIONARY_BYTES_MAX, limits.DICTIONARY_ENTRY_BYTES_MAX)


def ours(batches: Batches, first_symbols: Sequence[Sequence[str]] = ()) -> Sent:
    """What we put into a frame for the same rows: one message a batch that holds a row.

    ``first_symbols``: texts that get their ids before the rows of each batch.
    """
    messages, refused, symbols = list[bytes](), {}, new_symbols()
    rows = RowBuffer(symbols)
    for batch_index, batch in enumerate(batches):
        for text in first_symbols[batch_index] if first_symbols else ():
            symbols.intern(text)
        for row_index, row in enumerate(batch):
            try:
                rows.row(row.table, symbols=row.symbols, columns=row.columns, at=row.at)
            except SpoolqError as error:
                refused[batch_index, row_index] = f"{type(error).__name__}: {error}"
        if len(rows):
            room = bytearray(encode.frame_bytes(rows))
            encode.write(rows, room)
            messages.append(bytes(room))
            symbols.published_count = len(symbols)
            rows.clear()
    return Sent(messages, refused)


def ours_over_a_socket(peer: RecordingPeer, batches: Batches) -> list[bytes]:
    """What `spoolq.Sender` sends for the same rows, on a connection of its own."""
    peer.take()
    with spoolq.Sender.from_conf(peer.conf + NO_AUTO_FLUSH) as sender:
        for batch in batches:
            for row in batch:
                sender.row(row.table, symbols=row.symbols, columns=row.columns, at=row.at)
            sender.flush()
    (messages,) = peer.take()
    return messages
