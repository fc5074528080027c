"""Bytes of a socket and bytes of a connection: the same, or TLS in between.  No I/O of its own.

    incoming(data) -> plain bytes        outgoing(data) -> bytes for the socket

A TLS fault raises `TransportFault`; what `outgoing(b"")` still gives then (an alert) is worth sending.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import ssl

_PIECE_NBYTES: Final = 1 << 16


class TransportFault(Exception):
    """The peer does not speak TLS as it should."""


class Transport(Protocol):
    """What lies between socket and connection."""

    def incoming(self, data: memoryview) -> bytes | memoryview:
        """Bytes of the socket, for the connection."""

    def outgoing(self, data: bytes) -> bytes:
        """Bytes of the connection, for the socket."""


class Plain:
    """Nothing in between."""

    def incoming(self, data: memoryview) -> memoryview:
        """As they are."""
        return data

    def outgoing(self, data: bytes) -> bytes:
        """As they are."""
        return data


class Tls:
    """TLS over memory buffers, so that the loop handles both kinds alike."""

    def __init__(self, context: ssl.SSLContext) -> None:
        import ssl

        self._ssl = ssl
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._in, self._out, server_side=True)
        self._is_open = False

    def incoming(self, data: memoryview) -> bytes:
        """Decrypts; goes on with the handshake first."""
        self._in.write(data)
        plain = bytearray()
        try:
            if not self._is_open:
                self._object.do_handshake()
                self._is_open = True
            while piece := self._object.read(_PIECE_NBYTES):
                plain += piece
        except self._ssl.SSLWantReadError:
            pass
        except self._ssl.SSLError as error:
            raise TransportFault(str(error)) from None
        return bytes(plain)

    def outgoing(self, data: bytes) -> bytes:
        """Encrypts, together with what the protocol itself has to say."""
        if data and self._is_open:
            self._object.write(data)
        return self._out.read()
