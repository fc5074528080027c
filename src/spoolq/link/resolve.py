"""Names become addresses, on a thread of their own: `socket.getaddrinfo` cannot be cut short.

`Resolver.addresses` waits for that thread as a connect waits for its socket, so a `close`, a Ctrl-C or a
time bound ends the wait (`foreign`).  A literal address needs neither thread nor resolver.

A resolver has at most one thread, whatever is asked of it: while a lookup that was left is still blocked,
the next call waits for that one, within its own bounds, and starts another only behind it.  What a lookup
for the same host brings late serves the call that comes next, so a resolver slower than the time bound
still leads to a connection.

Owned by the thread that connects, one a sender.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

from spoolq.link.foreign import ForeignCall

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
            lookup.forked()


class _Lookup(ForeignCall[Sequence[AddressInfo]]):
    """One call of the system's resolver, under way from the beginning."""

    def __init__(self, place: tuple[str, int]) -> None:
        self.place = place
        super().__init__(lambda: socket.getaddrinfo(*place, type=socket.SOCK_STREAM), "spoolq-resolve")

    def is_of_no_use(self, place: tuple[str, int]) -> bool:
        """Whether it has ended and was for another host, or is too old."""
        return self.ended and (self.place != place or self.is_older_than(_FRESH_SECONDS))


def _family_of_literal(host: str) -> int | None:
    """The family of an address written in numbers, None for a name."""
    for family, text in ((socket.AF_INET, host), (socket.AF_INET6, host.partition("%")[0])):
        try:
            socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
        return family
    return None
