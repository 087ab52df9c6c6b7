"""The broker's orders: held, captured or refundable, and told until everybody knows."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from client import Customer, Session, Shopkeeper, accept, dump, fresh, order_state, reject, settle
from conftest import Time
from world import World

from broker_node import ledger, schema
from common import clock, messages
from common.config import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS


def placed(
    customer: Customer, session: Session, keeper: Shopkeeper, **changes: Any
) -> tuple[Any, messages.ForwardOrder]:
    order = customer.order(**changes)
    session.say(order.place)
    forward = keeper.hear(messages.ForwardOrder)
    assert forward.order_id == order.id
    return order, forward


def books(world: World) -> dict[str, int]:
    with world.broker.store.immediate() as tx:
        report = ledger.check(tx)
    assert report.faults == ()
    return dict(report.books)


def count(world: World, table: sa.Table) -> int:
    with world.broker.store.immediate() as tx:
        return int(tx.scalar(sa.select(sa.func.count()).select_from(table)))


# --- placed --------------------------------------------------------------------------------------------


def test_an_order_travels_the_whole_road(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    order, forward = placed(customer, session, keeper)
    assert (forward.amount, forward.currency, forward.deadline) == (100, "EUR", order.place.deadline)
    assert (forward.claim_lock, forward.status_lock) == (order.place.claim_lock, order.place.status_lock)
    assert forward.sealed == order.place.sealed
    assert order_state(world, order.id) == "held"
    assert books(world)["escrow"] == 100
    keeper.say(accept(forward))
    answer = session.hear(messages.OrderAnswer)
    assert (answer.state, answer.answer) == ("captured", b"sealed: yes")
    outcome = keeper.hear(messages.OrderOutcome)
    assert (outcome.order_id, outcome.outcome) == (order.id, "captured")
    keeper.say(messages.OutcomeKept(order_id=order.id, outcome="captured"))
    settle(world)
    assert books(world)["pending:sports"] == 100
    assert count(world, schema.order_bodies) == 0


def test_the_merchant_learns_nothing_about_the_session(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    first, forward = placed(customer, session, keeper)
    fields = {name: getattr(forward, name) for name in forward.__struct_fields__}
    assert session.sid not in fields.values()
    assert set(fields) == {
        "order_id", "amount", "currency", "deadline", "claim_lock", "status_lock", "sealed",
    }  # fmt: skip
    assert first.place.coins[0].serial not in str(fields).encode()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"amount": 99}, "wrong_amount"),
        ({"amount": 101}, "wrong_amount"),
        ({"currency": "USD"}, "wrong_currency"),
        ({"merchant": "nobody"}, "not_found"),
        ({"deadline": -SECOND_MS}, "deadline"),
        ({"deadline": 5 * SECOND_MS}, "deadline"),
        ({"deadline": DAY_MS + 6 * MINUTE_MS}, "deadline"),
    ],
)
def test_an_order_is_refused_and_changes_nothing(
    world: World, customer: Customer, keeper: Shopkeeper, changes: dict[str, Any], code: str
) -> None:
    session = customer.shop()
    tokens = customer.pay(100)
    if "deadline" in changes:
        changes = {"deadline": clock.now_ms() + changes["deadline"]}
    before = dump(world)
    assert session.refused(customer.order(coins=tokens, **changes).place) == code
    assert dump(world) == before
    session.say(customer.order(coins=tokens).place)
    assert keeper.hear(messages.ForwardOrder)


def test_forged_coins_tickets_and_a_coin_twice_pay_nothing(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    (coin,) = customer.pay(64)
    (other,) = customer.pay(32)
    forged = messages.Token(
        key_id=coin.key_id, prefix=coin.prefix, serial=bytes(32), signature=coin.signature
    )
    # Of 32 and presented as 64: the signature is under another key.
    dearer = messages.Token(
        key_id=coin.key_id, prefix=other.prefix, serial=other.serial, signature=other.signature
    )
    before = dump(world)
    for tokens, amount, code in (
        ([forged], 64, "bad_token"),
        ([dearer], 64, "bad_token"),
        ([customer.tickets[0]], 1, "unknown_key"),
        ([coin, coin], 128, "double_spend"),
    ):
        assert session.refused(customer.order(amount, coins=tokens).place) == code
    assert dump(world) == before


def test_the_same_order_again_is_answered_and_forwarded_once(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    order, forward = placed(customer, session, keeper)
    before = dump(world)
    assert session.ask(order.place, messages.OrderAnswer).state == "held"
    assert keeper.collect() == []
    assert dump(world) == before
    keeper.say(accept(forward))
    first = session.hear(messages.OrderAnswer)
    assert session.ask(order.place, messages.OrderAnswer) == first
    assert books(world)["pending:sports"] == 100


def test_an_order_twice_in_one_frame_is_one_order(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    order = customer.order()
    session.say(order.place, order.place)
    assert len(keeper.collect()) == 1
    assert session.collect() == []
    assert books(world)["escrow"] == 100


def test_other_content_under_the_same_order_id_is_a_conflict_and_moves_no_answer(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session, thief = customer.shop(), customer.shop()
    order, forward = placed(customer, session, keeper)
    before = dump(world)
    for changes in ({"sealed": b"s" * 40}, {"claim_lock": bytes(32)}, {"merchant": "films"}):
        other = customer.order(order_id=order.id, coins=order.place.coins, **changes)
        assert thief.refused(other.place) == "idempotency_conflict"
    assert dump(world) == before
    keeper.say(accept(forward))
    assert session.hear(messages.OrderAnswer).order_id == order.id
    assert thief.collect() == []


def test_a_coin_pays_one_order_in_one_batch_and_across(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    tokens = customer.pay(100)
    orders = [customer.order(coins=tokens) for _ in range(3)]
    session.say(*(order.place for order in orders))
    winner = keeper.hear(messages.ForwardOrder)
    refused = [session.hear(messages.Refused) for _ in "12"]
    assert {refusal.code for refusal in refused} == {"double_spend"}
    assert {winner.order_id, *(r.reference for r in refused)} == {order.id for order in orders}
    assert session.refused(customer.order(coins=tokens).place) == "double_spend"
    assert count(world, schema.orders) == 1
    assert books(world)["escrow"] == 100


def test_coins_of_a_lost_order_are_free_again(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    spent = placed(customer, session, keeper, amount=64)[0].place.coins
    good = customer.pay(32)
    assert session.refused(customer.order(96, coins=[*spent, *good]).place) == "double_spend"
    session.say(customer.order(32, coins=good).place)
    assert keeper.hear(messages.ForwardOrder).amount == 32
    books(world)


# --- answered ------------------------------------------------------------------------------------------


def test_a_rejected_order_is_refundable(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    _, forward = placed(customer, session, keeper)
    keeper.say(reject(forward))
    answer = session.hear(messages.OrderAnswer)
    assert (answer.state, answer.answer) == ("refundable", b"sealed: no")
    assert keeper.collect() == []
    assert books(world)["escrow"] == 100


def test_the_first_answer_counts(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    order, forward = placed(customer, session, keeper)
    keeper.say(accept(forward))
    session.hear(messages.OrderAnswer)
    keeper.hear(messages.OrderOutcome)
    before = dump(world)
    keeper.say(reject(forward))
    assert keeper.collect() == []
    keeper.say(accept(forward, b"another answer"))
    assert keeper.hear(messages.OrderOutcome).outcome == "captured"
    assert session.collect() == []
    assert dump(world) == before
    assert session.ask(order.asked, messages.OrderAnswer).answer == b"sealed: yes"


def test_two_answers_in_one_frame_settle_once(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    _, forward = placed(customer, session, keeper)
    keeper.say(accept(forward), reject(forward))
    settle(world)
    rows = dump(world)
    assert len(rows["order_answers"]) == 1
    assert sum(books(world).get(book, 0) for book in ("escrow", "pending:sports")) == 100


def test_another_merchant_answers_nothing(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    other = Shopkeeper(world, "films")
    order, forward = placed(customer, session, keeper)
    before = dump(world)
    other.say(accept(forward))
    other.say(messages.OutcomeKept(order_id=order.id, outcome="captured"))
    assert other.collect() == session.collect() == []
    assert dump(world) == before
    keeper.say(accept(messages.ForwardOrder(**{**_fields(forward), "order_id": fresh()})))
    assert keeper.collect() == []


def _fields(message: Any) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.__struct_fields__}


# --- deadlines -----------------------------------------------------------------------------------------


def test_the_deadline_makes_it_refundable_and_a_late_accept_is_void(
    world: World, customer: Customer, keeper: Shopkeeper, time: Time
) -> None:
    session = customer.shop()
    order, forward = placed(customer, session, keeper, deadline=clock.now_ms() + MINUTE_MS)
    time.advance(MINUTE_MS)
    answer = session.hear(messages.OrderAnswer)
    assert (answer.order_id, answer.state, answer.answer) == (order.id, "refundable", b"")
    assert keeper.hear(messages.OrderOutcome).outcome == "void"
    keeper.say(accept(forward))
    assert keeper.hear(messages.OrderOutcome).outcome == "void"
    assert order_state(world, order.id) == "refundable"
    assert books(world) | {"pending:sports": 0} == books(world) | {"escrow": 100, "pending:sports": 0}


def test_an_accept_that_meets_the_deadline_in_one_batch_is_late(
    world: World, customer: Customer, keeper: Shopkeeper, time: Time
) -> None:
    session = customer.shop()
    order, forward = placed(customer, session, keeper, deadline=clock.now_ms() + MINUTE_MS)
    time.advance(MINUTE_MS)
    keeper.say(accept(forward))
    answer = session.hear(messages.OrderAnswer)
    assert (answer.state, answer.answer) == ("refundable", b"")
    assert keeper.hear(messages.OrderOutcome).outcome == "void"
    assert order_state(world, order.id) == "refundable"


# --- told again ----------------------------------------------------------------------------------------


def test_a_held_order_is_forwarded_ever_slower_until_answered(
    world: World, customer: Customer, keeper: Shopkeeper, time: Time
) -> None:
    session = customer.shop()
    _, forward = placed(customer, session, keeper)
    told, start = [], clock.now_ms()
    while clock.now_ms() < start + 20 * MINUTE_MS:
        time.advance(10 * SECOND_MS)
        told += [(clock.now_ms() - start) // SECOND_MS for body in keeper.collect() if body == forward]
    gaps = [round((after - before) / 30) * 30 for before, after in zip([0, *told], told, strict=False)]
    assert gaps == [30, 60, 120, 240, 480]
    keeper.say(reject(forward))
    settle(world)
    time.advance(HOUR_MS)
    assert keeper.collect() == []


def test_an_outcome_is_told_until_it_is_kept(
    world: World, customer: Customer, keeper: Shopkeeper, time: Time
) -> None:
    session = customer.shop()
    order, forward = placed(customer, session, keeper)
    keeper.say(accept(forward))
    outcome = keeper.hear(messages.OrderOutcome)
    time.advance(31 * SECOND_MS)
    assert keeper.collect() == [outcome]
    keeper.say(messages.OutcomeKept(order_id=order.id, outcome="captured"))
    settle(world)
    time.advance(HOUR_MS)
    assert keeper.collect() == []


def test_a_held_order_is_not_kept(world: World, customer: Customer, keeper: Shopkeeper, time: Time) -> None:
    session = customer.shop()
    order, forward = placed(customer, session, keeper)
    keeper.say(messages.OutcomeKept(order_id=order.id, outcome="captured"))
    settle(world)
    time.advance(31 * SECOND_MS)
    assert keeper.collect() == [forward]


def test_an_order_waits_for_a_merchant_that_is_away(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    keeper.go()
    order = customer.order()
    answer = session.ask(order.place, messages.OrderAnswer)
    assert (answer.state, answer.merchant_online) == ("held", False)
    assert keeper.collect() == []
    keeper.open()
    assert keeper.hear(messages.ForwardOrder).order_id == order.id


def test_after_a_crash_everything_is_told_again(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    held, forward = placed(customer, session, keeper, amount=64)
    captured, other = placed(customer, session, keeper, amount=32)
    keeper.say(accept(other))
    session.hear(messages.OrderAnswer)
    keeper.hear(messages.OrderOutcome)
    world.stop("broker")
    world.start_broker()
    keeper.open()
    assert keeper.hear(messages.ForwardOrder) == forward
    assert keeper.hear(messages.OrderOutcome).order_id == captured.id
    keeper.say(accept(forward))
    settle(world)
    # Which session it came from was known in memory alone.
    assert session.collect() == []
    later = customer.shop()
    assert later.ask(held.asked, messages.OrderAnswer).state == "captured"
    assert books(world)["pending:sports"] == 96


# --- asked ---------------------------------------------------------------------------------------------


def test_only_the_status_secret_tells_where_an_order_stands(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    order, _ = placed(customer, session, keeper)
    other = customer.shop()
    for secret in (bytes(32), order.claim_secret):
        question = messages.AskOrder(order_id=order.id, status_secret=secret)
        assert other.refused(question) == "wrong_secret"
    assert other.refused(messages.AskOrder(order_id=fresh(), status_secret=bytes(32))) == "not_found"
    assert other.ask(order.asked, messages.OrderAnswer).state == "held"


def test_an_answer_is_kept_until_its_customer_has_it(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    order, forward = placed(customer, session, keeper)
    keeper.say(accept(forward))
    session.hear(messages.OrderAnswer)
    session.say(messages.AnswerKept(order_id=order.id, status_secret=bytes(32)))
    settle(world)
    assert session.ask(order.asked, messages.OrderAnswer).answer == b"sealed: yes"
    session.say(order.kept)
    settle(world)
    assert count(world, schema.order_answers) == 0
    answer = session.ask(order.asked, messages.OrderAnswer)
    assert (answer.state, answer.answer) == ("captured", b"")


def test_what_was_paid_for_is_kept_until_it_is_fetched_and_a_rejection_for_thirty_days(
    world: World, customer: Customer, keeper: Shopkeeper, time: Time
) -> None:
    session = customer.shop()
    for verdict in (accept, reject):
        _, forward = placed(customer, session, keeper)
        keeper.say(verdict(forward))
        session.hear(messages.OrderAnswer)
    time.advance(29 * DAY_MS)
    settle(world)
    assert count(world, schema.order_answers) == 2
    time.advance(2 * DAY_MS)
    settle(world)
    assert count(world, schema.order_answers) == 1
