"""What the command shows of certificates: names, and when they end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from common.config import DAY_MS
from common.errors import UntrustedError, UsageError
from common.keys import to_ms
from common.validity import is_revoked, load_crl, near_end
from veilmart import bus, ca
from veilmart.certificates import MAX_REQUEST_BYTES
from veilmart.cli.homes import read_small_file


@dataclass(frozen=True)
class Ending:
    """A certificate and its end (milliseconds). `days_left` is negative once it is over."""

    name: str
    path: Path
    ends: int
    days_left: int
    warning: bool


def read_request(path: Path) -> tuple[bytes, str]:
    """Give a signing request and the name in it, both unchecked. Raises `UsageError`, `UntrustedError`."""
    pem = read_small_file(path, MAX_REQUEST_BYTES)
    try:
        names = x509.load_pem_x509_csr(pem).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return pem, str(names[0].value)
    except (ValueError, IndexError, x509.InvalidVersion) as error:
        raise UntrustedError(f"{path} is not a certificate signing request") from error


def endings(homes: Mapping[str, Path], now: int) -> Iterator[Ending]:
    """Give the certificates that there are in these homes, by whose they are."""
    for name, home in homes.items():
        for file in (ca.CA_CERTIFICATE_FILE, ca.IDENTITY_CERTIFICATE_FILE, bus.SERVER_CERTIFICATE_FILE):
            path = home / file
            if path.is_file() and (file == ca.CA_CERTIFICATE_FILE) == (name == "ca"):
                yield _ending(name, path, now)


def _ending(name: str, path: Path, now: int) -> Ending:
    certificate = ca.load_ca_certificate(path)
    ends = to_ms(certificate.not_valid_after_utc)
    return Ending(name, path, ends, (ends - now) // DAY_MS, near_end(certificate, now))


@dataclass(frozen=True)
class Issued:
    """A certificate that the CA has made."""

    name: str
    serial: str
    ends: int
    state: str


def issued(ca_home: Path, now: int) -> list[Issued]:
    """List what the CA has certified, by name. Raises `UsageError` where there is no CA."""
    if not (ca_home / ca.CA_KEY_FILE).exists():
        raise UsageError(f"There is no CA in {ca_home}.", "`veilmart init` makes one; --home names it.")
    authority = ca.load_ca_certificate(ca_home / ca.CA_CERTIFICATE_FILE)
    crl = load_crl((ca_home / ca.CRL_FILE).read_bytes(), authority)
    found = []
    for path in sorted((ca_home / ca.ISSUED_FOLDER).glob("[!.]*.crt")):
        certificate = ca.load_ca_certificate(path)
        ends = to_ms(certificate.not_valid_after_utc)
        state = "revoked" if is_revoked(crl, certificate) else "ended" if ends <= now else "valid"
        found.append(Issued(path.name.partition(".")[0], f"{certificate.serial_number:x}", ends, state))
    return found
