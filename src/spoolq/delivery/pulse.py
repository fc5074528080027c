"""When a PING is due on a connection, and when its silence means that it is gone.

| because                         | while                              | PING             | then              |
|---------------------------------|------------------------------------|------------------|-------------------|
| durable acks come only when the | frames are OKed and not durable,   | a keepalive time | -                 |
| server is asked (wire.md 6.5)   | nothing is being sent              | after what went  |                   |
|                                 |                                    | out last         |                   |
| a half-open connection looks    | frames wait for their end, nothing | one after half   | lost after the    |
| like a slow one (FOV-08)        | at all comes from the peer         | the time         | other half        |

Both are off at 0.  Neither is due while nothing is owed: an idle sender makes no system call
(ours.md 13).  A server that answers the PING is alive, however slow it is.

One that works on a frame and does not read meanwhile answers no PING, and is sent the same frame again on the
next connection.  So each loss doubles the watchdog's time, up to `limits.HALF_OPEN_MILLIS_MAX` or the setting
when that is larger, until there is progress: a server that needs longer than the setting gets it in the end,
and one that is gone is waited for about as long again as it was waited for already.

The machine tells what goes out, since when something is owed and what is progress; ``heard_millis``, when the
peer last gave a sign of life, is runtime/'s.  Times are those of one connection, but for the doubling; pure.
"""

from __future__ import annotations

from typing import Literal

from spoolq import limits


class Pulse:
    """See the module's text."""

    def __init__(self, keepalive_millis: int, half_open_millis: int) -> None:
        self._keepalive_millis = keepalive_millis
        self._half_least_millis = self._half_millis = (half_open_millis + 1) // 2
        self._out_millis = 0
        self._owed_millis = 0
        self._probe_millis = -1  # when the one PING of the watchdog went out

    def begin(self, now_millis: int) -> None:
        """A new connection."""
        self._out_millis = self._owed_millis = now_millis
        self._probe_millis = -1

    def went_out(self, now_millis: int) -> None:
        """Frames are on their way, or there is something new to ask for: the keepalive time starts again."""
        self._out_millis = now_millis

    def owed(self, now_millis: int) -> None:
        """From now on frames wait for their end; before, none did."""
        self._owed_millis = now_millis

    def progressed(self) -> None:
        """Something new was acknowledged: the setting holds again."""
        self._half_millis = self._half_least_millis

    def due_millis(self, *, waits: bool, asks: bool, heard_millis: int) -> int | None:
        """When `beat` has something to do; None while nothing is owed.

        ``waits``: frames wait for their end.  ``asks``: some are OKed and not durable, nothing is being sent.
        """
        due = None
        if waits and self._half_millis:
            silent = max(heard_millis, self._owed_millis)
            due = max(silent, self._probe_millis) + self._half_millis
        if asks and self._keepalive_millis > 0:
            again = self._out_millis + self._keepalive_millis
            due = again if due is None else min(due, again)
        return due

    def beat(
        self, now_millis: int, *, waits: bool, asks: bool, heard_millis: int
    ) -> Literal["nothing", "ping", "lost"]:
        """What is due now; a PING counts as sent."""
        due = self.due_millis(waits=waits, asks=asks, heard_millis=heard_millis)
        if due is None or now_millis < due:
            return "nothing"
        silent = max(heard_millis, self._owed_millis)
        if waits and self._half_millis and now_millis >= max(silent, self._probe_millis) + self._half_millis:
            if self._probe_millis > silent:
                most = max(limits.HALF_OPEN_MILLIS_MAX // 2, self._half_least_millis)
                self._half_millis = min(2 * self._half_millis, most)
                return "lost"
            self._probe_millis = now_millis
        self._out_millis = now_millis
        return "ping"

    def silent_millis(self, now_millis: int, heard_millis: int) -> int:
        """How long the peer has said nothing while it owed something."""
        return now_millis - max(heard_millis, self._owed_millis)
