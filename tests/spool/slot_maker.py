"""Makes slots, and reads them back, from slot.md alone: the second opinion on every codec of spool/.

Shares no code with the package, not even the checksum, so that an error in one of the two shows.
Slow and obvious; for slots of some kilobytes.

    slot = Slot()
    slot.segment(0, [b"one", b"two"], flags=1, size=64)
    slot.files["sf-manifest.bin"] = manifest(0, 0)
    slot.write(directory)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def varint(value: int) -> bytes:
    out = b""
    while value >= 128:
        out += bytes([value % 128 + 128])
        value //= 128
    return out + bytes([value])


def entries(symbols: list[str] | list[bytes]) -> bytes:
    raw = [s if isinstance(s, bytes) else s.encode() for s in symbols]
    return b"".join(varint(len(r)) + r for r in raw)


def message(
    start: int | None = None,
    symbols: list[str] | None = None,
    body: bytes = b"",
    *,
    defer: bool = False,
    tables: int = 0,
) -> bytes:
    """A QWP message; with a dictionary section unless ``start`` is None."""
    flags = (8 if start is not None else 0) + (1 if defer else 0)
    section = b"" if start is None else varint(start) + varint(len(symbols or [])) + entries(symbols or [])
    rest = section + body
    return b"QWP1" + bytes([1, flags]) + struct.pack("<HI", tables, len(rest)) + rest


def frame(payload: bytes) -> bytes:
    covered = struct.pack("<i", len(payload)) + payload
    return struct.pack("<I", crc32c(covered)) + covered


def segment(
    base: int,
    payloads: list[bytes],
    *,
    size: int | None = None,
    flags: int = 1,
    created: int = 1_700_000_000_000_000,
    version: int = 1,
    tail: bytes = b"",
) -> bytes:
    """A segment file; ``size`` None gives one without a rest."""
    data = b"SF01" + bytes([version, flags, 0, 0]) + struct.pack("<qQ", base, created)
    data += b"".join(frame(p) for p in payloads) + tail
    assert size is None or len(data) <= size, (len(data), size)
    return data.ljust(size or 0, b"\0")


def record(magic: bytes, generation: int, *values: int, version: int = 1) -> bytes:
    head = magic + struct.pack("<Iq", version, generation) + struct.pack(f"<{len(values)}q", *values)
    head = head.ljust(60, b"\0")
    return head + struct.pack("<I", crc32c(head))


def container(records: dict[int, bytes], size: int = 8192) -> bytes:
    """``records`` by offset."""
    data = bytearray(size)
    for offset, content in records.items():
        data[offset : offset + 64] = content
    return bytes(data)


def manifest(head: int, active: int, generation: int = 1, older: tuple[int, int] | None = None) -> bytes:
    """A manifest; ``older`` are the boundaries of the record before."""
    found = {generation % 2 * 4096: record(b"SFM1", generation, head, active)}
    if older is not None:
        found[(generation - 1) % 2 * 4096] = record(b"SFM1", generation - 1, *older)
    return container(found)


def watermark(fsn: int, generation: int = 1) -> bytes:
    return container({generation % 2 * 4096: record(b"AKW1", generation, fsn)})


def chunk(symbols: list[str] | list[bytes]) -> bytes:
    region = entries(symbols)
    body = varint(len(symbols)) + varint(len(region)) + region
    return body + struct.pack("<I", crc32c(body))


def symbol_dict(*chunks: list[str]) -> bytes:
    return b"SYD1\x01\0\0\0" + b"".join(chunk(c) for c in chunks)


@dataclass
class Slot:
    """Files of a slot by name."""

    files: dict[str, bytes] = field(default_factory=dict)
    _number: int = 0

    def segment(self, base: int, payloads: list[bytes], *, name: str | None = None, **how: int | bytes | None) -> str:
        """Adds a segment under the next generation's name; the name."""
        name = name or f"sf-{self._number:016x}.sfa"
        self._number += 1
        self.files[name] = segment(base, payloads, **how)  # type: ignore[arg-type]
        return name

    def write(self, directory: Path) -> Path:
        """Writes the files into ``directory``, made when needed."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (directory / name).write_bytes(content)
        return directory


def whole_frames(data: bytes) -> tuple[list[bytes], int]:
    """Payloads of a segment file's whole frames, and the offset behind them."""
    payloads, offset = [], 24
    while offset + 8 <= len(data):
        crc, length = struct.unpack_from("<Ii", data, offset)
        end = offset + 8 + length
        if length < 0 or end > len(data) or crc32c(data[offset + 4 : end]) != crc:
            break
        payloads.append(data[offset + 8 : end])
        offset = end
    return payloads, offset


def read_frames(directory: Path) -> dict[int, bytes]:
    """Every whole frame of a slot's segments by FSN; two different ones of a number are an error of the slot."""
    found: dict[int, bytes] = {}
    for path in sorted(directory.glob("*.sfa")):
        data = path.read_bytes()
        if len(data) < 24 or data[:4] != b"SF01":
            continue
        base = struct.unpack_from("<q", data, 8)[0]
        for index, payload in enumerate(whole_frames(data)[0]):
            assert found.get(base + index, payload) == payload, f"two frames {base + index}"
            found[base + index] = payload
    return found


def read_record(data: bytes, magic: bytes, count: int) -> tuple[int, ...] | None:
    """Values of a container's newest valid record."""
    best: tuple[int, tuple[int, ...]] | None = None
    for offset in (0, 4096):
        piece = data[offset : offset + 64]
        if len(data) != 8192 or piece[:4] != magic or struct.unpack_from("<I", piece, 60)[0] != crc32c(piece[:60]):
            continue
        generation, *values = struct.unpack_from(f"<q{count}q", piece, 8)
        if generation > 0 and (best is None or generation >= best[0]):
            best = (generation, tuple(values))
    return best[1] if best else None


def read_symbols(data: bytes) -> list[str]:
    """Entries of a ``.symbol-dict`` without damage."""
    found: list[str] = []
    offset = 8

    def number() -> int:
        nonlocal offset
        value = shift = 0
        while True:
            byte = data[offset]
            offset += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while offset < len(data):
        start = offset
        count, nbytes = number(), number()
        end = offset + nbytes
        for _ in range(count):
            length = number()
            found.append(data[offset : offset + length].decode())
            offset += length
        assert offset == end
        assert struct.unpack_from("<I", data, end)[0] == crc32c(data[start:end])
        offset += 4
    return found


def golden(name: str) -> bytes:
    """Bytes of tests/golden/<name>.hex."""
    text = (Path(__file__).parent.parent / "golden" / f"{name}.hex").read_text()
    return bytes.fromhex("".join(line.partition("#")[0] for line in text.splitlines()))
