"""Captured money is pending until its customer has what it paid for, or long enough; then it is available."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from client import Customer, Order, Session, Shopkeeper, accept, dump, fresh, order_state, reject, settle
from conftest import Time
from hypothesis import given
from hypothesis import strategies as st
from world import World

from broker_node import ledger, schema
from common import clock, messages
from common.config import DAY_MS, HOUR_MS, MINUTE_MS
from common.errors import RefusedError


def books(world: World) -> dict[str, int]:
    with world.broker.store.immediate() as tx:
        report = ledger.check(tx)
    assert report.faults == ()
    return dict(report.books)


def bought(customer: Customer, session: Session, keeper: Shopkeeper, amount: int = 100) -> Order:
    order = customer.order(amount)
    session.say(order.place)
    keeper.say(accept(keeper.hear(messages.ForwardOrder)))
    assert session.hear(messages.OrderAnswer).state == "captured"
    keeper.hear(messages.OrderOutcome)
    keeper.say(messages.OutcomeKept(order_id=order.id, outcome="captured"))
    settle(world=session.world)
    return order


def events(world: World) -> list[str]:
    found = []
    for publish in world.bus.passed:
        if publish.topic.startswith("veilmart/v1/audit/event/order."):
            body = json.loads(publish.payload)
            found += [each["type"] for each in (body if isinstance(body, list) else [body])]
    return found


def test_a_confirmed_delivery_settles_at_once(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    order = bought(customer, session, keeper)
    assert books(world)["pending:sports"] == 100
    answer = session.ask(order.confirmed, messages.OrderAnswer)
    assert (answer.state, answer.settles) == ("settled", 0)
    after = books(world)
    assert (after["pending:sports"], after["available:sports"], after.get("commission", 0)) == (0, 100, 0)
    assert "veilmart.order.settled" in events(world)
    assert keeper.collect() == []


def test_a_confirmation_again_in_one_frame_and_across_pays_once(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    order = bought(customer, session, keeper)
    session.say(order.confirmed, order.confirmed)
    assert [session.hear(messages.OrderAnswer).state for _ in "12"] == ["settled"] * 2
    before = dump(world)
    assert customer.shop().ask(order.confirmed, messages.OrderAnswer).state == "settled"
    assert books(world)["available:sports"] == 100
    assert {name: rows for name, rows in dump(world).items() if name in ("orders", "ledger")} == {
        name: before[name] for name in ("orders", "ledger")
    }


def test_only_the_status_secret_of_a_captured_order_settles(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    order = bought(customer, session, keeper)
    held = customer.order(32)
    session.say(held.place)
    forward = keeper.hear(messages.ForwardOrder)
    before = dump(world)
    for order_id, secret, code in (
        (order.id, bytes(32), "wrong_secret"),
        (order.id, order.claim_secret, "wrong_secret"),
        (fresh(), order.status_secret, "not_found"),
        (held.id, held.status_secret, "wrong_state"),
    ):
        assert session.refused(messages.ConfirmDelivery(order_id=order_id, status_secret=secret)) == code
    assert dump(world) == before
    keeper.say(reject(forward))
    assert session.hear(messages.OrderAnswer).state == "refundable"
    assert session.refused(held.confirmed) == "wrong_state"


def test_what_nobody_confirms_settles_by_itself_and_tells_who_asked(
    world: World, customer: Customer, keeper: Shopkeeper, time: Time
) -> None:
    session = customer.shop()
    order = bought(customer, session, keeper)
    settles = session.ask(order.asked, messages.OrderAnswer).settles
    assert abs(settles - clock.now_ms() - 7 * DAY_MS) < MINUTE_MS
    time.advance(7 * DAY_MS - MINUTE_MS)
    settle(world)
    assert order_state(world, order.id) == "captured"
    time.advance(2 * MINUTE_MS)
    settle(world)
    assert order_state(world, order.id) == "settled"
    assert books(world)["available:sports"] == 100


def test_an_order_that_settled_before_its_merchant_heard_is_still_told(
    world: World, customer: Customer, keeper: Shopkeeper, time: Time
) -> None:
    session = customer.shop()
    order = customer.order()
    session.say(order.place)
    keeper.say(accept(keeper.hear(messages.ForwardOrder)))
    session.hear(messages.OrderAnswer)
    keeper.hear(messages.OrderOutcome)
    session.ask(order.confirmed, messages.OrderAnswer)
    time.advance(MINUTE_MS)
    # What it kept of the capture does not answer what it is told since.
    keeper.say(messages.OutcomeKept(order_id=order.id, outcome="captured"))
    assert keeper.hear(messages.OrderOutcome).outcome == "settled"
    keeper.say(messages.OutcomeKept(order_id=order.id, outcome="settled"))
    settle(world)
    time.advance(HOUR_MS)
    assert keeper.collect() == []


@pytest.mark.parametrize(("basis_points", "share"), [(0, 0), (250, 2), (300, 3), (350, 3), (10_000, 99)])
def test_the_commission_is_taken_when_it_settles(tmp_path: Path, basis_points: int, share: int) -> None:
    world = World(tmp_path, limits={"commission_basis_points": basis_points})
    try:
        customer, keeper = Customer(world), Shopkeeper(world)
        session = customer.shop()
        order = bought(customer, session, keeper, 99)
        session.ask(order.confirmed, messages.OrderAnswer)
        after = books(world)
        assert after.get("commission", 0) == share
        assert after.get("available:sports", 0) == 99 - share
    finally:
        world.close()


@given(st.integers(0, 10**12), st.integers(0, 10_000))
def test_a_commission_is_rounded_half_up_and_never_more_than_all(amount: int, basis_points: int) -> None:
    commission = ledger.commission_of(amount, basis_points)
    assert 0 <= commission <= amount
    assert abs(2 * (commission * 10_000 - amount * basis_points)) <= 10_000
    assert commission == (2 * amount * basis_points + 10_000) // 20_000


def test_available_money_never_falls_below_zero(world: World) -> None:
    with world.broker.store.immediate() as tx:
        ledger.post(tx, bytes(16), {"escrow": -10, "pending:sports": 10}, 0)
        ledger.post(tx, bytes(16), {"pending:sports": -10, "available:sports": 10}, 0)
        with pytest.raises(RefusedError, match="insufficient_funds"):
            ledger.require_available(tx, "sports", 11)
        with pytest.raises(RefusedError, match="insufficient_funds"):
            ledger.require_available(tx, "films", 1)
        ledger.require_available(tx, "sports", 10)
        ledger.post(tx, bytes(16), {"available:sports": -10, "escrow": 10}, 0)
        assert ledger.available(tx, "sports") == ledger.available(tx, "films") == 0
        with pytest.raises(ledger.OverdrawnError):
            ledger.post(tx, bytes(16), {"available:sports": -1, "escrow": 1}, 0)


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        (schema.merchant_lines.update().values(available=99), "is not the line of sports"),
        (schema.orders.update().values(refunded=1), "escrow is 0, open orders hold 1"),
        (schema.orders.update().values(state="captured"), "pending:sports is 0"),
    ],
)
def test_a_row_that_says_something_else_is_found(
    world: World, customer: Customer, keeper: Shopkeeper, table: object, fault: str
) -> None:
    session = customer.shop()
    session.ask(bought(customer, session, keeper).confirmed, messages.OrderAnswer)
    with world.broker.store.immediate() as tx:
        tx.execute(table)  # type: ignore[arg-type] # an update
        faults = ledger.check(tx).faults
    assert any(fault in each for each in faults), faults
