"""The segment body in use; `spoolq._implementation` says which.  `segment_plain` says what each name does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spoolq import _implementation

if TYPE_CHECKING or not _implementation.COMPILED:
    from spoolq.spool.segment_plain import Appender, Memory, Room, Run, Segment, live_native_bytes, walk
else:
    from spoolq.spool._segment import Appender, Memory, Room, Run, Segment, live_native_bytes, walk

__all__ = ["Appender", "Memory", "Room", "Run", "Segment", "live_native_bytes", "walk"]
