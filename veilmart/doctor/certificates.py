"""A home's own certificate: its end, its chain, its key, and whether it was revoked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from common.errors import AuthenticationError, UntrustedError, UsageError, VeilmartError, WireError
from common.keys import IdentityKey, Role, identity_fingerprint, to_ms, verify_certificate
from common.market_file import MarketFile
from common.validity import is_revoked, load_crl, near_end
from veilmart import bus, ca
from veilmart.cli.homes import MARKET_FILE
from veilmart.cli.times import day_of
from veilmart.doctor.findings import Check, Finding
from veilmart.doctor.places import Home, Kind

_FILES: Final[dict[Kind, tuple[str, str]]] = {
    "ca": (ca.CA_CERTIFICATE_FILE, ca.CA_KEY_FILE),
    "bus": (bus.SERVER_CERTIFICATE_FILE, bus.SERVER_KEY_FILE),
    "broker": (ca.IDENTITY_CERTIFICATE_FILE, ca.IDENTITY_KEY_FILE),
    "merchant": (ca.IDENTITY_CERTIFICATE_FILE, ca.IDENTITY_KEY_FILE),
}
_ROLES: Final[dict[Kind, Role]] = {"bus": "bus", "broker": "broker", "merchant": "merchant"}


def check_certificate(home: Home, now: int) -> Iterator[Finding]:
    """Look at the certificate of a home that has one; customers have none."""
    if home.kind not in _FILES:
        return
    check = Check("keys", f"certificate, {home.name}")
    certificate_file, key_file = (home.path / name for name in _FILES[home.kind])
    if not certificate_file.exists():
        yield check.problem(f"there is no {certificate_file}", _missing(home), UsageError)
        return
    try:
        certificate = ca.load_ca_certificate(certificate_file)
        ends = to_ms(certificate.not_valid_after_utc)
        if ends <= now:
            yield check.problem(f"ended on {day_of(ends)}", _renewal(home), AuthenticationError)
            return
        _demand_key(certificate, key_file)
        if home.kind != "ca":
            _demand_chain(home, certificate, now)
            if _revoked(home.path, certificate):
                yield check.problem(
                    "was revoked by the CA", "A revoked name is never certified again.", AuthenticationError
                )
                return
    except VeilmartError as error:
        yield check.failed(error)
    except OSError as error:
        yield check.problem(f"{error.filename}: {error.strerror}", _missing(home), UsageError)
    else:
        detail = f"holds, until {day_of(ends)}"
        yield check.warning(detail, _renewal(home)) if near_end(certificate, now) else check.ok(detail)


def merchant_of(home: Home) -> str | None:
    """Give the id that a merchant's certificate names, None where none can be read."""
    try:
        certificate = ca.load_ca_certificate(home.path / ca.IDENTITY_CERTIFICATE_FILE)
    except VeilmartError:
        return None
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else None


def _demand_key(certificate: x509.Certificate, key_file: Path) -> None:
    """Raise `UntrustedError` unless this is the key that was certified."""
    if identity_fingerprint(IdentityKey.load(key_file).public) != identity_fingerprint(certificate):
        raise UntrustedError(
            f"{key_file} is not the key that was certified", "Put the home back from a backup."
        )


def _demand_chain(home: Home, certificate: x509.Certificate, now: int) -> None:
    """Raise `UntrustedError` unless the market's CA certified this for what the home is."""
    try:
        verify_certificate(
            certificate.public_bytes(Encoding.DER),
            _authority(home.path).public_bytes(Encoding.DER),
            now,
            _ROLES[home.kind],
        )
    except WireError as error:
        raise UntrustedError(f"it does not hold: {error}", _renewal(home)) from error


def _authority(home: Path) -> x509.Certificate:
    market = home / MARKET_FILE
    return (
        MarketFile.load(market).ca()
        if market.exists()
        else ca.load_ca_certificate(home / ca.CA_CERTIFICATE_FILE)
    )


def _revoked(home: Path, certificate: x509.Certificate) -> bool:
    crl = home / ca.CRL_FILE
    return crl.exists() and is_revoked(load_crl(crl.read_bytes(), _authority(home)), certificate)


def _renewal(home: Home) -> str:
    if home.kind == "ca":
        return "A CA lives 20 years: a new market is due, with a new market file for everybody."
    if home.kind == "merchant":
        return "The CA renews it (`veilmart ca renew`); then `veilmart merchant install-cert`."
    return f"`veilmart ca renew {home.kind}` makes a new one."


def _missing(home: Home) -> str:
    if home.kind == "merchant":
        return "Let the CA sign `identity.csr` (`veilmart ca sign`), then `veilmart merchant install-cert`."
    return "Put the home back from a backup, or repeat `veilmart init`, which makes what is missing."
