"""Stored frames become masked WebSocket frames: the compiled body, or its plain twin."""

from __future__ import annotations

from spoolq._implementation import COMPILED

if COMPILED:
    from spoolq.link._mask import BINARY, MaskKeys, frame, pack_run
else:
    from spoolq.link.mask_plain import BINARY, MaskKeys, frame, pack_run

__all__ = ["BINARY", "MaskKeys", "frame", "pack_run"]
