"""Cards: only the right sender's, in the right market, at the right time, whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from samples import EXAMPLES

from common import cards, codec, config, keys
from common.errors import ForgedError, MalformedError, StaleError, WireError
from common.keys import IdentityKey, KeyType
from veilmart import ca

NOW = 1_800_000_000_000
MARKET = b"m" * 16


def der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


class Authority:
    """A CA with a broker and merchants."""

    def __init__(self, folder: Path, key_type: KeyType = "ed25519") -> None:
        self.home, self.key_type = folder / "ca", key_type
        certificate = ca.create_ca(self.home, key_type=key_type, now_ms=NOW - config.DAY_MS)
        self.der = certificate.public_bytes(Encoding.DER)
        self.broker = IdentityKey.generate(key_type)
        self.broker_der = der(ca.certify_broker(self.home, self.broker.public, now_ms=NOW - config.DAY_MS))
        self.bus = IdentityKey.generate(key_type)
        self.bus_der = der(
            ca.certify_bus(self.home, self.bus.public, ["localhost"], now_ms=NOW - config.DAY_MS)
        )

    def merchant(self, name: str) -> tuple[IdentityKey, bytes]:
        folder = self.home.parent / name
        request = ca.make_request(folder, name, key_type=self.key_type)
        pem = ca.sign_csr(self.home, request, name, now_ms=NOW - config.DAY_MS)
        return IdentityKey.load(folder / ca.IDENTITY_KEY_FILE), der(pem)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("market"))


@pytest.fixture(scope="module")
def sports(authority: Authority) -> tuple[IdentityKey, bytes]:
    return authority.merchant("sports")


def body(name: str, **changes: Any) -> Any:
    fields = {"market": MARKET, "issued": NOW, "not_after": NOW + config.HOUR_MS}
    return msgspec.structs.replace(EXAMPLES[name], **(fields | changes))


def broker_card(authority: Authority, **changes: Any) -> bytes:
    return cards.make_card(authority.broker, authority.broker_der, "broker", body("BrokerCard", **changes))


def merchant_card(sports: tuple[IdentityKey, bytes], **changes: Any) -> bytes:
    return cards.make_card(*sports, "merchant", body("MerchantCard", **changes))


def open_broker(authority: Authority, card: bytes, now: int = NOW) -> Any:
    return cards.open_broker_card(card, authority.der, MARKET, now)


def open_merchant(authority: Authority, card: bytes, merchant: str = "sports", now: int = NOW) -> Any:
    return cards.open_merchant_card(card, authority.der, MARKET, merchant, now)


def refused(call: Callable[[], Any]) -> bool:
    try:
        call()
    except WireError:
        return True
    return False


@pytest.mark.parametrize("key_type", keys.KEY_TYPES)
def test_a_card_opens_and_names_its_sender(tmp_path: Path, key_type: KeyType) -> None:
    market = Authority(tmp_path, key_type)
    opened = open_broker(market, broker_card(market))
    assert opened.body == body("BrokerCard")
    assert (opened.certificate.role, opened.certificate.subject_id) == ("broker", "broker")
    sports = market.merchant("sports")
    card = open_merchant(market, merchant_card(sports))
    assert card.body == body("MerchantCard")
    assert card.certificate_der == sports[1]
    assert card.certificate.fingerprint == keys.identity_fingerprint(sports[0].public)


# The library warns of a serial number below one, which a changed bit makes.
@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_every_bit_counts(authority: Authority, sports: tuple[IdentityKey, bytes]) -> None:
    for card, opener in (
        (broker_card(authority), lambda altered: open_broker(authority, altered)),
        (merchant_card(sports), lambda altered: open_merchant(authority, altered)),
    ):
        for place in range(len(card)):
            for bit in (0, 4, 7) if place < 500 else (place % 8,):
                altered = bytearray(card)
                altered[place] ^= 1 << bit
                assert refused(lambda: opener(bytes(altered))), (place, bit)  # noqa: B023 - called at once


def test_every_truncation_and_extension_is_refused(authority: Authority) -> None:
    card = broker_card(authority)
    for length in range(len(card)):
        assert refused(lambda: open_broker(authority, card[:length]))  # noqa: B023 - called at once
    for more in (b"\0", card):
        assert refused(lambda: open_broker(authority, card + more))  # noqa: B023


@pytest.mark.parametrize("card", [b"", b"\0", b"\0\0\0\0", b"\xff" * 9, bytes(config.MAXIMUM_CARD + 1)])
def test_garbage_is_malformed(authority: Authority, card: bytes) -> None:
    with pytest.raises(MalformedError):
        open_broker(authority, card)


def test_a_signature_of_another_key_is_forged(
    authority: Authority, sports: tuple[IdentityKey, bytes]
) -> None:
    stranger = IdentityKey.generate()
    forged = cards.make_card(stranger, authority.broker_der, "broker", body("BrokerCard"))
    with pytest.raises(ForgedError):
        open_broker(authority, forged)
    films = authority.merchant("films")
    with pytest.raises(ForgedError):
        open_merchant(authority, cards.make_card(films[0], sports[1], "merchant", body("MerchantCard")))


def test_a_signature_for_the_other_role_or_purpose_is_forged(
    authority: Authority, sports: tuple[IdentityKey, bytes]
) -> None:
    packed = codec.pack(body("MerchantCard"))
    signed = cards._prefixed(sports[1]) + packed
    for label in (b"veilmart v1 broker card", b"veilmart v1 receipt"):
        signature = sports[0].sign(label, signed)
        card = cards._prefixed(sports[1]) + cards._prefixed(signature) + packed
        with pytest.raises(ForgedError):
            open_merchant(authority, card)


def test_a_certificate_of_another_role_is_forged(
    authority: Authority, sports: tuple[IdentityKey, bytes]
) -> None:
    for identity, certificate in (sports, (authority.bus, authority.bus_der)):
        with pytest.raises(ForgedError):
            open_broker(authority, cards.make_card(identity, certificate, "broker", body("BrokerCard")))
    card = cards.make_card(authority.broker, authority.broker_der, "merchant", body("MerchantCard"))
    with pytest.raises(ForgedError):
        open_merchant(authority, card)


def test_a_certificate_of_another_ca_is_forged(
    authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = Authority(tmp_path_factory.mktemp("other"))
    with pytest.raises(ForgedError):
        open_broker(authority, broker_card(other))
    with pytest.raises(ForgedError):
        open_merchant(authority, merchant_card(other.merchant("sports")))


def test_a_card_of_another_market_is_forged(authority: Authority, sports: tuple[IdentityKey, bytes]) -> None:
    with pytest.raises(ForgedError, match="another market"):
        open_broker(authority, broker_card(authority, market=b"x" * 16))
    with pytest.raises(ForgedError, match="another market"):
        open_merchant(authority, merchant_card(sports, market=b"x" * 16))


def test_a_card_of_another_merchant_is_forged(
    authority: Authority, sports: tuple[IdentityKey, bytes]
) -> None:
    with pytest.raises(ForgedError, match="another merchant"):
        open_merchant(authority, merchant_card(sports), "films")
    with pytest.raises(ForgedError, match="another merchant"):
        open_merchant(authority, merchant_card(sports, merchant="films"))
    with pytest.raises(ForgedError, match="another merchant"):
        open_merchant(authority, merchant_card(sports, merchant="films"), "films")


def test_a_card_holds_from_its_issue_to_its_end(authority: Authority) -> None:
    card = broker_card(authority)
    tolerance = cards.CLOCK_TOLERANCE_MS
    for now in (NOW - tolerance, NOW, NOW + config.HOUR_MS - 1):
        assert open_broker(authority, card, now)
    for now in (NOW - tolerance - 1, NOW + config.HOUR_MS, NOW + config.DAY_MS):
        with pytest.raises(StaleError):
            open_broker(authority, card, now)


def test_a_card_whose_certificate_has_ended_is_forged(authority: Authority) -> None:
    late = NOW + 366 * config.DAY_MS
    card = broker_card(authority, issued=late, not_after=late + config.HOUR_MS)
    with pytest.raises(ForgedError, match="not valid at this time"):
        open_broker(authority, card, late)


def test_a_brokers_card_is_no_merchants(authority: Authority, sports: tuple[IdentityKey, bytes]) -> None:
    with pytest.raises(ForgedError):
        open_merchant(authority, broker_card(authority))
    with pytest.raises(ForgedError):
        open_broker(authority, merchant_card(sports))


def test_a_signed_card_with_another_body_is_malformed(authority: Authority) -> None:
    card = cards.make_card(authority.broker, authority.broker_der, "broker", body("MerchantCard"))
    with pytest.raises(MalformedError):
        open_broker(authority, card)
