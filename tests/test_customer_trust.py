"""Who is believed: cards, identities, keys of a slot, signed records. What breaks a promise is kept."""

from __future__ import annotations

import dataclasses
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from customer_shop import Bazaar, build, home
from profile_rows import profile_rows
from world import Publish, World

from common import cards, clock, codec, config, messages, sealing, topics
from common.blind import BlindPrivateKey
from common.credentials import PRODUCT_RECORD_LABEL
from common.errors import OutOfTicketsError, UntrustedError
from common.keys import IdentityKey
from customer_node import Market, schema
from veilmart import ca

BROKER_CARD = topics.broker_card()
SPORTS_CARD = topics.merchant_card("sports")


@pytest.fixture(scope="module")
def bazaar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bazaar]:
    root = tmp_path_factory.mktemp("bazaar")
    built = Bazaar(World(root))
    # A CA that has not certified a merchant called sports yet: what a malicious CA could do.
    shutil.copytree(built.world.ca_home, root / "other-ca")
    for path in (root / "other-ca" / ca.ISSUED_FOLDER).glob("broker.*"):
        path.unlink()
    built.stock("sports")
    built.stock("maps")
    yield built
    built.world.close()


@pytest.fixture
def retained(bazaar: Bazaar) -> Iterator[dict[str, bytes]]:
    """The bus's retained messages, put back afterwards."""
    before = dict(bazaar.world.bus.retained)
    yield bazaar.world.bus.retained
    bazaar.world.bus.retained.clear()
    bazaar.world.bus.retained.update(before)


def parts(card: bytes) -> tuple[bytes, bytes]:
    """The certificate and the body of a card."""
    certificate = card[2 : 2 + int.from_bytes(card[:2], "big")]
    rest = card[2 + len(certificate) :]
    return certificate, rest[2 + int.from_bytes(rest[:2], "big") :]


def broker_card(bazaar: Bazaar, card: bytes, **changes: Any) -> bytes:
    certificate, packed = parts(card)
    body = msgspec.structs.replace(codec.BROKER_CARD.unpack(packed), **changes)
    return cards.make_card(bazaar.world.broker.keys.identity, certificate, "broker", body)


def merchant_card(bazaar: Bazaar, card: bytes, **changes: Any) -> bytes:
    certificate, packed = parts(card)
    body = msgspec.structs.replace(codec.MERCHANT_CARD.unpack(packed), **changes)
    identity = bazaar.world.merchants["sports"].shop.identity
    return cards.make_card(identity, certificate, "merchant", body)


def evidence(market: Market) -> list[str]:
    database = sqlite3.connect(home(market) / "profile.db")
    kinds = [row[0] for row in database.execute("SELECT kind FROM evidence ORDER BY number")]
    database.close()
    return kinds


def both_cards(market: Market) -> list[bytes]:
    """The two cards of the only piece of evidence."""
    ((content,),) = profile_rows(home(market), schema.evidence.c.content)
    first, second = msgspec.msgpack.decode(content)
    return [first, second]


# --- the broker ----------------------------------------------------------------------------------------


def test_every_changed_bit_of_a_brokers_card_is_found(bazaar: Bazaar, retained: dict[str, bytes]):
    with bazaar.customer() as market:
        genuine = retained[BROKER_CARD]
        market._context.uplink.close()
        for position in range(0, len(genuine), len(genuine) // 60):
            changed = bytearray(genuine)
            changed[position] ^= 1
            retained[BROKER_CARD] = bytes(changed)
            with pytest.raises(UntrustedError):
                market.log_in("someone", "some password")
        retained[BROKER_CARD] = genuine[:100]
        with pytest.raises(UntrustedError):
            market.log_in("someone", "some password")
        assert market.orders() == ()


def test_a_brokers_card_that_is_over(bazaar: Bazaar, retained: dict[str, bytes]):
    now = clock.now_ms()
    with bazaar.customer() as market:
        retained[BROKER_CARD] = broker_card(bazaar, retained[BROKER_CARD], not_after=now - 1)
        with pytest.raises(UntrustedError, match="not valid at this time"):
            market.show("sports", "PLAN")
        later = now + config.HOUR_MS
        retained[BROKER_CARD] = broker_card(
            bazaar, retained[BROKER_CARD], issued=later, not_after=later + config.HOUR_MS
        )
        with pytest.raises(UntrustedError, match="not valid at this time"):
            market.show("sports", "PLAN")


def test_a_card_of_another_role_is_no_brokers(bazaar: Bazaar, retained: dict[str, bytes]):
    with bazaar.customer() as market:
        market._context.uplink.close()
        certificate = parts(retained[SPORTS_CARD])[0]
        body = codec.BROKER_CARD.unpack(parts(retained[BROKER_CARD])[1])
        identity = bazaar.world.merchants["sports"].shop.identity
        retained[BROKER_CARD] = cards.make_card(identity, certificate, "broker", body)
        with pytest.raises(UntrustedError):
            market.show("sports", "PLAN")


def test_another_broker_that_the_ca_certified(bazaar: Bazaar, retained: dict[str, bytes]):
    other = IdentityKey.generate()
    pem = ca.certify_broker(bazaar.world.root / "other-ca", other.public, now_ms=clock.now_ms())
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    with bazaar.customer() as market:
        market._context.uplink.close()
        body = codec.BROKER_CARD.unpack(parts(retained[BROKER_CARD])[1])
        retained[BROKER_CARD] = cards.make_card(other, der, "broker", body)
        with pytest.raises(UntrustedError, match="not that of the market file"):
            market.show("sports", "PLAN")
        assert evidence(market) == ["broker card"]


def test_a_second_coin_key_for_a_slot(bazaar: Bazaar, retained: dict[str, bytes]):
    with bazaar.customer() as market:
        market._context.uplink.close()
        body = codec.BROKER_CARD.unpack(parts(retained[BROKER_CARD])[1])
        public = BlindPrivateKey.generate().public
        mine = [
            messages.IssuerKey(
                key_id=public.key_id,
                purpose=key.purpose,
                value=key.value,
                month=key.month,
                public=public.der,
            )
            if (key.purpose, key.value) == ("coin", 512)
            else key
            for key in body.issuer_keys
        ]
        genuine = retained[BROKER_CARD]
        retained[BROKER_CARD] = broker_card(bazaar, genuine, issuer_keys=mine)
        before = market.wallet()
        with pytest.raises(UntrustedError, match="second coin 512 key"):
            market.withdraw()
        with pytest.raises(UntrustedError, match="second coin 512 key"):
            market.show("sports", "PLAN")
        assert evidence(market) == ["second key: broker"], "kept once"
        assert market.wallet() == before
        # Whoever has the market file can see that one broker signed both.
        ours = bazaar.world.market
        read = [
            cards.open_broker_card(card, ours.ca_der, ours.market_id, clock.now_ms())
            for card in both_cards(market)
        ]
        assert [card.certificate.fingerprint for card in read] == [ours.broker_identity] * 2
        publics = [
            {key.public for key in card.body.issuer_keys if (key.purpose, key.value) == ("coin", 512)}
            for card in read
        ]
        assert not publics[0] & publics[1]
        assert both_cards(market)[1] == retained[BROKER_CARD]


def test_a_second_hello_key_for_a_slot(bazaar: Bazaar, retained: dict[str, bytes]):
    with bazaar.customer() as market:
        market._context.uplink.close()
        body = codec.BROKER_CARD.unpack(parts(retained[BROKER_CARD])[1])
        mine = sealing.XWingPrivateKey.generate().public.raw
        keys = [messages.SlotKey(slot=key.slot, public=mine) for key in body.hello_keys]
        retained[BROKER_CARD] = broker_card(bazaar, retained[BROKER_CARD], hello_keys=keys)
        with pytest.raises(UntrustedError, match="second hello key"):
            market.show("sports", "PLAN")


# --- merchants -----------------------------------------------------------------------------------------


def test_a_merchants_identity_is_pinned(bazaar: Bazaar, retained: dict[str, bytes], tmp_path: Path):
    other_home = tmp_path / "impostor"
    request = ca.make_request(other_home, "sports")
    pem = ca.sign_csr(bazaar.world.root / "other-ca", request, "sports", now_ms=clock.now_ms())
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    (key_file,) = other_home.glob("*.key")
    body = codec.MERCHANT_CARD.unpack(parts(retained[SPORTS_CARD])[1])
    mine = sealing.XWingPrivateKey.generate().public.raw
    forged = cards.make_card(
        IdentityKey.load(key_file),
        der,
        "merchant",
        msgspec.structs.replace(
            body, order_prekeys=[messages.SlotKey(slot=key.slot, public=mine) for key in body.order_prekeys]
        ),
    )
    with bazaar.customer() as market:
        market.cart.add("sports", "PLAN")
        market._context.uplink.close()
        retained[SPORTS_CARD] = forged
        sent = len(bazaar.world.bus.passed)
        with pytest.raises(UntrustedError, match="identity key of sports"):
            market.buy()
        assert [publish for publish in bazaar.world.bus.passed[sent:] if "/up" in publish.topic] == []
        assert evidence(market) == ["merchant identity"]
        assert [merchant.id for merchant in market.merchants()] == ["maps"]
        assert set(market.search().failures) == {"sports"}
    with bazaar.customer() as newcomer:
        # First contact believes the CA: the documents say so.
        assert [merchant.id for merchant in newcomer.merchants()] == ["maps", "sports"]


@pytest.mark.parametrize("purpose", ["browse_prekeys", "order_prekeys"])
def test_a_second_prekey_for_a_slot(bazaar: Bazaar, retained: dict[str, bytes], purpose: str):
    with bazaar.customer() as market:
        market.show("sports", "PLAN")
        market._context.uplink.close()
        genuine = retained[SPORTS_CARD]
        mine = sealing.XWingPrivateKey.generate().public.raw
        body = codec.MERCHANT_CARD.unpack(parts(genuine)[1])
        keys = [messages.SlotKey(slot=key.slot, public=mine) for key in getattr(body, purpose)]
        retained[SPORTS_CARD] = merchant_card(bazaar, retained[SPORTS_CARD], **{purpose: keys})
        with pytest.raises(UntrustedError, match="second"):
            market.show("sports", "PLAN")
        assert both_cards(market) == [genuine, retained[SPORTS_CARD]]


@pytest.mark.parametrize("purpose", ["browse_prekeys", "order_prekeys"])
def test_a_slot_of_a_merchants_own_invention(bazaar: Bazaar, retained: dict[str, bytes], purpose: str):
    """Else each customer could be given a slot, and so a key, of its own."""
    with bazaar.customer() as market:
        body = codec.MERCHANT_CARD.unpack(parts(retained[SPORTS_CARD])[1])
        keys = [messages.SlotKey(slot=key.slot + 1, public=key.public) for key in getattr(body, purpose)]
        retained[SPORTS_CARD] = merchant_card(bazaar, retained[SPORTS_CARD], **{purpose: keys})
        market._context.uplink.close()
        with pytest.raises(UntrustedError, match="no calendar slot"):
            market.show("sports", "PLAN")


@pytest.mark.parametrize("public", [bytes(1216), bytes([1]) * 1184 + bytes(32)])
def test_a_degenerate_prekey(bazaar: Bazaar, retained: dict[str, bytes], public: bytes):
    with bazaar.customer() as market:
        later = [messages.SlotKey(slot=2**50 - 2**50 % config.HOUR_MS, public=public)]
        retained[SPORTS_CARD] = merchant_card(bazaar, retained[SPORTS_CARD], browse_prekeys=later)
        market._context.uplink.close()
        with pytest.raises(UntrustedError, match="degenerate"):
            market.show("sports", "PLAN")


def test_a_card_on_another_merchants_topic(bazaar: Bazaar, retained: dict[str, bytes]):
    with bazaar.customer() as market:
        market._context.uplink.close()
        retained[topics.merchant_card("maps")] = retained[SPORTS_CARD]
        with pytest.raises(UntrustedError):
            market.show("maps", "PLAN")
        retained["veilmart/v1/merchant/fake/card"] = b"\x00"
        assert [merchant.id for merchant in market.merchants()] == ["sports"]


def resigned(bazaar: Bazaar, **changes: Any) -> None:
    """Let the sports merchant show a record of its own signature that its own code would never make."""
    node = bazaar.world.merchants["sports"]
    products = node.merchant._browse._catalog._products
    record = msgspec.structs.replace(products["PLAN"].record, **changes)
    packed = codec.pack(record)
    signature = node.shop.identity.sign(PRODUCT_RECORD_LABEL, packed)
    products["PLAN"] = dataclasses.replace(
        products["PLAN"], record=record, packed=packed, signature=signature
    )


def test_a_bucket_holds_the_content_and_little_more(bazaar: Bazaar):
    """A merchant could otherwise sell a file whose download never ends."""
    cell = config.CELL_CONTENT
    good = [(0, 1), (0, 8), (cell, 1), (cell + 1, 2), (cell + 1, 16)]
    bad = [(0, 9), (cell + 1, 1), (cell + 1, 17), (1, 2**28)]
    catalog = bazaar.world.merchants["sports"].merchant._browse._catalog
    with bazaar.customer() as market:
        market.show("sports", "PLAN")
        genuine = catalog._products["PLAN"]
        try:
            for size, cells in good:
                resigned(bazaar, size=size, cells=cells)
                assert market.show("sports", "PLAN").cells == cells
            for size, cells in bad:
                resigned(bazaar, size=size, cells=cells)
                with pytest.raises(UntrustedError):
                    market.show("sports", "PLAN")
        finally:
            catalog._products["PLAN"] = genuine


# --- frames --------------------------------------------------------------------------------------------


def test_what_does_not_open_is_counted_and_dropped(bazaar: Bazaar):
    count = 0

    def tamper(publish: Publish) -> list[Publish]:
        nonlocal count
        if not publish.topic.endswith("/down"):
            return [publish]
        count += 1
        broken = bytearray(publish.payload)
        broken[count * 37 % len(broken)] ^= 1
        spoilt = [bytes(broken), publish.payload[:-1], b"", b"\x00" * 1024]
        before = [Publish(publish.sender, publish.topic, payload, retain=False) for payload in spoilt]
        return [*before, publish, publish]

    with bazaar.customer(bundles=0) as market:
        bazaar.world.fund(home(market).name, 2000)
        with bazaar.tampering(tamper):
            market.withdraw()
            order = market.buy_now("sports", "PLAN")
            market.download(order.order_id, home(market) / "out")
        assert market.order(order.order_id).state == "complete"
        assert market.wallet().usable == 2000 - 1234
        assert len(market.orders()) == 1


def test_a_ticket_spent_elsewhere_is_given_up(bazaar: Bazaar):
    with bazaar.customer() as market:
        tickets = market.wallet().tickets
        shutil.copytree(home(market), bazaar.profile("copy"))
        market.show("sports", "PLAN")
        market.show("maps", "PLAN")
    with Market(bazaar.profile("copy"), connect=bazaar.world.connect) as copy:
        assert copy.show("sports", "PLAN").sku == "PLAN"
        assert copy.wallet().tickets == tickets - 3


def test_coins_spent_elsewhere_are_sifted_out(bazaar: Bazaar):
    with bazaar.customer(bundles=1) as market:
        shutil.copytree(home(market), bazaar.profile("backup"))
        market.buy_now("sports", "PLAN")
    with Market(bazaar.profile("backup"), connect=bazaar.world.connect) as backup:
        assert backup.wallet().usable == 2000
        with pytest.raises(Exception, match="spent before"):
            backup.buy_now("maps", "PLAN")
        assert backup.wallet().usable == 2000 - 1234
        assert backup.wallet().reserved == 0
        backup.buy_now("maps", "ROUTE")
        assert backup.wallet().usable == 2000 - 1234 - 77


def test_young_tickets_wait(tmp_path: Path):
    bazaar = build(tmp_path, minimum_age_seconds=60)
    try:
        with bazaar.customer() as market:
            assert (market.wallet().usable, market.wallet().young) == (0, 4000)
            with pytest.raises(OutOfTicketsError) as failure:
                market.show("sports", "PLAN")
            assert "--now" in failure.value.hint
        with bazaar.again(market, allow_young=True) as hasty:
            assert hasty.buy_now("sports", "PLAN").state == "accepted"
    finally:
        bazaar.world.close()
