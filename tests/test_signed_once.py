"""Each blinded value is signed once: what is remembered of those that were, how long, and at what cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa
from client import Customer, blinded, fresh
from world import World

from broker_node import schema, signed_once
from common import messages, slots
from common.store import Store

MONTHS = ("2026-11", "2026-12", "2027-01", "2027-02")
FEBRUARY = slots.month_start("2027-02")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.in_home(tmp_path, "broker.db", "broker_node.migrations")
    yield store
    store.close()


def key(month: str, number: int = 0) -> messages.IssuerKey:
    key_id = month.encode()[1:] + bytes([0, number])
    return messages.IssuerKey(key_id=key_id, purpose="coin", value=1, month=month, public=bytes(256))


KEYS = {each.key_id: each for each in (*map(key, MONTHS), key(MONTHS[-1], 1))}


def marks(key_id: bytes, *numbers: int) -> tuple[bytes, ...]:
    values = (number.to_bytes(256) for number in numbers)
    return signed_once.marks_of(
        KEYS, [messages.BlindedToken(key_id=key_id, blinded=value) for value in values]
    )


def remembered(store: Store) -> set[bytes]:
    with store.immediate() as tx:
        return {row["mark"] for row in tx.all(sa.select(schema.signed_marks))}


def again(store: Store, *requests: Sequence[bytes]) -> set[int]:
    with store.immediate() as tx:
        found = signed_once.wanted_again(tx, [(bytes([n]), each) for n, each in enumerate(requests)])
    return {name[0] for name in found}


def test_a_value_belongs_to_its_key_and_stands_once(store: Store) -> None:
    one, other = (each.key_id for each in KEYS.values() if each.month == MONTHS[-1])
    with store.immediate() as tx:
        signed_once.note(tx, marks(one, 3, 1, 2))
    assert again(store, marks(one, 4), marks(other, 1), marks(one, 5, 2), marks(one, 6, 6)) == {2, 3}
    assert again(store, marks(one, 7, 8), marks(one, 9, 8), marks(one, 9)) == {1}, "9 was had by nobody"
    assert again(store) == set()


def test_marks_go_when_no_key_of_their_month_can_sign_a_part_at_a_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_month = {each.month: marks(each.key_id, *range(5)) for each in list(KEYS.values())[:4]}
    with store.immediate() as tx:
        for each in by_month.values():
            signed_once.note(tx, each)
    monkeypatch.setattr(signed_once, "_OLD", signed_once._OLD.limit(7))
    monkeypatch.setattr(
        signed_once,
        "_SWEEP",
        sa.delete(schema.signed_marks).where(schema.signed_marks.c.mark.in_(signed_once._OLD)),
    )
    counts = []
    for _ in range(3):
        with store.immediate() as tx:
            signed_once.sweep(tx, FEBRUARY)
        counts.append(len(remembered(store)))
    assert counts == [13, 10, 10]
    # A clock that is set back by a few days finds January's.
    assert remembered(store) == {*by_month["2027-01"], *by_month["2027-02"]}


def test_what_is_refused_costs_no_signature(
    world: World, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = customer.shop()
    wanted = blinded(world, [32]).tokens
    exchange = messages.Swap(operation=fresh(), coins=customer.pay(32), blinded=wanted)
    session.ask(exchange, messages.Swapped)
    monkeypatch.delattr("broker_node.mint.Mint.sign")
    again = messages.Swap(operation=fresh(), coins=customer.pay(32), blinded=wanted)
    assert session.refused(again) == "already_signed"
    account = customer.account()
    world.fund("alice", 32)
    drawn = messages.Withdraw(operation=fresh(), coins=wanted, tickets=[])
    assert account.refused(drawn) == "already_signed"


def test_a_broker_that_starts_again_remembers(world: World, customer: Customer) -> None:
    wanted = blinded(world, [32]).tokens
    customer.shop().ask(
        messages.Swap(operation=fresh(), coins=customer.pay(32), blinded=wanted), messages.Swapped
    )
    world.stop("broker")
    world.start_broker()
    again = messages.Swap(operation=fresh(), coins=customer.pay(32), blinded=wanted)
    assert customer.shop().refused(again) == "already_signed"
