"""One key per slot: the whole key counts, both cards are kept, and what is over takes no room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from common import messages, sealing
from common.config import DAY_MS, HOUR_MS
from common.errors import UntrustedError
from common.slots import month_of
from common.store import Store
from customer_node import key_slots
from customer_node.key_slots import SecondKeyError, Shown, issuer_slots, key_for, remember, slot_keys
from customer_node.schema import cards

NOW = 1_800_014_400_000
HOUR = NOW - NOW % HOUR_MS
DAY = NOW - NOW % DAY_MS


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.in_home(tmp_path, "profile.db", "customer_node.migrations")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def keys() -> list[bytes]:
    return [sealing.XWingPrivateKey.generate().public.raw for _ in range(2)]


def slot(start: int, public: bytes) -> messages.SlotKey:
    return messages.SlotKey(slot=start, public=public)


def show(store: Store, shown: list[Shown], card: bytes, now: int = NOW) -> None:
    with store.immediate() as tx:
        remember(tx, "merchant/sports", shown, card, now)


def kept(store: Store) -> set[bytes]:
    with store.immediate() as tx:
        return {row["card"] for row in tx.all(sa.select(cards.c.card))}


def test_two_keys_with_one_id_are_two_keys(store: Store, keys: list[bytes], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sealing.XWingPublicKey, "key_id", property(lambda _: bytes(8)))
    show(store, slot_keys("sports", "browse", [slot(HOUR, keys[0])], NOW), b"first card")
    show(store, slot_keys("sports", "browse", [slot(HOUR, keys[0])], NOW), b"the same key again")
    with pytest.raises(SecondKeyError) as second:
        show(store, slot_keys("sports", "browse", [slot(HOUR, keys[1])], NOW), b"second card")
    assert second.value.first == b"first card"
    assert kept(store) == {b"first card"}


def test_two_keys_for_one_slot_in_one_card(store: Store, keys: list[bytes]):
    both = slot_keys("sports", "browse", [slot(HOUR, keys[0]), slot(HOUR, keys[1])], NOW)
    with pytest.raises(SecondKeyError) as second:
        show(store, both, b"card")
    assert second.value.first == b"card"
    assert kept(store) == set()


def test_cards_go_with_their_last_slot(store: Store, keys: list[bytes]):
    for hours in range(24 * 10):
        now = NOW + hours * HOUR_MS
        listed = slot_keys("sports", "browse", [slot(HOUR + hours * HOUR_MS, keys[0])], now)
        show(store, listed, hours.to_bytes(2, "big"), now)
    assert len(kept(store)) < 24 * 4
    show(store, [], b"", NOW + 100 * DAY_MS)
    assert kept(store) == set()


def test_a_slot_is_a_calendar_slot(keys: list[bytes]):
    with pytest.raises(UntrustedError, match="no calendar slot"):
        slot_keys("sports", "browse", [slot(HOUR + 1, keys[0])], NOW)
    with pytest.raises(UntrustedError, match="no calendar slot"):
        slot_keys("sports", "order", [slot(HOUR if HOUR % DAY_MS else HOUR + HOUR_MS, keys[0])], NOW)


@pytest.mark.parametrize("start", [DAY - 3 * DAY_MS, DAY + 2 * DAY_MS])
def test_a_key_far_from_now_is_not_used(keys: list[bytes], start: int):
    assert key_for("order", [slot(start, keys[0])], NOW) is None
    chosen = key_for("order", [slot(start, keys[0]), slot(DAY, keys[1])], NOW)
    assert chosen is not None
    assert chosen.raw == keys[1]


@pytest.mark.parametrize("purpose", key_slots.PERIODS)
def test_what_may_be_used_is_remembered(keys: list[bytes], purpose: key_slots.Purpose):
    """Also where the broker's clock, by which a key is chosen, is a day from ours."""
    period = key_slots.PERIODS[purpose]
    for ours in range(DAY - 5 * DAY_MS, DAY + 5 * DAY_MS, HOUR_MS):
        for theirs in (ours - DAY_MS, ours, ours + DAY_MS):
            start = DAY - DAY % period
            if key_for(purpose, [slot(start, keys[0])], theirs) is not None:
                (shown,) = slot_keys("sports", purpose, [slot(start, keys[0])], ours)
                assert shown.until > ours


def test_issuer_keys_of_other_months_are_passed_over():
    months = ["2026-11", "2026-12", "2027-01", "2027-02", "2027-03", "9999-01"]
    listed = [
        messages.IssuerKey(key_id=bytes(8), purpose="coin", value=4, month=month, public=bytes(256))
        for month in months
    ]
    assert month_of(NOW) == "2027-01"
    assert [key.month for key in key_slots.issuer_keys(listed, NOW)] == months[1:4]
    shown = issuer_slots(listed, NOW)
    assert [each.purpose for each in shown] == ["coin 4"] * 3
    assert [month_of(each.slot) for each in shown] == months[1:4]
