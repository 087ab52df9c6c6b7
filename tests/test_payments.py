"""A broker whose books are wrong moves no money, says so aloud, and goes on with everything else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import pytest
import sqlalchemy as sa
import structlog
from client import (
    Customer,
    Peer,
    Shopkeeper,
    accept,
    blinded,
    dump,
    fresh,
    order_state,
    settle,
)
from conftest import Time
from samples import EXAMPLES
from test_books import check, forging, write
from world import World

from broker_node import ledger, payments, run, schema
from broker_node.refusals import refuse
from broker_node.sends import Session as Sender
from common import clock, messages, topics
from common.config import DAY_MS, MINUTE_MS
from common.errors import RefusedError
from common.presence import read_presence
from veilmart.cli import reach
from veilmart.output import Table


def break_the_books(world: World) -> None:
    """Plant a fault, and have it found."""
    write(world, forging(operator=-5))
    examine(world)


def mend(world: World) -> None:
    """Take the fault out again, as somebody does who restores a backup."""
    last = sa.select(sa.func.max(schema.postings.c.posting)).scalar_subquery()
    write(
        world,
        sa.delete(schema.ledger).where(schema.ledger.c.posting == last),
        sa.delete(schema.postings).where(schema.postings.c.posting == last),
    )


def examine(world: World) -> str:
    """What `veilmart broker ledger check` does, in another process."""
    report = check(world)
    with world.broker.store.immediate() as tx:
        audit = world.broker.broker._audit
        return payments.act_on(tx, report, audit, clock.now_ms(), clock.random_bytes)


def restart(world: World) -> None:
    world.stop("broker")
    world.start_broker()


def status(world: World) -> Any:
    return read_presence(world.bus.retained[topics.broker_status()])


def events(world: World) -> list[str]:
    found = {}
    for publish in world.bus.passed:
        if publish.topic.startswith(f"{topics.PREFIX}/audit/event/payments."):
            event = json.loads(publish.payload)
            assert event["data"] == {}
            found[event["id"]] = event["type"]
    return [*found.values()]


@pytest.fixture
def log() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as entries:
        yield entries


def alarms(log: list[Any]) -> list[Any]:
    return [entry for entry in log if entry["log_level"] == "error"]


# --- what is refused -----------------------------------------------------------------------------------


def test_no_money_moves_while_the_books_are_wrong(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    held, captured = customer.order(100), customer.order(128)
    for order in (captured, held):
        session.say(order.place)
        if order is captured:
            keeper.say(accept(keeper.hear(messages.ForwardOrder)))
            session.hear(messages.OrderAnswer)
            keeper.say(messages.OutcomeKept(order_id=order.id, outcome="captured"))
    forward = keeper.hear(messages.ForwardOrder)
    account = customer.account()
    break_the_books(world)
    before = dump(world)
    new = customer.order(16)
    swap = messages.Swap(operation=fresh(), coins=customer.pay(2), blinded=blinded(world, [2]).tokens)
    withdraw = messages.Withdraw(operation=fresh(), coins=blinded(world, [1]).tokens, tickets=[])
    assert account.refused(withdraw) == "payments_stopped"
    for wrong in (new.place, swap, captured.confirmed, held.claim(blinded(world, [64, 32, 4]))):
        assert session.refused(wrong) == "payments_stopped"
    keeper.say(accept(forward))
    settle(world)
    assert dump(world) == before
    assert order_state(world, held.id) == "held"

    mend(world)
    assert examine(world) == "running"
    keeper.say(accept(forward))
    assert session.hear(messages.OrderAnswer).state == "captured"
    session.ask(captured.confirmed, messages.OrderAnswer)
    session.ask(swap, messages.Swapped)
    session.say(new.place)
    assert keeper.hear(messages.ForwardOrder).order_id == new.id
    assert check(world).faults == ()


def test_the_transaction_that_stops_payments_moves_no_money_after_it(world: World) -> None:
    write(world, forging(operator=-5))
    report = check(world)
    with world.broker.store.immediate() as tx:
        ledger.post(tx, fresh(), {"operator": -1, "coins:1": 1}, 0)
        payments.act_on(tx, report, world.broker.broker._audit, 1, clock.random_bytes)
        with pytest.raises(RefusedError, match="payments_stopped"):
            ledger.post(tx, fresh(), {"operator": -1, "coins:1": 1}, 2)


def test_what_was_being_signed_when_payments_stopped_is_refused(world: World, customer: Customer) -> None:
    world.fund("alice", 10)
    account = customer.account()
    request = messages.Withdraw(operation=fresh(), coins=blinded(world, [1]).tokens, tickets=[])
    account.say(request)
    world.running["broker"].loop.round(0.0)
    break_the_books(world)
    assert account.hear(messages.Refused).code == "payments_stopped"
    with world.broker.store.immediate() as tx:
        assert not tx.scalar(
            sa.select(sa.func.count())
            .select_from(schema.operations)
            .where(schema.operations.c.id == request.operation)
        )


def test_nothing_settles_by_time_and_that_time_does_not_count(
    world: World, customer: Customer, keeper: Shopkeeper, time: Time
) -> None:
    session = customer.shop()
    order, other = customer.order(100), customer.order(64)
    for each in (order, other):
        session.say(each.place)
        keeper.say(accept(keeper.hear(messages.ForwardOrder)))
        session.hear(messages.OrderAnswer)
    time.advance(6 * DAY_MS)
    break_the_books(world)
    time.advance(2 * DAY_MS)
    settle(world)
    assert order_state(world, order.id) == "captured"
    mend(world)
    assert examine(world) == "running"
    time.advance(DAY_MS - MINUTE_MS)
    settle(world)
    assert order_state(world, order.id) == "captured"
    # Nobody could say so while payments stood still.
    customer.shop().ask(other.dispute(), messages.OrderAnswer)
    time.advance(2 * MINUTE_MS)
    settle(world)
    assert [order_state(world, each.id) for each in (order, other)] == ["settled", "disputed"]


def test_browsing_questions_and_deliveries_go_on(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    order = customer.order(100)
    session.say(order.place)
    keeper.say(accept(keeper.hear(messages.ForwardOrder)))
    session.hear(messages.OrderAnswer)
    break_the_books(world)
    question = messages.AskMerchant(request=fresh(), merchant="sports", sealed=bytes(40))
    session.say(question)
    forward = keeper.hear(messages.Forward)
    keeper.say(messages.AnswerForward(reference=forward.reference, token=forward.token, answer=bytes(40)))
    assert session.hear(messages.MerchantAnswer).request == question.request
    assert session.ask(order.asked, messages.OrderAnswer).state == "captured"
    assert customer.account().ask(messages.GetBalance(request=fresh()), messages.Balance).amount == 0
    session.say(messages.FetchCells(request=fresh(), merchant="sports", cells=1, sealed=bytes(40)))
    fetch = keeper.hear(messages.ForwardFetch)
    keeper.say_cell(messages.Cells(reference=fetch.reference, token=fetch.token, cells=[bytes(60)]))
    assert session.hear(messages.MerchantCells)
    assert customer.shop().welcome is not None


PEERS = {
    "account": get_args(messages.FromAccount),
    "shop": get_args(messages.FromShop),
    "merchant": get_args(messages.FromMerchant),
}


@pytest.mark.parametrize("scope", PEERS)
def test_every_message_is_refused_or_said_to_be_harmless(scope: Any) -> None:
    sender: Any = Sender(bytes(16), scope, None, None, "sports" if scope == "merchant" else None)
    kinds = {kind: sample for sample in EXAMPLES.values() if (kind := type(sample)) in PEERS[scope]}
    assert kinds.keys() == set(PEERS[scope])
    for kind, sample in kinds.items():
        if kind not in payments.HARMLESS and scope != "merchant":
            (send,) = refuse(sender, sample, RefusedError(payments.REFUSAL))
            assert send.body.code == "payments_stopped"
            assert send.body.reference in {getattr(sample, field) for field in sample.__struct_fields__[:1]}


# --- what was done before ------------------------------------------------------------------------------


def test_what_was_done_before_is_answered_again_for_the_same_bytes_alone(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    world.fund("alice", 10)
    account, session = customer.account(), customer.shop()
    withdraw = messages.Withdraw(operation=fresh(), coins=blinded(world, [1]).tokens, tickets=[])
    swap = messages.Swap(operation=fresh(), coins=customer.pay(2), blinded=blinded(world, [2]).tokens)
    called_off, settled, disputed = customer.order(64), customer.order(32), customer.order(16)
    session.say(called_off.place)
    keeper.hear(messages.ForwardOrder)
    for order in (settled, disputed):
        session.say(order.place)
        forward = keeper.hear(messages.ForwardOrder)
        keeper.say(accept(forward))
        session.hear(messages.OrderAnswer)
    claim = called_off.claim(blinded(world, [64]))
    refund = messages.RefundOrder(order_id=settled.id, refund=fresh(), amount=2)
    payout = messages.RequestPayout(payout_id=fresh(), amount=5, destination="a bank")
    asked: list[tuple[Peer, Any, Any]] = [
        (account, withdraw, messages.Withdrawn),
        (session, swap, messages.Swapped),
        (session, settled.place, messages.OrderAnswer),
        (session, called_off.cancelled, messages.OrderAnswer),
        (session, claim, messages.RefundIssued),
        (session, settled.confirmed, messages.OrderAnswer),
        (session, disputed.dispute(), messages.OrderAnswer),
        (keeper, refund, messages.RefundTaken),
        (keeper, payout, messages.PayoutAnswer),
        (keeper, accept(forward), messages.OrderOutcome),
    ]
    before = [peer.ask(request, kind) for peer, request, kind in asked]
    for peer in (account, session, keeper):
        peer.collect()
    break_the_books(world)
    stored = dump(world)
    for (peer, request, kind), answer in zip(asked, before, strict=True):
        again = peer.ask(request, kind)
        if isinstance(answer, messages.Withdrawn | messages.Swapped | messages.RefundIssued):
            assert again == answer
    wanted = blinded(world, [64]).tokens
    assert (
        account.refused(msgspec.structs.replace(withdraw, coins=blinded(world, [1]).tokens))
        == "idempotency_conflict"
    )
    assert (
        session.refused(msgspec.structs.replace(swap, blinded=blinded(world, [2]).tokens))
        == "idempotency_conflict"
    )
    assert session.refused(msgspec.structs.replace(claim, blinded=wanted)) == "idempotency_conflict"
    assert dump(world) == stored


# --- who hears of it -----------------------------------------------------------------------------------


def test_a_broker_that_starts_with_wrong_books_stops_payments_and_says_so(
    world: World, customer: Customer, log: list[Any]
) -> None:
    assert world.broker.broker.payments.stopped is False
    write(world, sa.update(schema.balances).values(amount=7))
    restart(world)
    assert world.broker.broker.payments.stopped
    assert alarms(log)[0]["event"] == payments.ALARM
    settle(world)
    assert (status(world).state, status(world).payments) == ("online", "stopped")
    assert events(world) == ["veilmart.payments.stopped"]
    withdraw = messages.Withdraw(operation=fresh(), coins=blinded(world, [1]).tokens, tickets=[])
    assert customer.account().refused(withdraw) == "payments_stopped"


def test_a_restart_does_not_start_payments_again(world: World, customer: Customer) -> None:
    break_the_books(world)
    mend(world)
    restart(world)
    assert world.broker.broker.payments.stopped, "right again, but nobody has checked everything"
    settle(world)
    assert status(world).payments == "stopped"
    assert examine(world) == "running"
    settle(world)
    world.pump(lambda: status(world).payments is None)
    assert events(world) == ["veilmart.payments.stopped", "veilmart.payments.resumed"]
    assert not world.broker.broker.payments.stopped


def test_the_alarm_is_repeated(world: World, time: Time, log: list[Any]) -> None:
    break_the_books(world)
    settle(world)
    world.pump(lambda: bool(alarms(log)))
    assert len(alarms(log)) == 1
    for count in (2, 3):
        time.advance(MINUTE_MS)
        settle(world)
        assert len(alarms(log)) == count


def test_the_status_stays_when_the_broker_connects_again(world: World) -> None:
    break_the_books(world)
    world.pump(lambda: status(world).payments == "stopped")
    for lane in world.running["broker"].lanes.values():
        lane.abandon()
    settle(world)
    assert status(world).state == "offline"
    for lane in world.running["broker"].lanes.values():
        lane.connect()
    assert world.pump(lambda: status(world).payments == "stopped")
    assert status(world).state == "online"


def test_a_second_fault_is_no_second_event(world: World) -> None:
    break_the_books(world)
    assert examine(world) == "stopped"
    settle(world)
    world.pump(lambda: bool(events(world)))
    assert events(world) == ["veilmart.payments.stopped"]


def test_the_ready_line_and_the_status_say_it(world: World) -> None:
    assert "PAYMENTS" not in run._ready_line(world.market, world.broker)
    break_the_books(world)
    world.pump(lambda: status(world).payments == "stopped")
    assert run._ready_line(world.market, world.broker).endswith(payments.ALARM)
    shown = reach._presence(world.bus.retained[topics.broker_status()])
    assert shown["payments"] == "stopped"
    data = {"bus": dict.fromkeys(("public", "nodes"), NOWHERE), "broker": shown, "merchants": []}
    (table,) = reach._views(data, [])
    assert isinstance(table, Table)
    assert any(row[0] == "broker" and "PAYMENTS STOPPED" in str(row[2]) for row in table.rows)


NOWHERE = {"host": "localhost", "port": 1, "reachable": False}
