"""What the delivery machine is given: the settings of a sender, and what it has to know of the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from spoolq.frozen import Frozen


class FrameLog(Protocol):
    """What the machine has to know of the log; `spool.Store` has it."""

    @property
    def published_fsn(self) -> int:
        """Newest frame; -1 when none."""

    @property
    def acked_fsn(self) -> int:
        """Newest settled frame; -1 when none."""


# Of which tables the frame with an FSN has rows; empty when that cannot be known.  Never raises.
TablesOf = Callable[[int], tuple[str, ...]]


class DeliveryOptions(Frozen):
    """Settings of the machine; ``endpoints`` are names for texts, in order of preference.

    ``policies``: category -> policy where the default is overridden.  ``cap_gap_window_millis``: how
    long every endpoint must have been too small for the head, ``cap_gaps_min`` how often one must have been
    found to be.  ``outage_budget_millis``: how long frames wait without any acknowledgement, 0 = for ever.
    ``renewable_token``: each connect has a token of its own, so a 401 is tried once more.  ``stored``: the log
    outlives the sender, which only the texts of what ends it depend on.
    ``durable_ack``: frames are settled by durable acks; ``durable_keepalive_millis`` and
    ``half_open_millis``: see `pulse`, 0 or less = off.
    """

    endpoints: tuple[str, ...]
    backoff_initial_millis: int = 100
    backoff_max_millis: int = 5_000
    max_frame_rejections: int = 4
    poison_window_millis: int = 5_000
    policies: Mapping[str, str] = MappingProxyType({})
    cap_gap_window_millis: int = 300_000
    cap_gaps_min: int = 1
    outage_budget_millis: int = 0
    renewable_token: bool = False
    can_drop: bool = False
    stored: bool = True
    decide_millis: int | None = None
    durable_ack: bool = False
    durable_keepalive_millis: int = 0
    half_open_millis: int = 0
