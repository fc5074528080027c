"""Says once, at the opening of a slot, when its filesystem promises less than a slot needs (ours.md 23).

The type comes from the table of mounts; where there is none (not Linux) nothing is said.
"""

from __future__ import annotations

import logging
import os
from typing import Final

_LOG = logging.getLogger("spoolq.spool")
_MOUNTS: Final = "/proc/self/mountinfo"
_REMOTE: Final = ("nfs", "cifs", "smb", "fuse", "9p", "ceph", "glusterfs", "afs")
_FLEETING: Final = ("tmpfs", "ramfs", "overlay")


def kind_of(path: str, mounts: str = _MOUNTS) -> str:
    """Type of the filesystem that holds ``path``; "" when it cannot be told.

    ``mounts`` is a table in the form of proc(5) mountinfo: field 5 is the mount point (blanks as
    ``\\040``), the field behind ``-`` the type.  The longest mount point above the path counts, the
    last one of equals.
    """
    real = os.path.realpath(path)
    longest, kind = -1, ""
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as table:
            for line in table:
                before, _, behind = line.partition(" - ")
                place = before.split(" ")[4].encode().decode("unicode_escape")
                inside = real == place or real.startswith(place.rstrip("/") + "/")
                if inside and len(place) >= longest:
                    longest, kind = len(place), behind.split(" ")[0]
    except (OSError, ValueError, IndexError):
        return ""
    return kind


def warn_about(path: str, mounts: str = _MOUNTS) -> None:
    """One WARN for a slot on a filesystem over the network, or on one that does not outlive the machine."""
    kind = kind_of(path, mounts)
    if kind.startswith(_REMOTE):
        _LOG.warning("the slot %s is on %s: locks and fsync may not hold here; use a local disk", path, kind)
    elif kind in _FLEETING:
        _LOG.warning("the slot %s is on %s: not durable, it is gone with the machine or its container", path, kind)
