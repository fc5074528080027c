"""spoolq: a store-and-forward client for QuestDB's QWP WebSocket ingest protocol."""

from __future__ import annotations

from spoolq.errors import (
    AuthError,
    BackpressureError,
    ClosedError,
    ConfigError,
    ConnectError,
    DeliveryTimeout,
    ForkedError,
    FrameTooLarge,
    InputError,
    InvalidNameError,
    NothingToSkipError,
    ReentryError,
    RoleMismatchError,
    ServerRejection,
    SlotBusyError,
    SlotRefusedError,
    SlotUnreplayableError,
    SpoolqError,
    StorageError,
    SymbolDictionaryFull,
)
from spoolq.events import ConnectionEvent, ErrorEvent
from spoolq.sender import Sender, TableWriter
from spoolq.stats import DrainerStatus, SenderStats
from spoolq.values import (
    Char,
    DateMillis,
    Geohash,
    Long256,
    ServerTimestamp,
    TimestampMicros,
    TimestampNanos,
)

__all__ = [
    "Sender",
    "TableWriter",
    "TimestampMicros",
    "TimestampNanos",
    "ServerTimestamp",
    "DateMillis",
    "Char",
    "Long256",
    "Geohash",
    "SenderStats",
    "DrainerStatus",
    "ErrorEvent",
    "ConnectionEvent",
    "SpoolqError",
    "ConfigError",
    "InputError",
    "InvalidNameError",
    "SymbolDictionaryFull",
    "FrameTooLarge",
    "BackpressureError",
    "ConnectError",
    "AuthError",
    "RoleMismatchError",
    "ServerRejection",
    "DeliveryTimeout",
    "StorageError",
    "SlotBusyError",
    "SlotRefusedError",
    "SlotUnreplayableError",
    "ClosedError",
    "NothingToSkipError",
    "ReentryError",
    "ForkedError",
]
