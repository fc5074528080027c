"""Names become addresses, on a thread of their own: `socket.getaddrinfo` cannot be cut short.

`Resolver.addresses` waits for that thread as a connect waits for its socket, so a `close`, a Ctrl-C or a
time bound ends the wait.  The thread is then left to itself: it is a daemon, touches nothing but its own
lookup, and ends when the system's resolver does.  A literal address needs neither thread nor resolver.
Where no thread can be had (at the interpreter's exit from Python 3.12 on, when a sender may still have rows to
deliver) the caller's own makes the lookup, which nothing cuts short then.

A resolver has at most one thread, whatever is asked of it: while a lookup that was left is still blocked,
the next call waits for that one, within its own bounds, and starts another only behind it.  What a lookup
for the same host brings late serves the call that comes next, so a resolver slower than the time bound
still leads to a connection.

Owned by the thread that connects, one a sender.  The pair of sockets of a wait (Windows waits for
nothing else) exists only as long as the wait.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

_FRESH_SECONDS: Final = 10.0  # how long the answer of a lookup that nobody waited for may still be used

AddressInfo = tuple[int, int, int, str, Any]
"""Family, type, protocol, canonical name, address: as `socket.getaddrinfo` gives it."""


class Resolver:
    """See the module's text.  ``begin`` starts a lookup, or what stands for one in the simulator."""

    def __init__(self, begin: Callable[[tuple[str, int]], _Lookup] | None = None) -> None:
        self._begin = begin or _Lookup
        self._lookup: _Lookup | None = None

    def addresses(self, host: str, port: int, wait: Callable[[int], None]) -> Sequence[AddressInfo]:
        """The addresses of a host, in the system's order; ``wait(fileno)`` waits until that is readable.

        Raises what ``wait`` raises, and what the lookup raised: OSError or UnicodeError.
        """
        family = _family_of_literal(host)
        if family is not None:
            return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))]
        place = (host, port)
        while True:
            lookup = self._lookup
            if lookup is None or lookup.is_of_no_use(place):
                self._lookup = lookup = self._begin(place)
            lookup.wait(wait)
            if lookup.place == place:
                self._lookup = None
                return lookup.found()

    def forked(self) -> None:
        """In a forked child: closes its copies of the descriptors."""
        lookup, self._lookup = self._lookup, None
        if lookup is not None:
            lookup.close_pair()


class _Lookup:
    """One call of the system's resolver, under way from the beginning."""

    def __init__(self, place: tuple[str, int]) -> None:
        self.place = place
        self._lock = threading.Lock()  # the thread writes to no descriptor that was closed
        self._pair: tuple[socket.socket, ...] = ()
        self._ended_at: float | None = None
        self._found: Sequence[AddressInfo] = ()
        self._error: BaseException | None = None
        try:
            threading.Thread(target=self._run, name="spoolq-resolve", daemon=True).start()
        except RuntimeError:
            self._run()

    def wait(self, wait: Callable[[int], None]) -> None:
        """Until it has ended; raises what ``wait`` raises, and goes on then."""
        try:
            with self._lock:
                if self._ended_at is not None:
                    return
                self._pair = socket.socketpair()
            wait(self._pair[0].fileno())
        finally:
            with self._lock:
                self.close_pair()

    def found(self) -> Sequence[AddressInfo]:
        """The outcome of a lookup that has ended."""
        if self._error is not None:
            raise self._error
        return self._found

    def is_of_no_use(self, place: tuple[str, int]) -> bool:
        """Whether it has ended and was for another host, or is too old."""
        ended_at = self._ended_at
        return ended_at is not None and (self.place != place or time.monotonic() - ended_at > _FRESH_SECONDS)

    def close_pair(self) -> None:
        """Closes what the wait opened."""
        pair, self._pair = self._pair, ()
        for one in pair:
            one.close()

    def _run(self) -> None:
        try:
            self._found = socket.getaddrinfo(*self.place, type=socket.SOCK_STREAM)
        except BaseException as error:  # raised to whoever waits
            self._error = error
        with self._lock:
            self._ended_at = time.monotonic()
            if self._pair:
                self._pair[1].send(b"\1")


def _family_of_literal(host: str) -> int | None:
    """The family of an address written in numbers, None for a name."""
    for family, text in ((socket.AF_INET, host), (socket.AF_INET6, host.partition("%")[0])):
        try:
            socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
        return family
    return None
