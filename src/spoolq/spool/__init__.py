"""Bytes become durable: the log of frames.  No sockets, no threads.

`Store` is the interface, `MemoryStore` the body in RAM.
"""

from __future__ import annotations

from spoolq.spool.memory import MemoryStore
from spoolq.spool.store import Outgoing, Room, Run, Store, StoreStats

__all__ = ["MemoryStore", "Outgoing", "Room", "Run", "Store", "StoreStats"]
