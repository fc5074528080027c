"""What a server is told once, at its start: `ServerOptions`, checked, frozen, shared by all its connections.

Every bound of the server is here; the defaults are those of the reference server where it has one (wire.md 3.5).
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from spoolq import limits
from spoolq.errors import ConfigError, InvalidNameError
from spoolq.qwp.decode import check_column_name

FRAME_HEADER_BYTES_MAX: Final = 14  # two bytes, a 64-bit length, the mask
ROLES: Final = ("STANDALONE", "PRIMARY", "REPLICA", "PRIMARY_CATCHUP", "UNKNOWN")
READ_ONLY_ROLES: Final = frozenset({"REPLICA", "PRIMARY_CATCHUP"})  # they answer an upgrade with 421 (wire.md 1.3)


@dataclass(frozen=True, slots=True)
class Auth:
    """Who may connect: ``users`` (name -> password) by HTTP Basic, ``tokens`` by Bearer.  Empty means nobody.

    ``read_only``: users and tokens that may connect and not write: each of their blocks is refused with 08.
    """

    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    tokens: frozenset[str] = field(default_factory=frozenset, repr=False)
    read_only: frozenset[str] = field(default_factory=frozenset, repr=False)

    def allows(self, authorization: str | None) -> bool:
        """Whether the value of an ``Authorization`` header is one of ours."""
        return self._who(authorization) is not None

    def may_write(self, authorization: str | None) -> bool:
        """Whether who connects with it may send rows."""
        return self._who(authorization) not in self.read_only

    def _who(self, authorization: str | None) -> str | None:
        """The user or the token, None for neither."""
        scheme, _, given = (authorization or "").strip().partition(" ")
        given = given.strip()
        if scheme.lower() == "bearer":
            return next((token for token in self.tokens if _equal(given, token)), None)
        if scheme.lower() == "basic":
            pairs = ((user, f"{user}:{password}".encode()) for user, password in self.users.items())
            return next((user for user, pair in pairs if _equal(given, base64.b64encode(pair).decode())), None)
        return None


def _equal(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), wanted.encode())


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Settings of one server; `spoolq.server.QwpServer` takes them as keywords.

    auth                     None: anyone may connect
    role                     ``X-QuestDB-Role``; REPLICA and PRIMARY_CATCHUP refuse every upgrade with 421
    receive_buffer_nbytes    largest WebSocket frame, header included; what clients are told as cap is 14 less
    latched                  after an error a connection takes no more data (newer servers); False: the next frame
                             is processed (older servers) (wire.md 5.2)
    durable_ack              grant durable acks to clients that ask for them
    durable_ack_delay_millis how long a commit takes to become durable
    accept_long_arrays       store LONG_ARRAY instead of refusing it with 09
    read_only                an instance that never takes rows: each block is refused with 08
    create_tables            off: a block of a table that does not exist is refused with 06
    create_columns           off: a column that a table does not have is refused with 09
    views                    tables that are views: 06
    non_wal_tables           tables that are not WAL: 03
    tables_max               distinct tables of one connection
    columns_max              columns of one table, the designated timestamp among them
    rows_per_block_max       rows of one block of a message
    uncommitted_rows_max     rows of one table in an open group; above it the table is committed early
    connections_max          open connections; more are closed at once
    head_nbytes_max          request line and headers together
    handshake_timeout_millis time for a request to be complete
    query_timeout_millis     time for one query of ``/exec``; queries wait for each other, and a client that is gone
                             cannot be told from one that waits
    record_nbytes_max        message bytes kept for inspection, all connections of a server together; what
                             comes after is counted, not kept
    outgoing_nbytes_max      answers waiting for a client that does not read; above it the server stops reading from it
    held_nbytes_max          what all connections together hold that is not stored: half a request or message, answers
                             nobody reads, symbols, rows of open groups; above it the one that brought the last ends
    timestamp_name           the name that the designated timestamp gets in a table that is created
    dedup_keys               table -> columns: a row whose designated timestamp and keys equal an earlier one
                             takes its place
    """

    auth: Auth | None = None
    role: str = "STANDALONE"
    receive_buffer_nbytes: int = limits.BATCH_BYTES_ASSUMED + FRAME_HEADER_BYTES_MAX
    latched: bool = True
    durable_ack: bool = False
    durable_ack_delay_millis: int = 0
    accept_long_arrays: bool = False
    read_only: bool = False
    create_tables: bool = True
    create_columns: bool = True
    views: frozenset[str] = frozenset()
    non_wal_tables: frozenset[str] = frozenset()
    tables_max: int = 10_000
    columns_max: int = limits.COLUMNS_PER_TABLE_MAX
    rows_per_block_max: int = limits.ROWS_PER_TABLE_MAX
    uncommitted_rows_max: int = 1_000_000
    connections_max: int = 4_096
    head_nbytes_max: int = 32 << 10
    handshake_timeout_millis: int = 30_000
    query_timeout_millis: int = 60_000
    record_nbytes_max: int = 64 << 20
    outgoing_nbytes_max: int = 1 << 20
    held_nbytes_max: int = 1 << 30
    timestamp_name: str = "timestamp"
    dedup_keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ConfigError(f"role is {self.role!r}; it takes one of {', '.join(ROLES)}", key="role")
        try:
            check_column_name(self.timestamp_name)
        except InvalidNameError as error:
            raise ConfigError(f"timestamp_name: {error}", key="timestamp_name") from None
        if self.receive_buffer_nbytes <= FRAME_HEADER_BYTES_MAX + limits.HEADER_BYTES:
            text = f"receive_buffer_nbytes is {self.receive_buffer_nbytes}: not even an empty message fits"
            raise ConfigError(text, key="receive_buffer_nbytes")
        for name in _COUNTS:
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise ConfigError(f"{name} is {value!r}; it takes a whole number, 0 or more", key=name)

    @property
    def cap_nbytes(self) -> int:
        """What ``X-QWP-Max-Batch-Size`` says (wire.md 1.2)."""
        return min(self.receive_buffer_nbytes - FRAME_HEADER_BYTES_MAX, limits.PAYLOAD_BYTES_MAX)


_COUNTS: Final = (
    *("durable_ack_delay_millis", "tables_max", "columns_max", "rows_per_block_max", "uncommitted_rows_max"),
    *("connections_max", "head_nbytes_max", "handshake_timeout_millis", "record_nbytes_max", "outgoing_nbytes_max"),
    *("held_nbytes_max", "query_timeout_millis"),
)
