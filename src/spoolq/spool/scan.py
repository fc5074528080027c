"""Reads one segment file: header, frames, and what stands behind them (`segment_layout` draws the bytes).

`scan_segment` walks the frames with positioned reads into one buffer that the caller keeps, so the
memory does not depend on the size of the file or of a frame.  It stops at the first place that is not
a whole frame and then looks at every byte up to the end of the file: anything that is not zero there
is residue (slot.md 2.2: the peers' probe of 8 bytes let stale frames come back).

It judges one file alone and never raises for damage: what damage means is decided by `plan`, which
knows the others.  It raises StorageError when the file cannot be read, and UnknownFormat for a version
or a flag that this package does not know.

`Reader` reads the segments of one slot, one after the other, and stops before the next when it is told to.

On the way it notes what later steps need of each QWP message: whether it registers symbols, and
whether it commits (slot.md 2.3, 5.5).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Final, Literal

from spoolq import limits
from spoolq.frozen import Frozen
from spoolq.qwp import layout
from spoolq.spool.crc import crc32c
from spoolq.spool.files import File, Files
from spoolq.spool.segment_layout import CRC, FLAG_MANIFEST_REQUIRED, FRAME, HEADER, MAGIC, VERSION
from spoolq.spool.symbol_log import parse_varint

BUFFER_BYTES: Final = 256 << 10
_MESSAGE: Final = struct.Struct("<IiIBBHI")  # frame header, then the header of a QWP message
_PREFIX_BYTES: Final = _MESSAGE.size + 2 * limits.VARINT_BYTES_MAX
MESSAGE_MAGIC: Final = int.from_bytes(layout.MAGIC, "little")
_ZEROS: Final = bytes(BUFFER_BYTES)


class UnknownFormat(Exception):
    """A segment of a version or with a flag that this package does not know."""


class Stopped(Exception):
    """Whoever wanted a slot to be read does not want it any more."""


class Residue(Frozen):
    """Bytes that are not zero behind the last frame: from ``first`` up to, not including, ``end``.

    ``unfinished``: all of them lie inside one frame whose CRC was never stored, so it was never published.
    """

    first: int
    end: int
    unfinished: bool


class Segment(Frozen):
    """What a file holds.

    ``kind``: "segment", "blank" (not one byte that is not zero: a creation cut short) or "corrupt"
    (``fault`` says why).  ``empty_frame`` is the index of a frame without payload, -1 when none.
    ``commit_index`` is the index of the last frame that is not deferred, ``closing_index`` of the last such one that
    stands behind a deferred one of this segment; -1 when none.
    ``symbols``: some frame registers symbols.  ``start_max``: the highest id a dictionary section starts at.
    """

    name: str
    nbytes: int
    kind: Literal["segment", "blank", "corrupt"]
    fault: str = ""
    base: int = 0
    flags: int = 0
    created_micros: int = 0
    count: int = 0
    append_offset: int = limits.SEGMENT_HEADER_BYTES
    residue: Residue | None = None
    empty_frame: int = -1
    commit_index: int = -1
    closing_index: int = -1
    symbols: bool = False
    start_max: int = 0

    @property
    def end_fsn(self) -> int:
        """FSN behind the last frame."""
        return self.base + self.count

    @property
    def payload_nbytes(self) -> int:
        """Bytes of all payloads."""
        return self.append_offset - limits.SEGMENT_HEADER_BYTES - self.count * limits.FRAME_HEADER_BYTES


def parse_section_head(buffer: memoryview, at: int, length: int) -> tuple[int, int, int] | None:
    """Of the QWP message with flag 08 whose frame starts at ``buffer[at]``; None when it is no varints.

    (First id, number of entries, offset of the entries in the payload.)
    """
    first = at + _MESSAGE.size
    end = min(len(buffer), at + limits.FRAME_HEADER_BYTES + length)
    if end - first >= 2 and buffer[first] < 0x80 and buffer[first + 1] < 0x80:  # nearly all of them
        return buffer[first], buffer[first + 1], limits.HEADER_BYTES + 2
    start = parse_varint(buffer, first, end)
    if start is None:
        return None
    count = parse_varint(buffer, start[1], end)
    if count is None:
        return None
    return start[0], count[0], count[1] - at - limits.FRAME_HEADER_BYTES


def message_flags(buffer: memoryview, at: int, length: int) -> int:
    """Flags of the QWP message whose frame starts at ``buffer[at]``; 0 for an opaque payload."""
    if length < limits.HEADER_BYTES:
        return 0
    _, _, magic, _, flags, _, _ = _MESSAGE.unpack_from(buffer, at)
    return int(flags) if magic == MESSAGE_MAGIC else 0


class Window:
    """Positioned reads of one file through one buffer."""

    __slots__ = ("_buffer", "_end", "_file", "_files", "_start", "nbytes")

    def __init__(self, files: Files, file: File, nbytes: int, buffer: memoryview) -> None:
        self._files = files
        self._file = file
        self._buffer = buffer
        self.nbytes = nbytes
        self._start = self._end = 0

    def at(self, offset: int, nbytes: int) -> memoryview:
        """``nbytes`` from ``offset``, fewer where the file or the buffer ends; valid until the next call."""
        end = min(offset + min(nbytes, len(self._buffer)), self.nbytes)
        if not (self._start <= offset and end <= self._end):
            want = min(len(self._buffer), self.nbytes - offset)
            got = self._files.read_into(self._file, offset, self._buffer[:want])
            self._start, self._end = offset, offset + got
            end = min(end, self._end)
        return self._buffer[offset - self._start : max(end, offset) - self._start]

    def fill(self, offset: int) -> memoryview:
        """As much as the buffer takes from ``offset`` on; valid until the next call."""
        return self.at(offset, len(self._buffer))

    def read(self, offset: int, nbytes: int) -> bytes:
        """``nbytes`` from ``offset``, not bound by the buffer; fewer where the file ends."""
        if nbytes <= len(self._buffer):
            return bytes(self.at(offset, nbytes))
        return self._files.read(self._file, offset, min(nbytes, self.nbytes - offset))

    def crc(self, offset: int, nbytes: int) -> int | None:
        """CRC-32C of a range of any size; None when the file ends before."""
        crc = 0
        while nbytes:
            piece = self.at(offset, nbytes)
            if not len(piece):
                return None
            crc = crc32c(piece, crc)
            offset += len(piece)
            nbytes -= len(piece)
        return crc


@dataclass(frozen=True, slots=True)  # not `Frozen`: there is one for each frame of a slot
class Frame:
    """One frame of a walk: its index, where it starts, its payload's length and first bytes.

    Valid until the next step.
    """

    window: Window
    index: int
    offset: int
    nbytes: int

    @property
    def prefix(self) -> memoryview:
        """The frame's header and the first bytes of its payload."""
        return self.window.at(self.offset, _PREFIX_BYTES)

    def payload(self, start: int) -> bytes:
        """The payload from its byte ``start`` on, at most as much as a QWP message may have."""
        end = min(self.nbytes, limits.PAYLOAD_BYTES_MAX)
        return self.window.read(self.offset + limits.FRAME_HEADER_BYTES + start, end - start)


def scan_segment(files: Files, path: str, name: str, nbytes: int, buffer: memoryview) -> Segment:
    """Reads the file at ``path``, ``nbytes`` long; ``name`` goes into the result.  See the module's text."""
    file = files.open(path, write=False)
    try:
        return _scan(Window(files, file, nbytes, buffer), name)
    finally:
        files.close(file)


def walk(files: Files, path: str, segment: Segment, buffer: memoryview) -> Generator[Frame, None, None]:
    """The frames that `scan_segment` found, without checking them again; close the iterator."""
    file = files.open(path, write=False)
    try:
        window = Window(files, file, segment.append_offset, buffer)
        offset = limits.SEGMENT_HEADER_BYTES
        for index in range(segment.count):
            length = FRAME.unpack_from(window.at(offset, limits.FRAME_HEADER_BYTES))[1]
            yield Frame(window, index, offset, length)
            offset += limits.FRAME_HEADER_BYTES + length
    finally:
        files.close(file)


def never() -> bool:
    """Nothing stops it."""
    return False


@dataclass(frozen=True, slots=True)
class Reader:
    """The segments in directory ``slot``, read through one buffer.

    ``stopped`` is asked before each segment; when it says True `Stopped` is raised.
    """

    files: Files
    slot: str
    stopped: Callable[[], bool] = never
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(BUFFER_BYTES)))

    def scan(self, name: str, nbytes: int) -> Segment:
        """The segment file ``name``, ``nbytes`` long; see `scan_segment`."""
        return scan_segment(self.files, self._path(name), name, nbytes, self.buffer)

    def walk(self, segment: Segment) -> Generator[Frame, None, None]:
        """Its frames; see `walk`."""
        return walk(self.files, self._path(segment.name), segment, self.buffer)

    def _path(self, name: str) -> str:
        if self.stopped():
            raise Stopped(f"the slot {self.slot} is not read to its end: nobody wants it any more")
        return os.path.join(self.slot, name)


def _scan(window: Window, name: str) -> Segment:
    nbytes = window.nbytes
    head = window.at(0, limits.SEGMENT_HEADER_BYTES)
    if not any(head) and _residue_range(window, len(head)) is None:
        return Segment(name, nbytes, "blank")
    if len(head) < limits.SEGMENT_HEADER_BYTES:
        return Segment(name, nbytes, "corrupt", f"{nbytes} bytes are no header")
    magic, version, flags, reserved, base, created = HEADER.unpack_from(head)
    if magic != MAGIC:
        return Segment(name, nbytes, "corrupt", f"bad magic {magic:08x}")
    if version != VERSION:
        raise UnknownFormat(f"{name} has version {version}, and this package knows {VERSION}")
    if flags & ~FLAG_MANIFEST_REQUIRED:
        raise UnknownFormat(f"{name} has flags {flags:#04x}, and this package knows {FLAG_MANIFEST_REQUIRED:#04x}")
    if reserved:
        return Segment(name, nbytes, "corrupt", f"reserved bytes are {reserved:04x}")
    if not 0 <= base <= limits.FSN_MAX:
        return Segment(name, nbytes, "corrupt", f"base {base}")
    return _frames(window, name, base, flags, created)


class _Notes:
    """What is noted of the frames of one segment."""

    __slots__ = ("closing_index", "commit_index", "count", "empty_frame", "start_max", "symbols")

    def __init__(self) -> None:
        self.count = self.start_max = 0
        self.empty_frame = self.commit_index = self.closing_index = -1
        self.symbols = False

    def frame(self, buffer: memoryview, at: int, length: int) -> None:
        """One more whole frame, which starts at ``buffer[at]``."""
        flags = message_flags(buffer, at, length)
        if length == 0 and self.empty_frame < 0:
            self.empty_frame = self.count
        if not flags & layout.FLAG_DEFER_COMMIT:
            if self.commit_index != self.count - 1:
                self.closing_index = self.count
            self.commit_index = self.count
        if flags & layout.FLAG_DELTA_DICTIONARY:
            section = parse_section_head(buffer, at, length)
            if section is not None:
                self.symbols = self.symbols or section[1] > 0
                if section[0] > self.start_max:
                    self.start_max = section[0]
        self.count += 1


def _frames(window: Window, name: str, base: int, flags: int, created: int) -> Segment:
    """The walk over the frames, then over the rest."""
    notes, offset = _Notes(), limits.SEGMENT_HEADER_BYTES
    while True:
        reached = _whole_frames(window, offset, notes)
        if reached == offset:  # the next frame is not whole, or larger than the buffer
            reached = _large_frame(window, offset, notes)
        if reached == offset:
            break
        offset = reached
    return Segment(
        name,
        window.nbytes,
        "segment",
        base=base,
        flags=flags,
        created_micros=created,
        count=notes.count,
        append_offset=offset,
        residue=_residue(window, offset),
        empty_frame=notes.empty_frame,
        commit_index=notes.commit_index,
        closing_index=notes.closing_index,
        symbols=notes.symbols,
        start_max=notes.start_max,
    )


def _whole_frames(window: Window, offset: int, notes: _Notes) -> int:
    """Takes the whole frames that the buffer holds from ``offset`` on; the offset behind them."""
    buffer = window.fill(offset)
    at, end = 0, len(buffer)
    while end - at >= limits.FRAME_HEADER_BYTES:
        crc, length = FRAME.unpack_from(buffer, at)
        stop = at + limits.FRAME_HEADER_BYTES + length
        if length < 0 or stop > end or crc32c(buffer[at + CRC.size : stop]) != crc:
            break
        notes.frame(buffer, at, length)
        at = stop
    return offset + at


def _large_frame(window: Window, offset: int, notes: _Notes) -> int:
    """Takes one frame that the buffer does not hold whole; the offset behind it, or ``offset``."""
    prefix = window.at(offset, _PREFIX_BYTES)
    if len(prefix) < limits.FRAME_HEADER_BYTES:
        return offset
    crc, length = FRAME.unpack_from(prefix)
    end: int = offset + limits.FRAME_HEADER_BYTES + length
    if length <= len(prefix) or end > window.nbytes:
        return offset
    if window.crc(offset + CRC.size, end - offset - CRC.size) != crc:
        return offset
    notes.frame(window.at(offset, _PREFIX_BYTES), 0, length)
    return end


def _residue(window: Window, offset: int) -> Residue | None:
    """What is not zero behind the last frame."""
    found = _residue_range(window, offset)
    if found is None:
        return None
    first, end = found
    return Residue(first, end, unfinished=end <= _unfinished_end(window, offset))


def _residue_range(window: Window, offset: int) -> tuple[int, int] | None:
    """First byte from ``offset`` on that is not zero, and the end of the last one."""
    first = end = -1
    while offset < window.nbytes:
        piece = window.at(offset, BUFFER_BYTES)
        if not len(piece):
            break  # the file became shorter: what is not there is not zero either
        if piece != _ZEROS[: len(piece)]:
            data = bytes(piece)
            if first < 0:
                first = offset + len(data) - len(data.lstrip(b"\0"))
            end = offset + len(data.rstrip(b"\0"))
        offset += len(piece)
    return None if first < 0 else (first, end)


def _unfinished_end(window: Window, offset: int) -> int:
    """Where the frame at ``offset`` would have ended, had its writer not stopped; -1 when it did not just stop.

    The CRC is stored last, so a frame with one was finished, and is damaged now.  A body that fills the
    payload first leaves length and CRC zero: then the message in it says how long it is.
    """
    prefix = window.at(offset, _MESSAGE.size)
    if len(prefix) < limits.FRAME_HEADER_BYTES:
        return -1
    crc, length = FRAME.unpack_from(prefix)
    if crc or length < 0:
        return -1
    if not length:
        if len(prefix) < _MESSAGE.size:
            return -1
        _, _, magic, _, _, _, rest = _MESSAGE.unpack_from(prefix)
        if magic != MESSAGE_MAGIC:
            return -1
        length = limits.HEADER_BYTES + rest
    end: int = offset + limits.FRAME_HEADER_BYTES + length
    return end if end <= window.nbytes else -1
