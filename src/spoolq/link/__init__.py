"""Bytes become packets: connect, WebSocket frames, masking.  Knows no policy."""

from __future__ import annotations

from spoolq.link.connect import ConnectFailure, ConnectOptions, Endpoint, Kind, connect
from spoolq.link.connection import Connection
from spoolq.link.inbound import Binary, Breach, Close, Inbound, Lost
from spoolq.link.resolve import Resolver
from spoolq.link.roots import Roots, RootsFailure, check
from spoolq.link.tls import TlsOptions
from spoolq.link.tokens import Tokens

__all__ = [
    "Binary",
    "Breach",
    "Close",
    "ConnectFailure",
    "ConnectOptions",
    "Connection",
    "Endpoint",
    "Inbound",
    "Kind",
    "Lost",
    "Resolver",
    "Roots",
    "RootsFailure",
    "TlsOptions",
    "Tokens",
    "check",
    "connect",
]
