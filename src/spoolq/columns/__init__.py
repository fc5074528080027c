"""Values become columns: the row buffer and the symbol dictionary.

The row buffer has two bodies with the same public names; `spoolq._implementation` says which one.
Imports values, errors and limits only.
"""

from __future__ import annotations

from spoolq._implementation import COMPILED
from spoolq.columns.symbols import SymbolTable
from spoolq.columns.types import ColumnType

if COMPILED:
    from spoolq.columns._rows import RowBuffer
else:
    from spoolq.columns.rows_plain import RowBuffer

__all__ = ["ColumnType", "RowBuffer", "SymbolTable"]
