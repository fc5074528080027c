"""The TLS of ``wss`` (behaviour.md 1.2, 5.2): context and handshake on a non-blocking socket.

``ssl`` is imported by the first call here, never by `import spoolq`.  TLS 1.2 is the oldest version,
renegotiation is off, the host name is checked against the certificate.  Roots are the system's store
as OpenSSL finds it, or exactly the PEM file that is given.  Every failure is a `TlsFailure`.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

_LOG = logging.getLogger("spoolq.link")


class TlsFailure(Exception):
    """Why there is no TLS; the text says what to look at."""


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """``verify`` False takes any certificate; ``roots`` is a PEM file, None the system's store."""

    verify: bool = True
    roots: str | None = None


def context_of(options: TlsOptions) -> ssl.SSLContext:
    """A client context; the files are read anew each time, so that renewed roots are taken."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    if not options.verify:
        _LOG.warning("tls_verify=unsafe_off: the server's certificate is not checked; anyone between can read along")
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif options.roots is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        try:
            context.load_verify_locations(cafile=options.roots)
        except OSError as error:
            raise TlsFailure(f"tls_roots {options.roots!r} cannot be used as PEM roots: {error}") from None
    return context


def handshake(
    sock: socket.socket, host: str, options: TlsOptions, wait: Callable[[socket.socket, bool], None]
) -> ssl.SSLSocket:
    """The encrypted socket, non-blocking; ``wait(sock, write)`` waits until it can go on.

    The socket given belongs to the one returned; after a failure it is closed.
    """
    import ssl

    context = context_of(options)
    secure = None
    try:
        secure = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
        while True:
            try:
                secure.do_handshake()
                return secure
            except ssl.SSLWantReadError:
                wait(secure, False)
            except ssl.SSLWantWriteError:
                wait(secure, True)
    except ssl.SSLCertVerificationError as error:
        _close(secure, sock)
        raise TlsFailure(
            f"the certificate is not accepted: {error.verify_message}; check the address, or give tls_roots"
        ) from None
    except (OSError, ValueError) as error:
        _close(secure, sock)
        raise TlsFailure(f"the TLS handshake failed: {error}; is this a TLS port?") from None
    except BaseException:
        _close(secure, sock)
        raise


def _close(secure: ssl.SSLSocket | None, sock: socket.socket) -> None:
    (sock if secure is None else secure).close()
