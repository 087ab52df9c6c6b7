"""Money back at the broker: orders called off, merchants' refunds in parts, claims in parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from client import (
    Customer,
    Order,
    Shopkeeper,
    accept,
    blinded,
    dump,
    fresh,
    order_state,
    reject,
    settle,
)
from conftest import Time
from test_broker_settlement import books, bought, events
from world import World

from common import coins, messages
from common.config import HOUR_MS, MINUTE_MS


def claim(world: World, order: Order, values: list[int]) -> messages.ClaimRefund:
    return order.claim(blinded(world, values), operation=fresh())


def give_back(order: Order, amount: int, refund: bytes | None = None) -> messages.RefundOrder:
    return messages.RefundOrder(order_id=order.id, refund=refund or fresh(), amount=amount)


# --- called off ----------------------------------------------------------------------------------------


def test_a_held_order_is_called_off_and_its_merchant_is_told(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    order = customer.order()
    session.say(order.place)
    forward = keeper.hear(messages.ForwardOrder)
    answer = session.ask(order.cancelled, messages.OrderAnswer)
    assert (answer.state, answer.refunded, answer.claimed) == ("refundable", 100, 0)
    assert keeper.hear(messages.OrderOutcome).outcome == "void"
    assert len(dump(world)["order_bodies"]) == 0
    # A late accept finds the order void, and changes nothing.
    keeper.say(accept(forward))
    assert keeper.hear(messages.OrderOutcome).outcome == "void"
    assert order_state(world, order.id) == "refundable"
    keeper.say(messages.OutcomeKept(order_id=order.id, outcome="void"))
    issued = session.ask(claim(world, order, [64, 32, 4]), messages.RefundIssued)
    assert len(issued.signatures) == 3
    assert order_state(world, order.id) == "refunded"
    assert books(world).get("escrow", 0) == 0


def test_an_order_called_off_while_its_merchant_is_away_is_void_when_it_is_back(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    keeper.go()
    order = customer.order()
    session.ask(order.place, messages.OrderAnswer)
    assert session.ask(order.cancelled, messages.OrderAnswer).state == "refundable"
    keeper.collect()
    keeper.open()
    outcome = keeper.hear(messages.OrderOutcome)
    assert (outcome.order_id, outcome.outcome) == (order.id, "void")


def test_a_cancel_that_comes_after_the_accept_tells_what_was_bought(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    order = bought(customer, session, keeper)
    before = dump(world)
    answer = session.ask(order.cancelled, messages.OrderAnswer)
    assert (answer.state, answer.answer, answer.refunded) == ("captured", b"sealed: yes", 0)
    assert dump(world) == before


def test_of_accept_and_cancel_in_one_batch_one_wins(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    order = customer.order()
    session.say(order.place)
    answer = accept(keeper.hear(messages.ForwardOrder))
    for frame, topic in ((session.seal(order.cancelled), session.up), (keeper.seal(answer), keeper.up)):
        world.bus.publish("test", topic, frame, retain=False)
    settle(world)
    state = order_state(world, order.id)
    paid = books(world).get("pending:sports", 0)
    assert (state, paid) in {("captured", 100), ("refundable", 0)}
    assert session.ask(order.asked, messages.OrderAnswer).state == state


def test_only_the_claim_secret_calls_off(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    order = customer.order()
    session.say(order.place)
    keeper.hear(messages.ForwardOrder)
    before = dump(world)
    for order_id, secret, code in (
        (order.id, order.status_secret, "wrong_secret"),
        (order.id, bytes(32), "wrong_secret"),
        (fresh(), order.claim_secret, "not_found"),
    ):
        assert session.refused(messages.CancelOrder(order_id=order_id, claim_secret=secret)) == code
    assert dump(world) == before


# --- given back ----------------------------------------------------------------------------------------


def test_a_merchant_gives_back_in_parts_and_the_last_takes_the_remainder(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    order = bought(customer, session, keeper)
    session.ask(order.asked, messages.OrderAnswer)
    taken = keeper.ask(give_back(order, 36), messages.RefundTaken)
    assert (taken.amount, taken.left) == (36, 64)
    told = session.hear(messages.OrderAnswer)
    assert (told.state, told.refunded, told.claimed) == ("captured", 36, 0)
    assert order_state(world, order.id) == "captured"
    assert (books(world)["pending:sports"], books(world)["escrow"]) == (64, 36)
    session.ask(claim(world, order, [32, 4]), messages.RefundIssued)
    assert books(world)["escrow"] == 0

    taken = keeper.ask(give_back(order, 0), messages.RefundTaken)
    assert (taken.amount, taken.left) == (64, 0)
    told = session.hear(messages.OrderAnswer)
    assert (told.state, told.refunded, told.claimed, told.settles) == ("refunded", 100, 36, 0)
    assert events(world).count("veilmart.order.refunded") == 1
    session.ask(claim(world, order, [64]), messages.RefundIssued)
    assert books(world)["pending:sports"] == 0
    assert events(world).count("veilmart.order.refunded") == 1
    assert keeper.refused(give_back(order, 1)) == "wrong_state"


def test_a_refund_again_is_one_refund(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    order = bought(customer, session, keeper)
    request = give_back(order, 10)
    first = keeper.ask(request, messages.RefundTaken)
    before = dump(world)
    assert keeper.ask(request, messages.RefundTaken) == first
    assert keeper.refused(give_back(order, 11, request.refund)) == "idempotency_conflict"
    assert dump(world) == before
    assert books(world)["pending:sports"] == 90


def test_what_settles_is_what_was_left(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    order = bought(customer, session, keeper)
    keeper.ask(give_back(order, 36), messages.RefundTaken)
    session.collect()
    assert session.ask(order.confirmed, messages.OrderAnswer).state == "settled"
    after = books(world)
    assert (after["pending:sports"], after["available:sports"], after["escrow"]) == (0, 64, 36)


def test_after_settlement_it_comes_out_of_what_is_available(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    order = bought(customer, session, keeper)
    session.ask(order.confirmed, messages.OrderAnswer)
    keeper.ask(give_back(order, 36), messages.RefundTaken)
    assert order_state(world, order.id) == "settled"
    assert (books(world)["available:sports"], books(world)["escrow"]) == (64, 36)
    keeper.ask(give_back(order, 64), messages.RefundTaken)
    assert order_state(world, order.id) == "refunded"
    session.ask(claim(world, order, [64, 32, 4]), messages.RefundIssued)
    assert books(world)["available:sports"] == 0


def test_what_was_paid_out_cannot_be_given_back(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    order = bought(customer, session, keeper)
    session.ask(order.confirmed, messages.OrderAnswer)
    wanted = messages.RequestPayout(payout_id=fresh(), amount=40, destination="a bank")
    keeper.ask(wanted, messages.PayoutAnswer)
    before = dump(world)
    assert keeper.refused(give_back(order, 0)) == "insufficient_funds"
    assert keeper.refused(give_back(order, 61)) == "insufficient_funds"
    assert dump(world) == before
    assert keeper.ask(give_back(order, 60), messages.RefundTaken).left == 40
    books(world)


@pytest.mark.parametrize(("amount", "code"), [(101, "wrong_amount"), (10**12, "wrong_amount")])
def test_never_more_than_is_left(
    world: World, customer: Customer, keeper: Shopkeeper, amount: int, code: str
) -> None:
    session = customer.shop()
    order = bought(customer, session, keeper)
    before = dump(world)
    assert keeper.refused(give_back(order, amount)) == code
    assert dump(world) == before


def test_only_what_was_paid_and_only_by_its_merchant(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session, other = customer.shop(), Shopkeeper(world, "films")
    paid = bought(customer, session, keeper, 32)
    held = customer.order(64)
    session.say(held.place)
    forward = keeper.hear(messages.ForwardOrder)
    before = dump(world)
    assert other.refused(give_back(paid, 0)) == "not_found"
    assert keeper.refused(messages.RefundOrder(order_id=fresh(), refund=fresh(), amount=0)) == "not_found"
    assert keeper.refused(give_back(held, 0)) == "wrong_state"
    assert dump(world) == before
    keeper.say(reject(forward))
    settle(world)
    assert keeper.refused(give_back(held, 0)) == "wrong_state"
    # Ids of refunds are each merchant's own.
    shared = fresh()
    keeper.ask(give_back(paid, 1, shared), messages.RefundTaken)
    assert other.refused(give_back(paid, 1, shared)) == "not_found"


def test_a_merchant_that_never_heard_of_the_capture_is_told_of_the_refund(
    world: World, customer: Customer, keeper: Shopkeeper, time: Time
) -> None:
    session = customer.shop()
    order = customer.order()
    session.say(order.place)
    keeper.say(accept(keeper.hear(messages.ForwardOrder)))
    keeper.hear(messages.OrderOutcome)
    keeper.ask(give_back(order, 0), messages.RefundTaken)
    time.advance(MINUTE_MS)
    assert keeper.hear(messages.OrderOutcome).outcome == "refunded"
    keeper.say(messages.OutcomeKept(order_id=order.id, outcome="refunded"))
    settle(world)
    time.advance(HOUR_MS)
    assert keeper.collect() == []


# --- claimed -------------------------------------------------------------------------------------------


def test_claims_in_parts_each_once_and_never_more_than_was_given_back(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    order = customer.order()
    session.say(order.place)
    keeper.say(reject(keeper.hear(messages.ForwardOrder)))
    session.hear(messages.OrderAnswer)
    first = claim(world, order, [64])
    issued = session.ask(first, messages.RefundIssued)
    assert order_state(world, order.id) == "refundable"
    assert books(world)["escrow"] == 36
    before = dump(world)
    assert session.ask(first, messages.RefundIssued) == issued
    assert session.refused(claim(world, order, [32, 4, 1])) == "wrong_amount"
    other = order.claim(blinded(world, [32]), operation=first.operation)
    assert session.refused(other) == "idempotency_conflict"
    assert dump(world) == before
    session.ask(claim(world, order, [32, 4]), messages.RefundIssued)
    assert order_state(world, order.id) == "refunded"
    assert session.refused(claim(world, order, [1])) == "wrong_state"
    assert books(world)["escrow"] == 0


def test_two_claims_at_once_draw_no_more_than_there_is(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    order = bought(customer, session, keeper)
    keeper.ask(give_back(order, 48), messages.RefundTaken)
    session.say(claim(world, order, [32]), claim(world, order, [32]))
    assert session.hear(messages.RefundIssued)
    assert session.hear(messages.Refused).code == "wrong_amount"
    assert books(world)["escrow"] == 16


def test_an_operation_of_one_orders_claim_is_nothing_at_another(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    orders = []
    for _ in "12":
        order = customer.order(32)
        session.say(order.place)
        keeper.say(reject(keeper.hear(messages.ForwardOrder)))
        session.hear(messages.OrderAnswer)
        orders.append(order)
    shared: Any = fresh()
    for order in orders:
        issued = session.ask(order.claim(blinded(world, [32]), operation=shared), messages.RefundIssued)
        assert issued.operation == shared
    assert books(world).get("escrow", 0) == 0


def test_of_what_was_given_back_before_no_commission_is_kept_and_of_the_rest_it_stays(tmp_path: Path) -> None:
    world = World(tmp_path, limits={"commission_basis_points": 250})
    try:
        customer, keeper = Customer(world), Shopkeeper(world)
        session = customer.shop()
        order = bought(customer, session, keeper)
        keeper.ask(give_back(order, 36), messages.RefundTaken)
        session.collect()
        assert session.ask(order.confirmed, messages.OrderAnswer).state == "settled"
        assert {name: books(world)[name] for name in KEPT} == {
            "available:sports": 62,
            "commission": 2,
            "escrow": 36,
        }
        # All that is left is 64, of which the operator has 2: a merchant gives back what it has.
        assert keeper.refused(give_back(order, 0)) == "insufficient_funds"
        assert keeper.ask(give_back(order, 62), messages.RefundTaken).left == 2
        assert order_state(world, order.id) == "settled"
        session.ask(claim(world, order, [64, 32, 2]), messages.RefundIssued)
        assert {name: books(world)[name] for name in KEPT} == {
            "available:sports": 0,
            "commission": 2,
            "escrow": 0,
        }
    finally:
        world.close()


KEPT = ("available:sports", "commission", "escrow")


def test_refund_coins_pay_like_others(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    order = bought(customer, session, keeper)
    keeper.ask(give_back(order, 100), messages.RefundTaken)
    wanted = blinded(world, coins.spread(100, {}, 64))
    issued = session.ask(order.claim(wanted), messages.RefundIssued)
    again = customer.order(100, coins=wanted.unblind(issued.signatures))
    session.say(again.place)
    assert keeper.hear(messages.ForwardOrder).order_id == again.id
