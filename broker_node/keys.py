"""The broker's keys: all files of its home, loaded and made at the edge."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding

from common import config
from common.config import Limits
from common.errors import UntrustedError
from common.keyring import Keyring, Schedule
from common.keys import PRIVATE_FILE_MODE, IdentityKey, create_file, identity_fingerprint
from common.market_file import MarketFile
from common.sealing import XWingPrivateKey
from common.validity import is_revoked, load_crl

HELLO_GRACE_MS = config.DAY_MS


@dataclass(frozen=True, repr=False)
class SymmetricKey:
    """A 256-bit AES-GCM key of one day: for reply tokens, or to wrap session keys."""

    raw: bytes
    key_id: bytes
    gcm: AESGCM

    @classmethod
    def from_bytes(cls, raw: bytes) -> SymmetricKey:
        """Load."""
        return cls(raw, hashlib.sha256(b"veilmart v1 key id\0" + raw).digest()[:8], AESGCM(raw))

    @classmethod
    def generate(cls) -> SymmetricKey:
        """Make a new one."""
        return cls.from_bytes(os.urandom(32))


@dataclass(frozen=True)
class BrokerKeys:
    """Everything that proves and opens. `refresh` rotates what has a slot."""

    market: bytes
    currency: str
    ca_der: bytes
    identity: IdentityKey
    certificate_der: bytes
    fingerprint: bytes
    log_public: bytes
    hello: Keyring[XWingPrivateKey]
    wrap: Keyring[SymmetricKey]
    relay: Keyring[SymmetricKey]

    @classmethod
    def load(cls, home: Path, limits: Limits) -> BrokerKeys:
        """Load from the broker's home. Raises `UntrustedError` where its parts do not fit together."""
        market = MarketFile.load(home / "market.json")
        certificate = _certificate(home / "identity.crt")
        identity = IdentityKey.load(home / "identity.key")
        fingerprint = identity_fingerprint(identity.public)
        if fingerprint.hex() != market.broker_fingerprint or fingerprint != identity_fingerprint(certificate):
            raise UntrustedError(
                "The broker's key, its certificate and the market file do not belong together.",
                "Use the home that `veilmart init` made for this market.",
            )
        ca = x509.load_pem_x509_certificate(market.ca_certificate.encode())
        longest = max(limits.merchant_session_ms, limits.shop_session_ms, limits.account_session_ms)
        return cls(
            market=market.market_id,
            currency=market.currency,
            ca_der=ca.public_bytes(Encoding.DER),
            identity=identity,
            certificate_der=certificate.public_bytes(Encoding.DER),
            fingerprint=fingerprint,
            log_public=_log_key(home).public_key().public_bytes_raw(),
            hello=Keyring(
                home / "hello",
                Schedule(config.DAY_MS, ahead=1, grace_ms=HELLO_GRACE_MS),
                XWingPrivateKey.generate,
                XWingPrivateKey.from_bytes,
                lambda key: key.public.key_id,
            ),
            wrap=_symmetric(home / "wrap", longest),
            relay=_symmetric(home / "relay", config.DAY_MS),
        )

    def refresh(self, now: int) -> bool:
        """Make and erase what is due; tells whether the card has to change."""
        self.wrap.refresh(now)
        self.relay.refresh(now)
        return self.hello.refresh(now)


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise UntrustedError(
            f"{path} is not a certificate", "`veilmart ca renew broker` makes a new one for the same key."
        ) from error


def _symmetric(folder: Path, grace_ms: int) -> Keyring[SymmetricKey]:
    # One ahead: at midnight the loop asks for the new day's key before it has looked after its files.
    schedule = Schedule(config.DAY_MS, ahead=1, grace_ms=grace_ms)
    return Keyring(folder, schedule, SymmetricKey.generate, SymmetricKey.from_bytes, lambda key: key.key_id)


def _log_key(home: Path) -> Ed25519PrivateKey:
    path = home / "log.key"
    if not path.exists():
        create_file(path, Ed25519PrivateKey.generate().private_bytes_raw(), mode=PRIVATE_FILE_MODE)
    try:
        return Ed25519PrivateKey.from_private_bytes(path.read_bytes())
    except ValueError as error:
        raise UntrustedError(f"{path} is damaged: it holds no key", "Put it back from a backup.") from error


class Revocations:
    """The CA's revocation list as installed in the home; read again when the file changes."""

    def __init__(self, home: Path, ca_der: bytes) -> None:
        self._path = home / "crl.pem"
        self._ca = x509.load_der_x509_certificate(ca_der)
        self._stamp = 0.0
        self._crl: x509.CertificateRevocationList | None = None
        self.reload()

    def reload(self) -> bool:
        """Read the list if its file is new; tells whether it was."""
        if not self._path.exists() or self._path.stat().st_mtime_ns == self._stamp:
            return False
        self._stamp = self._path.stat().st_mtime_ns
        try:
            self._crl = load_crl(self._path.read_bytes(), self._ca)
        except UntrustedError as error:
            raise UntrustedError(
                f"{self._path}: {error.message}", "Put the CA's list (ca/crl.pem) in its place."
            ) from error
        return True

    def covers(self, certificate_der: bytes) -> bool:
        """Whether the certificate is revoked."""
        certificate = x509.load_der_x509_certificate(certificate_der)
        return self._crl is not None and is_revoked(self._crl, certificate)

    def has_serial(self, serial: int) -> bool:
        """Whether a serial number is on the list."""
        return (
            self._crl is not None and self._crl.get_revoked_certificate_by_serial_number(serial) is not None
        )
