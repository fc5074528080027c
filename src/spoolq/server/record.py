"""What one connection did, as tests look at it: written by the server's thread, read by any.

The message bytes of all connections share one budget (`ServerOptions.record_nbytes_max`): beyond it messages
are counted and not kept, so that a long run does not fill the memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Budget:
    """Bytes that may still be kept; the first ones that may not are the end: what is kept has no holes."""

    nbytes_left: int
    is_over: bool = False

    def take(self, nbytes: int) -> bool:
        """Whether they may."""
        if self.is_over or nbytes > self.nbytes_left:
            self.is_over = True
            return False
        self.nbytes_left -= nbytes
        return True


@dataclass(slots=True)
class ConnectionRecord:
    """One connection, from accept to its end.

    ``index``            0 for the server's first connection
    ``target``           path and query of the request, "" until it is here
    ``headers``          of the request, in order, or ()
    ``status``           HTTP status it was answered with; None: none
    ``messages``         payload of each binary frame, exact; see the budget above
    ``message_count``    binary frames, kept or not
    ``row_count``        rows that it committed
    ``responses``        payload of each binary frame the server sent, odd ones too, within the same budget; one that
                         waits or was cut is not here
    ``received_nbytes``  everything after the TLS layer
    ``pings``            PING frames
    ``pongs``            PONG frames
    ``closed_by``        None while it is open; ``client_close``, ``client_eof``, ``client_reset``: the client;
                         ``server_close`` (a CLOSE frame), ``server_drop``, ``server_refusal``, ``server_stop``: we,
                         ``server_error``: a mistake of ours, which the log has;
                         ``http`` after the answer to a plain request
    ``close_code``       of the first CLOSE frame either side sent, None without one
    ``close_reason``     its text
    """

    index: int
    budget: Budget = field(repr=False)
    target: str = ""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # credentials are among them
    status: int | None = None
    messages: list[bytes] = field(default_factory=list, repr=False)
    message_count: int = 0
    row_count: int = 0
    responses: list[bytes] = field(default_factory=list, repr=False)
    received_nbytes: int = 0
    pings: int = 0
    pongs: int = 0
    closed_by: str | None = None
    close_code: int | None = None
    close_reason: str = ""

    def header(self, name: str) -> str | None:
        """The first request header of that name, ignoring case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def is_upgraded(self) -> bool:
        """A WebSocket."""
        return self.status == 101

    def keep(self, payload: bytes) -> None:
        """A binary frame came; who finds it counted finds it here."""
        if self.budget.take(len(payload)):
            self.messages.append(payload)
        self.message_count += 1

    def keep_response(self, payload: bytes) -> None:
        """A binary frame went."""
        if self.budget.take(len(payload)):
            self.responses.append(payload)

    def closed(self, by: str, code: int | None = None, reason: str = "") -> None:
        """The first call counts; who finds out by whom finds code and text."""
        if self.closed_by is None:
            self.close_code, self.close_reason = code, reason
            self.closed_by = by
