"""The encoder in use: ``frame_bytes`` is exact, ``write`` fills a buffer of that size.

See `encode_plain` for what they do; `spoolq._implementation` says which body this is.  Encoder and
row buffer are of the same body: the compiled encoder reads the compiled columns.
"""

from __future__ import annotations

from spoolq._implementation import COMPILED
from spoolq.qwp.cut import Cut

if COMPILED:
    from spoolq.qwp._encode import frame_bytes, write
else:
    from spoolq.qwp.encode_plain import frame_bytes, write

__all__ = ["Cut", "frame_bytes", "write"]
