"""The body of the short way in use; `handover_plain` says what it does, `spoolq._implementation` which it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spoolq import _implementation

if TYPE_CHECKING or not _implementation.COMPILED:
    from spoolq.runtime.handover_plain import Handover
else:
    from spoolq.runtime._handover import Handover

__all__ = ["Handover"]
