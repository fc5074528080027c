"""Both clients behind one face, for tables in which what the official one does stands beside what ours does.

    with opened(client, conf) as sender:    client is OURS or THEIRS
        fsn = sender.send(1)
        sender.fate(fsn, server)             what becomes of it

`fate` is one of FATES; an error is given by its class (ours) or code (theirs), a category as both write it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import questdb
from questdb import QuestDBError

from spoolq import ServerRejection, SpoolqError
from spoolq.testing import QwpServer
from tests.server.official import row as their_row

from .harness import FAST, open_sender, put

OURS, THEIRS = "spoolq", "questdb"
CLIENTS: Final = (OURS, THEIRS)
FATES: Final = (
    "delivered",  # acknowledged
    "terminal",  # an error at once: one connection
    "strikes",  # an error after as many connections as `TWO_STRIKES` allows
    "tried on",  # more connections than any count of strikes
)
TWO_STRIKES: Final = "max_frame_rejections=2;poison_min_escalation_window_millis=0;"
_SLICE_MILLIS: Final = 50
_SLICES_MAX: Final = 200
_TRIED_ON: Final = 5


class Sending:
    """A sender of either client.  ``error`` is what its last failed call raised."""

    def __init__(self, client: str, sender: Any) -> None:
        self.client = client
        self.sender = sender
        self.error: SpoolqError | QuestDBError | None = None

    def send(self, number: int) -> int:
        """One row in one frame; its FSN.  What the server says of it may be here at once: the wait for it says it."""
        if self.client == OURS:
            put(self.sender, number)
            with suppress(ServerRejection):
                self.sender.flush()
            published: int = self.sender.published_fsn()
            return published
        their_row(self.sender, number)
        fsn: int = self.sender.flush_and_get_fsn()
        return fsn

    def acked(self, fsn: int, timeout_millis: int) -> bool:
        """Whether it is acknowledged in time."""
        found: bool = self.sender.await_acked_fsn(fsn, timeout_millis)
        return found

    def fate(self, fsn: int, server: QwpServer[Any]) -> str:
        """Waits until one of `FATES` is clear for a frame that only ``server`` can take."""
        for _ in range(_SLICES_MAX):
            try:
                if self.acked(fsn, _SLICE_MILLIS):
                    return "delivered"
            except (SpoolqError, QuestDBError) as error:
                self.error = error
                return "terminal" if len(server.connections) == 1 else "strikes"
            if len(server.connections) >= _TRIED_ON:
                return "tried on"
        raise AssertionError(f"{self.client}: nothing came of it: {server.connections[-3:]}")

    @property
    def error_name(self) -> str:
        """Class or code of the error, and its category where it has one; "" without one."""
        return named(self.error)

    def rejections(self) -> list[Any]:
        """What it has to tell about frames so far, oldest first."""
        found = []
        while (entry := self.sender.poll_error()) is not None:
            found.append(entry)
        return found


def named(error: BaseException | None) -> str:
    """See `Sending.error_name`."""
    if error is None:
        return ""
    if isinstance(error, QuestDBError):
        told = error.sender_error
        return error.code.name + (f" {told.category.value[0]}" if told is not None else "")
    category = getattr(error, "category", None)
    return type(error).__name__ + (f" {category}" if category else "")


@contextmanager
def opened(client: str, conf: str, keys: str = "", *, handler: Any = None, listener: Any = None) -> Iterator[Sending]:
    """A sender that makes its pauses short; its close may fail, for the test has had its error."""
    if client == OURS:
        sender = open_sender(conf, keys + "close_flush_timeout_millis=0;", handler=handler, listener=listener)
    else:
        short = FAST.replace("initial_connect_retry=off;", "")
        sender = questdb.Sender.from_conf(conf + short + keys, connection_listener=listener)
        sender.establish()
    try:
        yield Sending(client, sender)
    finally:
        with suppress(SpoolqError, QuestDBError):
            sender.close(flush=False)
