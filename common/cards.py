"""Cards: retained, signed announcements of who a node is and which keys it uses now.

    card = u16 length || certificate (DER) || u16 length || signature || body

Rule. The signature covers a label, the certificate and the body *as received*; a card proves its sender
by the certificate's chain to the market's CA, its role and its subject, and it ends at `not_after`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

from common import codec, config, messages
from common.errors import ForgedError, MalformedError, StaleError
from common.keys import CertificateInfo, IdentityKey, Role, verify_certificate, verify_identity

CLOCK_TOLERANCE_MS = 5 * config.MINUTE_MS

Kind: TypeAlias = Literal["broker", "merchant", "spent"]

_LABELS: dict[Kind, bytes] = {
    "broker": b"veilmart v1 broker card",
    "merchant": b"veilmart v1 merchant card",
    "spent": b"veilmart v1 spent chunk",
}
_SIGNERS: dict[Kind, Role] = {"broker": "broker", "merchant": "merchant", "spent": "broker"}

Body = TypeVar("Body", messages.BrokerCard, messages.MerchantCard, messages.SpentChunk)


@dataclass(frozen=True)
class Card(Generic[Body]):
    """A verified card: its body, the certificate that signed it, and that certificate's bytes."""

    body: Body
    certificate: CertificateInfo
    certificate_der: bytes


def _prefixed(part: bytes) -> bytes:
    return len(part).to_bytes(2, "big") + part


def _take(data: bytes) -> tuple[bytes, bytes]:
    length = int.from_bytes(data[:2], "big")
    if len(data) < 2 + length:
        raise MalformedError("card cut short")
    return data[2 : 2 + length], data[2 + length :]


def make_card(
    identity: IdentityKey,
    certificate_der: bytes,
    kind: Kind,
    body: messages.BrokerCard | messages.MerchantCard | messages.SpentChunk,
) -> bytes:
    """Sign a card. The certificate must be the identity's own."""
    packed = codec.pack(body)
    signature = identity.sign(_LABELS[kind], _prefixed(certificate_der) + packed)
    return _prefixed(certificate_der) + _prefixed(signature) + packed


def _open(
    card: bytes, ca_der: bytes, now: int, kind: Kind, decoder: codec.Codec[Body], market: bytes
) -> Card[Body]:
    if len(card) > config.MAXIMUM_CARD:
        raise MalformedError("card too long")
    certificate_der, rest = _take(card)
    signature, packed = _take(rest)
    certificate = verify_certificate(certificate_der, ca_der, now, _SIGNERS[kind])
    verify_identity(certificate.public_key, _LABELS[kind], _prefixed(certificate_der) + packed, signature)
    body = decoder.unpack(packed)
    if body.market != market:
        raise ForgedError("a card of another market")
    if not body.issued - CLOCK_TOLERANCE_MS <= now < body.not_after:
        raise StaleError("the card is not valid now")
    return Card(body, certificate, certificate_der)


def open_broker_card(card: bytes, ca_der: bytes, market: bytes, now: int) -> Card[messages.BrokerCard]:
    """Verify the broker's card. Raises `ForgedError`, `MalformedError` or `StaleError`."""
    return _open(card, ca_der, now, "broker", codec.BROKER_CARD, market)


def open_spent_chunk(
    payload: bytes, ca_der: bytes, market: bytes, key_id: bytes, number: int, now: int
) -> Card[messages.SpentChunk]:
    """Verify the chunk of the spent set that stood on this key's topic. Raises as `open_broker_card` does."""
    opened = _open(payload, ca_der, now, "spent", codec.SPENT_CHUNK, market)
    if (opened.body.key_id, opened.body.number) != (key_id, number):
        raise ForgedError("another chunk of the spent set")
    return opened


def open_merchant_card(
    card: bytes, ca_der: bytes, market: bytes, merchant: str, now: int
) -> Card[messages.MerchantCard]:
    """Verify the card that stood on `merchant`'s topic. Raises as `open_broker_card` does."""
    opened = _open(card, ca_der, now, "merchant", codec.MERCHANT_CARD, market)
    if not merchant == opened.body.merchant == opened.certificate.subject_id:
        raise ForgedError("a card of another merchant")
    return opened
