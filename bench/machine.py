"""What a figure was measured on and with: a number without these is no number."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any


def _first(path: str, prefix: str) -> str:
    with open(path, encoding="utf-8") as lines:
        return next((line.partition(":")[2].strip() for line in lines if line.startswith(prefix)), "unknown")


def load_average() -> float:
    """Of the last minute: what else wanted these cores."""
    return round(os.getloadavg()[0], 2)


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, memory, system, and how busy it was when asked."""
    return {
        "processor": _first("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory": _first("/proc/meminfo", "MemTotal"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load_average_1m": load_average(),
    }


def versions() -> dict[str, str]:
    """Python, both clients, and which body of spoolq's hot rooms ran."""
    from spoolq._implementation import COMPILED
    from spoolq.columns import RowBuffer

    names = ("spoolq", "questdb", "websockets", "numpy", "Cython")
    found = {"python": f"{platform.python_implementation()} {platform.python_version()}"}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    found["spoolq row buffer"] = "compiled" if RowBuffer.__module__.endswith("._rows") else "plain"
    found["spoolq implementation"] = "compiled" if COMPILED else "plain"
    return found
