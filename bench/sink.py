"""The endpoint both clients are measured against: acknowledges everything, looks into nothing.

    python -m bench.sink          prints its port, serves until standard input ends

One thread, non-blocking sockets, no decoding or unmasking: it steps over WebSocket frames by their lengths,
counts binary messages and answers each read with one cumulative OK (wire.md 5.1), so that the cost of the
endpoint is small and the same for both clients.  It is not a judge of correctness: that is `spoolq.server`.
"""

from __future__ import annotations

import selectors
import socket
import sys

from spoolq import limits
from spoolq.qwp import responses, upgrade

_READ_BYTES = 1 << 20
_BINARY, _CLOSE, _PING, _PONG = 0x2, 0x8, 0x9, 0xA
_FIN = 0x80
_MASK_BYTES = 4


class Client:
    """One connection: how far into a frame it is, and its count of messages."""

    def __init__(self, sock: socket.socket, scratch: memoryview) -> None:
        self._socket = sock
        self._scratch = scratch
        self._rest = b""  # an unfinished request, or the start of an unfinished frame
        self._skip_nbytes = 0  # of a payload that is still arriving
        self._upgraded = False
        self._messages = 0

    def read(self) -> bool:
        """Takes what has arrived and answers it; False when the connection is over."""
        try:
            count = self._socket.recv_into(self._scratch)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        if not count:
            return False
        data = self._scratch[:count]
        if self._rest:
            data = memoryview(self._rest + bytes(data))
        return self._walk(data) if self._upgraded else self._upgrade(bytes(data))

    def _upgrade(self, data: bytes) -> bool:
        head, blank, rest = data.partition(b"\r\n\r\n")
        if not blank:
            self._rest = data
            return True
        lines = [line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:]]
        key = upgrade.header([(name, value.strip()) for name, _, value in lines], "Sec-WebSocket-Key")
        self._send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {upgrade.accept_key(key or '')}\r\n{upgrade.VERSION}: 1\r\n"
            f"{upgrade.CAP}: {limits.BATCH_BYTES_ASSUMED}\r\n\r\n".encode()
        )
        self._upgraded, self._rest = True, b""
        return self._walk(memoryview(rest))

    def _walk(self, data: memoryview) -> bool:
        """Steps from frame to frame; the last one may end in a later read."""
        end, before = len(data), self._messages
        at = min(self._skip_nbytes, end)
        self._skip_nbytes -= at
        while frame := _frame_at(data, at):
            opcode, header_nbytes, payload_nbytes = frame
            frame_end = at + header_nbytes + payload_nbytes
            if opcode == _BINARY:
                self._messages += 1
                self._skip_nbytes = max(0, frame_end - end)
            elif frame_end > end:
                break  # a control frame is answered when it is whole
            elif opcode == _CLOSE:
                self._send(bytes((_FIN | _CLOSE, 0)))
                return False
            elif opcode == _PING:
                mask, payload = data[frame_end - payload_nbytes - _MASK_BYTES : frame_end - payload_nbytes], b""
                payload = bytes(b ^ mask[i % 4] for i, b in enumerate(data[frame_end - payload_nbytes : frame_end]))
                self._send(bytes((_FIN | _PONG, payload_nbytes)) + payload)
            at = min(frame_end, end)
        self._rest = bytes(data[at:])
        if self._messages > before:
            ok = responses.build(responses.Ok(self._messages - 1))
            self._send(bytes((_FIN | _BINARY, len(ok))) + ok)
        return True

    def _send(self, data: bytes) -> None:
        """Answers are some tens of bytes; a client that does not read them is cut off."""
        self._socket.send(data)


def _frame_at(data: memoryview, at: int) -> tuple[int, int, int] | None:
    """(opcode, header bytes, payload bytes) of the masked frame that starts there; None while its header is cut."""
    left = len(data) - at
    if left < 2:
        return None
    length = data[at + 1] & 0x7F
    extended_nbytes = {126: 2, 127: 8}.get(length, 0)
    header_nbytes = 2 + extended_nbytes + _MASK_BYTES
    if left < header_nbytes:
        return None
    if extended_nbytes:
        length = int.from_bytes(data[at + 2 : at + 2 + extended_nbytes], "big")
    return data[at] & 0x0F, header_nbytes, length


def serve() -> None:
    """Runs until standard input ends, which is how the parent says so, also by dying."""
    scratch = memoryview(bytearray(_READ_BYTES))
    with selectors.DefaultSelector() as selector, socket.create_server(("127.0.0.1", 0)) as listener:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        print(listener.getsockname()[1], flush=True)
        while True:
            for key, _ in selector.select():
                if key.fileobj is sys.stdin:
                    return
                if key.fileobj is listener:
                    sock, _ = listener.accept()
                    sock.setblocking(False)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    selector.register(sock, selectors.EVENT_READ, Client(sock, scratch))
                elif not key.data.read():
                    selector.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]


if __name__ == "__main__":
    serve()
