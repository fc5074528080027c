"""spoolq: a store-and-forward client for QuestDB's QWP WebSocket ingest protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spoolq.errors import (
    AuthError,
    BackpressureError,
    ClosedError,
    ConfigError,
    ConnectError,
    DeadLettersFullError,
    DeliveryTimeout,
    DurableAckError,
    ForkedError,
    FrameTooLarge,
    InputError,
    InvalidNameError,
    NothingToSkipError,
    QuestDBError,
    QuestDBServerRejectionError,
    ReentryError,
    RoleMismatchError,
    ServerRejection,
    SlotBusyError,
    SlotRefusedError,
    SlotUnreplayableError,
    SpoolqError,
    StorageError,
    SymbolDictionaryFull,
    UnsupportedError,
)
from spoolq.events import ConnectionEvent, ConnectionEventKind, ErrorEvent, SenderErrorCategory, SenderErrorPolicy
from spoolq.sender import Sender, TableWriter
from spoolq.stats import DrainerStatus, SenderStats
from spoolq.values import (
    Char,
    DateMillis,
    Geohash,
    Long256,
    ServerTimestamp,
    ServerTimestampType,
    TimestampMicros,
    TimestampNanos,
)

if TYPE_CHECKING:
    from spoolq.codes import QuestDBErrorCode
    from spoolq.official import Protocol, QwpWsProgress, TlsCa, connect

__all__ = [
    "Sender",
    "TableWriter",
    "TimestampMicros",
    "TimestampNanos",
    "ServerTimestamp",
    "ServerTimestampType",
    "DateMillis",
    "Char",
    "Long256",
    "Geohash",
    "SenderStats",
    "DrainerStatus",
    "ErrorEvent",
    "SenderError",
    "SenderErrorCategory",
    "SenderErrorPolicy",
    "ConnectionEvent",
    "ConnectionEventKind",
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
    "DurableAckError",
    "ServerRejection",
    "DeliveryTimeout",
    "StorageError",
    "DeadLettersFullError",
    "SlotBusyError",
    "SlotRefusedError",
    "SlotUnreplayableError",
    "ClosedError",
    "NothingToSkipError",
    "ReentryError",
    "ForkedError",
    "UnsupportedError",
    "QuestDBError",
    "QuestDBErrorCode",
    "QuestDBServerRejectionError",
    "Protocol",
    "QwpWsProgress",
    "TlsCa",
    "connect",
]

SenderError = ErrorEvent  # the official client's name


def __getattr__(name: str) -> Any:
    """Names of the official client that are loaded when somebody asks, and what takes the place of the others."""
    from spoolq.official import named

    return named(name)
