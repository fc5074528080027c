"""CRC-32C (slot.md 2.1): the check value of ``123456789`` is 0xE3069283; chained equals one-shot.

Small ranges are computed by our own code where it was compiled, large ones by fastcrc.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spoolq import _implementation

if TYPE_CHECKING or not _implementation.COMPILED:
    from fastcrc.crc32 import iscsi

    def crc32c(data: bytes | bytearray | memoryview, previous: int = 0) -> int:
        """CRC-32C of ``data``, going on from ``previous``."""
        return iscsi(data, previous)
else:
    from spoolq.spool._crc import crc32c

__all__ = ["crc32c"]
