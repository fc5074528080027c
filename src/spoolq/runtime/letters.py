"""Dead letters of a sender that is open: a frame becomes one, and one becomes a frame again (ours.md 22).

| call      | by                                                     | order of the steps                           |
|-----------|--------------------------------------------------------|----------------------------------------------|
| `save`    | the I/O thread, or `skip_head` once that has ended     | letter durable; then the caller settles      |
| `skip_head` | a caller of a sender that has stopped                | `save`, settle                               |
| `requeue` | a caller, with the sender's lock                       | append, frame durable, letter removed        |

So at every moment a frame is in the log, or in a letter, or in both.  A crash in between leaves both: then
the frame may be delivered and its letter stays; delivery is at least once here as everywhere.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from spoolq.columns import SymbolTable
from spoolq.delivery.actions import ServerErrorEvent
from spoolq.errors import ConfigError, NothingToSkipError, ServerRejection, SpoolqError, StorageError
from spoolq.qwp.layout import is_deferred
from spoolq.runtime.publisher import Publisher
from spoolq.spool import Outgoing, Store

if TYPE_CHECKING:  # a program without dead letters does not pay for their modules, nor for the decoder
    from spoolq.qwp.standalone import Parts
    from spoolq.spool.dead_letters import DeadLetter, DeadLetters

_LOG = logging.getLogger("spoolq.spool")


def save_letter(kept: DeadLetters, log: Outgoing, symbols: SymbolTable, refusal: ServerErrorEvent) -> DeadLetter:
    """Makes a letter of the frame ``refusal.from_fsn``, which stays in the log.  Raises StorageError."""
    fsn = refusal.from_fsn
    run = log.run(fsn, 1, 1)
    if run is None:
        raise StorageError(f"the frame with FSN {fsn} is not in the spool")
    try:
        if run.first_fsn != fsn:
            raise StorageError(f"the frame with FSN {fsn} is part of a transaction that was never committed")
        frame = bytes(run.payloads()[0])
    finally:
        run.release()
    if is_deferred(frame):
        raise StorageError(f"the frame with FSN {fsn} is part of a transaction, which lands whole or not at all")
    letter = kept.save(
        fsn,
        frame,
        symbols,
        status=refusal.status,
        category=refusal.category,
        text=refusal.server_text,
        time_micros=time.time_ns() // 1_000,
    )
    _LOG.info("FSN %d is now the dead letter %s", fsn, letter.path)
    return letter


class Letters:
    """``kept`` is None for a queue in memory, which has no place for them: then every call is a ConfigError."""

    def __init__(self, kept: DeadLetters | None, store: Store, symbols: SymbolTable, publisher: Publisher) -> None:
        self._kept = kept
        self._store = store
        self._symbols = symbols
        self._publisher = publisher
        self.saved = 0

    @property
    def kept(self) -> DeadLetters:
        """The files.  Raises ConfigError in memory."""
        if self._kept is None:
            raise ConfigError(
                "a queue in memory has no dead letters: set sf_dir, where they are kept beside the slot", key="sf_dir"
            )
        return self._kept

    def check(self) -> None:
        """Raises ConfigError in memory."""
        _ = self.kept

    def save(self, refusal: ServerErrorEvent) -> DeadLetter:
        """Makes a letter of the frame ``refusal.from_fsn``, which stays in the log.  Raises StorageError."""
        letter = save_letter(self.kept, self._store, self._symbols, refusal)
        self.saved += 1
        return letter

    def skip_head(self, error: SpoolqError | None) -> DeadLetter:
        """What `Sender.skip_head_frame` does; ``error`` is the one that stopped the sender.

        Nobody else may work on the log's acknowledgements any more.
        """
        kept, head = self.kept, self._store.acked_fsn + 1
        if error is None:
            raise NothingToSkipError(
                f"nothing to skip: the sender is at work and no frame of it was refused for good (next is FSN {head})"
            )
        if not isinstance(error, ServerRejection) or not error.from_fsn == error.to_fsn:
            raise NothingToSkipError(f"nothing to skip: what stopped the sender is not the fault of one frame: {error}")
        if self._begins_group(head):
            raise NothingToSkipError(
                f"nothing to skip: FSN {error.from_fsn} was refused, and with FSN {head} begins a transaction of "
                "several frames, left by another client, of which the rest would land alone: correct the table, then "
                "open a new sender"
            )
        if error.from_fsn > head:
            raise NothingToSkipError(
                f"nothing to skip yet: FSN {error.from_fsn} was refused while FSN {head} to {error.from_fsn - 1} are "
                "not durable, and only the oldest frame can be skipped: a new sender with on_schema_error=drop (or of "
                "what category it is) waits for them and takes it out"
            )
        if error.from_fsn != head or head > self._store.published_fsn:
            raise NothingToSkipError(
                f"nothing to skip: FSN {error.from_fsn}, which stopped the sender, is settled already and the next is "
                f"FSN {head}; close this sender and open a new one, which goes on there"
            )
        said = error.status, error.server_text, error.message_sequence
        event = ServerErrorEvent(error.category, "drop", *said, head, head, error.tables)
        letter = self.save(event)
        self._store.acknowledge(head)
        _LOG.warning("FSN %d of %s was skipped and is kept as %s", head, kept.directory, letter.path)
        return letter

    def _begins_group(self, fsn: int) -> bool:
        """Whether a later frame commits this one, which is not settled."""
        run = self._store.run(fsn, 1, 1) if fsn < self._store.grouped_end_fsn else None
        if run is None:
            return False
        try:
            return is_deferred(run.payloads()[0])
        finally:
            run.release()

    def requeue(self, letter: DeadLetter) -> int:
        """Puts the frame of a letter behind everything that is published; its FSN.  The letter is gone then.

        The sender's lock is held and its row buffer published.  Raises StorageError, InputError,
        BackpressureError and below; the letter stays then.
        """
        from spoolq.qwp.reader import WireFault
        from spoolq.qwp.standalone import take_apart

        kept = self.kept
        try:
            parts = take_apart(kept.frame_of(letter))
        except WireFault as fault:
            raise StorageError(
                f"{letter.path} holds a frame that cannot be queued: {fault.text}; look at it, write its rows again",
                filename=letter.path,
            ) from None
        published = self._store.published_fsn
        try:
            fsn = self._append(parts)
            self._store.sync()
            kept.remove(letter)
        except BaseException as error:  # also an interrupt: the letter is still there, and the frame may be queued
            error.in_doubt = self._store.published_fsn > published  # type: ignore[attr-defined]
            raise
        return fsn

    def _append(self, parts: Parts) -> int:
        from spoolq.qwp.reader import WireFault

        symbols, before = self._symbols, len(self._symbols)
        try:
            ids = [symbols.intern(text) for text in parts.texts]
            start = 0 if self._store.dense else symbols.published_count
            entries = [symbols.text_of(new).encode() for new in range(start, len(symbols))]
            message = parts.together(start, entries, ids, commit=True)
            return self._publisher.append_message(message, len(symbols))
        except WireFault as fault:
            raise StorageError(f"the frame cannot be queued with its symbols: {fault.text}") from None
        finally:
            if symbols.published_count < len(symbols):
                symbols.truncate(max(before, symbols.published_count))
