"""The TLS of ``wss`` (behaviour.md 1.2, 5.2): context and handshake on a non-blocking socket.

``ssl`` is imported by the first call here, never by `import spoolq`.  TLS 1.2 is the oldest version,
renegotiation is off, the host name is checked against the certificate.  Which roots are trusted is
`spoolq.link.roots`.  Every failure is a `TlsFailure`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from spoolq.frozen import Frozen
from spoolq.link.roots import Roots, TlsFailure, trusting

if TYPE_CHECKING:
    import ssl

__all__ = ["TlsFailure", "TlsOptions", "context_of", "handshake"]


# What to do about a certificate, by OpenSSL's verification code.
_NAME: Final = "the address must be a name in the certificate"
_TIME: Final = "renew the certificate, or set the clock of this machine right"
_ROOTS: Final = "if the server is yours, give tls_roots its authority's certificate"
_ADVICE: Final = {62: _NAME, 64: _NAME, 9: _TIME, 10: _TIME}


_DEFAULT: Final = Roots()


class TlsOptions(Frozen):
    """``verify`` False takes any certificate; else ``roots`` says which are trusted."""

    verify: bool = True
    roots: Roots = _DEFAULT


def context_of(options: TlsOptions) -> ssl.SSLContext:
    """A client context.  Raises TlsFailure when the roots cannot be had."""
    import ssl

    if options.verify:
        context = trusting(options.roots)
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
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
        advice = _ADVICE.get(error.verify_code, _ROOTS)
        raise TlsFailure(f"the certificate is not accepted: {error.verify_message.rstrip('.')}; {advice}") from None
    except ssl.SSLError as error:
        _close(secure, sock)
        raise TlsFailure(f"the TLS handshake failed: {_reason(error)}") from None
    except (OSError, ValueError) as error:
        _close(secure, sock)
        raise TlsFailure(f"the TLS handshake failed: {error}; is this a TLS port?") from None
    except BaseException:
        _close(secure, sock)
        raise


def _reason(error: ssl.SSLError) -> str:
    """What OpenSSL says, without its numbers, and what to look at."""
    reason = getattr(error, "reason", None)
    if reason is None:
        return f"{error.args[-1]}; is this a TLS port?"
    words = reason.replace("_", " ").lower()
    if "ALERT" in reason:  # the server speaks TLS and does not want us
        return f"the server refused it: {words}"
    return f"{words}; is this a TLS port?"


def _close(secure: ssl.SSLSocket | None, sock: socket.socket) -> None:
    (sock if secure is None else secure).close()
