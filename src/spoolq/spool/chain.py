"""Which files of a slot form the chain of segments, and what becomes of the others (slot.md 5.1 step 6, 5.2).

Pure: `decide` takes what `scan` found of each file and what the manifest says, and gives a `Decision` or
raises `Unreplayable` with the reason.  Rules, with the manifest's head and active bases:

    ends at or below head                     removed, everything in it is settled
    has frames, head <= base <= active        a member; contiguous from head on
    no frame, base == active                  the active, when no member is (not beside a corrupt file)
    one, with frames, right behind the active accepted as the new active (ours.md 16 ii)
    one, without, nothing at the active base  made the active when the chain ends there (ours.md 16 i)
    any other without a frame                 a spare: removed, or renamed when it holds residue
    corrupt                                   renamed
    blank, with the newest number             a creation that a kill cut short: removed

Without a manifest all segments with frames are members and the last one is the active; when none has
frames, a clean empty one is, ``sf-initial.sfa`` before the one with the highest base.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from spoolq.frozen import Frozen
from spoolq.spool.manifest import Boundaries
from spoolq.spool.scan import Segment
from spoolq.spool.segment_layout import FLAG_MANIFEST_REQUIRED

SUFFIX: Final = ".sfa"
INITIAL_NAME: Final = "sf-initial.sfa"
_NUMBERED: Final = re.compile(r"sf-([0-9a-f]{16})\.sfa(?:\.corrupt.*)?")


class Unreplayable(Exception):
    """What the slot holds cannot be sent in order; the text is the reason."""


class Decision(Frozen):
    """``chain`` in order, the active one last; empty: the slot starts anew.

    ``promoted``: name of the member that became active although the manifest did not say so; when
    ``rebase`` it had another base in its header.
    """

    chain: tuple[Segment, ...]
    removed: tuple[Segment, ...] = ()
    quarantined: tuple[Segment, ...] = ()
    promoted: str = ""
    rebase: bool = False


def generation(name: str) -> int:
    """The number in a segment's name, quarantined ones included; -1 when it has none."""
    match = _NUMBERED.fullmatch(name)
    return int(match[1], 16) if match else -1


def decide(segments: Sequence[Segment], boundaries: Boundaries | None) -> Decision:
    """See the module's text.  ``boundaries`` is None when there is no usable manifest."""
    for segment in segments:
        if segment.empty_frame >= 0:
            raise Unreplayable(f"the frame with FSN {segment.base + segment.empty_frame} in {segment.name} is empty")
    newest = max((generation(segment.name) for segment in segments), default=-1)
    valid = [s for s in segments if s.kind == "segment"]
    unfinished = [s for s in segments if s.kind == "blank" and generation(s.name) == newest]
    corrupt = [s for s in segments if s.kind == "corrupt" or (s.kind == "blank" and generation(s.name) != newest)]
    if boundaries is None:
        found = _without_manifest(valid)
    else:
        found = _with_manifest(valid, corrupt, boundaries, some_file=bool(segments))
    members = {segment.name for segment in found.chain}
    gone, kept = list(unfinished), list(corrupt)
    for segment in valid:
        if segment.name not in members:
            settled = segment.count > 0 and boundaries is not None and segment.end_fsn <= boundaries.head
            (gone if settled or segment.residue is None else kept).append(segment)
    return found.replaced(removed=tuple(gone), quarantined=tuple(kept))


def _contiguous(chain: Sequence[Segment]) -> None:
    for before, after in pairwise(chain):
        if after.base != before.end_fsn:
            what = "is missing or damaged" if after.base > before.end_fsn else "is there twice"
            span = sorted((before.end_fsn, after.base))
            raise Unreplayable(
                f"FSN {span[0]} to {span[1] - 1} {what}: {before.name} ends before FSN {before.end_fsn} and "
                f"{after.name} starts at {after.base}"
            )


def _without_manifest(valid: Sequence[Segment]) -> Decision:
    for segment in valid:
        if segment.flags & FLAG_MANIFEST_REQUIRED:
            raise Unreplayable(f"{segment.name} needs sf-manifest.bin, which is missing or unusable")
    chain = sorted((s for s in valid if s.count), key=lambda s: s.base)
    if chain:
        _contiguous(chain)
        return Decision(tuple(chain))
    clean = [s for s in valid if s.residue is None]
    # the highest base, so that the next FSN does not depend on the order of the directory
    return Decision(tuple(sorted(clean, key=lambda s: (s.name == INITIAL_NAME, s.base, s.name))[-1:]))


def _with_manifest(
    valid: Sequence[Segment], corrupt: Sequence[Segment], boundaries: Boundaries, *, some_file: bool
) -> Decision:
    head, active = boundaries.head, boundaries.active
    live = sorted((s for s in valid if s.count and s.end_fsn > head), key=lambda s: s.base)
    for segment in live:
        if segment.base < head:
            raise Unreplayable(f"{segment.name} starts at FSN {segment.base}, below the head {head} of the manifest")
    _contiguous(live)
    if live and live[0].base != head:
        raise Unreplayable(f"no segment starts at the head {head} of the manifest; the first one is {live[0].name}")
    beyond = [s for s in live if s.base > active]
    if beyond and (len(live) < 2 or live[-2].base != active):  # also when there are two
        raise Unreplayable(f"{beyond[0].name} lies beyond the active base {active} of the manifest")
    if beyond:
        return Decision(tuple(live), promoted=beyond[0].name)
    if live and live[-1].base == active:
        return Decision(tuple(live))
    return _empty_active(valid, live, corrupt, boundaries, some_file=some_file)


def _empty_active(
    valid: Sequence[Segment],
    live: list[Segment],
    corrupt: Sequence[Segment],
    boundaries: Boundaries,
    *,
    some_file: bool,
) -> Decision:
    """No segment with frames starts at the active base: an empty one does, or none."""
    head, active = boundaries.head, boundaries.active
    ends_there = (live[-1].end_fsn if live else head) == active
    empty = [s for s in valid if not s.count]
    at_base = sorted((s for s in empty if s.base == active), key=lambda s: (s.residue is None, s.name))
    if corrupt:
        raise Unreplayable(
            f"no frame is left at the active base {active} of the manifest, and {corrupt[0].name} is corrupt: "
            f"{corrupt[0].fault or 'all of it is zero'}"
        )
    if at_base and ends_there:
        return Decision((*live, at_base[0]))
    if not live and head == active:
        return Decision(())  # a drained close that was cut short
    if not at_base and ends_there and len(empty) == 1:
        return Decision((*live, empty[0].replaced(base=active)), promoted=empty[0].name, rebase=True)
    if not some_file:
        raise Unreplayable(f"the manifest names FSN {head} to {active}, and there is no segment file")
    last = f"the last frame is FSN {live[-1].end_fsn - 1} in {live[-1].name}" if live else "no frame is left"
    raise Unreplayable(f"the segment at the active base {active} of the manifest is missing or damaged; {last}")
