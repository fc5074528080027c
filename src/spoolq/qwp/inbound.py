"""The passes over received bytes that pay for a compiled body; `inbound_plain` says what each one does."""

from __future__ import annotations

from spoolq._implementation import COMPILED

if COMPILED:
    from spoolq.qwp._inbound import cuts_between_characters, gorilla_end, offsets_rise, unmask, varints, varints_end
else:
    from spoolq.qwp.inbound_plain import (
        cuts_between_characters,
        gorilla_end,
        offsets_rise,
        unmask,
        varints,
        varints_end,
    )

__all__ = ["cuts_between_characters", "gorilla_end", "offsets_rise", "unmask", "varints", "varints_end"]
