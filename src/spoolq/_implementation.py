"""Which body the hot rooms have: compiled, or their plain twin.

This is the whole switch.  ``SPOOLQ_IMPLEMENTATION`` forces one:

- unset: compiled where the extension modules were built, else plain, said once in the log;
- ``compiled``: ImportError when an extension module is missing;
- ``plain``: the plain twin, whatever was built.

A room asks ``COMPILED`` in its ``__init__`` and imports one body or the other; nothing else in the
package looks.  Imports nothing of spoolq.

A free-threaded interpreter gets a RuntimeWarning: both bodies rely on the GIL, and nobody has tested them without.
"""

from __future__ import annotations

import importlib.machinery
import logging
import os
import sys
import warnings

_CHOICES = ("compiled", "plain")
_MODULES: tuple[str, ...] = (  # every extension module that has a plain twin, a line each
    "spoolq._int64",
    "spoolq.columns._column",
    "spoolq.columns._rows",
    "spoolq.columns._table",
    "spoolq.link._mask",
    "spoolq.qwp._encode",
    "spoolq.qwp._inbound",
    "spoolq.runtime._handover",
    "spoolq.spool._crc",
    "spoolq.spool._mapping",
    "spoolq.spool._segment",
)


def _missing() -> list[str]:
    """Names of the extension modules that were not built.

    Looked for by file name beside this package: asking for a module's spec would import its room.
    """
    here = os.path.dirname(__file__)
    suffixes = importlib.machinery.EXTENSION_SUFFIXES
    return [
        name
        for name in _MODULES
        if not any(os.path.exists(os.path.join(here, *name.split(".")[1:]) + suffix) for suffix in suffixes)
    ]


def _warn_about_free_threads(abi_flags: str) -> None:
    if "t" in abi_flags:
        warnings.warn(
            "spoolq is not tested on free-threaded Python and relies on the GIL: rows and frames may be damaged; use "
            "the ordinary build of the same version",
            RuntimeWarning,
            stacklevel=2,
        )


def _choose() -> bool:
    forced = os.environ.get("SPOOLQ_IMPLEMENTATION", "")
    if forced and forced not in _CHOICES:
        raise ImportError(f"SPOOLQ_IMPLEMENTATION is {forced!r}; it takes one of {', '.join(_CHOICES)}")
    if forced == "plain":
        return False
    missing = _missing()
    if not missing:
        return True
    if forced == "compiled":
        raise ImportError(
            f"SPOOLQ_IMPLEMENTATION=compiled, but {', '.join(missing)} was not built; "
            "install a C compiler and reinstall spoolq"
        )
    logging.getLogger("spoolq").warning(
        "the compiled modules were not built (%s): running on the plain Python twins, which are much "
        "slower; install a C compiler and reinstall spoolq",
        ", ".join(missing),
    )
    return False


_warn_about_free_threads(getattr(sys, "abiflags", ""))
COMPILED: bool = _choose()
