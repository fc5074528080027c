"""Which endpoint is tried next (behaviour.md 5.4).

States in order of preference: healthy, unknown, transient reject, transport error, topology reject;
then list order.  In one round each endpoint is tried at most once; a connection that ends does not
end its round, so that the next pick is another endpoint where there is one.

| trigger                      | state                                            | attempted |
|------------------------------|--------------------------------------------------|-----------|
| connected                    | healthy                                          | yes       |
| connect failed               | as given                                         | yes       |
| established connection ended | as given                                         | untouched |
| new round                    | unknown, but the last healthy one if still so    | no        |
"""

from __future__ import annotations

from enum import IntEnum


class HostState(IntEnum):
    """Health of an endpoint, best first."""

    HEALTHY = 0
    UNKNOWN = 1
    TRANSIENT_REJECT = 2
    TRANSPORT_ERROR = 3
    TOPOLOGY_REJECT = 4


class Hosts:
    """The list of endpoints with their states and which ones this round has tried."""

    def __init__(self, count: int) -> None:
        self._states = [HostState.UNKNOWN] * count
        self._attempted = [False] * count
        self._last_healthy: int | None = None

    def state(self, index: int) -> HostState:
        """State of one endpoint."""
        return self._states[index]

    def next(self) -> int | None:
        """The best endpoint this round has not tried; None when the round is used up."""
        left = [index for index, attempted in enumerate(self._attempted) if not attempted]
        return min(left, key=lambda index: (self._states[index], index), default=None)

    def new_round(self) -> None:
        """Each endpoint may be tried again."""
        for index in range(len(self._states)):
            self._attempted[index] = False
            sticky = index == self._last_healthy and self._states[index] is HostState.HEALTHY
            self._states[index] = HostState.HEALTHY if sticky else HostState.UNKNOWN

    def succeeded(self, index: int) -> None:
        """A connect succeeded."""
        self._states[index] = HostState.HEALTHY
        self._attempted[index] = True
        self._last_healthy = index

    def failed(self, index: int, state: HostState) -> None:
        """A connect failed."""
        self._states[index] = state
        self._attempted[index] = True

    def lost(self, index: int, state: HostState = HostState.TRANSPORT_ERROR) -> None:
        """An established connection ended."""
        self._states[index] = state
