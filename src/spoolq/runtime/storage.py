"""Where a sender's frames are kept: in memory, or in the slot that ``sf_dir`` and ``sender_id`` name.

`open_storage` is the first step of opening a sender: on disk it takes the lock and recovers the slot
before anything else exists (behaviour.md 2.1).  What it gives is closed by `Store.close`.

``sf_dir`` is resolved once, here, to an absolute path without links, and goes by that name from then on: what
``os.chdir`` or a link that is switched make of the text later is another directory, perhaps another sender's.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from spoolq.columns import SymbolTable
from spoolq.config import SenderConfig
from spoolq.errors import ConfigError, StorageError
from spoolq.frozen import Frozen
from spoolq.spool import MemoryStore, Store

if TYPE_CHECKING:
    from spoolq.spool.dead_letters import DeadLetters
    from spoolq.spool.files import Files
    from spoolq.spool.report import RecoveryReport


class Storage(Frozen):
    """The store, the dictionary of what is in it, what recovery found, where it is, dead letters.

    The last four are None in memory.  ``sf_dir`` is the resolved one, ``slot`` the directory in it.
    """

    store: Store
    symbols: SymbolTable
    recovery: RecoveryReport | None = None
    sf_dir: str | None = None
    slot: str | None = None
    dead_letters: DeadLetters | None = None

    @property
    def after_close(self) -> str:
        """What becomes of frames that are not acknowledged when the sender closes."""
        if self.slot is None:
            return "they were queued in memory and are lost"
        return f"they stay in the slot {self.slot}, and the next sender on it delivers them"


def _sync_name(files: Files, sf_dir: str) -> None:
    """The directory that was just made survives a power cut when this returns; one that was found: see `DiskStore`."""
    from spoolq.spool.files import FORBIDDEN

    try:
        files.sync_directory(os.path.dirname(sf_dir))
    except StorageError as error:
        if error.errno not in FORBIDDEN:
            raise
        files.sync_system(sf_dir)


def open_storage(config: SenderConfig, stopped: Callable[[], bool], place: str) -> Storage:
    """Opens the store; leaves nothing open when it raises: ConfigError where there are no slots, else StorageError.

    ``stopped`` and ``place``: see `recovery.open_slot`.
    """
    segment_nbytes, total_nbytes = config.sf_max_segment_bytes, config.sf_max_total_bytes
    if config.sf_dir is None:
        return Storage(MemoryStore(segment_nbytes, total_nbytes), SymbolTable())
    # Imported here: a program with its queue in memory does not pay for the disk's modules.
    try:
        import fcntl  # noqa: F401 - the lock of a slot, which Windows has not
    except ImportError:
        raise ConfigError(
            "sf_dir needs Linux or macOS: nobody has tested a slot's lock and syncs on this system; leave it out, and "
            "the queue is in memory",
            key="sf_dir",
        ) from None
    from spoolq.runtime.filesystem import warn_about
    from spoolq.spool.dead_letters import DeadLetters
    from spoolq.spool.files import Files
    from spoolq.spool.opening import open_store

    files = Files(group_access=config.sf_group_access)
    made = files.make_directory(config.sf_dir)
    sf_dir = files.real_path(config.sf_dir)
    warn_about(sf_dir)
    if made and config.sf_durability != "memory":
        _sync_name(files, sf_dir)
    letters = DeadLetters(files, sf_dir, config.sender_id, config.dead_letter_max_bytes)
    slot = os.path.join(sf_dir, config.sender_id)
    opened = open_store(
        files,
        sf_dir,
        config.sender_id,
        segment_nbytes=segment_nbytes,
        total_nbytes=total_nbytes,
        durability=config.sf_durability,
        sync_interval_millis=config.sf_sync_interval_millis,
        stopped=stopped,
        place=place,
    )
    letters.check_slot = opened.store.check_slot
    return Storage(opened.store, opened.symbols, opened.report, sf_dir, slot, letters)
