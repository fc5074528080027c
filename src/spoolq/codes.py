"""The official client's error codes, for `SpoolqError.code` (ours.md 35).

A module of their own: forty members that are loaded when somebody asks an error for its code.  Imports nothing of
spoolq.
"""

from __future__ import annotations

from enum import Enum


class QuestDBErrorCode(Enum):
    """The official client's codes, by name and number; docs/migrating.md says which errors here have which."""

    CouldNotResolveAddr = 0
    InvalidApiCall = 1
    SocketError = 2
    InvalidUtf8 = 3
    InvalidName = 4
    InvalidTimestamp = 5
    AuthError = 6
    TlsError = 7
    HttpNotSupported = 8
    ServerFlushError = 9
    ConfigError = 10
    ArrayError = 11
    ProtocolVersionError = 12
    DecimalError = 13
    ServerRejection = 14
    ArrowUnsupportedColumnKind = 15
    ArrowIngest = 16
    FailoverRetry = 17
    RoleMismatch = 18
    ConnectTimeout = 19
    HandshakeError = 20
    UnsupportedServer = 21
    ProtocolError = 22
    InvalidBind = 23
    ServerSchemaMismatch = 24
    ServerParseError = 25
    ServerInternalError = 26
    ServerSecurityError = 27
    LimitExceeded = 28
    ServerLimitExceeded = 29
    Cancelled = 30
    FailoverWouldDuplicate = 31
    SchemaDrift = 32
    NoSchema = 33
    ArrowExport = 34
    BatchTooLarge = 35
    StoreResendRequired = 36
    SymbolDictFull = 37
    QueryTimeout = 38
    BadDataFrame = 65536
