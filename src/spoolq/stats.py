"""What `Sender.stats` and `Sender.background_drainers` give (behaviour.md 7.5, 8).  Imports only errors of spoolq."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from spoolq.errors import SpoolqError


@dataclass(frozen=True, slots=True)
class SenderStats:
    """Counters since the sender was opened, and gauges of now.

    FSNs are None while there is none; ``ok_fsn`` is above ``acked_fsn`` only with durable acks.
    ``total_frames_sent`` counts replays too;
    ``total_frames_replayed`` the frames that were published before the connection they went out on
    was made, the first connection excepted.  ``total_reconnect_attempts`` counts every connection
    attempt after the first success.  ``outage_millis`` is how long there has been no connection,
    None while there is one.  ``torn_tail_bytes`` were cut from the slot when it was opened.
    ``total_backpressure_stalls`` counts the calls that had to wait for room, each once; the flush deadline's own tries,
    which never wait, are in ``total_timer_flush_failures``.  ``dropped_error_notifications`` are the events that gave
    way to newer ones in the inbox of the error handler; without a handler, in the one of ``poll_error``.
    ``total_dead_letters`` counts the frames that were taken out of the queue and kept beside the slot.
    ``active_background_drainers`` are at work now; ``..._failed`` counts slots that were given up.
    ``total_durable_acks`` counts the servers' answers of that kind, ``total_durable_trim_advances`` how
    often one moved ``acked_fsn``; both stay 0 without ``request_durable_ack``.

    Syncs of frames to the disk (none with ``sf_durability=memory``): ``last_checkpoint`` is the time (UTC) of the
    last one that succeeded, ``checkpoint_failure`` what the last one failed with, None once one has succeeded;
    a sync that served several calls counts once.
    """

    published_fsn: int | None
    acked_fsn: int | None
    synced_fsn: int | None
    ok_fsn: int | None
    rows_buffered: int
    frames_unacked: int
    spool_bytes: int
    spool_bytes_max: int
    spool_segments: int
    total_frames_sent: int
    total_frames_replayed: int
    total_acks: int
    total_durable_acks: int
    total_durable_trim_advances: int
    total_connect_attempts: int
    total_reconnect_attempts: int
    total_reconnects_succeeded: int
    total_backpressure_stalls: int
    total_timer_flushes: int
    total_timer_flush_failures: int
    total_syncs: int
    total_sync_failures: int
    last_checkpoint: datetime | None
    checkpoint_failure: SpoolqError | None
    total_server_errors: int
    total_error_notifications_delivered: int
    dropped_error_notifications: int
    connection_events_delivered: int
    connection_events_dropped: int
    was_ever_connected: bool
    was_recovered_from_disk: bool
    torn_tail_bytes: int
    outage_millis: int | None
    total_dead_letters: int
    active_background_drainers: int
    total_background_drainers_succeeded: int
    total_background_drainers_failed: int
    last_terminal_error: SpoolqError | None
    acked_seq_txns: Mapping[str, int] = field(repr=False, hash=False)
    durable_seq_txns: Mapping[str, int] = field(repr=False, hash=False)

    def highest_acked_seq_txn(self, table: str) -> int | None:
        """Highest transaction of a table that an OK named; None: none did, or it is not among the first 10,000."""
        return self.acked_seq_txns.get(table)

    def highest_durable_seq_txn(self, table: str) -> int | None:
        """Highest transaction of a table that is durable; None as above, always without ``request_durable_ack``."""
        return self.durable_seq_txns.get(table)


@dataclass(frozen=True, slots=True)
class DrainerStatus:
    """An orphaned slot that a sender drains (behaviour.md 7.5).

    ``slot`` is its path.  ``target_fsn`` is its newest frame, ``acked_fsn`` the newest that is settled; None
    while not known, or while there is none.  ``outcome`` is None while it waits or is worked on; else
    ``success``, ``locked_by_other`` (somebody else has it, or had it meanwhile), ``stopped`` (the sender
    closed first) or ``failed`` (given up: its file ``.failed`` says why and what to do).  ``last_error`` is
    why it is not drained, "" when nothing went wrong.
    """

    slot: str
    target_fsn: int | None
    acked_fsn: int | None
    outcome: Literal["success", "locked_by_other", "stopped", "failed"] | None
    last_error: str
