"""The market's certificate authority, in a home of its own that can be kept off line.

Rule 1. A name belongs to the first key that was certified for it. Another key for the same name, the
same key for another name, and a name that was revoked are refused.

Rule 2. The role stands in the subject's OU and in the extended key usage, and the CA alone writes both:
of a request it takes the key, and the name only after checking it.

Rule 3. What was issued is the certificates in `issued/`, what was revoked is the signed list itself;
there is no further record that could disagree with them. A repeated call gives the same certificate.

Rule 4. The CA lives 20 years, identities one. A revocation list is good until the CA's own end: Mosquitto
refuses *everyone* once its list has expired, while a list that is merely old refuses whom it names. An
operator who forgets to fetch lists shall not lose the market over it.

    home/ca.key  ca.crt  crl.pem  issued/<name>.<serial>.crt
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from filelock import FileLock, Timeout

from common import topics
from common.errors import (
    BusyError,
    MalformedError,
    NotFoundError,
    RejectedError,
    UntrustedError,
    UsageError,
    WireError,
)
from common.keys import (
    IdentityKey,
    KeyType,
    PublicIdentity,
    Role,
    check_public,
    create_file,
    identity_fingerprint,
    replace_file,
    verify_certificate,
)
from common.validity import crl_number, install_crl, is_revoked, load_crl
from veilmart.certificates import (
    Authority,
    build_crl,
    build_request,
    certificate_to_pem,
    check_request,
    hosts_of,
    issue,
    revocation,
    self_signed,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

CA_KEY_FILE: Final = "ca.key"
CA_CERTIFICATE_FILE: Final = "ca.crt"
CRL_FILE: Final = "crl.pem"
ISSUED_FOLDER: Final = "issued"
IDENTITY_KEY_FILE: Final = "identity.key"
IDENTITY_CERTIFICATE_FILE: Final = "identity.crt"
REQUEST_FILE: Final = "identity.csr"
LOCK_SECONDS: Final = 10

_ROLES: Final[dict[str, Role]] = {"broker": "broker", "bus": "bus"}


def create_ca(home: Path, *, key_type: KeyType = "ed25519", now_ms: int) -> x509.Certificate:
    """Make the CA's key, certificate and empty revocation list; what is there already is kept."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    (home / ISSUED_FOLDER).mkdir(mode=0o700, exist_ok=True)
    with _locked(home):
        key_path = home / CA_KEY_FILE
        if not key_path.exists():
            IdentityKey.generate(key_type).save(key_path)
        key = IdentityKey.load(key_path)
        if not (home / CA_CERTIFICATE_FILE).exists():
            create_file(home / CA_CERTIFICATE_FILE, certificate_to_pem(self_signed(key, now_ms)))
        authority = _open(home)
        if not (home / CRL_FILE).exists():
            create_file(home / CRL_FILE, build_crl(authority, [], 1, now_ms))
        return authority.certificate


def make_request(merchant_home: Path, merchant_id: str, *, key_type: KeyType = "ed25519") -> bytes:
    """Make a merchant's identity key and return its certificate signing request (PKCS #10, PEM).

    An existing key is kept. Raises UsageError for a name that no merchant may have.
    """
    _check_name(merchant_id)
    merchant_home.mkdir(mode=0o700, parents=True, exist_ok=True)
    key_path = merchant_home / IDENTITY_KEY_FILE
    if not key_path.exists():
        IdentityKey.generate(key_type).save(key_path)
    pem = build_request(IdentityKey.load(key_path), merchant_id)
    replace_file(merchant_home / REQUEST_FILE, pem)
    return pem


def sign_csr(ca_home: Path, csr_pem: bytes, merchant_id: str, *, now_ms: int) -> bytes:
    """Certify a merchant's key for one year; return the certificate as PEM.

    The same key and name again give the same certificate. Raises UsageError for a name that no merchant
    may have, UntrustedError for a request that proves nothing, RejectedError by rule 1.
    """
    _check_name(merchant_id)
    public = check_request(csr_pem, merchant_id)
    with _locked(ca_home):
        return _certify(ca_home, public, merchant_id, role="merchant", now_ms=now_ms)


def certify_broker(ca_home: Path, public: PublicIdentity, *, now_ms: int) -> bytes:
    """Certify the broker's key; return the certificate as PEM. Raises RejectedError by rule 1."""
    with _locked(ca_home):
        return _certify(ca_home, public, "broker", role="broker", now_ms=now_ms)


def certify_bus(ca_home: Path, public: PublicIdentity, hosts: Sequence[str], *, now_ms: int) -> bytes:
    """Certify Mosquitto's key for DNS names and IP addresses, localhost and 127.0.0.1 among them.

    Returns the certificate as PEM. Raises UsageError for a host that is neither, RejectedError by rule 1.
    """
    with _locked(ca_home):
        return _certify(ca_home, public, "bus", role="bus", hosts=_with_local(hosts), now_ms=now_ms)


def renew(ca_home: Path, name: str, *, hosts: Sequence[str] | None = None, now_ms: int) -> bytes:
    """Certify the same key, name and role for another year; return the certificate as PEM.

    `hosts`, for `bus` alone, take the place of those in its last certificate. Raises NotFoundError for a
    name that was never certified, RejectedError for a revoked one.
    """
    with _locked(ca_home):
        authority = _open(ca_home)
        last = _issued(ca_home, name)[-1]
        _refuse_revoked(ca_home, authority, name)
        role = _role_of(name)
        if hosts is not None and role != "bus":
            raise UsageError("only Mosquitto's certificate names hosts")
        certificate = issue(
            authority,
            check_public(last.public_key()),
            name,
            role=role,
            hosts=hosts_of(last) if hosts is None else _with_local(hosts),
            now_ms=now_ms,
        )
        return _record(ca_home, certificate, name)


def revoke(ca_home: Path, merchant_id: str, *, now_ms: int) -> Path:
    """Take back every certificate of a merchant; return the path of the new revocation list (PEM).

    Raises NotFoundError for a merchant that was never certified. Repeating it changes nothing.
    """
    _check_name(merchant_id)
    with _locked(ca_home):
        authority = _open(ca_home)
        crl_path = ca_home / CRL_FILE
        crl = load_crl(crl_path.read_bytes(), authority.certificate)
        fresh = [each for each in _issued(ca_home, merchant_id) if not is_revoked(crl, each)]
        if fresh:
            entries = [*crl, *(revocation(certificate, now_ms) for certificate in fresh)]
            pem = build_crl(authority, entries, crl_number(crl) + 1, now_ms)
            install_crl(crl_path, pem, authority.certificate)
        return crl_path


def install_certificate(home: Path, pem: bytes, ca_certificate: x509.Certificate, *, now_ms: int) -> str:
    """Put a merchant's new certificate beside its key; return the merchant id.

    Raises UntrustedError if it is another CA's, another key's, or does not hold now.
    """
    try:
        der = x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
        ca_der = ca_certificate.public_bytes(serialization.Encoding.DER)
        info = verify_certificate(der, ca_der, now_ms, "merchant")
    except (WireError, ValueError) as error:
        raise UntrustedError(
            f"this is not a valid merchant certificate of this market: {error}",
            "Send the request to the market's CA again, and check which market file was joined.",
        ) from error
    key = IdentityKey.load(home / IDENTITY_KEY_FILE)
    if info.fingerprint != identity_fingerprint(key.public):
        raise UntrustedError("the certificate belongs to another key than the one in this home")
    replace_file(home / IDENTITY_CERTIFICATE_FILE, pem)
    return info.subject_id


def load_ca_certificate(path: Path) -> x509.Certificate:
    """Read the CA's certificate (PEM). Raises UsageError if it is missing, else UntrustedError."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read the CA certificate {path}: {error.strerror}") from error
    except ValueError as error:
        raise UntrustedError(f"{path} is not a certificate") from error


def _certify(
    ca_home: Path, public: PublicIdentity, name: str, *, role: Role, hosts: Sequence[str] = (), now_ms: int
) -> bytes:
    authority = _open(ca_home)
    _refuse_revoked(ca_home, authority, name)
    fingerprint = identity_fingerprint(public)
    for owner, certificate in _all_issued(ca_home):
        same_key = identity_fingerprint(certificate) == fingerprint
        if owner == name and not same_key:
            raise RejectedError(
                f"{name!r} is certified for another key",
                "A name keeps its key, because customers pin it. Choose another name.",
            )
        if owner != name and same_key:
            raise RejectedError(f"this key is certified as {owner!r} already", "Make a key of its own.")
    if any(owner == name for owner, _ in _all_issued(ca_home)):
        return certificate_to_pem(_issued(ca_home, name)[-1])
    return _record(ca_home, issue(authority, public, name, role=role, hosts=hosts, now_ms=now_ms), name)


def _record(ca_home: Path, certificate: x509.Certificate, name: str) -> bytes:
    # Recorded before it is handed out: a crash in between is mended by asking again (rule 3).
    pem = certificate_to_pem(certificate)
    create_file(ca_home / ISSUED_FOLDER / f"{name}.{certificate.serial_number:x}.crt", pem)
    return pem


def _all_issued(ca_home: Path) -> Iterator[tuple[str, x509.Certificate]]:
    for path in sorted((ca_home / ISSUED_FOLDER).glob("[!.]*.crt")):
        yield path.name.partition(".")[0], x509.load_pem_x509_certificate(path.read_bytes())


def _issued(ca_home: Path, name: str) -> list[x509.Certificate]:
    """Return all certificates of a name, the one that ends last at the end. Raises NotFoundError."""
    found = [certificate for owner, certificate in _all_issued(ca_home) if owner == name]
    if not found:
        raise NotFoundError(f"this CA has certified nobody called {name!r}")
    return sorted(found, key=lambda certificate: certificate.not_valid_after_utc)


def _refuse_revoked(ca_home: Path, authority: Authority, name: str) -> None:
    crl = load_crl((ca_home / CRL_FILE).read_bytes(), authority.certificate)
    if any(owner == name and is_revoked(crl, certificate) for owner, certificate in _all_issued(ca_home)):
        raise RejectedError(f"{name!r} was revoked", "A revoked name is never certified again.")


def _with_local(hosts: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*hosts, "localhost", "127.0.0.1")))


def _role_of(name: str) -> Role:
    return _ROLES.get(name, "merchant")


def _check_name(merchant_id: str) -> None:
    try:
        topics.check_merchant_id(merchant_id)
    except MalformedError as error:
        raise UsageError(f"{merchant_id!r} cannot be a merchant's id: {error}") from error


def _open(ca_home: Path) -> Authority:
    key = IdentityKey.load(ca_home / CA_KEY_FILE)
    certificate = load_ca_certificate(ca_home / CA_CERTIFICATE_FILE)
    if identity_fingerprint(certificate) != identity_fingerprint(key.public):
        raise UntrustedError(f"key and certificate in {ca_home} do not belong together")
    return Authority(key, certificate)


@contextmanager
def _locked(ca_home: Path) -> Iterator[None]:
    if not ca_home.is_dir():
        raise UsageError(f"there is no CA in {ca_home}", "Make one with `veilmart init`.")
    try:
        with FileLock(ca_home / ".lock", timeout=LOCK_SECONDS):
            yield
    except Timeout as error:
        raise BusyError(f"another process works on the CA in {ca_home}") from error
