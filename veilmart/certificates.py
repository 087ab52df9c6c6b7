"""How the market's certificates, requests and revocation lists look (X.509, RFC 5280; PKCS #10, RFC 2986).

Rule 1. Pure functions: what is certified, and for whom, is decided in `veilmart/ca.py`.

Rule 2. RSA keys sign with PSS and SHA-256 (RFC 4055), never PKCS #1 v1.5; Ed25519 as in RFC 8410.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from common.errors import MalformedError, UntrustedError, UsageError
from common.keys import PSS_SHA256, IdentityKey, PublicIdentity, Role, check_public, extended_usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CA_LIFETIME: Final = timedelta(days=20 * 365)
IDENTITY_LIFETIME: Final = timedelta(days=365)
BACKDATED: Final = timedelta(hours=1)  # for peers whose clocks are slow
MAX_REQUEST_BYTES: Final = 8192
_DNS_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")


@dataclass(frozen=True, slots=True)
class Authority:
    """The CA at work: its private key and its own certificate."""

    key: IdentityKey
    certificate: x509.Certificate


def self_signed(key: IdentityKey, now_ms: int) -> x509.Certificate:
    """Return the CA's own certificate."""
    now = _moment(now_ms)
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Veilmart"),
            x509.NameAttribute(NameOID.COMMON_NAME, "Veilmart market CA"),
        ]
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public)
        .serial_number(_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
    )
    return _sign_certificate(builder, key)


def issue(
    authority: Authority, public: PublicIdentity, name: str, *, role: Role, hosts: Sequence[str], now_ms: int
) -> x509.Certificate:
    """Return a certificate for one year, at most until the CA's own end. `hosts` become its SANs."""
    now = _moment(now_ms)
    issuer = authority.certificate
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Veilmart"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    issuer_identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject)
        .public_key(public)
        .serial_number(_serial_number())
        .not_valid_before(max(now - BACKDATED, issuer.not_valid_before_utc))
        .not_valid_after(min(now + IDENTITY_LIFETIME, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([extended_usage(role)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_identifier), critical=False
        )
    )
    if hosts:
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    return _sign_certificate(builder, authority.key)


def _serial_number() -> int:
    """Draw a number that takes 20 bytes, the most that RFC 5280 §4.1.2.2 allows.

    One of the library's in 256 takes fewer, and whoever has it would have a shorter card than the others.
    """
    return x509.random_serial_number() | 1 << 158


def hosts_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the DNS names and addresses that the certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names)


def check_host(host: str) -> None:
    """Raise UsageError unless `host` is a DNS name or an IP address."""
    _general_name(host)


def build_crl(
    authority: Authority, entries: Iterable[x509.RevokedCertificate], number: int, now_ms: int
) -> bytes:
    """Return a signed revocation list as PEM, good until the CA's own end (`veilmart/ca.py`, rule 4)."""
    issuer = authority.certificate
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(_moment(now_ms) - BACKDATED)
        .next_update(issuer.not_valid_after_utc)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
    )
    for entry in entries:
        builder = builder.add_revoked_certificate(entry)
    key = authority.key
    crl = (
        builder.sign(key.private, None)
        if key.key_type == "ed25519"
        else builder.sign(key.private, hashes.SHA256(), rsa_padding=PSS_SHA256)
    )
    return crl.public_bytes(serialization.Encoding.PEM)


def revocation(certificate: x509.Certificate, now_ms: int) -> x509.RevokedCertificate:
    """Return the list's entry for a certificate."""
    builder = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number)
    return builder.revocation_date(_moment(now_ms)).build()


def build_request(key: IdentityKey, name: str) -> bytes:
    """Return a signing request for `name` as PEM; the name is checked where it is signed."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    request = (
        builder.sign(key.private, None)
        if key.key_type == "ed25519"
        else builder.sign(key.private, hashes.SHA256(), rsa_padding=PSS_SHA256)
    )
    return request.public_bytes(serialization.Encoding.PEM)


def check_request(pem: bytes, name: str) -> PublicIdentity:
    """Return the key of a request for `name` that proves its possession. Raises UntrustedError."""
    if len(pem) > MAX_REQUEST_BYTES:
        raise UntrustedError("the signing request is too large")
    try:
        request = x509.load_pem_x509_csr(pem)
        public = check_public(request.public_key())
        genuine = request.is_signature_valid
        names = [each.value for each in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    except MalformedError as error:
        raise UntrustedError(f"the signing request has an unfit key: {error}") from error
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise UntrustedError("this is not a certificate signing request") from error
    if not genuine:
        raise UntrustedError("the signing request is not signed with its own key")
    if names != [name]:
        raise UntrustedError(
            f"the signing request is not for {name!r}", "Sign it under the name that its maker chose."
        )
    return public


def certificate_to_pem(certificate: x509.Certificate) -> bytes:
    """Return the certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def _sign_certificate(builder: x509.CertificateBuilder, key: IdentityKey) -> x509.Certificate:
    if key.key_type == "ed25519":
        return builder.sign(key.private, None)
    return builder.sign(key.private, hashes.SHA256(), rsa_padding=PSS_SHA256)


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if _DNS_NAME.fullmatch(host) is None or len(host) > 253:  # noqa: PLR2004 - RFC 1035, section 2.3.4
            raise UsageError(f"{host!r} is neither a DNS name nor an IP address") from None
        return x509.DNSName(host)


def _moment(now_ms: int) -> datetime:
    return datetime.fromtimestamp(now_ms // 1000, tz=UTC)
