"""All exceptions of spoolq: one tree, rooted at `SpoolqError`.

Split by whose move it is next:

- `ConfigError`: the connect string or a keyword; nothing was touched yet.
- `InputError`: a row or a value; the row was undone whole, earlier rows stay buffered.
- `BackpressureError`: the spool is full; rows stay buffered, try again later.
- `ConnectError` and below: no usable server.
- `ServerRejection`: the server refused a frame for good.
- `DeliveryTimeout`: time ran out while frames were unacknowledged; they are still queued.
- `StorageError`: the local spool.
- `ClosedError`, `ReentryError`, `ForkedError`, `NothingToSkipError`: a call that cannot be served by this object now.
- `UnsupportedError`: a name of the official client that has no meaning here.

Every error carries ``in_doubt``: False means nothing of the failed call was queued, so repeating it
is safe; True means some of it was queued and may be delivered, so wait instead of resending.

One rule for rows: **the row of a `row` call that raises is not taken, unless ``in_doubt`` is True.**  That holds
whatever raised: the row itself, an auto-flush that the row tripped (the row is taken out of the buffer again), or
an earlier timer flush.  ``in_doubt`` True means that the row is published; do not repeat it.  Of a `rows` call
``rows_taken`` says how many of its rows were taken, from the first one on.  Rows of earlier calls are never lost.

A latched error is one object that many calls raise; each raises a copy of its own (`fresh`), with its own answer.
Texts never hold secrets.  Imports nothing of spoolq, but for the code of an error when somebody asks.

`QuestDBError` and `QuestDBServerRejectionError` are the official client's names of `SpoolqError` and
`ServerRejection`; docs/migrating.md has its codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spoolq.codes import QuestDBErrorCode
    from spoolq.events import ErrorEvent


class SpoolqError(Exception):
    """Root of every error this package raises on purpose.

    ``sender_error`` is what `error_handler` is told, on a refusal that ended the sender; else None.
    """

    code_name = "InvalidApiCall"
    sender_error: ErrorEvent | None = None

    rows_taken: int | None = None
    """Raised by `rows`: how many of its rows were taken, buffered or published; None of any other call."""

    def __init__(self, message: str, *, in_doubt: bool = False) -> None:
        super().__init__(message)
        self.in_doubt = in_doubt

    @property
    def code(self) -> QuestDBErrorCode:
        """The official client's code for what has happened."""
        from spoolq.codes import QuestDBErrorCode

        return QuestDBErrorCode[self.code_name]


def fresh(error: SpoolqError, *, in_doubt: bool = False) -> SpoolqError:
    """A copy for one call of an error that many calls raise: the call's own answer, notes and traceback."""
    copy: SpoolqError = type(error).__new__(type(error))
    copy.args = error.args
    copy.__dict__.update(error.__dict__)
    if "__notes__" in copy.__dict__:
        copy.__notes__ = list(error.__notes__)
    if isinstance(error, StorageError) and isinstance(copy, StorageError):  # these two are no part of the dict
        copy.errno, copy.filename = error.errno, error.filename
    copy.in_doubt, copy.__cause__ = in_doubt, error.__cause__
    return copy


class ConfigError(SpoolqError, ValueError):
    """A connect string or keyword is wrong; raised before any socket or file is touched.

    ``key`` names the setting, or is None when the grammar itself is broken.
    """

    code_name = "ConfigError"

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class InputError(SpoolqError, ValueError):
    """A row, a column or a value cannot be sent; the row left no trace.

    ``table`` and ``column`` name the place; ``column`` is None when the fault is the row's.
    """

    def __init__(self, message: str, *, table: str | None = None, column: str | None = None) -> None:
        super().__init__(message)
        self.table = table
        self.column = column


class InvalidNameError(InputError):
    """A table or column name the server would refuse."""

    code_name = "InvalidName"


class SymbolDictionaryFull(InputError):
    """The symbol dictionary reached a limit; use VARCHAR for the column that is named."""

    code_name = "SymbolDictFull"


class FrameTooLarge(InputError):
    """One row alone is larger than a frame may be.

    ``size`` and ``limit`` are bytes.
    """

    code_name = "BatchTooLarge"

    def __init__(
        self, message: str, *, size: int, limit: int, table: str | None = None, column: str | None = None
    ) -> None:
        super().__init__(message, table=table, column=column)
        self.size = size
        self.limit = limit


class BackpressureError(SpoolqError, TimeoutError):
    """The spool stayed full for the whole append deadline.

    What was buffered before the call still is; the row of a `row` call that raises this was not taken
    (unless ``in_doubt``, see the module's text).  Try again when the server catches up.
    """

    code_name = "SocketError"


class ConnectError(SpoolqError, ConnectionError):
    """No endpoint gave a usable connection.

    ``tag`` is ``never-connected-budget-exhausted`` or ``connection-lost-budget-exhausted`` when a
    time budget ended the attempts, else None (behaviour.md 5.5).
    """

    code_name = "SocketError"

    def __init__(self, message: str, *, tag: str | None = None) -> None:
        super().__init__(message)
        self.tag = tag


class AuthError(ConnectError):
    """A server refused the credentials (401 or 403): terminal for the whole endpoint list.

    ``status`` is the HTTP status.
    """

    code_name = "AuthError"

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class RoleMismatchError(ConnectError):
    """Every endpoint answered 421: none of them takes writes now."""

    code_name = "RoleMismatch"


class DurableAckError(ConnectError):
    """Every endpoint is there and none grants the durable acks that ``request_durable_ack`` asks for."""

    code_name = "ProtocolVersionError"


class ServerRejection(SpoolqError):
    """The server refused a frame and the policy is terminal; the sender has stopped.

    Attributes (behaviour.md 6.3): ``category`` and ``policy`` (names), ``status`` (wire byte or
    None), ``server_text`` (at most 1,024 bytes of UTF-8), ``message_sequence`` (position on that
    connection, or None), ``from_fsn`` and ``to_fsn`` (the frames concerned), ``tables`` (names of the tables these have
    rows of, at most 100; empty when no frame was refused or it could not be looked at).
    """

    code_name = "ServerRejection"

    def __init__(
        self,
        message: str,
        *,
        category: str,
        policy: str = "terminal",
        status: int | None = None,
        server_text: str = "",
        message_sequence: int | None = None,
        from_fsn: int = -1,
        to_fsn: int = -1,
        tables: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.category = category
        self.policy = policy
        self.status = status
        self.server_text = server_text
        self.message_sequence = message_sequence
        self.from_fsn = from_fsn
        self.to_fsn = to_fsn
        self.tables = tables


class DeliveryTimeout(SpoolqError, TimeoutError):
    """Frames were still unacknowledged when the wait ended.

    ``published_fsn`` and ``acked_fsn`` are the watermarks at that moment (-1 when none).  Always
    ``in_doubt``: wait again, do not resend.
    """

    code_name = "SocketError"

    def __init__(self, message: str, *, published_fsn: int, acked_fsn: int) -> None:
        super().__init__(message, in_doubt=True)
        self.published_fsn = published_fsn
        self.acked_fsn = acked_fsn


class StorageError(SpoolqError, OSError):
    """The local spool cannot be read or written; the text names the slot and what to do.

    ``errno`` and ``filename`` are set when the system reported it, else None.
    """

    code_name = "SocketError"

    def __init__(self, message: str, *, errno: int | None = None, filename: str | None = None) -> None:
        super().__init__(message)
        self.errno = errno
        self.filename = filename

    def __str__(self) -> str:
        return str(self.args[0])  # not OSError's own form, which has only the number and the name


class SlotBusyError(StorageError):
    """Another sender holds the slot; the text names the process, and the place when it is this one."""


class SlotRefusedError(StorageError):
    """The slot cannot be judged (a file cannot be read, or a newer version wrote it); nothing in it was changed."""


class DeadLettersFullError(StorageError):
    """A dead letter more would be above ``dead_letter_max_bytes``: requeue or delete some, or raise it."""


class SlotUnreplayableError(StorageError):
    """The slot is damaged so that what it holds cannot be sent in order; ``reason`` says why in one line."""

    code_name = "StoreResendRequired"

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class NothingToSkipError(SpoolqError):
    """`Sender.skip_head_frame` was called, and no stored frame has stopped this sender."""


class ClosedError(SpoolqError):
    """The sender is closed."""


class ReentryError(SpoolqError):
    """A conversion hook or a signal handler called into the sender whose call it runs in."""


class ForkedError(SpoolqError):
    """The sender was inherited by a forked child; open a sender of the child's own."""


class UnsupportedError(SpoolqError, AttributeError):
    """A name of the official client that has no meaning here; the text says what takes its place."""


QuestDBError = SpoolqError
QuestDBServerRejectionError = ServerRejection
