"""What the endpoints said while there is no connection, and in which round (behaviour.md 5.4).

A round tries each endpoint at most once; which one is next is for `hosts`.  What came of each attempt is kept until the
next round, or until another connection is lost: an error that ends the sender names all of it, the pause behind the
round goes by the longest Retry-After, and only where no endpoint at all gives durable acks is that the end.

| call     | when                                                                                        |
|----------|---------------------------------------------------------------------------------------------|
| `begin`  | the sender begins                                                                           |
| `failed` | an attempt failed; gives the state that the endpoint has now                                |
| `again`  | every endpoint was tried: the next round                                                    |
| `only`   | what one endpoint did on its connection is all there is to say                              |
| `lost`   | a connection ended, for the reason that is given: attempts and rounds are counted from here |

The machine owns it and counts ``attempt`` up.
"""

from __future__ import annotations

from spoolq.delivery.events import ConnectFailed, FailureKind
from spoolq.delivery.hosts import HostState
from spoolq.printable import printable


class Rounds:
    """See the module's text.

    Readable: ``attempt`` and ``number`` of the round, as the connection events tell them; ``by_role``, whether an
    endpoint of this round has refused because of its role; ``retry_after_millis``, the longest that was asked for.
    """

    def __init__(self, endpoints: tuple[str, ...]) -> None:
        self._endpoints = endpoints
        self.attempt = 0
        self.number = 0
        self._forget()

    def _forget(self) -> None:
        self._outcomes: list[tuple[int, str, FailureKind]] = []
        self._without_durable: set[int] = set()
        self.by_role = False
        self.retry_after_millis = 0

    def begin(self) -> None:
        """The first round."""
        self.number = 1

    def again(self) -> None:
        """The next round: nothing is said yet."""
        self._forget()
        self.number += 1

    def only(self, endpoint: int, text: str) -> None:
        """This, and nothing that was said before."""
        self._forget()
        self._outcomes.append((endpoint, text, FailureKind.TRANSPORT))

    def lost(self, endpoint: int, why: str, *, goes_on: bool) -> None:
        """A connection ended; ``goes_on``: its round has endpoints left, else the next one is the first."""
        self.only(endpoint, why)
        self.attempt, self.number = 0, int(goes_on)

    def failed(self, endpoint: int, event: ConnectFailed) -> HostState:
        """An attempt failed; what that makes of the endpoint."""
        state = HostState.TRANSPORT_ERROR
        if event.kind is FailureKind.ROLE:
            catching_up = event.role.upper() == "PRIMARY_CATCHUP"
            state = HostState.TRANSIENT_REJECT if catching_up else HostState.TOPOLOGY_REJECT
            self.by_role = True
        elif event.kind is FailureKind.CAP:
            state = HostState.TOPOLOGY_REJECT
        elif event.kind is FailureKind.DURABLE:
            state = HostState.TOPOLOGY_REJECT
            self._without_durable.add(endpoint)
        self._outcomes.append((endpoint, printable(event.text), event.kind))
        self.retry_after_millis = max(self.retry_after_millis, event.retry_after_millis or 0)
        return state

    @property
    def none_is_durable(self) -> bool:
        """Whether every endpoint has said in this round that it gives no durable acks."""
        return len(self._without_durable) == len(self._endpoints)

    @property
    def kinds(self) -> set[FailureKind]:
        """How the attempts failed."""
        return {kind for _, _, kind in self._outcomes}

    @property
    def text(self) -> str:
        """Each endpoint with what it said."""
        return "; ".join(f"{self._endpoints[index]}: {text}" for index, text, _ in self._outcomes)
