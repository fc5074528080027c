"""Names that programs for the official client (questdb 6.0.0) bring along, and what they are here (ours.md 35).

Loaded when one of them is asked for: ``from spoolq import Protocol`` comes here by `named`.  What is the
same as a name of ours (`QuestDBError`, `SenderError`, the enums of events) stands with that name instead; what is
asked of a sender, in `spoolq.dropin`.  docs/migrating.md lists every name, and a test holds it against the client.

A name that cannot be served is one error that says what takes its place: ImportError for a class that is
imported, UnsupportedError for a call.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn

from spoolq.codes import QuestDBErrorCode
from spoolq.dropin import REFUSED as OF_SENDER
from spoolq.errors import SpoolqError, UnsupportedError
from spoolq.events import Tagged


class Protocol(Tagged):
    """Schemes; `Sender` serves ``Ws`` and ``Wss`` and names them when it is given another."""

    Tcp = "tcp"
    Tcps = "tcps"
    Http = "http"
    Https = "https"
    Udp = "udp"
    Ws = "ws"
    Wss = "wss"

    @property
    def tls_enabled(self) -> bool:
        """Whether it is encrypted."""
        return self.value in ("tcps", "https", "wss")


class QwpWsProgress(Tagged):
    """Values of ``qwp_ws_progress``; ``manual`` is refused."""

    Background = "background"
    Manual = "manual"


class TlsCa(Tagged):
    """Values of ``tls_ca``; for ``pem_file``, which is refused, give ``tls_roots`` alone."""

    WebpkiRoots = "webpki_roots"
    OsRoots = "os_roots"
    WebpkiAndOsRoots = "webpki_and_os_roots"
    PemFile = "pem_file"


IngressError = SpoolqError  # the names of questdb.ingress
IngressErrorCode = QuestDBErrorCode
TaggedEnum = Tagged


def connect(*_: object, **__: object) -> NoReturn:
    """There is no pool.  Raises UnsupportedError."""
    raise UnsupportedError(f"spoolq has no connect(): {_POOL}")


_POOL: Final = (
    "it has no pool, and asks no queries; open one Sender.from_conf(conf) (or Sender('ws', host, port)) where the pool "
    "was opened, call it where a sender was borrowed, close it where the pool was closed: threads may share it"
)
_QUERIES: Final = "it only writes; ask queries over QuestDB's REST or PostgreSQL interface, or by the official client"
_BUFFER: Final = "rows are buffered in the sender itself, by row() and rows(); a second sender is a second buffer"

# What `named` gives as it stands here.
SERVED: Final = frozenset(("QuestDBErrorCode", "Protocol", "QwpWsProgress", "TlsCa", "connect")) | frozenset(
    ("IngressError", "IngressErrorCode", "TaggedEnum")
)

# Why a name cannot be imported.
REFUSED: Final[dict[str, str]] = {
    "QuestDB": _POOL,
    "PooledSender": _POOL,
    "PooledReader": _QUERIES,
    "QueryResult": _QUERIES,
    "ExecDone": _QUERIES,
    "ServerInfo": _QUERIES,
    "ServerRole": _QUERIES,
    "SenderTransaction": OF_SENDER["transaction"],
    "Buffer": OF_SENDER["new_buffer"],
    "UnsupportedDataFrameShapeError": "a value or a row that cannot be sent is an InputError",
    "WARN_HIGH_RECONNECTS": "nothing warns about many reconnects: stats().total_reconnects_succeeded counts them",
}


def named(name: str) -> Any:
    """What ``spoolq.<name>`` is, for a name that is not there by itself.

    Raises ImportError for a name of the official client that has no meaning here (``from ... import`` would put its
    own words in the place of an AttributeError's), AttributeError for any other.
    """
    if name in SERVED:
        return globals()[name]
    if name in ("__version__", "VERSION"):
        from importlib.metadata import version

        return version("spoolq")
    if name in REFUSED:
        raise ImportError(f"spoolq has no {name}: {REFUSED[name]}", name="spoolq")
    raise AttributeError(f"module 'spoolq' has no attribute {name!r}", name=name)
