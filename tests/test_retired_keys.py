"""Keys rotate by the month: announced ahead, honoured for their grace, then refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from client import Customer, Session, Shopkeeper, blinded, broker_card, dump, fresh
from conftest import Time
from months import go_to, months_announced, to_grace_end, to_month_end
from world import World

from broker_node import ledger
from common import clock, coins, messages, slots
from common.config import DAY_MS, HOUR_MS


def faults(world: World) -> tuple[str, ...]:
    with world.broker.store.immediate() as tx:
        return ledger.check(tx).faults


def test_next_month_is_announced_a_day_ahead_and_signs_nothing_before(
    world: World, customer: Customer, time: Time
) -> None:
    coming = slots.next_month(to_month_end(world, time, 30 * HOUR_MS))
    assert world.pump(lambda: coming in months_announced(world))
    keys = [key for key in broker_card(world).issuer_keys if key.month == coming]
    values = sorted(key.value for key in keys if key.purpose == "coin")
    assert values == [2**n for n in range(15)]
    assert [key.purpose for key in keys if not key.value] == ["ticket"]
    early = [coins.blind_token(key, bytes(32), 0) for key in keys if key.value == 1]
    request = messages.Withdraw(operation=fresh(), coins=early, tickets=[])
    assert customer.account().refused(request) == "unknown_key"


def test_a_coin_pays_in_the_month_after_its_own(
    world: World, customer: Customer, keeper: Shopkeeper, time: Time
) -> None:
    month = slots.month_of(clock.now_ms())
    go_to(world, time, slots.grace_end(month) - DAY_MS // 2)
    order, session = customer.order(64), customer.shop()
    # The keeper's session is over by now: the order is held for it.
    session.say(order.place)
    assert session.hear(messages.OrderAnswer).state == "held"
    assert faults(world) == ()


def test_a_retired_key_is_refused_by_name_and_nothing_is_written(
    world: World, customer: Customer, keeper: Shopkeeper, time: Time
) -> None:
    month = slots.month_of(clock.now_ms())
    paid = customer.pay(16)
    to_grace_end(world, time, month)
    session = newcomer(world)
    before = dump(world)
    swap = messages.Swap(operation=fresh(), coins=paid, blinded=blinded(world, [16]).tokens)
    refused = session.ask(swap, messages.KeyRetired)
    assert refused.reference == swap.operation
    assert refused.key_id == paid[0].key_id
    assert refused.month == month
    assert refused.ended == slots.grace_end(month)
    assert refused.exchange_until == 0
    order = customer.order(16, coins=paid)
    assert session.ask(order.place, messages.KeyRetired).key_id == paid[0].key_id
    assert dump(world) == before


def newcomer(world: World) -> Session:
    """Somebody who came when the old keys were retired."""
    return Customer(world, "newcomer").shop()


@pytest.fixture
def generous(tmp_path: Path) -> Iterator[World]:
    """A market whose operator swaps coins of retired keys for thirty days."""
    world = World(tmp_path, limits={"retired_exchange_ms": 30 * DAY_MS})
    yield world
    world.close()


def test_an_operator_may_have_them_swapped_for_a_time_and_they_pay_nothing(
    generous: World, time: Time
) -> None:
    world = generous
    customer = Customer(world)
    Shopkeeper(world)
    month = slots.month_of(clock.now_ms())
    paid, late = customer.pay(16), customer.pay(32)
    to_grace_end(world, time, month)
    session = newcomer(world)
    order = customer.order(16, coins=paid)
    refused = session.ask(order.place, messages.KeyRetired)
    assert refused.exchange_until == slots.grace_end(month) + 30 * DAY_MS
    wanted = blinded(world, [8, 8])
    swap = messages.Swap(operation=fresh(), coins=paid, blinded=wanted.tokens)
    made = wanted.unblind(session.ask(swap, messages.Swapped).signatures)
    assert len(made) == 2
    again = messages.Swap(operation=fresh(), coins=paid, blinded=blinded(world, [16]).tokens)
    assert session.refused(again) == "double_spend"
    # A ticket is no money: nothing is exchanged for it, and its key signs nothing.
    to_sign = messages.BlindedToken(key_id=paid[0].key_id, blinded=wanted.tokens[0].blinded)
    old = messages.Swap(operation=fresh(), coins=made, blinded=[to_sign])
    assert session.refused(old) == "unknown_key"
    go_to(world, time, slots.grace_end(month) + 30 * DAY_MS + HOUR_MS)
    session = Customer(world, "another").shop()
    over = messages.Swap(operation=fresh(), coins=late, blinded=blinded(world, [32]).tokens)
    assert session.ask(over, messages.KeyRetired).exchange_until == 0
    assert faults(world) == ()
