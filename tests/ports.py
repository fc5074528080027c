"""Ports of this machine that this process holds, and nobody listens on until a test does; on one of them nobody can.

A port that was merely free a moment ago is soon somebody else's: another run of the tests on this machine binds a
server to it, and the clients of this one, which look for nobody or for a server that is down, deliver their rows there.
A port that is bound is not given away, and is refused like any other on which nobody listens; with SO_REUSEADDR on
both sockets a server of this process can listen on it meanwhile (Linux).
"""

from __future__ import annotations

import socket
from itertools import cycle
from typing import Final

HOST: Final = "127.0.0.1"
_COUNT: Final = 32  # a test needs two, and what it leaves there is gone before its port's next turn


def _held(*, shared: bool) -> int:
    """A port that is bound as long as this process lives; ``shared``: a server may listen on it meanwhile."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, shared)
        held.bind((HOST, 0))
        port: int = held.getsockname()[1]
        held.detach()  # its descriptor stays open, and nobody is warned of it when the process ends
    return port


_PORTS: Final = cycle([_held(shared=True) for _ in range(_COUNT)])
NOBODY: Final = f"{HOST}:{_held(shared=False)}"
"""An address that refuses every connection, as long as this process lives: for who looks for nobody.

A port that is only unusual, such as 1, may have somebody behind it on some machine, who takes the rows.
"""


def free_port() -> int:
    """A port on which nobody listens: nobody else ever, a test of this process when it wants to."""
    return next(_PORTS)
