"""The mapping in use; `spoolq._implementation` says which body this is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spoolq import _implementation

if TYPE_CHECKING or not _implementation.COMPILED:
    from spoolq.spool.mapping_plain import Mapping, live_mappings, reserve_blocks
else:
    from spoolq.spool._mapping import Mapping, live_mappings, reserve_blocks

__all__ = ["Mapping", "live_mappings", "reserve_blocks"]
