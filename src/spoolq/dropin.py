"""What a program for the official client asks of its `Sender`, under that client's names (ours.md 35).

`DropIn` is the part of `Sender` that nobody needs who began with spoolq: other names of what `stats` and the
settings tell, calls that have nothing to do here, and for the calls that mean nothing here the error that says
what takes their place.  The names of the module `questdb` are `spoolq.official`'s; docs/migrating.md lists all.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NoReturn

from spoolq import limits
from spoolq.errors import UnsupportedError

if TYPE_CHECKING:
    from spoolq.runtime.engine import Engine


class DropIn:
    """See the module's text; ``_engine`` and ``_here`` are the sender's."""

    _engine: Engine

    if TYPE_CHECKING:

        @property
        def _here(self) -> Engine: ...

    def establish(self) -> None:
        """Does nothing: the constructor has connected, or begun to.  Raises ClosedError behind `close`."""
        self._here.check_open()

    def close_drain(self) -> None:
        """`close`, which drains."""
        self._engine.close(flush=True)

    def error_events_dropped(self) -> int:
        """``stats().dropped_error_notifications``."""
        return self._here.reports.errors_dropped

    @property
    def connection_events_dropped(self) -> int:
        """``stats().connection_events_dropped``."""
        return self._here.reports.connections_dropped

    @property
    def connection_events_delivered(self) -> int:
        """``stats().connection_events_delivered``."""
        return self._here.reports.connections_delivered

    @property
    def auto_flush(self) -> bool:
        """Whether one of the triggers is on."""
        config = self._here.config
        return bool(config.auto_flush_rows or config.auto_flush_bytes or config.auto_flush_interval_millis)

    @property
    def auto_flush_rows(self) -> int | None:
        """Rows at which a row call flushes; None when that is off."""
        return self._here.config.auto_flush_rows or None

    @property
    def auto_flush_bytes(self) -> int | None:
        """Bytes at which a row call flushes, lowered to what the server and a segment take; None when that is off."""
        return self._here.rows.byte_trigger if self._here.config.auto_flush_bytes else None

    @property
    def auto_flush_interval(self) -> timedelta | None:
        """Age of the first buffered row at which it is flushed; None when that is off."""
        millis = self._here.config.auto_flush_interval_millis
        return timedelta(milliseconds=millis) if millis else None

    @property
    def init_buf_size(self) -> int:
        """The setting; 0 when it was not given: columns begin small."""
        return self._here.config.init_buf_size

    @property
    def max_name_len(self) -> int:
        """The setting: bytes of a table or column name."""
        return self._here.config.max_name_len

    @property
    def protocol_version(self) -> int:
        """Version of QWP."""
        return limits.PROTOCOL_VERSION

    def __bytes__(self) -> bytes:
        """Empty, as the official client's over ``ws``: rows are columns until they are a frame."""
        return b""

    if not TYPE_CHECKING:  # a type checker is to know that these names do not exist

        def __getattr__(self, name: str) -> Any:
            """Called for names that are not here: says what takes the place of one that people bring along."""
            if name in REFUSED:
                raise UnsupportedError(f"spoolq's Sender has no {name}: {REFUSED[name]}")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)


_BUFFER: Final = "rows are buffered in the sender itself, by row() and rows(); a second sender is a second buffer"
_KEEP: Final = "a flush hands its rows over for good; flush_and_get_fsn() gives the FSN"

# Why a name of the official client's `Sender` is not here.
REFUSED: Final[dict[str, str]] = {
    "new_buffer": _BUFFER,
    "flush_and_keep_and_get_fsn": _KEEP,
    "transaction": "QWP has no client transactions; every flush commits its frames",
    "drive_once": "it sends in the background by itself; wait() and await_acked_fsn() wait for the server",
    "dataframe": "give rows() the rows of the DataFrame, as df.itertuples(index=False) does",
}


def refuse_arguments(buffer: object, clear: object, transactional: object) -> NoReturn:
    """What `Sender.flush` raises for an argument of the official client's that means nothing here."""
    if buffer is not None:
        raise UnsupportedError(f"spoolq's flush takes no buffer: {_BUFFER}")
    if not clear:
        raise UnsupportedError(f"spoolq's flush has no clear=False: {_KEEP}")
    raise UnsupportedError(
        f"spoolq's flush has no transactional={transactional!r}: every flush commits its frames, a frame whole or not "
        "at all; leave it out"
    )
