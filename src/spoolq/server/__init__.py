"""A strict QWP server: the judge of every client.  Imports qwp, values, errors, limits only.

`QwpServer` is the whole of it; `Script` and its parts say how it misbehaves; `MemoryStore` keeps rows in RAM.
"""

from spoolq.server.memory import MemoryStore
from spoolq.server.options import Auth, ServerOptions
from spoolq.server.record import ConnectionRecord
from spoolq.server.script import Answer, Close, Drop, Refuse, Reject, Script, from_json, random_scripts, to_json
from spoolq.server.server import QwpServer

__all__ = [
    "Answer",
    "Auth",
    "Close",
    "ConnectionRecord",
    "Drop",
    "MemoryStore",
    "QwpServer",
    "Refuse",
    "Reject",
    "Script",
    "ServerOptions",
    "from_json",
    "random_scripts",
    "to_json",
]
