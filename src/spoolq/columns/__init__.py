"""Values become columns: the row buffer and the symbol dictionary.

The row buffer has two bodies with the same public names; `spoolq._implementation` says which one.
Imports values, errors and limits only.
"""

from __future__ import annotations

from spoolq.columns.rows_plain import RowBuffer
from spoolq.columns.symbols import SymbolTable
from spoolq.columns.types import ColumnType

__all__ = ["ColumnType", "RowBuffer", "SymbolTable"]
