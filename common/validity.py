"""Whether a certificate still holds: the CA's revocation list, and how near its end is.

Rule 1. The CA writes the list (RFC 5280, section 5), whoever runs the broker or Mosquitto installs it.
It is trusted for its signature alone, so it may travel by any road.

Rule 2. A list is replaced only by one that is not older (its CRL number), so that an old copy cannot
bring a revoked merchant back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from common.errors import UntrustedError
from common.keys import CertificateInfo, check_public, replace_file, to_ms

if TYPE_CHECKING:
    from pathlib import Path

NEAR_END_MS: Final = 30 * 24 * 3600 * 1000
MAX_CRL_BYTES: Final = 1 << 20  # some 25,000 revocations


def load_crl(pem: bytes, ca_certificate: x509.Certificate) -> x509.CertificateRevocationList:
    """Return the list if the CA signed it. Raises UntrustedError."""
    if len(pem) > MAX_CRL_BYTES:
        raise UntrustedError("the revocation list is too large")
    try:
        crl = x509.load_pem_x509_crl(pem)
        public = check_public(ca_certificate.public_key())
        genuine = crl.issuer == ca_certificate.subject and crl.is_signature_valid(public)
        crl_number(crl)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.ExtensionNotFound) as error:
        raise UntrustedError("this is not a certificate revocation list") from error
    if not genuine:
        raise UntrustedError("the revocation list is not signed by this market's CA")
    return crl


def crl_number(crl: x509.CertificateRevocationList) -> int:
    """Return the number that grows with each list of a CA (RFC 5280, section 5.2.3)."""
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def is_revoked(crl: x509.CertificateRevocationList, certificate: CertificateInfo | x509.Certificate) -> bool:
    """Return whether the CA took this certificate back."""
    return crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None


def install_crl(path: Path, pem: bytes, ca_certificate: x509.Certificate) -> bool:
    """Put the list at `path` in place of an older one; return whether anything changed.

    Raises UntrustedError for a list that is not this CA's or is older than the one in place.
    """
    crl = load_crl(pem, ca_certificate)
    if path.exists():
        present = path.read_bytes()
        if present == pem:
            return False
        if crl_number(crl) < crl_number(load_crl(present, ca_certificate)):
            raise UntrustedError(
                "this revocation list is older than the one in place; the newer one was kept",
                "Fetch the CA's latest list.",
            )
    replace_file(path, pem)
    return True


def near_end(certificate: CertificateInfo | x509.Certificate, now_ms: int) -> bool:
    """Return whether the certificate ends within 30 days, or has ended; then `ca renew` is due."""
    end = (
        certificate.not_after
        if isinstance(certificate, CertificateInfo)
        else to_ms(certificate.not_valid_after_utc)
    )
    return end - now_ms <= NEAR_END_MS
