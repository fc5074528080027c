"""Where trust comes from: which root certificates a TLS context checks a server against.

`trusting` makes the context; `check` finds out before anything is opened whether it can be made.

| ``roots``, ``store``            | the roots                                           | package        |
|---------------------------------|-----------------------------------------------------|----------------|
| a PEM file                      | exactly its certificates                            | -              |
| a PKCS#12 file, ``password``    | exactly its certificates                            | cryptography   |
| neither                         | the system's files, as OpenSSL was built to find    | -              |
| ``os_roots``                    | the operating system's, by its own verifier         | truststore     |
| ``webpki_roots``                | Mozilla's list                                      | certifi        |
| ``webpki_and_os_roots``         | both                                                | both           |

The format of a file is told by its first bytes.  A JKS file is refused with the command that converts
it: no reader of it is looked after any more.  The packages are imported at their first use; one that is
absent is a `RootsFailure` that names the extra.  A certificate in a file is trusted as it is: a server
that shows a self-signed certificate from there is accepted, whether it is marked as a CA or not
(docs/decisions.md).

Files are read anew for each connection, so that renewed roots are taken.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, Literal

from spoolq import limits
from spoolq.frozen import Frozen

if TYPE_CHECKING:
    import ssl

Store = Literal["os_roots", "webpki_roots", "webpki_and_os_roots"]

_JAVA: Final = {b"\xfe\xed\xfe\xed": "JKS", b"\xce\xce\xce\xce": "JCEKS"}


class TlsFailure(Exception):
    """Why there is no TLS; the text says what to look at."""


class RootsFailure(TlsFailure):
    """The roots cannot be had; ``key`` is the setting that asks for them."""

    def __init__(self, text: str, key: str) -> None:
        super().__init__(text)
        self.key = key


class Roots(Frozen):
    """``file`` with its ``password``, or else ``store``, or else what OpenSSL finds by itself."""

    file: str | None = None
    password: str | None = None
    store: Store | None = None

    def __repr__(self) -> str:
        return f"Roots(file={self.file!r}, store={self.store!r})"  # a password is not shown


def check(roots: Roots) -> None:
    """Raises RootsFailure when no context can be made of these."""
    trusting(roots)


def trusting(roots: Roots) -> ssl.SSLContext:
    """A client context that checks name and chain.  Raises RootsFailure."""
    import ssl

    if roots.store in ("os_roots", "webpki_and_os_roots"):
        context: ssl.SSLContext = _package("truststore", roots.store).SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if roots.file is not None:
        _load_file(context, roots.file, roots.password)
    elif roots.store is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if roots.store in ("webpki_roots", "webpki_and_os_roots"):
        context.load_verify_locations(cafile=_package("certifi", roots.store).where())
    return context


def _load_file(context: ssl.SSLContext, file: str, password: str | None) -> None:
    content = _content(file)
    if (java := _JAVA.get(content[:4])) is not None:
        raise RootsFailure(
            f"tls_roots {file!r} is a {java} store, which only Java reads; convert it: keytool -importkeystore "
            f"-srckeystore {os.path.basename(file)} -destkeystore roots.p12 -deststoretype PKCS12",
            "tls_roots",
        )
    certificates: bytes | str
    if content[:1] == b"\x30":  # an ASN.1 SEQUENCE: no text begins so
        certificates = _of_pkcs12(file, content, password)
    elif password is not None:
        raise RootsFailure(
            f"tls_roots {file!r} is not PKCS#12, so tls_roots_password has nothing to open: leave it out",
            "tls_roots_password",
        )
    else:
        certificates = _of_pem(file, content)
    try:
        context.load_verify_locations(cadata=certificates)
    except (OSError, ValueError) as error:
        raise RootsFailure(f"tls_roots {file!r} cannot be used as roots: {error}", "tls_roots") from None


def _content(file: str) -> bytes:
    """The bytes of the file, at most the limit."""
    try:
        with open(file, "rb") as opened:
            content = opened.read(limits.ROOTS_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise RootsFailure(f"tls_roots {file!r} cannot be read: {error.strerror}", "tls_roots") from None
    if len(content) > limits.ROOTS_FILE_BYTES_MAX:
        raise RootsFailure(
            f"tls_roots {file!r} has over {limits.ROOTS_FILE_BYTES_MAX} bytes; is it a file of roots?", "tls_roots"
        )
    return content


def _of_pem(file: str, content: bytes) -> str:
    text = content.decode("ascii", errors="ignore")  # comments between the certificates may hold anything
    if "-----BEGIN " not in text:
        raise RootsFailure(f"tls_roots {file!r} holds no PEM certificate, nor is it a PKCS#12 store", "tls_roots")
    return text


def _of_pkcs12(file: str, content: bytes, password: str | None) -> bytes:
    """All certificates of a PKCS#12 store, one behind the other."""
    pkcs12 = _package("cryptography.hazmat.primitives.serialization.pkcs12", "a tls_roots file in PKCS#12", "tls_roots")
    encoding = _package("cryptography.hazmat.primitives.serialization", "a tls_roots file in PKCS#12", "tls_roots")
    try:
        store = pkcs12.load_pkcs12(content, None if password is None else password.encode())
    except Exception:  # whatever a parser makes of bytes that are something else; its text is not ours to vouch for
        reason = "it wants tls_roots_password" if password is None else "tls_roots_password does not open it"
        raise RootsFailure(
            f"tls_roots {file!r} cannot be read as a PKCS#12 store: {reason}, or it is damaged or something else",
            "tls_roots_password",
        ) from None
    found = [*store.additional_certs, *([store.cert] if store.cert is not None else [])]
    if not found:
        raise RootsFailure(f"tls_roots {file!r} is a PKCS#12 store without a certificate", "tls_roots")
    return b"".join(entry.certificate.public_bytes(encoding.Encoding.DER) for entry in found)


def _package(name: str, what: str, key: str = "tls_ca") -> Any:
    """An optional package, imported now; ``what`` needs it."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        needs = f"tls_ca={what}" if key == "tls_ca" else what
        package = name.partition(".")[0]
        raise RootsFailure(f"{needs} needs the package {package}: pip install 'spoolq[tls]'", key) from None
