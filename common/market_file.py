"""The market file: all that a customer or a merchant needs to join.

Rule 1. Whoever hands it over is trusted at first contact: it names the CA, the two addresses and the
broker's key. Nothing in it is secret.

Rule 2. A market is its CA and its broker's key: `market_id` follows from these two alone and is bound
into every sealed request, so addresses may move and a card of another market never fits.

    {"veilmart_market": 1, "currency": "EUR", "ca_certificate": "-----BEGIN CERTIFICATE-----…",
     "public": {"host": "localhost", "port": 8883}, "nodes": {"host": "localhost", "port": 8884},
     "broker_fingerprint": "…64 hex digits…", "minimum_age_seconds": 3600}
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from common import money
from common.errors import MalformedError, UntrustedError, UsageError
from common.keys import FINGERPRINT_BYTES, check_public, replace_file

if TYPE_CHECKING:
    from pathlib import Path

MARKET_ID_BYTES: Final = 16
MAX_MARKET_FILE_BYTES: Final = 16 * 1024
MAX_MINIMUM_AGE_SECONDS: Final = 30 * 24 * 3600

_Fingerprint = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
_Host = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9.:-]{1,253}\Z")]
_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class Address(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a listener of Mosquitto is reached."""

    host: _Host
    port: _Port


class MarketFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A market, as its file states it. `ca_certificate` is PEM, `broker_fingerprint` is hex."""

    veilmart_market: Literal[1]
    currency: str
    ca_certificate: Annotated[str, msgspec.Meta(max_length=8192)]
    public: Address
    nodes: Address
    broker_fingerprint: _Fingerprint
    minimum_age_seconds: Annotated[int, msgspec.Meta(ge=0, le=MAX_MINIMUM_AGE_SECONDS)]

    @classmethod
    def from_bytes(cls, data: bytes) -> MarketFile:
        """Read a market file's content. Raises UntrustedError for whatever is not exactly one."""
        if len(data) > MAX_MARKET_FILE_BYTES:
            raise UntrustedError("the market file is too large", _HINT)
        try:
            market = msgspec.json.decode(data, type=cls)
            money.exponent(market.currency)
        except (msgspec.DecodeError, UsageError) as error:
            raise UntrustedError(f"this is not a market file: {error}", _HINT) from error
        market.ca()
        return market

    @classmethod
    def load(cls, path: Path) -> MarketFile:
        """Read a market file. Raises UsageError if it cannot be read, UntrustedError if it is wrong."""
        try:
            with path.open("rb") as file:
                data = file.read(MAX_MARKET_FILE_BYTES + 1)
        except OSError as error:
            raise UsageError(f"cannot read the market file {path}: {error.strerror}", _HINT) from error
        try:
            return cls.from_bytes(data)
        except UntrustedError as error:
            raise UntrustedError(f"{path}: {error.message}", error.hint) from error

    def to_bytes(self) -> bytes:
        """Return the file's content: the same bytes for the same market."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        MarketFile.from_bytes(self.to_bytes())
        replace_file(path, self.to_bytes())

    def ca(self) -> x509.Certificate:
        """Return the CA's certificate. Raises UntrustedError unless it is a self-signed CA certificate."""
        try:
            certificate = x509.load_pem_x509_certificate(self.ca_certificate.encode())
            check_public(certificate.public_key())
            certificate.verify_directly_issued_by(certificate)
            is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except (
            ValueError,
            TypeError,
            InvalidSignature,
            UnsupportedAlgorithm,
            MalformedError,
            x509.InvalidVersion,
            x509.ExtensionNotFound,
            x509.DuplicateExtension,
        ) as error:
            raise UntrustedError("the market file holds no valid CA certificate", _HINT) from error
        if not is_ca:
            raise UntrustedError("the market file's certificate is not a CA's", _HINT)
        return certificate

    @property
    def ca_der(self) -> bytes:
        """The CA's certificate as DER."""
        return self.ca().public_bytes(serialization.Encoding.DER)

    @property
    def broker_identity(self) -> bytes:
        """The 32 bytes SHA-256 of the broker's public key."""
        return bytes.fromhex(self.broker_fingerprint)

    @property
    def market_id(self) -> bytes:
        """The first 16 bytes of SHA-256 over the CA certificate (DER) and the broker's fingerprint."""
        return market_id(self.ca_der, self.broker_identity)


_HINT: Final = "Ask the market's operator for its market file (`market.json`)."


def market_id(ca_der: bytes, broker_fingerprint: bytes) -> bytes:
    """Return the 16 bytes that name a market. Raises ValueError for a fingerprint that is not 32 bytes."""
    if len(broker_fingerprint) != FINGERPRINT_BYTES:
        raise ValueError("a fingerprint is 32 bytes")
    return hashlib.sha256(ca_der + broker_fingerprint).digest()[:MARKET_ID_BYTES]
