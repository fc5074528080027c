"""How many frames may be in flight behind a lost connection (ours.md 29a: no row more than a handful of times).

A server that reads everything, answers a little and drops would be sent the whole backlog on each connection: 60
frames, one answered at a time, were received 1,830 times.  So what is in flight is bound by what was answered:

| the connection before                            | in flight at most                                        |
|--------------------------------------------------|----------------------------------------------------------|
| there was none, or it left nothing in flight     | as before; no limit when all there is has its answer     |
| left frames without an answer                    | twice what was answered on it or on this one, whichever  |
|                                                  | is more; at least one                                    |

So a connection that answers n frames is sent at most n + 2 * max(n, what the one before answered): all together
at most five times the frames there are, and one more for a connection that answers nothing.  A good server is not
held up: each round trip may triple what is in flight, and after a few the limit is above what a socket holds.
Within the limit frames go out when half of it is free, not one by one.

A server may answer only when it has so many frames.  So while the limit holds frames up and nothing is answered it
doubles, after `limits.WINDOW_OPENS_MILLIS`, then after twice that: it never stops what would go on without it.

Answered is what has an OK on that connection, durable or not (behaviour.md 4.4): durable acks may take minutes.

```
begin(acked)                a connection that starts behind this frame
room(answered, next_fsn)    how many frames from next_fsn on may go out; 0 or less: first more have to be answered
held_up(now)                there was no room; `opens_millis` is when `open(now)` is due, None: never
grew(acked)                 whether this connection settled at least twice what the one before did
end(acked, answered, ...)   it is over
```

One `Window` a sender, owned by the delivery machine, which never stops inside a group of frames (`groups`): their
commit is what is answered.
"""

from __future__ import annotations

from typing import Final

from spoolq import limits

NO_LIMIT: Final = 1 << 62


class Window:
    """See the module's text."""

    def __init__(self) -> None:
        self._start_fsn = 0  # settled when this connection began
        self._answered_before = self._settled_before = 0  # how many frames, on the connection before
        self._limited = False
        self._most = self._least = 1
        self._patience_millis = 0
        self.opens_millis: int | None = None

    def begin(self, acked_fsn: int) -> None:
        """A connection whose first frame is the one behind this."""
        self._start_fsn = acked_fsn
        self._least = 1
        self._patience_millis = limits.WINDOW_OPENS_MILLIS
        self.opens_millis = None

    def room(self, answered_fsn: int, next_fsn: int) -> int:
        """How many frames from ``next_fsn`` on may go out; 0 or less while more than half of the limit is in flight."""
        if not self._limited:
            return NO_LIMIT
        most = self._most = max(self._least, 2 * max(self._answered_before, answered_fsn - self._start_fsn))
        in_flight = next_fsn - 1 - answered_fsn
        return most - in_flight if 2 * in_flight <= most else 0

    def held_up(self, now_millis: int) -> None:
        """Frames are there, and no room for them."""
        if self.opens_millis is None:
            self.opens_millis = now_millis + self._patience_millis

    def moves_on(self) -> None:
        """There was room: the time for it starts again."""
        self.opens_millis = None

    def open(self, now_millis: int) -> bool:
        """Doubles the limit when it is time to; whether it was."""
        if self.opens_millis is None or now_millis < self.opens_millis:
            return False
        self._least = 2 * self._most
        self._patience_millis *= 2
        self.opens_millis = None
        return True

    def grew(self, acked_fsn: int) -> bool:
        """Whether this connection settled at least twice what the one before did, and something at all."""
        return acked_fsn - self._start_fsn >= max(1, 2 * self._settled_before)

    def end(self, acked_fsn: int, answered_fsn: int, *, in_flight: bool, drained: bool) -> None:
        """The connection is over.

        ``in_flight``: frames without an answer may have reached the server.  ``drained``: there is none to send.
        """
        self._settled_before, self._answered_before = acked_fsn - self._start_fsn, answered_fsn - self._start_fsn
        self._limited = in_flight or (self._limited and not drained)
