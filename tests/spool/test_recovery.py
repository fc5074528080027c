"""Each row of slot.md 5.2, as ours.md 15, 16, 19 and 20 change it: verdict, frames, files."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from spoolq.errors import SlotRefusedError, StorageError
from spoolq.spool.files import Files
from spoolq.spool.plan import plan_slot
from spoolq.spool.recovery import open_slot
from tests.spool import slot_maker
from tests.spool.files_double import RecordingFiles
from tests.spool.recovered import ACTIVE, FIRST, ID, SPARE, payload, payloads, recover, snapshot, usual
from tests.spool.slot_maker import Slot

_SIDE = [".ack-watermark", ".symbol-dict"]
_MANIFEST = "sf-manifest.bin"


class Opens(NamedTuple):
    """FSNs that will be sent, the next FSN, names of the segment files and of what was kept aside."""

    first: int
    end: int
    segments: list[str]
    kept: list[str] = []  # noqa: RUF012 (a NamedTuple's default, never changed)


class Aside(NamedTuple):
    """Set aside, for a reason with this text in it."""

    reason: str


class Refused(NamedTuple):
    """Not opened, nothing changed, with this text."""

    reason: str


class Fresh(NamedTuple):
    """Nothing is left to go on with; what was kept aside."""

    kept: list[str] = []  # noqa: RUF012 (a NamedTuple's default, never changed)


Verdict = Opens | Aside | Refused | Fresh
_CASES: dict[str, tuple[Callable[[], Slot], Verdict]] = {}


def _case(name: str, verdict: Verdict) -> Callable[[Callable[[], Slot]], Callable[[], Slot]]:
    def add(build: Callable[[], Slot]) -> Callable[[], Slot]:
        assert name not in _CASES
        _CASES[name] = build, verdict
        return build

    return add


def _changed(name: str, change: Callable[[bytearray], object], slot: Slot | None = None) -> Slot:
    """The usual slot with one file changed."""
    slot = slot or usual()
    content = bytearray(slot.files[name])
    change(content)
    slot.files[name] = bytes(content)
    return slot


def _flip(offset: int) -> Callable[[bytearray], object]:
    def flip(content: bytearray) -> None:
        content[offset] ^= 0x10

    return flip


def _put(offset: int, data: bytes) -> Callable[[bytearray], object]:
    def put(content: bytearray) -> None:
        content[offset : offset + len(data)] = data

    return put


def _without(*names: str, slot: Slot | None = None) -> Slot:
    slot = slot or usual()
    for name in names:
        del slot.files[name]
    return slot


def _with(slot: Slot, **files: bytes) -> Slot:
    slot.files.update(files)
    return slot


_FRAME = 8 + len(payload(0))
_TAIL = 24 + 3 * _FRAME  # of the usual active segment
_SEND = (1, 5)
_BOTH = [FIRST, ACTIVE]

# --- spares and files that are no segments -----------------------------------------------------------

_case("intact", Opens(*_SEND, _BOTH))(lambda: usual())
_case("empty clean spare: removed", Opens(*_SEND, _BOTH))(lambda: usual())
_case("REC-04 two empty spares: removed", Opens(*_SEND, _BOTH))(
    lambda: _with(usual(), **{"sf-0000000000000009.sfa": slot_maker.segment(0, [], size=99)})
)
_case("invariant 13: an empty spare at base 0 never joins", Opens(*_SEND, _BOTH))(
    lambda: _changed(SPARE, _put(8, bytes(8)))
)
_case("invariant 08: a spare with a byte behind a zero gap is kept", Opens(*_SEND, _BOTH, [f"{SPARE}.corrupt"]))(
    lambda: _changed(SPARE, _put(200, b"x"))
)


@_case("an empty clean segment at the active base is the active", Opens(1, 5, [FIRST, ACTIVE, SPARE]))
def _() -> Slot:
    return _with(usual(), **{_MANIFEST: slot_maker.manifest(0, 5)})


for _name, _data in {
    "shorter than a header": b"SF01\1\1\0\0",
    "bad magic": b"SF09".ljust(64, b"\0"),
    "negative base": slot_maker.segment(-1, [payload(0)], size=64),
    "reserved bytes": slot_maker.segment(0, [payload(0)])[:6] + b"\1" + slot_maker.segment(0, [payload(0)])[7:],
}.items():
    _case(f"corrupt beside a whole chain: {_name}", Opens(*_SEND, _BOTH, ["sf-0000000000000007.sfa.corrupt"]))(
        lambda data=_data: _with(usual(), **{"sf-0000000000000007.sfa": data})  # type: ignore[misc]
    )
    _case(f"corrupt, legacy: {_name}", Opens(*_SEND, _BOTH, ["sf-0000000000000007.sfa.corrupt"]))(
        lambda data=_data: _with(usual(flags=0), **{"sf-0000000000000007.sfa": data})  # type: ignore[misc]
    )
_case("flags beyond bit 0: refused", Refused("flags 0x03"))(lambda: _changed(ACTIVE, _put(5, b"\3")))
_case("SEG-07 unknown version: refused", Refused("version 2"))(lambda: _changed(ACTIVE, _put(4, b"\2")))
_case("unknown version of a spare: refused", Refused("version 2"))(lambda: _changed(SPARE, _put(4, b"\2")))
_case("unknown version of the manifest: refused", Refused("sf-manifest.bin has version 7"))(
    lambda: _with(usual(), **{_MANIFEST: slot_maker.container({0: slot_maker.record(b"SFM1", 2, 0, 2, version=7)})})
)
_case("unknown version of the watermark: refused", Refused(".ack-watermark has version 7"))(
    lambda: _with(usual(), **{".ack-watermark": slot_maker.container({0: slot_maker.record(b"AKW1", 2, 0, version=7)})})
)
_case("early Java layout: refused", Refused("00.sfs is of an early Java layout"))(
    lambda: _with(usual(), **{"00.sfs": b"x"})
)
_case("a creation that a kill cut short is removed", Opens(*_SEND, _BOTH))(
    lambda: _with(usual(), **{"sf-0000000000000003.sfa": bytes(256)})
)
_case("an empty file of a cut creation is removed", Opens(*_SEND, _BOTH))(
    lambda: _with(usual(), **{"sf-0000000000000003.sfa": b""})
)
_case("a cut creation beside an empty active", Opens(1, 5, [FIRST, ACTIVE, SPARE]))(
    lambda: _with(usual(), **{_MANIFEST: slot_maker.manifest(0, 5), "sf-0000000000000003.sfa": bytes(256)})
)
_case("an all-zero file with an older number is corrupt", Opens(*_SEND, _BOTH, ["sf-initial.sfa.corrupt"]))(
    lambda: _with(usual(), **{"sf-initial.sfa": bytes(99)})
)

# --- corrupt files where something is missing ------------------------------------------------------------

_case("every file corrupt, with manifest", Aside("no frame is left at the active base 2"))(
    lambda: _with(usual(), **{FIRST: b"junk", ACTIVE: b"junk", SPARE: b"junk"})
)
_case("corrupt active, with manifest", Aside("is corrupt: 4 bytes are no header"))(
    lambda: _with(_without(SPARE), **{ACTIVE: b"junk"})
)
_case("an empty stand-in beside a corrupt file", Aside("is corrupt: bad magic"))(
    lambda: _changed(ACTIVE, _flip(0), _changed(SPARE, _put(8, b"\2")))
)
_case("a zeroed active beside an empty stand-in", Aside("is corrupt: all of it is zero"))(
    lambda: _with(_changed(SPARE, _put(8, b"\2")), **{ACTIVE: bytes(256)})
)
_case("corrupt first, with manifest", Aside("no segment starts at the head 0"))(lambda: _changed(FIRST, _flip(0)))
_case("legacy: the corrupt first one goes unnoticed", Opens(2, 5, [ACTIVE], [f"{FIRST}.corrupt"]))(
    lambda: _changed(FIRST, _flip(0), usual(flags=0))
)
_case("legacy: the corrupt last one goes unnoticed", Opens(1, 2, [FIRST], [f"{ACTIVE}.corrupt"]))(
    lambda: _changed(ACTIVE, _flip(0), usual(flags=0))
)


def _three(flags: int) -> Slot:
    slot = Slot()
    for base in (0, 2, 4):
        slot.segment(base, payloads(base, base + 2), flags=flags, size=None if base < 4 else 200)
    if flags:
        slot.files[_MANIFEST] = slot_maker.manifest(0, 4)
    return slot


for _flags in (0, 1):
    _case(f"REC-02 killed before the rotation: full segments only, {'with manifest' if _flags else 'legacy'}",
          Opens(0, 6, [FIRST, ACTIVE, SPARE]))(
        lambda flags=_flags: _with(  # type: ignore[misc]
            _three(flags), **{SPARE: slot_maker.segment(4, payloads(4, 6), flags=flags)}
        )
    )  # fmt: skip
_case("REC-03 legacy: a corrupt middle one is a gap", Aside("FSN 2 to 3 is missing"))(
    lambda: _changed(ACTIVE, _flip(0), _three(0))
)
_case("only corrupt files, legacy: kept, a fresh start", Fresh([".symbol-dict.corrupt", f"{FIRST}.corrupt"]))(
    lambda: _with(Slot(), **{FIRST: b"junk", ".symbol-dict": slot_maker.symbol_dict(["a"])})
)
_case("one all-zero file alone: a start that a kill cut short", Fresh())(lambda: _with(Slot(), **{FIRST: bytes(64)}))

# --- the chain ---------------------------------------------------------------------------------------------

for _flags in (0, 1):
    _how = "with manifest" if _flags else "legacy"
    _case(f"invariant 06 gap, {_how}", Aside("FSN 2 to 3 is missing"))(
        lambda flags=_flags: _without(ACTIVE, slot=_three(flags))  # type: ignore[misc]
    )
    _case(f"overlap, {_how}", Aside("FSN 1 to 1 is there twice"))(
        lambda flags=_flags: _changed(ACTIVE, _put(8, b"\1"), _three(flags))  # type: ignore[misc]
    )
    _case(f"REC-03 duplicate base with frames, {_how}", Aside("is there twice"))(
        lambda flags=_flags: _with(  # type: ignore[misc]
            _three(flags), **{"copy.sfa": slot_maker.segment(2, payloads(2, 4), flags=flags)}
        )
    )
    _case(f"empty payload, {_how}", Aside("the frame with FSN 1 in sf-0000000000000000.sfa is empty"))(
        lambda flags=_flags: _with(  # type: ignore[misc]
            _three(flags), **{FIRST: slot_maker.segment(0, [payload(0), b""], flags=flags)}
        )
    )
    _case(f"SEG-04 invariant 11 bad CRC in a sealed segment, {_how}", Aside("FSN 3 to 3 is missing"))(
        lambda flags=_flags: _changed(ACTIVE, _flip(24 + _FRAME), _three(flags))  # type: ignore[misc]
    )
    _case(f"corrupt first frame of a sealed segment, {_how}", Aside("FSN 2 to 3 is missing"))(
        lambda flags=_flags: _changed(ACTIVE, _flip(24), _three(flags))  # type: ignore[misc]
    )
    _case(f"bad CRC in the active, {_how}", Opens(1, 3, _BOTH, [f"{ACTIVE}.cut-{24 + _FRAME}-0"]))(
        lambda flags=_flags: _changed(ACTIVE, _flip(24 + _FRAME + 10), usual(flags=flags))  # type: ignore[misc]
    )
    _case(f"invariant 10 hidden residue in the active, {_how}", Opens(1, 5, _BOTH, [f"{ACTIVE}.cut-{_TAIL}-0"]))(
        lambda flags=_flags: _changed(  # type: ignore[misc]
            ACTIVE, _put(_TAIL + 30, slot_maker.frame(b"stale")), usual(flags=flags)
        )
    )
    _case(f"SEG-03 an unfinished frame is cut without a copy, {_how}", Opens(1, 5, _BOTH))(
        lambda flags=_flags: _changed(ACTIVE, _put(_TAIL, b"\0\0\0\0\x14\0\0\0half"), usual(flags=flags))  # type: ignore[misc]
    )
    _case(f"residue behind a sealed segment, {_how}", Opens(1, 5, _BOTH, [f"{FIRST}.cut-{24 + 2 * _FRAME}-0"]))(
        lambda flags=_flags: _changed(FIRST, lambda c: c.extend(b"stale"), usual(flags=flags))  # type: ignore[misc]
    )
    _case(f"hidden residue behind a sealed one, {_how}", Opens(1, 5, _BOTH, [f"{FIRST}.cut-{24 + 2 * _FRAME}-0"]))(
        lambda flags=_flags: _changed(FIRST, lambda c: c.extend(bytes(20) + b"x"), usual(flags=flags))  # type: ignore[misc]
    )

_case("SEG-05 corrupt first frame at the active base: an empty active", Opens(1, 2, _BOTH, [f"{ACTIVE}.cut-24-0"]))(
    lambda: _changed(ACTIVE, _flip(24))
)
_case("SEG-05 legacy: corrupt first frame of the last one", Opens(1, 2, [FIRST], [f"{ACTIVE}.corrupt"]))(
    lambda: _changed(ACTIVE, _flip(24), usual(flags=0))
)
_case("torn and clean empties at the active base: the torn one", Opens(1, 2, _BOTH, [f"{ACTIVE}.cut-24-0"]))(
    lambda: _changed(ACTIVE, _flip(24), _changed(SPARE, _put(8, b"\2")))
)
_case("two clean empties at the active base", Opens(1, 5, [FIRST, ACTIVE, SPARE]))(
    lambda: _with(
        usual(),
        **{_MANIFEST: slot_maker.manifest(0, 5), "sf-0000000000000004.sfa": slot_maker.segment(5, [], size=99)},
    )
)
_case("wholly below head: removed", Opens(2, 5, [ACTIVE]))(
    lambda: _with(usual(), **{_MANIFEST: slot_maker.manifest(2, 2)})
)
_case("below head with residue: removed, everything in it is settled", Opens(2, 5, [ACTIVE]))(
    lambda: _changed(FIRST, lambda c: c.extend(b"x"), _with(usual(), **{_MANIFEST: slot_maker.manifest(2, 2)}))
)
_case("straddling head", Aside("below the head 1"))(lambda: _with(usual(), **{_MANIFEST: slot_maker.manifest(1, 2)}))
_case("head missing", Aside("no segment starts at the head 0"))(lambda: _without(FIRST))
_case("active missing, legacy has no such thing", Opens(1, 2, [FIRST]))(
    lambda: _without(ACTIVE, SPARE, slot=usual(flags=0))
)
_case("active missing", Aside("active base 2 of the manifest is missing"))(lambda: _without(ACTIVE, SPARE))
_case("two segments beyond the active", Aside("beyond the active base 0"))(
    lambda: _with(_three(1), **{_MANIFEST: slot_maker.manifest(0, 0)})
)
_case("active empty, frames beyond", Aside("beyond the active base 1"))(
    lambda: _with(usual(), **{_MANIFEST: slot_maker.manifest(0, 1)})
)

# --- what a power cut can leave (ours.md 16) -----------------------------------------------------------

_case("16 (i) the manifest names a base, a spare is left", Opens(1, 5, [FIRST, ACTIVE, SPARE]))(
    lambda: _changed(SPARE, _put(8, b"\3"), _with(usual(), **{_MANIFEST: slot_maker.manifest(0, 5)}))
)
_case("16 (i) the spare holds pages of lost frames", Opens(1, 5, [FIRST, ACTIVE, SPARE], [f"{SPARE}.cut-24-0"]))(
    lambda: _changed(SPARE, _put(8, b"\3" + bytes(99) + b"x"), _with(usual(), **{_MANIFEST: slot_maker.manifest(0, 5)}))
)
_case("16 (i) but the chain does not end there", Aside("active base 6 of the manifest is missing"))(
    lambda: _with(usual(), **{_MANIFEST: slot_maker.manifest(0, 6)})
)
_case("16 (i) but there are two spares", Aside("active base 5 of the manifest is missing"))(
    lambda: _changed(
        SPARE,
        _put(8, b"\3"),
        _with(usual(), **{_MANIFEST: slot_maker.manifest(0, 5), "x.sfa": slot_maker.segment(9, [])}),
    )
)
_case("16 (i) but beside a corrupt file", Aside("is corrupt"))(
    lambda: _changed(SPARE, _put(8, b"\3"), _with(usual(), **{_MANIFEST: slot_maker.manifest(0, 5), "x.sfa": b"junk"}))
)
_case("16 (ii) one contiguous segment beyond the active", Opens(1, 5, _BOTH))(
    lambda: _with(usual(), **{_MANIFEST: slot_maker.manifest(0, 0)})
)
_case("one bad record after a rotation: as 16 (ii)", Opens(1, 5, _BOTH))(
    lambda: _changed(_MANIFEST, _flip(4096 + 24), _with(usual(), **{_MANIFEST: slot_maker.manifest(0, 2, 3, (0, 0))}))
)

# --- manifest -------------------------------------------------------------------------------------------

_case("no segment, head equals active: fresh", Fresh())(
    lambda: _with(Slot(), **{_MANIFEST: slot_maker.manifest(7, 7), ".ack-watermark": slot_maker.watermark(6)})
)
_case("no segment, head differs", Aside("there is no segment file"))(
    lambda: _with(Slot(), **{_MANIFEST: slot_maker.manifest(2, 7)})
)
_case("collapsed, only a spare is left: fresh", Fresh())(
    lambda: _with(_without(FIRST, ACTIVE), **{_MANIFEST: slot_maker.manifest(2, 2)})
)
_case("collapsed, a spare with residue is left: fresh, kept", Fresh([".symbol-dict.corrupt", f"{SPARE}.corrupt"]))(
    lambda: _changed(SPARE, _put(99, b"x"), _with(_without(FIRST, ACTIVE), **{_MANIFEST: slot_maker.manifest(2, 2)}))
)
_case("collapsed, segments below head are left: fresh", Fresh())(
    lambda: _with(_without(ACTIVE), **{_MANIFEST: slot_maker.manifest(2, 2)})
)
_case("invariant 15 manifest missing, segments flagged", Aside("needs sf-manifest.bin"))(lambda: _without(_MANIFEST))
_case("manifest missing, one of them flagged", Aside(f"{ACTIVE} needs sf-manifest.bin"))(
    lambda: _changed(ACTIVE, _put(5, b"\1"), usual(flags=0))
)
_case("manifest missing, none flagged: migrated", Opens(1, 5, _BOTH))(lambda: usual(flags=0))
for _name, _data in {
    "short": slot_maker.manifest(0, 2)[:-1],
    "long": slot_maker.manifest(0, 2) + b"\0",
    "zeros, longer": bytes(8193),
    "bad CRC": slot_maker.manifest(0, 2)[:4090] + b"\0" * 8 + slot_maker.manifest(0, 2)[4098:],
    "active below head": slot_maker.manifest(3, 2),
}.items():
    _case(f"manifest unusable, none flagged: {_name}", Opens(1, 5, _BOTH, [f"{_MANIFEST}.corrupt"]))(
        lambda data=_data: _with(usual(flags=0), **{_MANIFEST: data})  # type: ignore[misc]
    )
    _case(f"manifest unusable, flagged: {_name}", Aside("needs sf-manifest.bin, which is missing or unusable"))(
        lambda data=_data: _with(usual(), **{_MANIFEST: data})  # type: ignore[misc]
    )
_case("manifest unusable and nothing else: fresh", Fresh([f"{_MANIFEST}.corrupt"]))(
    lambda: _with(Slot(), **{_MANIFEST: b"?"})
)
for _name, _data in {"zeros": bytes(8192), "empty": b""}.items():
    _case(f"a manifest whose creation a kill cut short, none flagged: {_name}", Opens(1, 5, _BOTH))(
        lambda data=_data: _with(usual(flags=0), **{_MANIFEST: data})  # type: ignore[misc]
    )
    _case(f"a manifest of no record, flagged: {_name}", Aside("needs sf-manifest.bin, which is missing or unusable"))(
        lambda data=_data: _with(usual(), **{_MANIFEST: data})  # type: ignore[misc]
    )
_case("a manifest whose creation a kill cut short, and nothing else: fresh", Fresh())(
    lambda: _with(Slot(), **{_MANIFEST: bytes(8192)})
)
_case("one bad record, the other is used", Opens(1, 5, _BOTH))(
    lambda: _changed(_MANIFEST, _flip(24), _with(usual(), **{_MANIFEST: slot_maker.manifest(0, 2, 4, (0, 2))}))
)
_case("manifest with unflagged members: the flags are set", Opens(1, 5, _BOTH))(
    lambda: _with(usual(flags=0), **{_MANIFEST: slot_maker.manifest(0, 2)})
)
_case("the 128-byte manifest of an early Java", Opens(1, 5, _BOTH))(
    lambda: _with(usual(), **{_MANIFEST: slot_maker.container({64: slot_maker.record(b"SFM1", 1, 0, 2)}, 128)})
)

# --- watermark --------------------------------------------------------------------------------------------

for _name, _data in {"wrong size": b"12345", "no record": bytes(8192), "missing": b""}.items():
    _case(f"REC-06 watermark: {_name}", Opens(0, 5, _BOTH))(
        lambda data=_data: (  # type: ignore[misc]
            _with(usual(), **{".ack-watermark": data}) if data else _without(".ack-watermark")
        )
    )
_case("REC-06 watermark of -1", Opens(0, 5, _BOTH))(
    lambda: _with(usual(), **{".ack-watermark": slot_maker.watermark(-1)})
)
_case("WMK-02 invariant 20 watermark above the newest frame", Opens(0, 5, _BOTH))(
    lambda: _with(usual(), **{".ack-watermark": slot_maker.watermark(5)})
)
_case("watermark at the newest frame", Opens(5, 5, _BOTH))(
    lambda: _with(usual(), **{".ack-watermark": slot_maker.watermark(4)})
)
_case("invariant 21 watermark below head", Opens(2, 5, [ACTIVE]))(
    lambda: _with(usual(), **{_MANIFEST: slot_maker.manifest(2, 2), ".ack-watermark": slot_maker.watermark(0)})
)
_case("the 16-byte watermark of Go", Opens(3, 5, _BOTH))(
    lambda: _with(usual(flags=0), **{".ack-watermark": b"AKW1\0\0\0\0\2" + bytes(7)})
)

# --- must accept (slot.md 8) --------------------------------------------------------------------------------


@_case("Java: sf-initial.sfa, holes, sizes, mixed flags, foreign names, a base that is not 0", Opens(8, 16, [
    "anything at all.sfa", "sf-000000000000001f.sfa", "sf-initial.sfa", "sf-ffff.sfa"]))  # fmt: skip
def _() -> Slot:
    slot = Slot()
    slot.segment(7, payloads(7, 9), name="sf-initial.sfa", flags=0)
    slot.segment(9, payloads(9, 12), name="sf-000000000000001f.sfa", size=500)
    slot.segment(12, payloads(12, 13), name="anything at all.sfa", flags=0)
    slot.segment(13, payloads(13, 16), name="sf-ffff.sfa")
    slot.files.update({_MANIFEST: slot_maker.manifest(7, 13), ".ack-watermark": slot_maker.watermark(7)})
    return slot


@_case(
    "Go: legacy, no dictionary, no manifest, no watermark", Opens(0, 4, ["sf-0000000000000001.sfa", "sf-initial.sfa"])
)
def _() -> Slot:
    slot = Slot()
    slot.segment(0, payloads(0, 2), name="sf-initial.sfa", flags=0)
    slot.segment(2, [payload(2), payload(3)], name="sf-0000000000000001.sfa", flags=0, size=300)
    return slot


_case("legacy, no frame: sf-initial.sfa is the active", Opens(0, 0, ["sf-initial.sfa"]))(
    lambda: _with(
        Slot(),
        **{
            "sf-initial.sfa": slot_maker.segment(0, [], flags=0, size=64),
            "sf-0000000000000001.sfa": slot_maker.segment(9, [], flags=0, size=64),
        },
    )
)
_case("legacy, no frame: else the highest base", Opens(9, 9, ["sf-0000000000000001.sfa"]))(
    lambda: _with(
        Slot(),
        **{
            "sf-0000000000000001.sfa": slot_maker.segment(9, [], flags=0, size=64),
            "sf-0000000000000002.sfa": slot_maker.segment(3, [], flags=0, size=64),
        },
    )
)
_case("legacy, no frame and no clean one: fresh, kept", Fresh([".symbol-dict.corrupt", f"{FIRST}.corrupt"]))(
    lambda: _with(
        Slot(),
        **{FIRST: slot_maker.segment(0, [], flags=0, size=64, tail=b"x"), ".symbol-dict": slot_maker.symbol_dict()},
    )
)
_case("nothing at all: fresh", Fresh())(Slot)
_case("a stale dictionary and watermark: gone (invariant 37)", Fresh())(
    lambda: _with(
        Slot(), **{".symbol-dict": slot_maker.symbol_dict(["old"]), ".ack-watermark": slot_maker.watermark(3)}
    )
)


@pytest.mark.parametrize("name", _CASES)
def test_row_of_5_2(tmp_path: Path, name: str) -> None:
    build, verdict = _CASES[name]
    directory = build().write(tmp_path / ID)
    before = snapshot(directory)
    planned = _plan_without_a_change(directory)
    if isinstance(verdict, Refused):
        with pytest.raises(
            SlotRefusedError, match=r"nothing in it was changed.*'spoolq verify'.*'spoolq repair'"
        ) as info:
            open_slot(Files(), str(tmp_path), ID)
        assert verdict.reason in str(info.value)
        assert snapshot(directory) == before
        assert planned is None
        return
    outcome, opened = recover(tmp_path)
    if isinstance(verdict, Aside):
        assert planned == "unreplayable"
        aside = tmp_path / f"{ID}.unreplayable-0"
        after = snapshot(aside)
        failed = after.pop(".failed")
        assert after == before, "nothing in a slot that is set aside was changed (invariant 9)"
        assert failed is not None
        assert verdict.reason in failed.decode()
        assert opened.report.set_aside == str(aside)
        assert opened.fresh
        assert outcome.names == []
    elif isinstance(verdict, Fresh):
        assert planned == "fresh"
        assert opened.fresh
        assert not opened.report.recovered
        assert outcome.names == sorted(verdict.kept)
    else:
        assert planned == "recover"
        assert not opened.fresh
        assert outcome.frames == {fsn: payload(fsn) for fsn in range(verdict.first, verdict.end)}
        assert (outcome.acked_fsn, outcome.next_fsn) == (verdict.first - 1, verdict.end)
        assert outcome.names == sorted([*verdict.segments, *verdict.kept, *_SIDE, _MANIFEST])
    _nothing_is_lost(before, tmp_path)
    again, _ = recover(tmp_path)
    assert again == outcome, "recover(recover(x)) == recover(x)"


def _plan_without_a_change(directory: Path) -> str | None:
    """The plan's verdict, None when it refuses; it only reads."""
    files = RecordingFiles()
    before = snapshot(directory)
    try:
        verdict = plan_slot(files, str(directory)).verdict
    except SlotRefusedError:
        verdict = None
    assert {name for name, _ in files.calls} <= {"names_if_there", "stat", "open", "read_into", "read", "close"}
    assert snapshot(directory) == before
    return verdict


def _nothing_is_lost(before: dict[str, bytes | None], root: Path) -> None:
    """Every byte that was not zero and was no header is still somewhere, or below head, or an unfinished frame."""
    now = b"".join(content or b"" for content in snapshot(root).values())
    for name, content in before.items():
        if name.endswith(".sfa") and content and b"half" not in content:
            for piece in (content[24:].strip(b"\0"),):
                head = slot_maker.read_record(before.get(_MANIFEST) or b"", b"SFM1", 2) or (0, 0)
                base = int.from_bytes(content[8:16], "little")
                found = slot_maker.whole_frames(content)[0]
                settled = content[:4] == b"SF01" and base + len(found) <= head[0] and found
                kept = piece in now or all(part in now for part in (piece[: len(piece) // 2], piece[len(piece) // 2 :]))
                assert settled or kept or _frames_and_rest_are_kept(content, now), name


def _frames_and_rest_are_kept(content: bytes, now: bytes) -> bool:
    frames, offset = slot_maker.whole_frames(content)
    return all(slot_maker.frame(p) in now for p in frames) and content[offset:].strip(b"\0") in now


# --- beyond the table --------------------------------------------------------------------------------------


def test_rec_01_the_report_and_one_line_tell_what_was_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    slot = _changed(ACTIVE, _put(_TAIL, b"junkjunkjunk"))
    slot.files["sf-0000000000000007.sfa"] = b"junk"
    slot.write(tmp_path / ID)
    with caplog.at_level(logging.INFO, logger="spoolq.spool"):
        _, opened = recover(tmp_path)
    report = opened.report
    assert (report.recovered, report.segments, report.first_fsn, report.next_fsn, report.acked_fsn) == (
        True,
        2,
        0,
        5,
        0,
    )
    assert [(cut.segment, cut.offset, cut.nbytes) for cut in report.cut] == [(ACTIVE, _TAIL, 12)]
    assert (tmp_path / ID / report.cut[0].copy).read_bytes() == b"junkjunkjunk"
    assert report.quarantined == (("sf-0000000000000007.sfa", "sf-0000000000000007.sfa.corrupt"),)
    assert report.removed == (SPARE,)
    assert opened.next_number == 8
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno == logging.WARNING
    text = caplog.text
    for part in ("4 frames (76 bytes) to send", "FSN 0 to 4", "in 2 segments", f"cut 12 bytes of {ACTIVE} at {_TAIL}",
                 "renamed to", "1 files without unsent frames removed", "4 bytes are no header"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize(
    ("name", "content", "warning"),
    [
        ("sf-initial.sfa", bytes(64), "sf-initial.sfa is corrupt: all of it is zero"),
        ("x.sfa", b"SF09" + bytes(60), "x.sfa is corrupt: bad magic 39304653"),
        ("x.sfa", slot_maker.segment(9, [], tail=b"\0\0x"), "x.sfa holds bytes from 26 on that are no whole frame"),
    ],
)
def test_every_quarantined_file_is_explained(tmp_path: Path, name: str, content: bytes, warning: str) -> None:
    _with(usual(), **{name: content}).write(tmp_path / ID)
    _, opened = recover(tmp_path)
    assert opened.report.warnings == (warning,)
    assert warning in opened.report.line()


def test_seg_03_an_intact_slot_is_no_alarm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    usual().write(tmp_path / ID)
    with caplog.at_level(logging.INFO, logger="spoolq.spool"):
        _, opened = recover(tmp_path)
    assert opened.report.cut == ()
    assert [record.levelno for record in caplog.records] == [logging.INFO]


def test_wmk_02_an_ignored_watermark_is_rewritten_below_the_first_frame(tmp_path: Path) -> None:
    slot = usual()
    slot.files[".ack-watermark"] = slot_maker.watermark(99, generation=7)
    slot.write(tmp_path / ID)
    _, opened = recover(tmp_path)
    data = (tmp_path / ID / ".ack-watermark").read_bytes()
    assert slot_maker.read_record(data, b"AKW1", 1) == (-1,)
    assert any("99 is above the newest frame" in warning for warning in opened.report.warnings)


def _uncommitted(layout: str, watermark: int | None = None, *, room: int = 300) -> Slot:
    """Frames by letter, ``c`` commits, ``d`` is deferred, ``/`` begins a segment; ``room`` in the last one."""
    slot, bases, fsn = Slot(), [], 0
    for part in layout.split("/"):
        bases.append(fsn)
        frames = [slot_maker.message(None, body=b"%d" % (fsn + i), defer=c == "d") for i, c in enumerate(part)]
        slot.segment(fsn, frames, size=None if part else room)
        fsn += len(part)
    last = f"sf-{len(bases) - 1:016x}.sfa"
    slot.files[last] = slot.files[last].ljust(room, b"\0")
    slot.files[_MANIFEST] = slot_maker.manifest(0, bases[-1])
    if watermark is not None:
        slot.files[".ack-watermark"] = slot_maker.watermark(watermark)
    return slot


@pytest.mark.parametrize(
    ("layout", "watermark", "sent", "cut", "active"),
    [
        ("ccd", None, [0, 1], {"0": 1}, 0),
        ("ccddd", 0, [1], {"0": 3}, 0),
        ("ccddd", 1, [], {"0": 3}, 0),  # nothing below is left; it is cut none the less
        ("d", None, [], {"0": 1}, 0),  # nothing else was ever there
        ("dd/d/", None, [], {"0": 2, "1": 1}, 0),
        ("cc/dd", None, [0, 1], {"1": 2}, 2),
        ("ccd/dd", None, [0, 1], {"0": 1, "1": 2}, 0),
        ("cdc/cdd/ddd/dd", 1, [2, 3], {"1": 2, "2": 3, "3": 2}, 3),
        ("ccdd/", None, [0, 1], {"0": 2}, 0),  # a rotation, and then no frame
        ("ccdddd", 3, [], {"0": 2}, 0),  # of a client that settles a part of it
    ],
)
def test_invariant_38_a_deferred_tail_is_cut_before_a_frame_can_follow_it(
    tmp_path: Path, layout: str, watermark: int | None, sent: list[int], cut: dict[str, int], active: int
) -> None:
    slot = _uncommitted(layout, watermark)
    slot.write(tmp_path / ID)
    outcome, opened = recover(tmp_path)
    assert sorted(outcome.frames) == sent
    stays = len(layout.replace("/", "")) - sum(cut.values())
    assert (opened.seed.next_fsn, opened.seed.deferred_fsn) == (stays, stays)
    assert (opened.report.frames_deferred, opened.chain[-1].base) == (sum(cut.values()), active)
    copies = {copy.segment[18:19]: (tmp_path / ID / copy.copy).read_bytes() for copy in opened.report.cut}
    for number, content in copies.items():
        found, _ = slot_maker.whole_frames(slot.files[f"sf-{int(number, 16):016x}.sfa"][:24] + content)
        assert len(found) == cut[number], "the copies hold it"
    assert set(copies) == set(cut)
    outcome, opened = recover(tmp_path)
    assert (sorted(outcome.frames), opened.report.frames_deferred, opened.report.cut) == (sent, 0, ())


def test_invariant_38_a_tail_that_only_the_watermark_settles_stays_settled_after_a_power_cut(tmp_path: Path) -> None:
    """Nobody knows whether its client had synced that watermark: it is durable before a frame can follow the tail."""
    _uncommitted("ccdd", 3).write(tmp_path / ID)
    files = RecordingFiles()
    outcome, _ = recover(tmp_path, files)
    assert (outcome.next_fsn, outcome.acked_fsn) == (4, 3)
    ours = [name for name, path in files.calls if path.endswith(".ack-watermark")]
    assert ours[-3:] == ["write", "sync", "close"]


def test_deferred_frames_that_a_later_one_commits_are_sent(tmp_path: Path) -> None:
    slot = Slot()
    slot.segment(0, [slot_maker.message(None, body=b"d", defer=True), payload(1), b"opaque"], size=200)
    slot.files[_MANIFEST] = slot_maker.manifest(0, 0)
    slot.write(tmp_path / ID)
    outcome, _ = recover(tmp_path)
    assert sorted(outcome.frames) == [0, 1, 2]


@pytest.mark.parametrize(
    ("chain", "end"),
    [
        ("ccc", 0),
        ("ccdd", 0),  # a tail: never sent
        ("cdc", 3),
        ("cdcc/cc", 3),
        ("dc/dddcc/c", 6),
        ("cd/cc", 3),  # over the end of a segment
        ("cd/ddd/cc/c", 6),  # and over a whole one
        ("cd/dddc", 6),
        ("dccd/c/dd", 5),
        ("ooo/oco", 0),  # an opaque payload commits
        ("cdo", 3),
        ("d/o", 2),
    ],
)
def test_behaviour_3_6_the_last_commit_of_deferred_frames_is_known(tmp_path: Path, chain: str, end: int) -> None:
    frames = {"c": payload(0), "d": slot_maker.message(0, [], defer=True), "o": b"opaque\x01\x01\x01\x01\x01\x01"}
    slot, bases, base = Slot(), [], 0
    for part in chain.split("/"):
        slot.segment(base, [frames[kind] for kind in part], size=None if part != chain.split("/")[-1] else 300)
        bases.append(base)
        base += len(part)
    slot.files[_MANIFEST] = slot_maker.manifest(0, bases[-1])
    slot.write(tmp_path / ID)
    assert recover(tmp_path)[1].seed.grouped_end_fsn == end


def test_set_aside_takes_the_next_free_number_up_to_the_limit(tmp_path: Path) -> None:
    for number in range(63):
        (tmp_path / f"{ID}.unreplayable-{number}").mkdir()
    _without(FIRST).write(tmp_path / ID)
    _, opened = recover(tmp_path)
    assert opened.report.set_aside.endswith(".unreplayable-63")
    _without(FIRST).write(tmp_path / ID)
    before = snapshot(tmp_path / ID)
    with pytest.raises(StorageError, match="64 such slots"):
        recover(tmp_path)
    assert snapshot(tmp_path / ID) == before


def test_a_slot_set_aside_is_no_candidate_and_logs_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _without(FIRST).write(tmp_path / ID)
    recover(tmp_path)
    assert next(r.levelno for r in caplog.records if r.name == "spoolq.spool") == logging.ERROR
    assert (tmp_path / f"{ID}.unreplayable-0" / ".failed").read_text().startswith("unreplayable: ")


def test_copies_and_quarantined_files_of_earlier_recoveries_stay(tmp_path: Path) -> None:
    slot = _changed(ACTIVE, _put(_TAIL, b"second"))
    slot.files[f"{ACTIVE}.cut-{_TAIL}-0"] = b"first"
    slot.files["x.sfa"] = b"junk"
    slot.files["x.sfa.corrupt"] = b"older"
    slot.write(tmp_path / ID)
    recover(tmp_path)
    found = snapshot(tmp_path / ID)
    assert found[f"{ACTIVE}.cut-{_TAIL}-0"] == b"first"
    assert found[f"{ACTIVE}.cut-{_TAIL}-1"] == b"second"
    assert (found["x.sfa.corrupt"], found["x.sfa.corrupt.1"]) == (b"older", b"junk")


def test_invariant_12_new_numbers_are_above_every_name_also_of_corrupt_files(tmp_path: Path) -> None:
    slot = usual()
    slot.files["sf-00000000000000ff.sfa.corrupt"] = b"x"
    slot.files["sf-000000000000fffff.sfa.corrupt"] = b"not a generation"
    slot.write(tmp_path / ID)
    _, opened = recover(tmp_path)
    assert opened.next_number == 0x100


def test_numbers_that_are_used_up_are_refused(tmp_path: Path) -> None:
    slot = usual()
    slot.files["sf-ffffffffffffffff.sfa"] = slot_maker.segment(9, [], size=64)
    slot.write(tmp_path / ID)
    with pytest.raises(SlotRefusedError, match="used up"):
        recover(tmp_path)


@pytest.mark.parametrize("what", ["directory", "link", "dangling link", "pipe"])
@pytest.mark.parametrize("name", ["sf-0000000000000009.sfa", ".ack-watermark", ".symbol-dict"])
def test_rec_05_invariant_07_what_cannot_be_read_is_never_taken_for_empty(tmp_path: Path, name: str, what: str) -> None:
    slot = usual()
    slot.files.pop(name, None)
    directory = slot.write(tmp_path / ID)
    path = directory / name
    if what == "directory":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    else:
        (tmp_path / "elsewhere").write_bytes(b"" if what == "link" else b"x")
        path.symlink_to(tmp_path / ("elsewhere" if what == "link" else "nowhere"))
    before = snapshot(directory)
    with pytest.raises(SlotRefusedError):
        recover(tmp_path)
    assert snapshot(directory) == before


def test_a_directory_named_as_the_manifest_is_set_aside_as_any_unusable_one(tmp_path: Path) -> None:
    directory = usual(flags=0).write(tmp_path / ID)
    (directory / _MANIFEST).mkdir()
    outcome, _ = recover(tmp_path)
    assert sorted(outcome.frames) == [1, 2, 3, 4]
    assert (directory / f"{_MANIFEST}.corrupt").is_dir()


def test_unknown_files_and_directories_are_left_alone(tmp_path: Path) -> None:
    directory = usual().write(tmp_path / ID)
    (directory / ".slot-epoch").write_bytes(b"x")
    (directory / "sub.dir").mkdir()
    (directory / ".failed").write_text("by hand")
    outcome, _ = recover(tmp_path)
    assert {".slot-epoch", "sub.dir", ".failed"} < set(outcome.names)


def test_a_slot_without_a_directory_is_made(tmp_path: Path) -> None:
    _, opened = recover(tmp_path)
    assert opened.fresh
    assert opened.report.line() == f"slot {tmp_path / ID}: new, the first frame gets FSN 0"
    with pytest.raises(StorageError):
        open_slot(Files(), str(tmp_path / "no such sf_dir"), ID)


def test_rec_11_opening_and_closing_leaves_no_file_again_and_again(tmp_path: Path) -> None:
    for _ in range(3):
        outcome, _ = recover(tmp_path)
        assert outcome.names == []
