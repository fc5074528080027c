"""The mapping in use; `spoolq._implementation` says which body this is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from spoolq import _implementation

if TYPE_CHECKING or not _implementation.COMPILED:
    from spoolq.spool.mapping_plain import Mapping, let_go, live_mappings, reserve_blocks
else:
    from spoolq.spool._mapping import Mapping, let_go, live_mappings, reserve_blocks

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=let_go)  # every mapping is the parent's then (ours.md 32)

__all__ = ["Mapping", "live_mappings", "reserve_blocks"]
