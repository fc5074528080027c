"""The words of every error of a row, shared by both bodies of the row buffer.

Each function builds an error that names table, column and kind of value; the row buffer raises it
and undoes the row.
"""

from __future__ import annotations

import logging
from typing import Any, Final, NoReturn

from spoolq import limits
from spoolq.columns.types import ColumnType
from spoolq.errors import FrameTooLarge, InputError, ReentryError, SpoolqError, fresh

_LOG = logging.getLogger("spoolq.rows")


class Refused(Exception):
    """Why a value cannot be stored; the row buffer adds table and column.  ``code_name`` is the error's."""

    code_name = "InvalidApiCall"


class RefusedText(Refused):
    """A text that is not valid Unicode."""

    code_name = "InvalidUtf8"


class RefusedArray(Refused):
    """An array that has no form in a column."""

    code_name = "ArrayError"


class RefusedDecimal(Refused):
    """A Decimal that is too long."""

    code_name = "DecimalError"


def kind_of(value: object) -> str:
    """How an error names the kind of a value."""
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def refused(table: str, column: str, why: object) -> InputError:
    """One value."""
    error = InputError(f"table {table!r}, column {column!r}: {why}", table=table, column=column)
    error.code_name = getattr(why, "code_name", error.code_name)
    return error


def type_changed(column_type: int, value_type: int) -> Refused:
    """The column has another type since an earlier row of the batch."""
    return Refused(
        f"the column is {ColumnType(column_type).name} in this batch and cannot take a "
        f"{ColumnType(value_type).name} value"
    )


def twice(table: str, name: str, first_spelling: str) -> InputError:
    """Two names of one row that are the same column."""
    return refused(table, name, f"the row names this column twice, also as {first_spelling!r} (case is ignored)")


def column_full() -> Refused:
    """The offsets of a column are signed 32-bit numbers to the server (wire.md 4.6)."""
    return Refused(f"the batch would hold over {limits.COLUMN_BYTES_MAX} bytes of this column; flush before it does")


def at_refused(table: str, why: object) -> InputError:
    """The designated timestamp."""
    error = InputError(f"row for table {table!r}: {why}", table=table)
    error.code_name = "InvalidTimestamp"
    return error


def mixed_units(table: str, row_type: int, batch_type: int) -> InputError:
    """Micros and nanos as ``at`` in one batch."""
    return InputError(
        f"table {table!r}: 'at' is {ColumnType(row_type).name} in this row and {ColumnType(batch_type).name} in "
        "earlier rows of the batch; use one unit, or flush between",
        table=table,
    )


def no_value(table: str) -> InputError:
    """Nothing of the row would reach the server."""
    return InputError(
        f"the row for table {table!r} has no value at all: every column is None and 'at' is "
        "ServerTimestamp; give it a timestamp or leave it out",
        table=table,
    )


def too_many_columns(table: str) -> InputError:
    """The limit of one block, designated timestamp included."""
    return InputError(f"table {table!r} would have over {limits.COLUMNS_PER_TABLE_MAX} columns in a batch", table=table)


def not_a_mapping(table: str, keyword: str, value: object) -> InputError:
    """``symbols=`` or ``columns=`` is something else."""
    return InputError(
        f"row for table {table!r}: {keyword!r} takes a dict of values by column name, not {kind_of(value)}",
        table=table,
    )


def not_a_row(table: str, index: int, value: object) -> InputError:
    """``rows()`` got something that is no sequence."""
    return InputError(f"row {index} for table {table!r} is {kind_of(value)}, not a sequence of values", table=table)


def wrong_width(table: str, index: int, width: int, expected: int) -> InputError:
    """``rows()`` got a sequence of another length than the names it was given."""
    return InputError(
        f"row {index} for table {table!r} has {width} values, not {expected}: one for each symbol, then one for each "
        "column, then the designated timestamp unless 'at' gives one for all rows",
        table=table,
    )


def row_too_large(table: str, size: int, limit: int) -> FrameTooLarge:
    """A row that no frame takes."""
    return FrameTooLarge(
        f"one row for table {table!r} needs a message of {size} bytes; the limit of one frame is {limit}; its values "
        "must be smaller",
        size=size,
        limit=limit,
        table=table,
    )


def symbol_too_large(table: str, column: str, text: str, size: int, limit: int) -> FrameTooLarge:
    """A symbol that no frame takes."""
    return FrameTooLarge(
        f"table {table!r}, column {column!r}: the symbol {text[:40]!r}... needs a message of {size} bytes; the limit "
        f"of one frame is {limit}; use a VARCHAR column for texts of that size",
        size=size,
        limit=limit,
        table=table,
        column=column,
    )


def reentry() -> ReentryError:
    """The same thread holds the sender's lock."""
    return ReentryError(
        "a conversion hook or handler called into the sender that is calling it; "
        "collect what it wants to write and write it after the call"
    )


def raise_latched(error: SpoolqError) -> NoReturn:
    """What every row call raises, as the call's own (`errors.fresh`)."""
    raise fresh(error)


def note_row(error: Any, index: int) -> None:
    """Says which row of ``rows()`` an error is about, and how many were taken."""
    error.rows_taken = index + bool(getattr(error, "in_doubt", False))
    error.add_note(f"row {index} of this rows() call; the rows before it stay buffered or are published")


def note_outcome(error: Any, *, taken: bool) -> None:
    """Says of an error of a trigger what became of the row that tripped it (`spoolq.errors`)."""
    error.in_doubt = taken
    then = "is published: do not repeat it" if taken else "was not taken: it may be repeated"
    error.add_note(f"an auto-flush failed with this; the row of this call {then}")


class SentinelLog:
    """Says once a column that a value will read back as NULL (ours.md 9)."""

    def __init__(self) -> None:
        self._said: set[tuple[str, str]] = set()

    def say(self, table: str, column: str, value: int) -> None:
        """One WARN for the first time; silent after a thousand columns."""
        if (table, column) in self._said or len(self._said) >= _SENTINEL_COLUMNS_MAX:
            return
        self._said.add((table, column))
        _LOG.warning("table %r, column %r: the value %d reads back as NULL (said once a column)", table, column, value)


_SENTINEL_COLUMNS_MAX: Final = 1_000
