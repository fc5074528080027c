"""CRC-32C (slot.md 2.1): the check value of ``123456789`` is 0xE3069283; chained equals one-shot."""

from __future__ import annotations

from fastcrc.crc32 import iscsi


def crc32c(data: bytes | bytearray | memoryview, previous: int = 0) -> int:
    """CRC-32C of ``data``, going on from ``previous``."""
    return iscsi(data, previous)
