"""Where trust comes from: files of each format, stores of each kind, and what is missing or wrong.

What a context trusts is asked by a handshake with a server of that authority, never by looking into it.
"""

from __future__ import annotations

import importlib
import ipaddress
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import certifi
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

from spoolq import limits
from spoolq.link import ConnectFailure, ConnectOptions, Endpoint, Kind, Roots, RootsFailure, TlsOptions, check, connect
from tests.link.peer import Peer, Talk, accepted, request, wait_for_end

AUTHORITY = trustme.CA()
OTHER_AUTHORITY = trustme.CA()
SECRET = "hunter2secret"


def certificate_of(authority: trustme.CA) -> x509.Certificate:
    return x509.load_pem_x509_certificate(authority.cert_pem.bytes())


def serve(context: ssl.SSLContext) -> Talk:
    def talk(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as secure:
            secure.sendall(accepted(request(secure)))
            wait_for_end(secure)

    return talk


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A server whose certificate is of AUTHORITY."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)
    with Peer(serve(context)) as running:
        yield running


def reach(endpoint: Endpoint, roots: Roots) -> None:
    """Connects, verifying; raises what that raises."""
    reading, writing = os.pipe()
    try:
        connect(endpoint, ConnectOptions(tls=TlsOptions(roots=roots)), reading).close()
    finally:
        os.close(reading)
        os.close(writing)


def refused(roots: Roots) -> RootsFailure:
    with pytest.raises(RootsFailure) as caught:
        check(roots)
    return caught.value


def pem(path: Path, *authorities: trustme.CA) -> str:
    path.write_bytes(b"# ours, gr\xc3\xb6\xc3\x9fte Sorgfalt\n" + b"".join(a.cert_pem.bytes() for a in authorities))
    return str(path)


def java_store(path: Path, password: bytes, *authorities: trustme.CA) -> str:
    """What keytool writes today: certificates without a key."""
    found = [pkcs12.PKCS12Certificate(certificate_of(authority), b"alias") for authority in authorities]
    path.write_bytes(
        pkcs12.serialize_java_truststore(found, serialization.BestAvailableEncryption(password))  # type: ignore[arg-type]
    )
    return str(path)


# --- files ----------------------------------------------------------------------------------------


def test_a_pem_file_of_several_with_a_comment(peer: Peer, tmp_path: Path) -> None:
    reach(peer.endpoint, Roots(pem(tmp_path / "two.pem", OTHER_AUTHORITY, AUTHORITY)))


def test_a_pkcs12_store_and_its_password(peer: Peer, tmp_path: Path) -> None:
    reach(peer.endpoint, Roots(java_store(tmp_path / "roots.p12", b"s;3", OTHER_AUTHORITY, AUTHORITY), "s;3"))


def test_a_pkcs12_store_of_others_does_not_make_it_trusted(peer: Peer, tmp_path: Path) -> None:
    with pytest.raises(ConnectFailure, match="certificate is not accepted") as caught:
        reach(peer.endpoint, Roots(java_store(tmp_path / "roots.p12", b"s", OTHER_AUTHORITY), "s"))
    assert caught.value.kind is Kind.TLS


def test_a_pkcs12_store_with_a_key_of_its_own(peer: Peer, tmp_path: Path) -> None:
    """What an administrator may hand out: a key beside the authority's certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "all.pfx"
    protection = serialization.BestAvailableEncryption(b"s")
    path.write_bytes(pkcs12.serialize_key_and_certificates(b"x", key, None, [certificate_of(AUTHORITY)], protection))
    reach(peer.endpoint, Roots(str(path), "s"))


def test_a_file_without_protection_needs_no_password(peer: Peer, tmp_path: Path) -> None:
    path = tmp_path / "open.p12"
    certificates = [certificate_of(AUTHORITY)]
    path.write_bytes(
        pkcs12.serialize_key_and_certificates(None, None, None, certificates, serialization.NoEncryption())
    )
    reach(peer.endpoint, Roots(str(path)))


@pytest.mark.parametrize(
    ("password", "says"),
    [("wrong" + SECRET, "tls_roots_password does not open it"), (None, "it wants tls_roots_password")],
)
def test_a_wrong_password_is_said_without_it(tmp_path: Path, password: str | None, says: str) -> None:
    roots = Roots(java_store(tmp_path / "roots.p12", SECRET.encode(), AUTHORITY), password)
    error = refused(roots)
    assert says in str(error)
    assert "roots.p12" in str(error)
    assert error.key == "tls_roots_password"
    assert error.__suppress_context__
    assert SECRET not in str(error) + repr(roots)


@pytest.mark.parametrize(("magic", "name"), [(b"\xfe\xed\xfe\xed", "JKS"), (b"\xce\xce\xce\xce", "JCEKS")])
def test_a_jks_store_is_refused_with_what_converts_it(tmp_path: Path, magic: bytes, name: str) -> None:
    path = tmp_path / "cacerts"
    path.write_bytes(magic + bytes(100))
    error = refused(Roots(str(path), SECRET))
    assert f"is a {name} store" in str(error)
    assert "keytool -importkeystore -srckeystore cacerts" in str(error)
    assert SECRET not in str(error)


BAD_FILES = {
    "empty": (b"", "holds no PEM certificate"),
    "text": (b"no certificate", "holds no PEM certificate"),
    "a key": (b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n", "cannot be used as roots"),
    "broken": (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be used as roots"),
    "half a store": (b"\x30\x82\x01\x00" + bytes(20), "cannot be read as a PKCS#12 store"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_something_else(tmp_path: Path, name: str) -> None:
    content, says = BAD_FILES[name]
    path = tmp_path / "bad.roots"
    path.write_bytes(content)
    error = refused(Roots(str(path)))
    assert says in str(error)
    assert "bad.roots" in str(error)


def test_a_password_for_a_pem_file_has_nothing_to_open(tmp_path: Path) -> None:
    error = refused(Roots(pem(tmp_path / "roots.pem", AUTHORITY), SECRET))
    assert error.key == "tls_roots_password"
    assert SECRET not in str(error)


def test_a_store_without_certificates(tmp_path: Path) -> None:
    path = tmp_path / "key.p12"
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(
        pkcs12.serialize_key_and_certificates(b"x", key, None, None, serialization.BestAvailableEncryption(b"s"))
    )
    assert "without a certificate" in str(refused(Roots(str(path), "s")))


def test_a_file_that_is_gone_or_endless(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in str(refused(Roots(str(tmp_path / "gone.pem"))))
    large = tmp_path / "large.pem"
    with open(large, "wb") as opened:
        opened.truncate(limits.ROOTS_FILE_BYTES_MAX + 1)
    assert "is it a file of roots?" in str(refused(Roots(str(large))))


def test_renewed_roots_are_taken_by_the_next_connection(peer: Peer, tmp_path: Path) -> None:
    roots = Roots(pem(tmp_path / "roots.pem", OTHER_AUTHORITY))
    with pytest.raises(ConnectFailure):
        reach(peer.endpoint, roots)
    pem(tmp_path / "roots.pem", AUTHORITY)
    reach(peer.endpoint, roots)


def self_signed(tmp_path: Path, is_authority: bool) -> tuple[ssl.SSLContext, str]:
    """A server that shows a certificate it signed itself, and the file that holds that one."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ours")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    shown = certificate.public_bytes(serialization.Encoding.PEM)
    roots, both = tmp_path / "own.pem", tmp_path / "own.key"
    roots.write_bytes(shown)
    both.write_bytes(
        shown
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return context, str(roots)


@pytest.mark.parametrize("is_authority", [True, False], ids=["its own CA", "no CA"])
def test_a_self_signed_certificate_is_trusted_where_it_stands_in_the_file(tmp_path: Path, is_authority: bool) -> None:
    context, roots = self_signed(tmp_path, is_authority)
    with Peer(serve(context)) as peer:
        reach(peer.endpoint, Roots(roots))
        with pytest.raises(ConnectFailure, match="certificate is not accepted: self"):
            reach(peer.endpoint, Roots(pem(tmp_path / "other.pem", AUTHORITY)))


# --- stores ---------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts an authority into the system's store, another into Mozilla's list."""

    def put(system: trustme.CA, mozilla: trustme.CA) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", pem(tmp_path / "system.pem", system))
        listed = pem(tmp_path / "listed.pem", mozilla)
        monkeypatch.setattr(certifi, "where", lambda: listed)

    return put


@pytest.mark.parametrize("store", [None, "os_roots", "webpki_roots", "webpki_and_os_roots"])
@pytest.mark.parametrize("place", ["system", "mozilla"])
def test_which_store_trusts_whom(peer: Peer, elsewhere: Any, store: Any, place: str) -> None:
    if place == "system":
        elsewhere(AUTHORITY, OTHER_AUTHORITY)
    else:
        elsewhere(OTHER_AUTHORITY, AUTHORITY)
    trusted = {"system": (None, "os_roots", "webpki_and_os_roots"), "mozilla": ("webpki_roots", "webpki_and_os_roots")}
    if store in trusted[place]:
        reach(peer.endpoint, Roots(store=store))
    else:
        with pytest.raises(ConnectFailure, match="certificate is not accepted"):
            reach(peer.endpoint, Roots(store=store))


@pytest.mark.parametrize("store", ["os_roots", "webpki_and_os_roots"])
def test_the_systems_verifier_checks_the_name_too(elsewhere: Any, store: Any) -> None:
    elsewhere(AUTHORITY, AUTHORITY)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("localhost").configure_cert(context)
    with (
        Peer(serve(context)) as peer,
        pytest.raises(ConnectFailure, match="must be a name in the certificate"),
    ):
        reach(peer.endpoint, Roots(store=store))


MISSING = [
    ("os_roots", "truststore"),
    ("webpki_roots", "certifi"),
    ("webpki_and_os_roots", "truststore"),
    ("webpki_and_os_roots", "certifi"),
]


@pytest.mark.parametrize(("store", "package"), MISSING)
def test_a_package_that_is_missing_is_named_with_its_extra(
    store: Any, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # an import of it fails
    error = refused(Roots(store=store))
    assert str(error) == f"tls_ca={store} needs the package {package}: pip install 'spoolq[tls]'"
    assert error.key == "tls_ca"


def test_a_pkcs12_store_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roots = Roots(java_store(tmp_path / "roots.p12", b"s", AUTHORITY), "s")
    real = importlib.import_module

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    error = refused(roots)
    assert str(error) == "a tls_roots file in PKCS#12 needs the package cryptography: pip install 'spoolq[tls]'"


def test_the_packages_wait_for_their_first_use(tmp_path: Path) -> None:
    roots = pem(tmp_path / "roots.pem", AUTHORITY)
    code = (
        "import sys, spoolq.link as link; assert 'ssl' not in sys.modules\n"
        f"link.check(link.Roots({roots!r})); link.check(link.Roots())\n"
        "print([name for name in ('truststore', 'certifi', 'cryptography') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
