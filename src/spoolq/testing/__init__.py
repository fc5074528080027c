"""For tests of programs that write to QuestDB: a strict server in the process, and scripts of faults for it.

from spoolq.testing import QwpServer, Script, Reject

with QwpServer(script=Script(reject=(Reject(frame=0),))) as server: ...
"""

from spoolq.server import (
    Answer,
    Auth,
    Close,
    ConnectionRecord,
    Drop,
    MemoryStore,
    QwpServer,
    Refuse,
    Reject,
    Script,
    from_json,
    random_scripts,
    to_json,
)
from spoolq.testing.replay import Replayed, replay

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
    "Replayed",
    "Script",
    "from_json",
    "random_scripts",
    "replay",
    "to_json",
]
