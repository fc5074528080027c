"""The encoder in use: ``frame_bytes`` is exact, ``write`` fills a room of that size.

See `encode_plain` for what they do; `spoolq._implementation` says which body this is.
"""

from __future__ import annotations

from spoolq.qwp.cut import Cut
from spoolq.qwp.encode_plain import frame_bytes, write

__all__ = ["Cut", "frame_bytes", "write"]
