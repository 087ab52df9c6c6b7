"""Every new key is one public event: the broker's and the merchants', once each, and no more than that."""

from __future__ import annotations

import hashlib
import sqlite3
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from client import Shopkeeper, broker_card, settle
from conftest import Time
from months import go_to
from test_broker_audit import of_kind
from world import World

from broker_node import audit, mint, schema
from broker_node.announced import AHEAD, KEYS_PER_SLOT
from common import cards, clock, messages, topics
from common.config import DAY_MS, HOUR_MS
from common.keys import IdentityKey
from common.messages import SlotKey
from common.sealing import XWingPrivateKey
from common.slots import month_of, month_start, next_month, slot_start
from common.validity import install_crl
from veilmart import ca

LATE = 20
SPORTS_CARD = topics.merchant_card("sports")


def announced(world: World, owner: str) -> list[dict[str, Any]]:
    """Give the data of every event about a key of this owner; what is published twice has one id."""
    settle(world)
    events = {event["id"]: event["data"] for event in of_kind(world, "key.announced")}
    return [data for data in events.values() if data["owner"] == owner]


def commitments(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return sorted((data["kind"], data["commitment"]) for data in events)


def digest(public: bytes) -> str:
    return hashlib.sha256(public).hexdigest()


def read_card(world: World) -> messages.MerchantCard:
    payload, market = world.bus.retained[SPORTS_CARD], world.market
    return cards.open_merchant_card(payload, market.ca_der, market.market_id, "sports", clock.now_ms()).body


def shown(card: messages.MerchantCard) -> list[tuple[str, str]]:
    keys = [("browse", digest(key.public)) for key in card.browse_prekeys]
    return sorted(keys + [("order", digest(key.public)) for key in card.order_prekeys])


def moment(slot: int) -> str:
    return datetime.fromtimestamp(slot / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def to_noon(world: World, time: Time) -> None:
    """Go to the middle of a day's first hour after noon, so that no test meets a boundary by chance.

    Late in a month it is a day of the next one: that one's keys would be made while a test counts.
    """
    now = clock.now_ms()
    if datetime.fromtimestamp(now / 1000, UTC).day > LATE:
        go_to(world, time, month_start(next_month(month_of(now))) + DAY_MS)
        now = clock.now_ms()
    time.advance(slot_start(now, DAY_MS) + DAY_MS + DAY_MS // 2 + HOUR_MS // 2 - now)


def key(slot: int) -> SlotKey:
    return SlotKey(slot=slot, public=XWingPrivateKey.generate().public.raw)


def hour_key(ahead: int = 0) -> SlotKey:
    return key(slot_start(clock.now_ms(), HOUR_MS) + ahead * HOUR_MS)


def day_key(ahead: int = 0) -> SlotKey:
    return key(slot_start(clock.now_ms(), DAY_MS) + ahead * DAY_MS)


ORDER_KEY = XWingPrivateKey.generate().public.raw


def show(world: World, keeper: Shopkeeper, identity: IdentityKey | None = None, **changes: Any) -> None:
    """Publish a card of the keeper's, with one order prekey that is always the same."""
    now = clock.now_ms()
    today = SlotKey(slot=slot_start(now, DAY_MS), public=ORDER_KEY)
    fields: dict[str, Any] = {
        "market": world.market.market_id,
        "merchant": "sports",
        "issued": now,
        "not_after": now + DAY_MS,
        "name": "Sports",
        "description": "",
        "browse_prekeys": [hour_key()],
        "order_prekeys": [today],
        "catalog_version": now,
    }
    body = messages.MerchantCard(**(fields | changes))
    card = cards.make_card(identity or keeper.identity, keeper.certificate, "merchant", body)
    keeper.connection.put(SPORTS_CARD, card, retain=True)
    settle(world)


# --- what is announced ---------------------------------------------------------------------------------


def test_every_key_of_the_brokers_card_is_one_event(world: World) -> None:
    events = announced(world, "broker")
    card = broker_card(world)
    expected = [("hello", digest(each.public)) for each in card.hello_keys]
    expected += [(each.purpose, digest(each.public)) for each in card.issuer_keys]
    assert commitments(events) == sorted([*expected, ("log", digest(card.log_key))])
    for data in events:
        value = {"value"} if data["kind"] == "coin" else set()
        assert data.keys() == {"kind", "key", "commitment", "owner", "slot"} | value
        assert data["key"] == data["commitment"][:16]
    assert {data["key"] for data in events} >= {each.key_id.hex() for each in card.issuer_keys}
    assert {data["slot"] for data in events if data["kind"] == "hello"} == {
        moment(each.slot) for each in card.hello_keys
    }
    coins = {(data["slot"], data["value"]) for data in events if data["kind"] == "coin"}
    assert coins == {(each.month, each.value) for each in card.issuer_keys if each.purpose == "coin"}
    assert [data["slot"] for data in events if data["kind"] == "log"] == [None]


def test_every_prekey_of_a_merchants_card_is_one_event(world: World, time: Time) -> None:
    to_noon(world, time)
    world.add_merchant("sports")
    events, card = announced(world, "sports"), read_card(world)
    assert commitments(events) == shown(card)
    assert {data["slot"] for data in events if data["kind"] == "browse"} == {
        moment(each.slot) for each in card.browse_prekeys
    }
    assert announced(world, "maps") == []


def test_each_hour_and_each_day_brings_its_keys_and_a_restart_none(world: World, time: Time) -> None:
    to_noon(world, time)
    world.add_merchant("sports")
    before = announced(world, "sports"), announced(world, "broker")
    time.advance(HOUR_MS)
    (new,) = announced(world, "sports")[len(before[0]) :]
    assert (new["kind"], new["commitment"]) == ("browse", digest(read_card(world).browse_prekeys[1].public))
    for name in ("broker", "sports"):
        world.stop(name)
    world.start_broker()
    world.start_merchant("sports")
    assert len(announced(world, "sports")) == len(before[0]) + 1
    assert announced(world, "broker") == before[1]
    time.advance(DAY_MS)
    # A day later: one more hello key and order prekey, and the two browse prekeys of now.
    kinds = sorted(data["kind"] for data in announced(world, "sports")[len(before[0]) + 1 :])
    assert kinds == ["browse", "browse", "order"]
    (hello,) = (data for data in announced(world, "broker") if data not in before[1])
    assert hello["commitment"] == digest(broker_card(world).hello_keys[1].public)


def test_the_card_waits_for_the_transaction_of_its_keys_events(
    world: World, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_noon(world, time)
    settle(world)
    before = announced(world, "broker")
    time.advance(DAY_MS)

    def fail(*_: Any) -> None:
        raise RuntimeError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(audit.Audit, "last_totals", fail)
        with pytest.raises(RuntimeError):
            settle(world)
    assert len(of_kind(world, "key.announced")) == len(before)
    time.advance(1_000)
    assert len(announced(world, "broker")) == len(before) + 1


def test_no_second_coin_key_for_a_slot(world: World) -> None:
    """The store refuses it, and without the row there is no event either."""
    before = announced(world, "broker")
    month = month_of(clock.now_ms())

    def make_another() -> None:
        with world.broker.store.immediate() as tx:
            again = mint.make_key(tx, world.broker_home / "mint", "coin", 1, month)
            world.broker.broker.note_keys(tx, [again], clock.now_ms(), clock.random_bytes)

    with pytest.raises(sqlite3.IntegrityError):
        make_another()
    assert announced(world, "broker") == before


# --- what merchants show -------------------------------------------------------------------------------


def test_a_card_seen_again_brings_nothing_new(world: World, keeper: Shopkeeper, time: Time) -> None:
    to_noon(world, time)
    hour = hour_key()
    for version in (1, 2):
        show(world, keeper, browse_prekeys=[hour], catalog_version=version)
    assert commitments(announced(world, "sports")) == sorted(
        [("browse", digest(hour.public)), ("order", digest(ORDER_KEY))]
    )


def test_a_second_key_for_a_slot_is_in_public_and_a_third_is_not_written(
    world: World, keeper: Shopkeeper, time: Time
) -> None:
    to_noon(world, time)
    keys = [hour_key() for _ in range(KEYS_PER_SLOT + 2)]
    for each in keys:
        show(world, keeper, browse_prekeys=[each])
    found = [data["commitment"] for data in announced(world, "sports") if data["kind"] == "browse"]
    assert found == [digest(each.public) for each in keys[:KEYS_PER_SLOT]]
    with world.broker.store.immediate() as tx:
        rows = tx.all(sa.select(schema.announced_keys).where(schema.announced_keys.c.kind == "browse"))
    assert len(rows) == KEYS_PER_SLOT


def test_slots_that_are_over_or_far_ahead_are_not_written(
    world: World, keeper: Shopkeeper, time: Time
) -> None:
    to_noon(world, time)
    hours = [hour_key(-3), hour_key(-1), hour_key(AHEAD), hour_key(AHEAD + 1)]
    days = [day_key(-2), day_key(-1), day_key(AHEAD), day_key(AHEAD + 1)]
    show(world, keeper, browse_prekeys=hours, order_prekeys=days)
    expected = [("browse", hours[1]), ("browse", hours[2]), ("order", days[1]), ("order", days[2])]
    assert commitments(announced(world, "sports")) == sorted(
        (kind, digest(each.public)) for kind, each in expected
    )


def test_no_event_for_a_card_that_no_customer_would_believe(
    world: World, keeper: Shopkeeper, time: Time
) -> None:
    to_noon(world, time)
    now = clock.now_ms()
    show(world, keeper, IdentityKey.generate())
    show(world, keeper, merchant="maps")
    show(world, keeper, market=bytes(16))
    show(world, keeper, not_after=now)
    show(world, keeper, browse_prekeys=[key(slot_start(now, HOUR_MS) + 1)])
    keeper.connection.put(SPORTS_CARD, b"no card", retain=True)
    assert announced(world, "sports") == announced(world, "maps") == []
    refused = world.running["broker"].loop.refused
    assert (refused["forged"], refused["stale"], refused["malformed"]) == (3, 1, 1)
    assert world.broker.broker.refused["malformed"] == 1
    show(world, keeper)
    assert len(announced(world, "sports")) == 2


def test_no_event_for_a_revoked_merchants_card(world: World, keeper: Shopkeeper, time: Time) -> None:
    to_noon(world, time)
    crl = ca.revoke(world.ca_home, "sports", now_ms=clock.now_ms()).read_bytes()
    install_crl(world.broker_home / "crl.pem", crl, world.market.ca())
    time.advance(2_000)
    settle(world)
    show(world, keeper)
    assert announced(world, "sports") == []
    assert world.broker.broker.refused["revoked"] == 1


def test_what_is_over_is_forgotten_and_not_announced_again(
    world: World, keeper: Shopkeeper, time: Time
) -> None:
    to_noon(world, time)
    hour, day = hour_key(), day_key()
    show(world, keeper, browse_prekeys=[hour], order_prekeys=[day])
    time.advance(4 * DAY_MS)
    settle(world)
    with world.broker.store.immediate() as tx:
        rows = tx.all(sa.select(schema.announced_keys))
    assert {row["owner"] for row in rows} == {"broker"}
    assert {row["kind"] for row in rows} == {"hello", "log"}
    show(world, keeper, browse_prekeys=[hour], order_prekeys=[day])
    assert len(announced(world, "sports")) == 2
