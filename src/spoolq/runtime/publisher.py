"""Buffered rows become published frames: the way from columns/ through qwp/ into spool/.

`Publisher.publish` is called with the sender's lock held, by the thread that flushes (a caller or
the keeper).  It encodes each frame once, into the room where it will stay:

    cut -> frame_bytes -> reserve -> write -> publish -> forget the rows

A batch above the frame limit is split (ours.md 5, behaviour.md 3.5): each part is a frame that
commits alone.  A row that was taken under a larger cap than today's is published all the same, as a
frame of its own: stored, it waits for an endpoint that takes it (ours.md 6).  Nothing is forgotten before
its frame is published; when a part in the middle fails, the rows of the parts before it are gone from the
buffer, the others stay, and the error says ``in_doubt``.  An interrupt (Ctrl-C) at any point leaves a row
either buffered or published, never both.

A batch of the common kind takes the same steps in one, by `handover`.

Room is waited for up to the append deadline; any trim ends the wait (behaviour.md 3.4).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import spoolq.qwp.split as split
from spoolq import limits
from spoolq.columns import RowBuffer, SymbolTable
from spoolq.errors import BackpressureError, FrameTooLarge
from spoolq.qwp import encode
from spoolq.runtime.clock import Clock
from spoolq.runtime.handover import Handover
from spoolq.runtime.progress import Progress
from spoolq.runtime.throttle import Throttle
from spoolq.spool import Room, Store

_LOG = logging.getLogger("spoolq.spool")
_STALL_WARN_MILLIS = 5_000  # behaviour.md 3.4


class Publisher:
    """Publishes a `RowBuffer` into a `Store`.

    ``on_published`` is called behind new frames (it wakes the I/O thread when that sleeps);
    ``describe_wire`` says in a few words how the connection is, for the backpressure error.
    """

    def __init__(
        self,
        rows: RowBuffer,
        symbols: SymbolTable,
        store: Store,
        *,
        progress: Progress,
        clock: Clock,
        append_deadline_millis: int,
        gorilla: bool,
        on_published: Callable[[], None],
        describe_wire: Callable[[], str],
    ) -> None:
        self._rows = rows
        self._symbols = symbols
        self._store = store
        self._progress = progress
        self._clock = clock
        self._append_deadline_millis = append_deadline_millis
        self._gorilla = gorilla
        self._on_published = on_published
        self._describe_wire = describe_wire
        self._stall_log = Throttle(clock, _STALL_WARN_MILLIS)
        self._while_closing = False
        self._stalled = False  # the call that is under way had to wait for room
        self._kept = ""
        self.handover = Handover(rows, store, gorilla=gorilla)
        self.frame_nbytes_max = 0
        self._row_nbytes_max = 0  # the largest limit that a row may have been taken under
        self.backpressure_stalls = 0
        self.cap_known(limits.BATCH_BYTES_ASSUMED)

    def cap_known(self, cap_nbytes: int) -> None:
        """The endpoint's cap for one message; the segment's room bounds it further.

        It may shrink while rows are buffered that were taken under a larger one.
        """
        self.frame_nbytes_max = min(cap_nbytes, self._store.frame_nbytes_max)
        self._row_nbytes_max = max(self._row_nbytes_max, self.frame_nbytes_max)
        self.handover.frame_nbytes_max = self.frame_nbytes_max

    def publish_for_row(self) -> int | None:
        """`publish` for a row that tripped a trigger: of that row the row buffer says what becomes of it."""
        return self.publish(kept="the rows of earlier calls are kept: try again")

    def publish(
        self,
        *,
        wait: bool = True,
        while_closing: bool = False,
        kept: str = "the rows are still buffered: flush again",
    ) -> int | None:
        """Publishes all buffered rows; the FSN of the last frame, None when nothing was buffered.

        Raises BackpressureError when no room came in time (at once with ``wait=False``), the
        latched terminal error when one ends the wait, ClosedError when the sender begins to close
        meanwhile (not with ``while_closing``, which is close's own), FrameTooLarge for a row that
        fits no frame.  ``kept`` says in the first of them how things stand.
        """
        try:
            fsn = self.handover.publish()
        except BaseException as error:  # an interrupt while it wakes the loop, behind the frame
            error.in_doubt = True  # type: ignore[attr-defined]
            raise
        if fsn >= 0:
            return fsn
        self._while_closing, self._stalled, self._kept = while_closing, False, kept
        rows = self._rows
        if not len(rows):
            return None
        dense = self._store.dense
        if not dense and split.fits_whole(rows, self.frame_nbytes_max):
            cuts: list[encode.Cut | None] = [None]
        else:
            alone = self._row_nbytes_max
            planned = split.plan(
                rows, self.frame_nbytes_max, alone_nbytes_max=alone, gorilla=self._gorilla, dense=dense
            )
            cuts = list(planned)
        done: list[encode.Cut | None] = []
        before = {rows.table_name(index): rows.table_rows(index) for index in range(rows.table_count)}
        try:
            for cut in cuts:
                self._append(cut, wait, dense, done)
        except BaseException as error:
            # KeyboardInterrupt has no such attribute of its own; it gets one (ours.md 33).
            error.in_doubt = bool(done)  # type: ignore[attr-defined]
            raise
        finally:
            try:
                self._forget(before, done, all_of_them=len(done) == len(cuts))
            except BaseException as error:  # an interrupt just here: rows that are published must not stay buffered
                self._forget(before, done, all_of_them=len(done) == len(cuts))
                error.in_doubt = bool(done)  # type: ignore[attr-defined]
                raise
            finally:
                if done:
                    self._wake_loop()
        return self._store.published_fsn

    def _wake_loop(self) -> None:
        """There are new frames; an interrupt on the way says so."""
        try:
            self._on_published()
        except BaseException as error:
            error.in_doubt = True  # type: ignore[attr-defined]
            raise

    def _append(self, cut: encode.Cut | None, wait: bool, dense: bool, done: list[encode.Cut | None]) -> None:
        """One frame; ``done`` gets the cut as soon as the frame is published, whatever happens next."""
        store = self._store
        nbytes = encode.frame_bytes(self._rows, cut, gorilla=self._gorilla)
        room = store.reserve(nbytes)
        if room is None:
            room = self._wait_for_room(nbytes, wait, kept=self._kept)
        fsn, symbols_before = store.published_fsn + 1, self._symbols.published_count
        try:
            encode.write(self._rows, room.view, cut, gorilla=self._gorilla)
            symbols = self._symbols
            if cut is None:
                start, end = symbols.published_count, len(symbols)
            else:
                start, end = cut.symbol_start, cut.symbol_end
            if not dense:
                store.write_ahead(symbols, start, end)
            # Ahead of the frame: a connection that begins between the two must register its symbols.
            symbols.published_count = end
            store.publish(room)
        finally:
            if store.published_fsn >= fsn:
                done.append(cut)
            else:
                self._symbols.published_count = symbols_before
                store.abandon(room)

    def append_message(self, message: bytes, symbols_end: int) -> int:
        """Publishes a message that is encoded already, with the symbols below ``symbols_end``; its FSN.

        The row buffer is empty; ids from ``published_count`` on are new in this message.  Waits for room and
        raises as `publish` does; then nothing has happened.
        """
        store, symbols = self._store, self._symbols
        self._while_closing = self._stalled = False
        if len(message) > self.frame_nbytes_max:
            raise FrameTooLarge(
                f"a message of {len(message)} bytes is above {self.frame_nbytes_max}, the most the endpoint and a "
                "segment take; raise the server's receive buffer, or sf_max_segment_bytes",
                size=len(message),
                limit=self.frame_nbytes_max,
            )
        room = store.reserve(len(message))
        if room is None:
            room = self._wait_for_room(len(message), True, kept="the message is not queued: try again")
        fsn, before = store.published_fsn + 1, symbols.published_count
        try:
            room.view[:] = message
            if not store.dense:
                store.write_ahead(symbols, before, symbols_end)
            symbols.published_count = symbols_end  # ahead of the frame, as in `_append`
            store.publish(room)
        finally:
            if store.published_fsn < fsn:
                symbols.published_count = before
                store.abandon(room)
        self._on_published()
        return fsn

    def _forget(self, before: dict[str, int], done: list[encode.Cut | None], *, all_of_them: bool) -> None:
        """Drops the rows of published frames from the buffer, which held so many of each table ``before``.

        It goes by what is left to drop, so that a second call behind an interrupt goes on and repeats nothing.
        """
        rows = self._rows
        if all_of_them:
            rows.clear()
            return
        names, left = list(before), dict(before)
        for cut in done:
            for table_index, first_row, end_row in cut.tables if cut is not None else ():
                left[names[table_index]] -= end_row - first_row
        for table_index in reversed(range(rows.table_count)):
            surplus = rows.table_rows(table_index) - left[rows.table_name(table_index)]
            if surplus:
                rows.drop_rows(table_index, surplus)

    def _wait_for_room(self, nbytes: int, wait: bool, *, kept: str) -> Room:
        """Waits for a trim; counts one stall a call, none for a try that does not wait."""
        if wait and not self._stalled:
            self._stalled = True
            self.backpressure_stalls += 1
        self._on_published()  # what this call has published so far has to go out while it waits
        started = self._clock.now_millis()
        room: Room | None = None

        def came() -> bool:
            nonlocal room
            room = self._store.reserve(nbytes)
            if room is None and wait and self._is_at_cap() and self._stall_log.due():
                _LOG.warning("an append of %d bytes waits for room: %s", nbytes, self._full())
            return room is not None

        deadline_millis = self._append_deadline_millis if wait else 0
        self._progress.wait_until(came, deadline_millis, while_closing=self._while_closing)
        if room is None:
            waited = f" within {self._clock.now_millis() - started} ms" if wait else ""
            then = (
                "close() gives the buffered rows up: before it, flush and wait for the server"
                if self._while_closing
                else f"{kept} when the server catches up"
            )
            raise BackpressureError(
                f"no room for a frame of {nbytes} bytes{waited}: {self._full()}; {then}, or raise sf_max_total_bytes"
            )
        return room

    def _is_at_cap(self) -> bool:
        """Whether only an acknowledgement makes room; a spare that is being made is no news."""
        stats = self._store.stats()
        segment_nbytes = self._store.frame_nbytes_max + limits.SEGMENT_HEADER_BYTES + limits.FRAME_HEADER_BYTES
        return stats.allocated_nbytes + segment_nbytes > stats.total_nbytes_max

    def _full(self) -> str:
        stats = self._store.stats()
        return (
            f"{stats.frames_unacked} frames wait for their acknowledgement in {stats.allocated_nbytes} of "
            f"{stats.total_nbytes_max} bytes, {self._describe_wire()}" + (f"; {stats.trouble}" if stats.trouble else "")
        )
