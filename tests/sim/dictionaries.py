"""The symbols of each life of the dictionary, and what a server makes of a message that names some.

The producer's table is the present life's; the older ones are kept as they were, for a server may read late what a
connection of theirs has sent.
"""

from __future__ import annotations

from spoolq.columns.symbols import SymbolTable
from tests.sim import frames
from tests.sim.pacing import Wrong


class Dictionaries:
    """``life`` counts them; ``of_frame`` says by FSN whose ids a frame names."""

    def __init__(self, symbols: SymbolTable) -> None:
        self._symbols = symbols
        self._older: list[SymbolTable] = []
        self.life = 0
        self.of_frame: list[int] = []

    def begins_anew(self) -> None:
        """The producer's table is about to forget everything."""
        older = SymbolTable()
        for number in range(len(self._symbols)):
            older.intern(self._symbols.text_of(number))
        self._older.append(older)
        self.life += 1

    def read(self, payload: bytes, known: int, cap_nbytes: int | None, life: int) -> int:
        """A server reads a message of a connection that was told the dictionary of ``life``.

        It knew ``known`` symbols; how many it knows then.
        """
        symbols = self._symbols if life == self.life else self._older[life]
        first, count, offset = frames.section(payload)
        end = first + count
        if first > known:
            raise Wrong(f"a dictionary gap: {known} symbols are known, the message begins at {first}")
        if end > len(symbols):
            raise Wrong(f"symbols up to {end} are sent, there are {len(symbols)}")
        entries = symbols.entries(first, end)
        if payload[offset : offset + len(entries)] != entries:
            raise Wrong(f"symbols {first} to {end} are not what they were")
        known = max(known, end)
        if cap_nbytes is not None and len(payload) > cap_nbytes:
            raise Wrong(f"a message of {len(payload)} bytes, the cap is {cap_nbytes}")
        if frames.is_data(payload):
            fsn, needs = frames.trailer(payload)
            if needs > known:
                raise Wrong(f"FSN {fsn} uses symbol {needs - 1}, the connection knows {known}")
        elif offset + len(entries) != len(payload):
            raise Wrong("a dictionary message with something behind its entries")
        return known
