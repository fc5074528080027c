"""Why our bytes may differ from the official client's: the closed list of reasons, and the proof of each.

`explain(batches, official, mine)` gives the rules that a case needs.  It does not excuse a difference, it
reproduces it: the case is rewritten as the rule says the official client sees it (a row left out, a spelling
dropped, symbols numbered by column), and what we encode from the rewritten rows must be the official client's
bytes to the last one.  A difference that no rule reproduces is an AssertionError.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from enum import Enum
from typing import Any

import numpy as np

from spoolq.columns.names import check_column_name, fold
from spoolq.errors import InvalidNameError
from spoolq.qwp.decode import Dictionary, WireFault, decode
from spoolq.values import TimestampMicros, TimestampNanos
from tests.interop.kept_columns import Memory, forget
from tests.interop.peer import FLUSH, Batches, Row, Sent, ours


class Rule(Enum):
    """What differs, and who decided so."""

    ALL_NONE = "a row whose values are all None: sent with its timestamp, or refused without; they drop it (ours.md 7)"
    CASE_TWICE = "two names of one row that differ only in case: refused; they drop the second value (ours.md 7)"
    NONE_NAME = "the name of a None is checked like any other; they do not look at it (ours.md 8)"
    INT_IN_DOUBLE = "an int that a DOUBLE holds exactly goes into a DOUBLE column; they refuse it (ours.md 9)"
    DECIMAL_SCALE = (
        "a scale that grows in a batch rescales the column; their flush fails and drops the batch (wire.md 4.10)"
    )
    DECIMAL_ZERO = "a zero Decimal has any positive exponent; they refuse it above 76"
    LONE_NAN_DECIMAL = (
        "a row of nothing but NaN Decimals has nulls; they refuse it as a row without values (wire.md 4.10)"
    )
    NAN_BITS = "a DOUBLE NaN is 00 .. F8 7F; they keep sign and payload (ours.md 1)"
    NUMPY_SCALAR = "numpy scalars and datetime64 are values; they refuse them (design.md 4)"
    SUBCLASS = "subclasses of str, int, float and ndarray are taken as their base; they refuse them"
    NEGATIVE_WRAPPER = "TimestampMicros and Nanos hold times before 1970 for columns; theirs cannot be made (ours.md 9)"
    DIMENSIONS = (
        "arrays of differing dimensions in a batch are refused; they send what a server answers with 03 (ours.md 7)"
    )
    COLUMNS = "a row above 2048 columns is refused; they send what a server answers with 05 (ours.md 7)"
    BIG_ENDIAN = "an array of foreign byte order is refused; they send its bytes as if they were little-endian"
    SYMBOL_IDS = "ids are given when a row is added; they give them at the flush, table by table, column by column"
    COLUMNS_KEPT = (
        "a message has the columns that its rows set; theirs also those of earlier flushes, all NULL, in old order"
    )
    TYPE_KEPT = "a flush frees the types of columns and of 'at'; they refuse another type for the life of the sender"


SENT_BUT_REFUSED = {Rule.DIMENSIONS: 0x03, Rule.COLUMNS: 0x05}
"""Rules whose bytes we cannot make; the strict decoder's status for what the official client sent."""


def explain(batches: Batches, theirs: Sent, mine: Sent) -> frozenset[Rule]:
    """The rules by which what was sent differs; none when it is equal.  AssertionError when no rule says why."""
    if theirs.messages == mine.messages and theirs.refused.keys() == mine.refused.keys():
        return frozenset()
    rules: set[Rule] = set()
    rewritten, memory, first_symbols = [], Memory(), []
    for index, batch in enumerate(batches):
        rows = list(_rewritten(index, batch, theirs, mine, rules))
        rewritten.append(rows)
        for row in rows:
            memory.learn(row)
        first_symbols.append(memory.symbols(rows))
    for rule in rules & SENT_BUT_REFUSED.keys():
        assert _status(theirs.messages) == SENT_BUT_REFUSED[rule]
        return frozenset(rules)
    if Rule.BIG_ENDIAN in rules:
        return frozenset(rules)
    wanted = theirs.messages
    if odd := set(_odd_nans(rewritten)):
        rules.add(Rule.NAN_BITS)
        wanted = [_canonical(message, odd) for message in wanted]
    expected = ours(rewritten)
    if expected.messages != wanted:
        dictionary, sent = Dictionary(), [batch for batch in rewritten if batch]
        assert len(sent) == len(wanted), f"{len(wanted)} messages for {len(sent)} flushes"
        forgotten = [forget(message, rows, dictionary) for message, rows in zip(wanted, sent, strict=True)]
        if forgotten != wanted:
            rules.add(Rule.COLUMNS_KEPT)
            wanted = forgotten
    if expected.messages != wanted:
        rules.add(Rule.SYMBOL_IDS)
        expected = ours(rewritten, first_symbols)
    assert not expected.refused, expected.refused
    assert expected.messages == wanted, (
        f"no rule makes these equal, tried {rules or 'none'}; rows: {rewritten}\n"
        f"theirs: {[message.hex(' ') for message in wanted]}\nours:   {[m.hex(' ') for m in expected.messages]}"
    )
    return frozenset(rules)


def _rewritten(index: int, batch: Any, theirs: Sent, mine: Sent, rules: set[Rule]) -> Iterator[Row]:
    """The rows of a batch as the official client sees them."""
    failed = theirs.refused.get((index, FLUSH))
    if failed is not None:
        assert "rescale" in failed, failed
        rules.add(Rule.DECIMAL_SCALE)
        return
    for number, row in enumerate(batch):
        they, we = theirs.refused.get((index, number)), mine.refused.get((index, number))
        if they and we:
            continue
        if they:
            rules.add(_they_refuse(batch[:number], row, they))
            continue
        if we:
            rule, row = _we_refuse(row, we)
            rules.add(rule)
        elif not any(value is not None for value in (*row.symbols.values(), *row.columns.values())):
            rules.add(Rule.ALL_NONE)
            continue
        if row is not None:
            yield row


def _they_refuse(before: Sequence[Row], row: Row, why: str) -> Rule:
    """Which rule lets us take what they refuse; ``before``: the rows of the batch before it."""
    values = [value for value in row.columns.values() if value is not None]
    symbols = [value for value in row.symbols.values() if value is not None]
    if "Bad call to `at`" in why and all(isinstance(v, Decimal) and not v.is_finite() for v in values):
        return Rule.LONE_NAN_DECIMAL
    if "changes type" in why:
        doubles = {fold(name) for one in before for name, value in one.columns.items() if type(value) is float}
        ints = {fold(name) for name, value in row.columns.items() if type(value) is int}
        return Rule.INT_IN_DOUBLE if ints & doubles else Rule.TYPE_KEPT
    if "Decimal exponent" in why and any(isinstance(value, Decimal) and value == 0 for value in values):
        return Rule.DECIMAL_ZERO
    if why == "ValueError: value must be a non-negative integer." and any(_is_negative_time(v) for v in values):
        return Rule.NEGATIVE_WRAPPER
    if why.startswith(("TypeError: Unsupported type", "TypeError: Expected str")):
        if any(isinstance(value, np.generic) for value in (*values, *symbols, row.at)):
            return Rule.NUMPY_SCALAR
        if any(_is_subclass(value) for value in (*values, *symbols)):
            return Rule.SUBCLASS
    raise AssertionError(f"no rule says why the official client refuses this row: {why}: {row!r}")


def _is_negative_time(value: Any) -> bool:
    return type(value) in (TimestampMicros, TimestampNanos) and value.value < 0


def _is_subclass(value: Any) -> bool:
    bases = (str, int, float, np.ndarray)
    return isinstance(value, bases) and type(value) not in (*bases, bool)


def _we_refuse(row: Row, why: str) -> tuple[Rule, Row | None]:
    """Which rule makes us refuse what they take, and the row as they see it."""
    if "names this column twice" in why:
        return Rule.CASE_TWICE, row._replace(symbols=_first_spelled(row.symbols), columns=_first_spelled(row.columns))
    if why.startswith("InvalidNameError"):
        bad = [name for name, value in row.columns.items() if value is None and not _is_good(name)]
        assert bad, why
        return Rule.NONE_NAME, row._replace(columns={n: v for n, v in row.columns.items() if n not in bad})
    if "has no value at all" in why:
        return Rule.ALL_NONE, None
    if "dimensions in a batch" in why:
        return Rule.DIMENSIONS, None
    if "2048 columns" in why:
        return Rule.COLUMNS, None
    if "an array of >f8" in why:
        return Rule.BIG_ENDIAN, None
    raise AssertionError(f"no rule says why we refuse this row: {why}: {row!r}")


def _first_spelled(values: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if value is not None and fold(name) not in map(fold, kept):
            kept[name] = value
    return kept


def _is_good(name: str) -> bool:
    try:
        check_column_name(name)
    except InvalidNameError:
        return False
    return True


def _status(messages: list[bytes]) -> int:
    dictionary = Dictionary()
    for message in messages:
        try:
            decode(message, dictionary)
        except WireFault as fault:
            return fault.status
    return 0


_NAN = struct.pack("<d", float("nan"))


def _odd_nans(batches: Batches) -> Iterator[bytes]:
    for batch in batches:
        for row in batch:
            for value in row.columns.values():
                if type(value) is float and value != value and struct.pack("<d", value) != _NAN:
                    yield struct.pack("<d", value)


def _canonical(message: bytes, odd: set[bytes]) -> bytes:
    for pattern in odd:
        message = message.replace(pattern, _NAN)
    return message
