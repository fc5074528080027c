"""Both bodies of row buffer and encoder, named one by one, so that a test does not depend on the switch.

A body is plain or compiled; the compiled one is there from the commit that lists it in
`spoolq._implementation`, and from then on its absence fails the import of the tests.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from spoolq import _implementation
from spoolq.columns import SymbolTable
from spoolq.qwp.cut import Cut


@dataclass(frozen=True)
class Body:
    """One implementation: the row buffer's module and the encoder's."""

    name: str
    rows: ModuleType
    encode: ModuleType

    def buffer(self, symbols: SymbolTable | None = None, **options: Any) -> Any:
        """A new row buffer."""
        return self.rows.RowBuffer(SymbolTable() if symbols is None else symbols, **options)

    def message(self, rows: Any, cut: Cut | None = None, *, gorilla: bool = False) -> bytes:
        """The encoded message, written into a room with a guard byte on each side."""
        nbytes = self.encode.frame_bytes(rows, cut, gorilla=gorilla)
        guarded = bytearray(b"\xa5" * (nbytes + 2))
        self.encode.write(rows, memoryview(guarded)[1:-1], cut, gorilla=gorilla)
        assert guarded[0] == guarded[-1] == 0xA5
        return bytes(guarded[1:-1])


def _body(name: str, rows: str, encode: str) -> Body:
    return Body(name, importlib.import_module(rows), importlib.import_module(encode))


PLAIN = _body("plain", "spoolq.columns.rows_plain", "spoolq.qwp.encode_plain")
BODIES = [PLAIN]
if "spoolq.columns._rows" in _implementation._MODULES:
    BODIES.append(_body("compiled", "spoolq.columns._rows", "spoolq.qwp._encode"))


def state_of(body: Body, rows: Any) -> dict[str, Any]:
    """All that a caller can see of a buffer and its dictionary; equal before and after a refused row."""
    symbols = rows.symbols
    return {
        "rows": len(rows),
        "tables": [(rows.table_name(index), rows.table_rows(index)) for index in range(rows.table_count)],
        "nbytes": rows.nbytes,
        "symbols": [symbols.text_of(index) for index in range(len(symbols))],
        "entries": symbols.entries(0, len(symbols)),
        "raw": body.message(rows),
        "gorilla": body.message(rows, gorilla=True),
    }
