"""What goes out next: a state machine without sockets, clock or threads.

`Delivery` takes events (`spoolq.delivery.events`) and gives actions (`spoolq.delivery.actions`).
"""

from __future__ import annotations

from spoolq.delivery.machine import Delivery, State
from spoolq.delivery.options import DeliveryOptions

__all__ = ["Delivery", "DeliveryOptions", "State"]
