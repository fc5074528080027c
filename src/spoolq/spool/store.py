"""The store: what every body of the durable log offers, in memory and on disk.

Who calls what:

- the producer, holding the sender's lock: `reserve`, then fill the room, then `write_ahead`, then
  `publish` or `abandon`;
- the I/O thread: `run`, `acknowledge`;
- the keeper, holding the sender's lock: `restart_dictionary`;
- the keeper: `keep`, when `keep_due_millis` says so; `on_work` is called when it has to look again;
- anyone: the watermarks, `stats`.

A frame's FSN is given at `publish`, never before, so a failed append consumes none.  What `publish`
returned is visible to `run` at once and stays until it is acknowledged.  No call waits: when the cap
or the keeper blocks, `reserve` gives None, and after an `acknowledge` or a `keep` that returned True
it is worth asking again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

from spoolq.columns.symbols import SymbolTable
from spoolq.errors import StorageError
from spoolq.frozen import Frozen

#: What is synced to the disk, and when (behaviour.md 9).
Durability = Literal["memory", "periodic", "flush", "append"]


class StoreStats(Frozen):
    """A snapshot: frames not acknowledged, bytes of all segments, the cap, number of segments.

    ``trouble`` says what the keeper cannot do now (empty: nothing), ``failures`` counts its failed tries.
    ``syncs`` and ``sync_failures`` count `Store.sync`s, shared ones once; ``last_sync_micros`` (since the Unix
    epoch) is when one last succeeded, ``sync_failure`` what is wrong while the last one has failed.
    """

    frames_unacked: int
    allocated_nbytes: int
    total_nbytes_max: int
    segments: int
    trouble: str = ""
    failures: int = 0
    syncs: int = 0
    sync_failures: int = 0
    last_sync_micros: int | None = None
    sync_failure: StorageError | None = None


class Room(Protocol):
    """Space for one frame's payload inside the active segment."""

    @property
    def view(self) -> memoryview:
        """Writable, of just the bytes that were reserved."""


class Run(Protocol):
    """Frames that stand back to back in one segment: what goes out next, as one piece.

    ``data`` holds them as stored: u32 CRC-32C, i32 length, payload, each.  Valid until `release`;
    the segment's memory is not used again before.
    """

    @property
    def first_fsn(self) -> int:
        """FSN of the first frame."""

    @property
    def last_fsn(self) -> int:
        """FSN of the last frame."""

    @property
    def data(self) -> memoryview:
        """The stored frames, read-only."""

    def payloads(self) -> list[memoryview]:
        """The payload of each frame; bounds are checked again.  Raises StorageError for a bad length."""

    def release(self) -> None:
        """Gives the segment free; a second call does nothing."""


class Outgoing(Protocol):
    """What the sending side needs of a store; one that is only drained offers no more."""

    @property
    def published_fsn(self) -> int:
        """Newest frame that `run` can give; -1 when none."""

    @property
    def acked_fsn(self) -> int:
        """Newest frame that is settled; -1 when none."""

    @property
    def grouped_end_fsn(self) -> int:
        """FSN behind the newest frame that commits deferred ones before it; 0 when there is none, always in memory.

        Only frames below it can be deferred, and each that is has its commit below it too.
        """

    def run(self, first_fsn: int, max_frames: int, max_nbytes: int) -> Run | None:
        """Published frames from ``first_fsn`` on, of one segment; at least one when there is one."""

    def acknowledge(self, fsn: int) -> bool:
        """Settles all frames up to ``fsn``, clamped to published; only rises.  True when room was freed."""


class Store(Outgoing, Protocol):
    """See the module's text for who calls what."""

    @property
    def frame_nbytes_max(self) -> int:
        """Largest payload one segment takes."""

    @property
    def synced_fsn(self) -> int:
        """Newest frame that survives a power cut; -1 when none (always, in memory)."""

    @property
    def dense(self) -> bool:
        """Whether each frame must carry all its symbols, because they cannot be written ahead."""

    on_work: Callable[[], None] | None
    """Called from any thread, without a lock of the store, when `keep_due_millis` may have changed."""

    def reserve(self, nbytes: int) -> Room | None:
        """Room for a payload of ``nbytes``; None while the cap blocks.

        A room that was reserved and neither published nor abandoned is forgotten (an interrupt may
        have come between).  Raises FrameTooLarge above `frame_nbytes_max`.
        """

    def publish(self, room: Any) -> int:
        """Stores length and CRC, makes the frame visible, returns its FSN.

        ``room`` is what `reserve` of this very store gave.  Raises StorageError for a stale one.
        """

    def write_ahead(self, symbols: SymbolTable, first: int, end: int) -> None:
        """Stores the symbols of the frame about to be published; ``first`` to ``end`` are its new ids.

        Called for every frame that is not dense.  `abandon` takes it back.  Raises StorageError.
        """

    def abandon(self, room: Any) -> None:
        """Nothing happened: no byte of the room and none of its symbols stay."""

    def restart_dictionary(self) -> bool:
        """Makes the log name no symbol any more, and its file hold none, so that ids may begin at 0 again.

        Called when everything is settled, by the keeper with the sender's lock, behind it `SymbolTable.restart`.
        FSNs go on.  False: not now.  Raises StorageError; then nothing has changed that matters.
        """

    def keep_due_millis(self, now_millis: int) -> int | None:
        """When `keep` has something to do (a time at or before now: at once); None when nothing."""

    def keep(self, now_millis: int) -> bool:
        """Does what is due: spares, syncs, watermark, trim.  True when a waiting append may be tried again."""

    def sync(self, fsn: int | None = None) -> None:
        """Everything published before the call, or up to ``fsn``, survives a power cut afterwards.

        Called by any thread; one sync serves all who wait.  Raises StorageError, ``in_doubt`` when frames are
        queued and their sync failed; not with ``memory``, no append succeeds then until a sync does.
        """

    def request_sync(self, fsn: int) -> None:
        """The keeper syncs up to ``fsn`` as soon as it is published and the keeper looks; see `sync_wanted`."""

    @property
    def sync_wanted(self) -> bool:
        """Whether `request_sync` is still open: who publishes has to make the keeper look."""

    @property
    def sync_failure(self) -> StorageError | None:
        """Why no append succeeds, while the last sync has failed; else None."""

    on_synced: Callable[[], None] | None
    """Called from any thread, without a lock of the store, when a sync has ended, well or not."""

    def stats(self) -> StoreStats:
        """A snapshot."""

    @property
    def closed(self) -> bool:
        """Whether `close` has got to where nothing can be called any more."""

    def close(self, *, sync: bool = True) -> None:
        """Ends it; a second call does nothing.  On disk: raises the first error when all was done.

        In the modes that sync, what is not acknowledged is synced first; when that fails, nothing was closed
        and calling again is right.  ``sync=False`` leaves it out.
        """
