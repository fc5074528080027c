"""Reads a payload from front to back; every step checks its bounds and raises `WireFault`."""

from __future__ import annotations

from typing import Final

from spoolq import limits
from spoolq.qwp.layout import Status

_UINT64_END: Final = 1 << 64
_INT64_END: Final = 1 << 63


class WireFault(Exception):
    """What is wrong with a message: the status to answer with, and the text (wire.md 8)."""

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Reader:
    """A position in a payload."""

    __slots__ = ("data", "end", "offset")

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.offset = 0
        self.end = len(data)

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return self.end - self.offset

    def byte(self) -> int:
        """One byte."""
        if self.offset >= self.end:
            raise WireFault(Status.PARSE_ERROR, "unexpected end of the payload")
        value = self.data[self.offset]
        self.offset += 1
        return value

    def varint(self) -> int:
        """Unsigned LEB128 up to 63 bits (wire.md 3.1, 8); overlong forms are taken."""
        value = shift = 0
        for count in range(limits.VARINT_BYTES_MAX):
            if self.offset >= self.end:
                raise WireFault(Status.PARSE_ERROR, "incomplete varint")
            byte = self.data[self.offset]
            self.offset += 1
            if count == limits.VARINT_BYTES_MAX - 1 and byte > 1:
                break
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >= _INT64_END:
                    raise WireFault(Status.PARSE_ERROR, "varint has bit 63 set")
                return value
            shift += 7
        raise WireFault(Status.PARSE_ERROR, "varint overflow")

    def take(self, nbytes: int, what: str) -> memoryview:
        """The next ``nbytes``."""
        if nbytes > self.end - self.offset:
            raise WireFault(Status.PARSE_ERROR, f"{what}: {nbytes} bytes needed, {self.left} left")
        taken = self.data[self.offset : self.offset + nbytes]
        self.offset += nbytes
        return taken

    def utf8(self, nbytes: int, what: str) -> str:
        """``nbytes`` of UTF-8."""
        try:
            return str(self.take(nbytes, what), "utf-8")
        except UnicodeDecodeError:
            raise WireFault(Status.PARSE_ERROR, f"{what} is not UTF-8") from None

    def text(self, what: str) -> str:
        """A string: varint length, UTF-8."""
        return self.utf8(self.varint(), what)
