"""What the delivery machine reports becomes events for the user's handlers, and log lines.

`Reports.take` is called by whoever drives the machine; it never waits and never fails.  Each kind
of handler has an inbox and a thread of its own (`Dispatcher`), made only when there is a handler.
The inbox for progress holds one entry: a newer watermark takes the place of one not told yet.
`poll_error` has a ring of its own, independent of the handler (behaviour.md 6.3).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from spoolq.delivery import actions, verdicts
from spoolq.errors import SpoolqError
from spoolq.events import ConnectionEvent, ConnectionEventKind, ErrorEvent, SenderErrorCategory, SenderErrorPolicy
from spoolq.runtime.decisions import error_event
from spoolq.runtime.dispatcher import Dispatcher

if TYPE_CHECKING:
    from spoolq.spool.report import RecoveryReport

_ERRORS: Final = logging.getLogger("spoolq.errors")
_CONNECTIONS: Final = logging.getLogger("spoolq.delivery")

ErrorHandler = Callable[[ErrorEvent], object]
ConnectionListener = Callable[[ConnectionEvent], object]
ProgressHandler = Callable[[int], object]


class Reports:
    """Error and connection events of one sender; ``endpoints`` are their names by index."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        error_handler: ErrorHandler | None,
        connection_listener: ConnectionListener | None,
        progress_handler: ProgressHandler | None = None,
        error_capacity: int,
        connection_capacity: int,
    ) -> None:
        self._endpoints = endpoints
        self._errors: Dispatcher[ErrorEvent] | None = None
        self._connections: Dispatcher[ConnectionEvent] | None = None
        if error_handler is not None:
            self._errors = Dispatcher(error_handler, error_capacity, "spoolq-errors")
        if connection_listener is not None:
            self._connections = Dispatcher(connection_listener, connection_capacity, "spoolq-connections")
        self._progress: Dispatcher[int] | None = None
        if progress_handler is not None:
            self._progress = Dispatcher(progress_handler, 1, "spoolq-progress")
        self._polled: deque[ErrorEvent] = deque(maxlen=error_capacity)
        self._polled_dropped = 0
        self.server_errors = 0

    @property
    def errors_delivered(self) -> int:
        """Error events the handler was called with."""
        return self._errors.delivered if self._errors is not None else 0

    @property
    def errors_dropped(self) -> int:
        """Error events that gave way to newer ones in the handler's inbox; without a handler, in `poll_error`'s."""
        return self._polled_dropped if self._errors is None else self._errors.dropped

    @property
    def connections_delivered(self) -> int:
        """Connection events the listener was called with."""
        return self._connections.delivered if self._connections is not None else 0

    @property
    def connections_dropped(self) -> int:
        """Connection events that gave way to newer ones."""
        return self._connections.dropped if self._connections is not None else 0

    def poll_error(self) -> ErrorEvent | None:
        """The oldest error event that was not polled yet; None when there is none."""
        try:
            return self._polled.popleft()
        except IndexError:
            return None

    def take(self, report: actions.Report) -> None:
        """One report of the machine."""
        match report.event:
            case actions.ServerErrorEvent() as refusal:
                self.server_errors += 1
                self._error(error_event(refusal))
            case actions.ConnectionEvent() as event:
                self._connection(event)

    def progressed(self, acked_fsn: int) -> None:
        """The watermark has moved."""
        if self._progress is not None:
            self._progress.post(acked_fsn)

    def fault(self, error: SpoolqError, first_fsn: int, last_fsn: int) -> None:
        """A fault of ours ended the sender: the machine did not report it."""
        category, policy = SenderErrorCategory.ClientFault, SenderErrorPolicy.Terminal
        self._error(ErrorEvent(category, policy, None, str(error), None, first_fsn, last_fsn, datetime.now(UTC)))

    def slot_set_aside(self, found: RecoveryReport) -> None:
        """The slot held frames that cannot be sent; it was kept under another name (ours.md 15d)."""
        text = f"the slot {found.slot} was unreplayable and is kept as {found.set_aside}: {'; '.join(found.warnings)}"
        category, policy = SenderErrorCategory.SlotUnreplayable, SenderErrorPolicy.SetAside
        self._error(ErrorEvent(category, policy, None, text, None, -1, -1, datetime.now(UTC)))

    def close(self) -> None:
        """Lets the handlers finish for a moment (`Dispatcher.close`)."""
        for dispatcher in (self._errors, self._connections, self._progress):
            if dispatcher is not None:
                dispatcher.close()

    def _error(self, event: ErrorEvent) -> None:
        if len(self._polled) == self._polled.maxlen:
            self._polled_dropped += 1
        self._polled.append(event)
        if self._errors is not None:
            self._errors.post(event)
            return
        if event.status is None:
            stopped = "the sender has stopped: " if event.policy == "terminal" else ""
            _ERRORS.error("%s%s: %s", stopped, event.category, event.text)
            return
        level = logging.ERROR if event.policy == "terminal" else logging.WARNING
        frames = verdicts.frames(event.from_fsn, event.to_fsn, event.tables)
        _ERRORS.log(level, "the server refused %s: %s, %s: %s", frames, event.category, event.policy, event.text)

    def _connection(self, event: actions.ConnectionEvent) -> None:
        told = ConnectionEvent(
            ConnectionEventKind(event.kind),
            self._name(event.endpoint_index),
            self._name(event.previous_endpoint_index) if event.kind == "failed_over" else None,
            event.attempt,
            event.round,
            event.cause,
            datetime.now(UTC),
        )
        _CONNECTIONS.debug("%s %s %s", told.kind, told.endpoint or "", told.cause)
        if self._connections is not None:
            self._connections.post(told)

    def _name(self, index: int | None) -> str | None:
        return None if index is None else self._endpoints[index]
