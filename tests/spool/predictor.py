"""Says from slot.md 5 and ours.md 15, 16 alone what opening a slot gives: a second, slow opinion on `plan`.

Takes the files of a slot as bytes, shares no code with the package.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from itertools import pairwise

from tests.spool import slot_maker


@dataclass
class Prediction:
    """``verdict``: refused, aside, fresh or opens; the rest only for the last."""

    verdict: str
    frames: dict[int, bytes] = field(default_factory=dict)
    next_fsn: int = 0
    acked_fsn: int = -1
    symbols: list[str] = field(default_factory=list)


@dataclass
class _Segment:
    name: str
    data: bytes
    state: str = "valid"

    def __post_init__(self) -> None:
        data = self.data
        if not data.strip(b"\0"):
            self.state = "blank"
        elif len(data) < 24 or data[:4] != b"SF01":
            self.state = "corrupt"
        elif data[4] != 1 or data[5] not in (0, 1):
            self.state = "refused"
        elif data[6:8] != b"\0\0" or not 0 <= self.base <= 1 << 62:
            self.state = "corrupt"
        self.frames, end = slot_maker.whole_frames(data) if self.state == "valid" else ([], 0)
        self.dirty = bool(data[end:].strip(b"\0"))

    @property
    def base(self) -> int:
        return int(struct.unpack_from("<q", self.data, 8)[0])

    @property
    def end(self) -> int:
        return self.base + len(self.frames)

    @property
    def number(self) -> int:
        match = re.fullmatch("sf-([0-9a-f]{16})[.]sfa", self.name)
        return int(match[1], 16) if match else -1


def predict(files: dict[str, bytes]) -> Prediction:
    """The verdict on a slot with these files."""
    segments = [_Segment(name, data) for name, data in sorted(files.items()) if name.endswith(".sfa")]
    dictionary = files.get(".symbol-dict")
    if any(s.state == "refused" for s in segments):
        return Prediction("refused")
    newest = max((s.number for s in segments), default=-1)
    corrupt = [s for s in segments if s.state == "corrupt" or (s.state == "blank" and s.number != newest)]
    valid = [s for s in segments if s.state == "valid"]
    boundaries = _record(files.get("sf-manifest.bin", b""), b"SFM1", 2)
    if any(b"" in s.frames for s in valid):
        return Prediction("aside")
    chain: list[_Segment] | str
    if boundaries is not None and 0 <= boundaries[0] <= boundaries[1]:
        chain = _manifested(valid, corrupt, *boundaries, bool(segments))
    else:
        chain = _legacy(valid)
    if isinstance(chain, str):
        return Prediction(chain)
    if dictionary is not None and len(dictionary) >= 8 and dictionary[:4] == b"SYD1" and dictionary[4] != 1:
        return Prediction("refused")
    return _counters(chain, files, dictionary)


def _record(data: bytes, magic: bytes, count: int) -> tuple[int, ...] | None:
    """Also of the 128-byte ancestor, whose second record is at 64."""
    if len(data) == 128:
        data = data[:64].ljust(4096, b"\0") + data[64:].ljust(4096, b"\0")
    return slot_maker.read_record(data, magic, count)


def _gap(chain: list[_Segment]) -> bool:
    return any(a.end != b.base for a, b in pairwise(chain))


def _legacy(valid: list[_Segment]) -> list[_Segment] | str:
    if any(s.data[5] for s in valid):
        return "aside"
    chain = sorted((s for s in valid if s.frames), key=lambda s: s.base)
    if _gap(chain):
        return "aside"
    if chain:
        return chain
    clean = [s for s in valid if not s.dirty]
    initial = [s for s in clean if s.name == "sf-initial.sfa"]
    return initial or sorted(clean, key=lambda s: s.base)[-1:] or "fresh"


def _manifested(
    valid: list[_Segment], corrupt: list[_Segment], head: int, active: int, some: bool
) -> list[_Segment] | str:
    chain = sorted((s for s in valid if s.frames and s.end > head), key=lambda s: s.base)
    if _gap(chain) or (chain and chain[0].base != head):
        return "aside"
    above = [s for s in chain if s.base > active]
    if above:  # ours.md 16 ii
        return chain if len(above) == 1 and len(chain) > 1 and chain[-2].base == active else "aside"
    if chain and chain[-1].base == active:
        return chain
    if corrupt:
        return "aside"
    reached = chain[-1].end if chain else head
    empty = [s for s in valid if not s.frames]
    there = [s for s in empty if s.base == active]
    if there and reached == active:
        return [*chain, next((s for s in there if s.dirty), there[0])]
    if not chain and head == active:
        return "fresh"
    if not there and reached == active and len(empty) == 1:  # ours.md 16 i
        promoted = empty[0]
        promoted.data = promoted.data[:8] + struct.pack("<q", active) + promoted.data[16:]
        return [*chain, promoted]
    return "aside"


def _counters(chain: list[_Segment], files: dict[str, bytes], dictionary: bytes | None) -> Prediction:
    stored = {s.base + i: p for s in chain for i, p in enumerate(s.frames)}
    following = chain[-1].end
    floor = chain[0].base if stored else following
    mark = _record(files.get(".ack-watermark", b""), b"AKW1", 1)
    acked = floor - 1
    if mark is not None and -1 <= mark[0] < following:
        acked = max(acked, mark[0])
    committed = max((fsn + 1 for fsn, p in stored.items() if not _deferred(p)), default=floor)
    following = min(following, max(committed, acked + 1))  # what nobody committed is cut off
    stored = {fsn: p for fsn, p in stored.items() if fsn < following}
    send = {fsn: p for fsn, p in stored.items() if fsn > acked}
    symbols = _symbols(stored, acked, dictionary)
    if symbols is None:
        return Prediction("aside")
    return Prediction("opens", send, following, acked, symbols)


def _deferred(payload: bytes) -> bool:
    return len(payload) >= 12 and payload[:4] == b"QWP1" and bool(payload[5] & 1)


def _prefix(dictionary: bytes | None) -> list[str]:
    """Entries of the whole chunks."""
    found: list[str] = []
    if dictionary is None or dictionary[:4] != b"SYD1" or len(dictionary) < 8:
        return found
    for end in range(len(dictionary), 7, -1):  # slow and obvious: the longest start that reads well
        try:
            found = slot_maker.read_symbols(dictionary[:end])
        except (AssertionError, IndexError, struct.error, UnicodeDecodeError):
            continue
        break
    return found


def _section(payload: bytes) -> tuple[int, list[str]] | None:
    if payload[:4] != b"QWP1" or len(payload) < 14 or not payload[5] & 8:
        return None
    start, count, at, texts = payload[12], payload[13], 14, []
    for _ in range(count):
        length = payload[at]
        texts.append(payload[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return start, texts


def _symbols(stored: dict[int, bytes], acked: int, dictionary: bytes | None) -> list[str] | None:
    for known in (_prefix(dictionary), []):
        failed = contradicted = False
        for fsn, payload in sorted(stored.items()):
            section = _section(payload)
            if section is None:
                continue
            start, texts = section
            bad = start > len(known) or (contradicted and start > 0)
            if not bad and known[start : start + len(texts)] != texts[: len(known) - start]:
                bad = contradicted = True
            if not bad:
                known = known + texts[len(known) - start :]
            failed = failed or (bad and fsn > acked)
        if not failed:
            return known
    return None
