"""Rows by number: what row ``n`` is follows from ``n`` alone, so whoever sees it can judge it."""

from __future__ import annotations

from dataclasses import dataclass

TABLES = ("t0", "t1", "t2")
_OLD_SYMBOLS = 50


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its table and the values of the columns ``s``, ``n``, ``x``, ``text`` and the timestamp in us."""

    table: str
    s: str
    n: int
    x: float
    text: str
    micros: int


def row(n: int, text_nbytes_max: int) -> Row:
    """Row ``n``: every fourth brings a symbol of its own, most texts are short, some as long as they may be."""
    mixed = (n + 1) * 2_654_435_761 % (1 << 32) >> 8
    symbol = f"new-{n}" if mixed % 4 == 0 else f"old-{mixed % _OLD_SYMBOLS}"
    if mixed % 97 == 0:
        length = text_nbytes_max
    elif mixed % 31 == 0:
        length = mixed % text_nbytes_max
    else:
        length = mixed % 40
    return Row(TABLES[mixed % len(TABLES)], symbol, n, n / 2, f"{n}-".ljust(length, chr(97 + n % 26)), n + 1)
