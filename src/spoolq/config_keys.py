"""The table of settings: the one source for the parser, the keyword arguments, the help and the docs.

A key is in `KEYS` only when it has an effect (ours.md 28).  Beside it stand the keys that are read past
(`IGNORED`: they steer the query side or a pool of the same string, behaviour.md 1.3) and those that are
refused with a hint (`REFUSED`, behaviour.md 1.4 and the ones whose time has not come).

Names are those of the connect string; ``field`` is the attribute of `spoolq.config.SenderConfig`, None for
a key that takes a single value and so carries nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from spoolq import limits
from spoolq.config_grammar import (
    COUNT_MAX,
    MILLIS_MAX,
    read_addresses,
    read_bool,
    read_int,
    read_size,
    read_text,
    read_word,
)
from spoolq.frozen import Frozen


class Secret:
    """A text that no repr, log or error shows; `reveal` gives it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(("Secret", self._text))

    def __repr__(self) -> str:
        return "Secret('***')"


class TokenProvider:
    """A callable that gives the bearer token of each connect attempt; no repr shows it, for it may hold a secret."""

    __slots__ = ("_provide",)

    def __init__(self, provide: Callable[[], str]) -> None:
        self._provide = provide

    def __call__(self) -> str:
        """A token, whatever the caller's function returns or raises."""
        return self._provide()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenProvider) and other._provide == self._provide

    def __hash__(self) -> int:
        return hash(("TokenProvider", self._provide))

    def __repr__(self) -> str:
        return "TokenProvider('***')"


_SENDER_ID: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


class Key(Frozen):
    """One setting.

    ``read`` turns its text into a value or raises ValueError with the reason; ``default`` is the value
    when it is not given; ``shown_default``, ``accepted`` and ``meaning`` are for people; ``source`` is
    the place in the specification.
    """

    name: str
    field: str | None
    read: Callable[[str], Any]
    default: Any
    shown_default: str
    accepted: str
    meaning: str
    source: str
    aliases: tuple[str, ...] = ()
    secret: bool = False


def _read_secret(text: str) -> Secret:
    return Secret(read_text(text))


def _read_readable_file(text: str) -> str:
    try:
        with open(text, "rb"):
            return text
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None


def _read_store(text: str) -> str:
    if text.lower() == "pem_file":
        raise ValueError("is what tls_roots means by itself: leave tls_ca out")
    return read_word({word: word for word in ("os_roots", "webpki_roots", "webpki_and_os_roots")})(text)


def _read_name_bytes(text: str) -> int:
    return read_int(16, limits.NAME_BYTES_MAX)(text)


def _read_progress(text: str) -> str:
    if text.lower() == "manual":
        raise ValueError("is not offered: spoolq sends in the background; leave the key out")
    return read_word({"background": "background"})(text)


def _read_transaction(text: str) -> bool:
    if read_bool(text):
        raise ValueError("is not possible: QWP has no client transactions; each flush commits its frames")
    return False


def _read_protocol_version(text: str) -> str:
    if text.lower() != "auto":
        raise ValueError("belongs to ILP; QWP agrees on its version by itself: leave the key out")
    return "auto"


def _read_sender_id(text: str) -> str:
    if not _SENDER_ID.fullmatch(text):
        raise ValueError("takes letters, digits, '_' and '-' only: it is the name of a directory")
    return text


_SAME_WORDS: Final = {word: word for word in ("terminal", "retriable", "retriable_other")}
_POLICIES_SHOWN: Final = "`terminal` (or `halt`), `retriable`, `retriable_other`, `drop` (needs `sf_dir`)"


def _policy(name: str, category: str, default: str, aliases: tuple[str, ...] = ()) -> Key:
    return Key(
        name,
        name,
        read_word({**_SAME_WORDS, "halt": "terminal", "drop": "drop"}),
        None,
        "as `on_server_error`",
        _POLICIES_SHOWN,
        f"What an answer of category {category} does; without any setting: {default}.",
        "behaviour.md 6.1, 6.2",
        aliases,
    )


KEYS: Final[tuple[Key, ...]] = (
    Key(
        "addr",
        "endpoints",
        read_addresses,
        None,
        "required",
        "`host[:port],...`; may repeat",
        "The servers, in order of preference; port 9000 if absent; IPv6 in brackets.",
        "behaviour.md 1.1",
    ),
    Key(
        "username",
        "username",
        read_text,
        None,
        "unset",
        "text; needs `password`",
        "HTTP Basic user.",
        "behaviour.md 1.2",
        ("user",),
    ),
    Key(
        "password",
        "password",
        _read_secret,
        None,
        "unset",
        "text; needs `username`",
        "HTTP Basic password.",
        "behaviour.md 1.2",
        ("pass",),
        secret=True,
    ),
    Key(
        "token",
        "token",
        _read_secret,
        None,
        "unset",
        "text, as a keyword also a callable; not with `username`",
        "Bearer token. A callable is asked for one, without arguments, at each connect: never by two threads at once, "
        "on a thread of its own (spoolq-token); a connect waits at most 60 s for it.",
        "behaviour.md 1.2",
        secret=True,
    ),
    Key(
        "auth_timeout_ms",
        "auth_timeout_millis",
        read_int(1, MILLIS_MAX),
        15_000,
        "15000",
        "milliseconds, 1 or more",
        "Longest wait for one server's answer to the upgrade request.",
        "behaviour.md 1.2",
    ),
    Key(
        "connect_timeout",
        "connect_timeout_millis",
        read_int(1, MILLIS_MAX),
        None,
        "unset",
        "milliseconds, 1 or more",
        "Longest TCP connect, or name lookup, for one server; unset: the system's on the caller's thread, else 15000.",
        "behaviour.md 1.2",
    ),
    Key(
        "tls_verify",
        "tls_verify",
        read_word({"on": True, "unsafe_off": False}),
        True,
        "`on`",
        "`on`, `unsafe_off`; `wss` only",
        "`unsafe_off` takes any certificate; not together with `tls_roots`.",
        "behaviour.md 1.2",
    ),
    Key(
        "tls_roots",
        "tls_roots",
        _read_readable_file,
        None,
        "the system's",
        "path of a PEM or PKCS#12 file; `wss` only",
        "The certificates a server's chain must end in, and no others. PKCS#12 needs `spoolq[tls]`; JKS is refused.",
        "behaviour.md 1.2",
    ),
    Key(
        "tls_roots_password",
        "tls_roots_password",
        _read_secret,
        None,
        "unset",
        "text; needs `tls_roots`",
        "Opens `tls_roots` when that is a PKCS#12 store.",
        "behaviour.md 1.2",
        secret=True,
    ),
    Key(
        "tls_ca",
        "tls_ca",
        _read_store,
        None,
        "unset: the system's files, as OpenSSL finds them",
        "`os_roots`, `webpki_roots`, `webpki_and_os_roots`; `wss` only",
        "The system's own verifier, Mozilla's list, or both; needs `spoolq[tls]`. Not together with `tls_roots`.",
        "behaviour.md 1.2",
    ),
    Key(
        "auto_flush",
        "auto_flush",
        read_bool,
        True,
        "`on`",
        "`on`, `off`",
        "`off` switches all three triggers off; a trigger that is given by its own key stays.",
        "behaviour.md 1.2",
    ),
    Key(
        "auto_flush_rows",
        "auto_flush_rows",
        read_int(0, COUNT_MAX, off=True),
        1_000,
        "1000",
        "rows; 0 or `off`: none",
        "Flush when this many rows are buffered.",
        "behaviour.md 1.2",
    ),
    Key(
        "auto_flush_interval",
        "auto_flush_interval_millis",
        read_int(0, MILLIS_MAX, off=True),
        100,
        "100",
        "milliseconds; 0 or `off`: none",
        "Flush when the first buffered row is this old: a deadline, kept without further calls.",
        "ours.md 12",
    ),
    Key(
        "auto_flush_bytes",
        "auto_flush_bytes",
        read_size(0, off=True),
        8 << 20,
        "8m",
        "size; 0 or `off`: none",
        "Flush at this many encoded bytes; lowered to 90 % of the server's and a segment's frame limit.",
        "behaviour.md 3.1",
    ),
    Key(
        "init_buf_size",
        "init_buf_size",
        read_size(1_024),
        0,
        "unset: columns begin small and double",
        "size, 1024 or more, not above a `max_buf_size` that is given",
        "Bytes the columns of a table begin with, in equal shares: saves the growing where batches are large.",
        "behaviour.md 1.2",
    ),
    Key(
        "max_buf_size",
        "max_buf_size",
        read_size(1_024),
        100 << 20,
        "100m",
        "size, 1024 or more",
        "Most bytes of rows that may be buffered: a row that crosses it flushes first.",
        "behaviour.md 1.2",
    ),
    Key(
        "max_name_len",
        "max_name_len",
        _read_name_bytes,
        limits.NAME_BYTES_MAX,
        "127",
        "bytes, 16 to 127",
        "Longest table or column name, in UTF-8 bytes; the server takes no more than 127.",
        "behaviour.md 1.2, wire.md 3",
    ),
    Key(
        "sf_dir",
        "sf_dir",
        str,
        None,
        "unset: the queue is in memory",
        "path of a directory whose parent exists",
        "Turns the disk spool on: the directory that holds the slots.",
        "behaviour.md 1.2",
    ),
    Key(
        "sender_id",
        "sender_id",
        _read_sender_id,
        "default",
        "`default`",
        "letters, digits, `_`, `-`",
        "Name of this sender's slot in `sf_dir`; one sender at a time holds it. Without `sf_dir` unused.",
        "behaviour.md 1.2, slot.md 1",
    ),
    Key(
        "sf_group_access",
        "sf_group_access",
        read_bool,
        False,
        "`off`",
        "`on`, `off`",
        "`on`: new directories 0770 and files 0660, for a drainer of another user; else 0700 and 0600.",
        "ours.md 21",
    ),
    Key(
        "sf_durability",
        "sf_durability",
        read_word({word: word for word in ("memory", "periodic", "flush", "append")}),
        "memory",
        "`memory`",
        "`memory`, `periodic`, `flush`, `append`; all but `memory` need `sf_dir`",
        "What a power cut leaves, beside what every mode keeps when the process dies: nothing sure; all up to the "
        "last checkpoint; all that a returned `flush()` covers; all that is published.",
        "behaviour.md 9",
    ),
    Key(
        "sf_sync_interval_millis",
        "sf_sync_interval_millis",
        read_int(1, MILLIS_MAX),
        limits.SYNC_INTERVAL_MILLIS_DEFAULT,
        "5000",
        "milliseconds, 1 or more; needs `sf_durability=periodic`",
        "From the first row that is not on the disk to the checkpoint that puts it there.",
        "behaviour.md 9",
    ),
    Key(
        "sf_max_segment_bytes",
        "sf_max_segment_bytes",
        read_size(limits.SEGMENT_BYTES_MIN),
        limits.SEGMENT_BYTES_DEFAULT,
        "4m",
        "size, 33 or more",
        "Size of one segment of the queue, in memory or on disk; bounds a frame (segment less 32 bytes).",
        "behaviour.md 1.2",
        ("sf_max_bytes",),
    ),
    Key(
        "sf_max_total_bytes",
        "sf_max_total_bytes",
        read_size(2 * limits.SEGMENT_BYTES_MIN),
        limits.SPOOL_BYTES_DEFAULT_MEMORY,
        "128m in memory, 10g with `sf_dir`, or two segments if that is more",
        "size, two segments or more",
        "Most bytes of segments held until acknowledged; when full, appends wait.",
        "behaviour.md 1.2, 3.4",
    ),
    Key(
        "sf_append_deadline_millis",
        "sf_append_deadline_millis",
        read_int(1, MILLIS_MAX),
        30_000,
        "30000",
        "milliseconds, 1 or more",
        "Longest wait for room in one append; then BackpressureError, and the rows stay buffered.",
        "behaviour.md 3.4",
    ),
    Key(
        "initial_connect_retry",
        "initial_connect",
        read_word({"off": "off", "on": "sync", "sync": "sync", "async": "async", "true": "sync", "false": "off"}),
        "off",
        "`off`; `sync` when a `reconnect_*` key is given",
        "`off`, `on` or `sync`, `async`, `true`, `false`",
        "First connect: one try at open; tries until the budget ends; in the background.",
        "behaviour.md 2.2",
    ),
    Key(
        "reconnect_max_duration_millis",
        "reconnect_max_duration_millis",
        read_int(0, MILLIS_MAX),
        300_000,
        "300000",
        "milliseconds; 0: one round",
        "Budget of a blocking first connect. A sender that runs never gives up by time.",
        "ours.md 25",
    ),
    Key(
        "reconnect_initial_backoff_millis",
        "reconnect_initial_backoff_millis",
        read_int(1, MILLIS_MAX),
        100,
        "100",
        "milliseconds, 1 or more",
        "First pause between rounds of attempts; it doubles.",
        "behaviour.md 5.3",
    ),
    Key(
        "reconnect_max_backoff_millis",
        "reconnect_max_backoff_millis",
        read_int(1, MILLIS_MAX),
        5_000,
        "5000",
        "milliseconds, 1 or more",
        "Where the doubling stops; jitter adds up to as much again.",
        "behaviour.md 5.3",
    ),
    Key(
        "close_flush_timeout_millis",
        "close_flush_timeout_millis",
        read_int(-MILLIS_MAX, MILLIS_MAX),
        5_000,
        "5000",
        "milliseconds; 0 or less: no wait",
        "How long `close()` waits for acknowledgements before it raises.",
        "behaviour.md 2.7",
    ),
    Key(
        "request_durable_ack",
        "request_durable_ack",
        read_bool,
        False,
        "`off`",
        "`on`, `off`",
        "`on`: frames are kept until the server says that they are in its object store, not only committed.",
        "behaviour.md 4.4",
    ),
    Key(
        "durable_ack_keepalive_interval_millis",
        "durable_ack_keepalive_interval_millis",
        read_int(-MILLIS_MAX, MILLIS_MAX),
        200,
        "200",
        "milliseconds; 0 or less: none",
        "While frames are committed and not durable and nothing is sent, a PING this often asks for news.",
        "behaviour.md 4.4",
    ),
    Key(
        "half_open_timeout_millis",
        "half_open_timeout_millis",
        read_int(0, MILLIS_MAX),
        60_000,
        "60000",
        "milliseconds; 0: never",
        "Frames wait and nothing comes for half of it: a PING; nothing for the other half: connect again, with twice "
        "the time, at most 30 minutes, until something is acknowledged.",
        "behaviour.md 11",
    ),
    Key(
        "max_frame_rejections",
        "max_frame_rejections",
        read_int(1, COUNT_MAX),
        4,
        "4",
        "1 or more",
        "Rejections of one frame, without progress, that end the sender ...",
        "behaviour.md 6.4",
    ),
    Key(
        "poison_min_escalation_window_millis",
        "poison_min_escalation_window_millis",
        read_int(0, MILLIS_MAX),
        5_000,
        "5000",
        "milliseconds",
        "... but not before this long after the first of them.",
        "behaviour.md 6.4",
    ),
    Key(
        "catch_up_cap_gap_min_escalation_window_millis",
        "cap_gap_window_millis",
        read_int(0, MILLIS_MAX),
        300_000,
        "300000",
        "milliseconds",
        "How long every server must have been too small for a frame or a symbol before that is terminal.",
        "ours.md 6, behaviour.md 6.5 c",
    ),
    Key(
        "outage_budget_millis",
        "outage_budget_millis",
        read_int(0, MILLIS_MAX),
        0,
        "0",
        "milliseconds; 0: none",
        "Ends a sender whose frames wait this long without any acknowledgement; without it none gives up by time.",
        "ours.md 25, behaviour.md 5.5",
    ),
    Key(
        "drain_orphans",
        "drain_orphans",
        read_bool,
        False,
        "`off`",
        "`on`, `off`; needs `sf_dir`",
        "Delivers what other senders left in `sf_dir` when they ended, in the background.",
        "behaviour.md 7",
    ),
    Key(
        "max_background_drainers",
        "max_background_drainers",
        read_int(0, limits.DRAINERS_MAX),
        4,
        "4",
        f"0 to {limits.DRAINERS_MAX}; 0: none",
        "Most slots that are drained at once.",
        "behaviour.md 7.2",
    ),
    Key(
        "drainer_give_up_millis",
        "drainer_give_up_millis",
        read_int(0, MILLIS_MAX),
        300_000,
        "300000",
        "milliseconds",
        "A slot is given up (`.failed`) when its credentials are refused, or the outage budget is used up, this long.",
        "ours.md 20",
    ),
    Key(
        "error_inbox_capacity",
        "error_inbox_capacity",
        read_int(16, limits.INBOX_MAX),
        limits.ERROR_INBOX_DEFAULT,
        "256",
        "16 to 1048576",
        "Error events kept for the handler and `poll_error()`; the oldest go first, counted.",
        "behaviour.md 6.3",
    ),
    Key(
        "connection_listener_inbox_capacity",
        "connection_listener_inbox_capacity",
        read_int(1, limits.INBOX_MAX),
        limits.CONNECTION_INBOX_DEFAULT,
        "64",
        "1 to 1048576",
        "Connection events kept for the listener; the oldest go first, counted.",
        "behaviour.md 1.2, 8",
    ),
    Key(
        "dead_letter_max_bytes",
        "dead_letter_max_bytes",
        read_size(1),
        limits.DEAD_LETTER_BYTES_DEFAULT,
        "256m",
        "size, 1 or more",
        "Most bytes of dead letters beside the slot; when full, a frame that is to be dropped ends the sender instead.",
        "ours.md 22",
    ),
    Key(
        "on_server_error",
        "on_server_error",
        read_word({"auto": "auto", **_SAME_WORDS}),
        "auto",
        "`auto`",
        "`auto`, `terminal`, `retriable`, `retriable_other`",
        "What a server's error answer does; `auto`: by its category. Keys of a category go before.",
        "behaviour.md 6.2",
    ),
    _policy("on_schema_error", "SCHEMA_MISMATCH", "terminal", ("on_schema_mismatch_error",)),
    _policy("on_parse_error", "PARSE_ERROR", "terminal"),
    _policy("on_internal_error", "INTERNAL_ERROR", "retriable"),
    _policy("on_security_error", "SECURITY_ERROR", "terminal"),
    _policy("on_write_error", "WRITE_ERROR", "retriable"),
    Key(
        "gorilla",
        "gorilla",
        read_bool,
        False,
        "`off`",
        "`on`, `off`",
        "Timestamps as second differences: fewer bytes, more work.",
        "ours.md 3",
    ),
    Key(
        "qwp_ws_progress",
        None,
        _read_progress,
        "background",
        "`background`",
        "`background`",
        "Who drives the sending; there is one answer here.",
        "behaviour.md 1.2",
    ),
    Key(
        "transaction",
        None,
        _read_transaction,
        False,
        "`off`",
        "`off`",
        "`on` is an error: no client transactions.",
        "ours.md 28",
    ),
    Key(
        "protocol_version",
        None,
        _read_protocol_version,
        "auto",
        "`auto`",
        "`auto`",
        "Other values belong to ILP; QWP agrees on its version by itself.",
        "behaviour.md 1.4",
    ),
)

# Keys of the query side or of a pool; values are not looked at (behaviour.md 1.3, ours.md 28).
# fmt: off
IGNORED: Final = frozenset((
    "target", "zone", "failover", "failover_max_attempts", "failover_backoff_initial_ms",
    "failover_backoff_max_ms", "failover_max_duration_ms", "compression", "compression_level",
    "initial_credit", "max_batch_rows", "client_id", "query_close_timeout_ms", "buffer_pool_size",
    "auth", "path", "max_version", "sender_pool_min", "sender_pool_max", "query_pool_min",
    "query_pool_max", "acquire_timeout_ms", "idle_timeout_ms", "max_lifetime_ms",
    "housekeeper_interval_ms", "lazy_connect", "pool_reap", "in_flight_window",
))
# fmt: on

_HTTP: Final = "it belongs to ILP over HTTP"
_TCP: Final = "it belongs to ILP over TCP"
_UDP: Final = "it belongs to QWP over UDP"
_EARLY: Final = "it was dropped; the disk store has sf_dir and sf_durability"
_POOL: Final = "it was renamed: sender_pool_max, query_pool_max, idle_timeout_ms"

# Why a key is refused, for those that people may bring along (behaviour.md 1.4).
REFUSED: Final[dict[str, str]] = {
    "request_timeout": _HTTP,
    "request_min_throughput": _HTTP,
    "retry_timeout": "use reconnect_max_duration_millis",
    "retry_max_backoff_millis": "use reconnect_max_backoff_millis",
    "token_x": _TCP,
    "token_y": _TCP,
    "bind_interface": _TCP,
    "max_datagram_size": _UDP,
    "multicast_ttl": _UDP,
    "retry_max_backoff": "use reconnect_max_backoff_millis",
    "auth_timeout": "use auth_timeout_ms",
    "connection_event_inbox_capacity": "use connection_listener_inbox_capacity",
    "error_event_inbox_capacity": "use error_inbox_capacity",
    "close_timeout": "use close_flush_timeout_millis",
    "store_and_forward": _EARLY,
    "sf_fsync": _EARLY,
    "sf_fsync_on_flush": _EARLY,
    "sf_engine": _EARLY,
    "pool_size": _POOL,
    "pool_max": _POOL,
    "pool_idle_timeout_ms": _POOL,
}
