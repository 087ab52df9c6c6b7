"""The broker: a merchant's statement, and payouts of what is available."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cli import Ran, veilmart
from client import Customer, Order, Session, Shopkeeper, accept, dump, fresh, settle
from hypothesis import given
from hypothesis import strategies as st
from test_books import check, write
from test_payments import break_the_books
from world import World

from broker_node import ledger, operator_actions, payouts, schema
from broker_node.audit import Audit
from common import clock, codec, messages
from common.config import Limits
from common.errors import MalformedError, NotFoundError, RefusedError, RejectedError, UsageError
from common.store import Store
from merchant_node import money
from merchant_node import schema as merchant_schema
from merchant_node.treasury import Treasury

IBAN = "DE02 1203 0000 0000 2020 51"


def statement(keeper: Shopkeeper, after: int = 0) -> messages.Statement:
    return keeper.ask(messages.GetStatement(request=fresh(), after=after), messages.Statement)


def lines(keeper: Shopkeeper) -> list[tuple[str, int, int, int]]:
    return [(each.kind, each.pending, each.available, each.reserved) for each in statement(keeper).lines]


def payout(amount: int, **changes: Any) -> messages.RequestPayout:
    return messages.RequestPayout(**{"payout_id": fresh(), "amount": amount, "destination": IBAN} | changes)


def asked(keeper: Shopkeeper, request: messages.RequestPayout) -> messages.PayoutAnswer:
    return keeper.ask(request, messages.PayoutAnswer)


def refused(keeper: Shopkeeper, request: messages.RequestPayout) -> str:
    return keeper.ask(request, messages.PayoutRefused).code


def decide(world: World, request: messages.RequestPayout, decision: Any, reason: str = "paid") -> None:
    write(
        world,
        lambda tx: payouts.decide(
            tx,
            world.broker.broker._audit,
            request.payout_id,
            decision,
            reason,
            clock.now_ms(),
            clock.random_bytes,
        ),
    )


def sell(session: Session, keeper: Shopkeeper, order: Order) -> bytes:
    session.say(order.place)
    keeper.say(accept(keeper.hear(messages.ForwardOrder)))
    session.hear(messages.OrderAnswer)
    session.ask(order.confirmed, messages.OrderAnswer)
    outcome = keeper.hear(messages.OrderOutcome).outcome
    keeper.say(messages.OutcomeKept(order_id=order.id, outcome=outcome))
    return order.id


@pytest.fixture
def sold(world: World, customer: Customer, keeper: Shopkeeper) -> bytes:
    """An order of 100 that is settled."""
    return sell(customer.shop(), keeper, customer.order(100))


# --- statements ----------------------------------------------------------------------------------------


def test_a_statement_has_a_line_for_whatever_moved(world: World, keeper: Shopkeeper, sold: bytes) -> None:
    one, two = payout(30), payout(20)
    asked(keeper, one)
    asked(keeper, two)
    decide(world, one, "confirmed")
    decide(world, two, "rejected")
    assert lines(keeper) == [
        ("captured", 100, 0, 0),
        ("settled", 0, 100, 0),
        ("payout_requested", 0, 70, 30),
        ("payout_requested", 0, 50, 50),
        ("payout_confirmed", 0, 50, 20),
        ("payout_rejected", 0, 70, 0),
    ]
    whole = statement(keeper)
    assert [line.line for line in whole.lines] == [1, 2, 3, 4, 5, 6]
    payout_ids = [one.payout_id, two.payout_id] * 2
    assert [line.reference for line in whole.lines] == [sold, sold, *payout_ids]
    assert all(line.at % 60_000 == 0 for line in whole.lines), "a time is cut to the minute"
    assert (whole.last, whole.commission_basis_points) == (6, 0)
    rest = statement(keeper, 4)
    assert (rest.after, rest.lines, rest.last) == (4, whole.lines[4:], 6)
    assert statement(keeper, 6).lines == statement(keeper, 2**40).lines == []
    assert check(world).faults == ()
    assert check(world).books["payouts"] == 30


def test_a_commission_is_in_the_statement(tmp_path: Path) -> None:
    world = World(tmp_path, limits={"commission_basis_points": 250})
    try:
        customer, keeper = Customer(world), Shopkeeper(world)
        sell(customer.shop(), keeper, customer.order(100))
        assert lines(keeper) == [("captured", 100, 0, 0), ("settled", 0, 97, 0)]
        assert statement(keeper).commission_basis_points == 250
        assert refused(keeper, payout(98)) == "insufficient_funds"
        assert asked(keeper, payout(97)).state == "requested"
    finally:
        world.close()


def test_a_long_statement_comes_in_pages_and_a_merchant_sees_its_own_alone(
    world: World, keeper: Shopkeeper
) -> None:
    other = Shopkeeper(world, "films")
    with world.broker.store.immediate() as tx:
        for n in range(100):
            for merchant in ("sports", "films"):
                ledger.post(tx, bytes([n]) * 16, {"escrow": -1, f"pending:{merchant}": 1}, 0)
    first = statement(keeper)
    assert (len(first.lines), first.last) == (64, 100)
    second = statement(keeper, 64)
    assert [line.pending for line in first.lines + second.lines] == [*range(1, 101)]
    assert [line.line for line in statement(other).lines] == [*range(1, 65)]


# --- payouts -------------------------------------------------------------------------------------------


def test_a_payout_is_reserved_once(world: World, keeper: Shopkeeper, sold: bytes) -> None:
    request = payout(60)
    assert asked(keeper, request) == messages.PayoutAnswer(
        payout_id=request.payout_id, state="requested", reason=""
    )
    before = dump(world)
    assert asked(keeper, request).state == "requested"
    keeper.say(request, request)
    settle(world)
    assert [type(each) for each in keeper.collect()] == [messages.PayoutAnswer] * 2
    assert dump(world) == before
    for other in (
        payout(59, payout_id=request.payout_id),
        payout(60, payout_id=request.payout_id, destination="x"),
    ):
        assert refused(keeper, other) == "idempotency_conflict"
    assert dump(world) == before
    with world.broker.store.immediate() as tx:
        assert ledger.available(tx, "sports") == 40


def test_another_merchant_cannot_ask_about_a_payout(world: World, keeper: Shopkeeper, sold: bytes) -> None:
    request = payout(60)
    asked(keeper, request)
    assert refused(Shopkeeper(world, "films"), request) == "idempotency_conflict"


def test_two_payouts_at_the_same_instant_cannot_both_take_the_last_money(
    world: World, keeper: Shopkeeper, sold: bytes
) -> None:
    keeper.say(payout(60), payout(60))
    settle(world)
    heard = keeper.collect()
    assert sorted(type(each).__name__ for each in heard) == ["PayoutAnswer", "PayoutRefused"]
    (no,) = [each for each in heard if isinstance(each, messages.PayoutRefused)]
    assert no.code == "insufficient_funds"
    assert check(world).books["reserved:sports"] == 60
    assert check(world).faults == ()


def test_pending_money_is_not_paid_out(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session, order = customer.shop(), customer.order(100)
    session.say(order.place)
    keeper.say(accept(keeper.hear(messages.ForwardOrder)))
    session.hear(messages.OrderAnswer)
    before = dump(world)
    assert refused(keeper, payout(1)) == "insufficient_funds"
    assert dump(world) == before


@pytest.mark.parametrize("amount", [0, -1, 10**12 + 1, 2**63])
def test_amounts_that_are_none_are_not_even_decoded(amount: int) -> None:
    request = payout(1)
    packed = codec.pack([messages.Envelope(id=bytes(16), at=0, body=request)])
    assert codec.FROM_MERCHANT.unpack(packed)[0].body == request
    wrong = codec.pack([messages.Envelope(id=bytes(16), at=0, body=payout(amount))])
    with pytest.raises(MalformedError):
        codec.FROM_MERCHANT.unpack(wrong)


def test_a_payout_is_decided_once_with_a_reason(world: World, keeper: Shopkeeper, sold: bytes) -> None:
    request = payout(60)
    asked(keeper, request)
    for reason in ("", "two\nlines", "x" * 501):
        with pytest.raises(UsageError):
            decide(world, request, "confirmed", reason)
    with world.broker.store.immediate() as tx:
        (view,) = payouts.listing(tx, "requested")
    assert (view.merchant, view.amount, view.destination) == ("sports", 60, IBAN)
    assert IBAN not in repr(view)
    decide(world, request, "rejected", "the account is closed")
    for decision in ("confirmed", "rejected"):
        with pytest.raises(RejectedError):
            decide(world, request, decision)
    with pytest.raises(NotFoundError):
        decide(world, payout(1), "confirmed")
    again = asked(keeper, request)
    assert (again.state, again.reason) == ("rejected", "the account is closed")
    with world.broker.store.immediate() as tx:
        assert payouts.listing(tx, "requested") == []
        (action,) = operator_actions.listing(tx, request.payout_id.hex())
    assert (action.action, action.reason) == ("payout.reject", "the account is closed")
    assert check(world).books["available:sports"] == 100


@given(st.lists(st.tuples(st.integers(1, 40), st.sampled_from(["confirmed", "rejected", None])), max_size=8))
def test_whatever_is_asked_for_and_decided_the_sums_stay_right(
    store: Store, steps: list[tuple[int, payouts.Decision | None]]
) -> None:
    audit = Audit(bytes(16), Limits())
    merchant = fresh().hex()
    with store.immediate() as tx:
        ledger.post(tx, fresh(), {"escrow": -100, f"pending:{merchant}": 100}, 0)
        ledger.post(
            tx, fresh(), {f"pending:{merchant}": -100, f"available:{merchant}": 90, "commission": 10}, 0
        )
        expected = {None: 0, "confirmed": 0, "rejected": 0}
        for amount, decision in steps:
            taken = expected[None] + expected["confirmed"]
            request = payout(amount)
            if amount > 90 - taken:
                with pytest.raises(RefusedError, match="insufficient_funds"):
                    payouts._requested(tx, merchant, request, 0)
                continue
            payouts._requested(tx, merchant, request, 0)
            expected[decision] += amount
            if decision is not None:
                payouts.decide(tx, audit, request.payout_id, decision, "why", 0, clock.random_bytes)
        sums = ledger.sums(tx, merchant)
    assert (sums.pending, sums.reserved) == (0, expected[None])
    assert sums.available == 90 - expected[None] - expected["confirmed"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    store = Store.in_home(tmp_path_factory.mktemp("payouts"), "broker.db", "broker_node.migrations")
    yield store
    store.close()


# --- the whole way -------------------------------------------------------------------------------------


def earn(world: World, amount: int) -> None:
    """Have something settled, as if it had been sold, and the merchant read of it."""
    with world.broker.store.immediate() as tx:
        ledger.post(tx, fresh(), {"escrow": -amount, "pending:sports": amount}, clock.now_ms())
        ledger.post(tx, fresh(), {"pending:sports": -amount, "available:sports": amount}, clock.now_ms())
    read_on(world)


def read_on(world: World) -> None:
    with world.merchants["sports"].store.immediate() as tx:
        money.ask_soon(tx)


def test_a_merchant_asks_while_its_node_is_away_and_is_paid_when_it_is_back(world: World) -> None:
    shop = world.add_merchant("sports")
    home = world.root / "merchants" / "sports"
    earn(world, 98)

    def ran(*words: Any) -> Ran:
        return veilmart("merchant", *words, "--home", home, "--json")

    def operator(*words: Any) -> Ran:
        return veilmart("broker", "payout", *words, "--home", world.broker_home, "--json")

    assert world.pump(lambda: Treasury(shop.store).balance().available == 98)
    assert ran("balance").data["available"] == 98
    assert [line["kind"] for line in ran("statement").data["lines"]] == ["captured", "settled"]
    assert ran("payout", "0.99", "--to", IBAN).error["code"] == "insufficient_funds"
    assert ran("payout", "0.00", "--to", IBAN).code == 2
    assert ran("payout", "0.50").code == 2, "nobody has said where to"
    assert ran("payout", "0.50", "--all", "--to", IBAN).code == ran("payout").code == 2
    # In memory the node holds no lock: to the command it does not run.
    late = ran("payout", "0.50", "--to", IBAN, "--yes")
    assert (late.code, late.error["code"], late.error["hop"]) == (27, "timeout", "merchant")
    (stored,) = ran("payouts").data
    assert (stored["state"], stored["amount"], stored["destination"]) == ("asked", 50, IBAN)
    world.pump(lambda: ran("payouts").data[0]["state"] == "requested")
    assert world.pump(lambda: ran("balance").data["reserved"] == 50)

    (waiting,) = operator("list").data
    assert (waiting["payout_id"], waiting["destination"]) == (stored["payout_id"], IBAN)
    assert operator("confirm", "00" * 16, "--reason", "x", "--yes").code == 3
    assert operator("confirm", "yes", "--reason", "x", "--yes").code == 2
    done = operator("reject", stored["payout_id"], "--reason", "the account is closed", "--yes").data
    assert done["state"] == "rejected"
    assert operator("confirm", stored["payout_id"], "--reason", "x", "--yes").error["code"] == "rejected"
    read_on(world)
    assert world.pump(lambda: ran("payouts").data[0]["state"] == "rejected")
    assert ran("payouts").data[0]["reason"] == "the account is closed"
    assert world.pump(lambda: ran("balance").data["available"] == 98)

    assert ran("payout", "--all", "--yes").code == 27, "where to is known from the last one"
    world.pump(lambda: ran("payouts").data[1]["state"] == "requested")
    again = ran("payouts").data[1]
    assert (again["amount"], again["destination"]) == (98, IBAN)
    operator("confirm", again["payout_id"], "--reason", "bank reference 17", "--yes")
    read_on(world)
    assert world.pump(lambda: ran("payouts").data[1]["state"] == "confirmed")
    assert ran("balance").data["available"] == 0
    assert [line["amount"] for line in ran("statement").data["lines"]] == [98, 98, -50, 50, -98, -98]
    assert operator("list").data == []
    assert [each["state"] for each in operator("list", "--all").data] == ["rejected", "confirmed"]


def test_lists_are_csv_in_which_nothing_is_a_formula(world: World) -> None:
    shop = world.add_merchant("sports")
    home = world.root / "merchants" / "sports"
    earn(world, 98)
    assert world.pump(lambda: Treasury(shop.store).balance().available == 98)
    veilmart("merchant", "payout", "0.50", "--to", '=1+1,"x"', "--yes", "--home", home)
    world.pump(lambda: Treasury(shop.store).payouts()[0].state == "requested")
    listed = veilmart("broker", "payout", "list", "--csv", "--home", world.broker_home)
    (row,) = csv.DictReader(io.StringIO(listed.out))
    assert (row["merchant"], row["amount"], row["currency"]) == ("sports", "50", "EUR")
    assert row["destination"] == '\'=1+1,"x"'
    (own,) = csv.DictReader(io.StringIO(veilmart("merchant", "payouts", "--csv", "--home", home).out))
    assert own["payout_id"] == row["payout_id"]
    assert world.pump(lambda: len(Treasury(shop.store).statement()) == 3)
    table = list(csv.DictReader(io.StringIO(veilmart("merchant", "statement", "--csv", "--home", home).out)))
    assert [line["kind"] for line in table] == ["captured", "settled", "payout_requested"]
    assert table[-1]["amount"] == "-50"
    assert table[0]["at"].endswith("Z")
    none = veilmart("merchant", "statement", "--to", "2020-01-01", "--json", "--home", home)
    assert none.data["lines"] == []
    since = veilmart("merchant", "statement", "--from", "2020-01-01", "--json", "--home", home)
    assert len(since.data["lines"]) == 3
    assert veilmart("merchant", "statement", "--from", "yesterday", "--home", home).code == 2


def test_a_payout_while_payments_are_stopped_waits(world: World) -> None:
    shop = world.add_merchant("sports")
    earn(world, 98)
    treasury = Treasury(shop.store)
    assert world.pump(lambda: treasury.balance().available == 98)
    break_the_books(world)
    asked = treasury.ask(50, IBAN, clock.now_ms(), clock.random_bytes)
    assert world.pump(lambda: treasury.payout(asked.payout_id).code == "payments_stopped")
    assert treasury.payout(asked.payout_id).state == "asked"
    assert veilmart("broker", "payout", "list", "--json", "--home", world.broker_home).data == []
    write(world, sa.update(schema.payments).values(state="running"))
    with shop.store.immediate() as tx:
        tx.execute(sa.update(merchant_schema.payouts).values(due=0))
    assert world.pump(lambda: treasury.payout(asked.payout_id).state == "requested")


def test_an_operator_decides_nothing_while_payments_are_stopped(
    world: World, keeper: Shopkeeper, sold: bytes
) -> None:
    request = payout(60)
    asked(keeper, request)
    break_the_books(world)
    words = ("broker", "payout", "confirm", request.payout_id.hex(), "--reason", "paid", "--yes", "--json")
    ran = veilmart(*words, "--home", world.broker_home)
    assert (ran.code, ran.error["code"]) == (4, "payments_stopped")
    with world.broker.store.immediate() as tx:
        assert payouts.listing(tx)[0].state == "requested"
