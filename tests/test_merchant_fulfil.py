"""Orders at the merchant: accepted, repeated, rejected, settled; one bad message harms no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from merchant_world import MERCHANT, Identities, World, make_identities

from common import codec, config, messages
from common.clock import random_bytes
from common.credentials import RECEIPT_LABEL
from common.keys import verify_identity
from common.messages import AnswerOrder, OrderOutcome, OutcomeKept
from common.sealing import AnswerKey
from merchant_node import schema
from merchant_node.refunds import Refunds


@pytest.fixture(scope="module", params=["ed25519", "rsa3072"])
def identities(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return make_identities(tmp_path_factory.mktemp("market"), request.param)


@pytest.fixture
def world(identities: Identities, tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, identities)
    (tmp_path / "plan.pdf").write_bytes(b"ten kilometres")
    (tmp_path / "route.gpx").write_bytes(b"<gpx/>")
    world.inventory.add(tmp_path / "plan.pdf", "plan", title="Plan", price=999)
    world.inventory.add(tmp_path / "route.gpx", "route", title="Route", price=250, stock=3)
    world.open_session()
    yield world
    world.close()


def outcome(world: World, order: messages.ForwardOrder, what: Any) -> list[Any]:
    return world.ask(OrderOutcome(order_id=order.order_id, outcome=what))


def verdict(world: World, order: messages.ForwardOrder, key: AnswerKey) -> tuple[str, Any]:
    (answer,) = world.ask(order)
    assert isinstance(answer, AnswerOrder)
    assert len(answer.answer) == 32 + config.ORDER_ANSWER_STEP + 16
    return answer.verdict, key.unseal(answer.answer)


def left(world: World, sku: str) -> int | None:
    return {listed.record.sku: listed.stock for listed in world.inventory.products()}[sku]


def test_an_order_is_accepted_with_a_signed_receipt(world: World) -> None:
    order, key = world.order(("plan", 2), ("route", 1))
    word, accepted = verdict(world, order, key)
    assert word == "accepted"
    verify_identity(world.identities.merchant.public, RECEIPT_LABEL, accepted.receipt, accepted.signature)
    receipt = codec.RECEIPT.unpack(accepted.receipt)
    assert (receipt.market, receipt.merchant) == (world.market.market_id, MERCHANT)
    assert (receipt.order_id, receipt.total, receipt.currency) == (order.order_id, 2248, "EUR")
    assert receipt.at == world.now
    assert [(line.sku, line.quantity, line.amount) for line in receipt.lines] == [
        ("plan", 2, 1998),
        ("route", 1, 250),
    ]
    assert [line.first_cell for line in receipt.lines] == [0, 1]
    assert left(world, "route") == 2
    assert world.state(order.order_id) == "accepted"


def test_a_repeated_order_gets_the_same_bytes_and_reserves_once(world: World) -> None:
    order, _ = world.order(("route", 2))
    (first,) = world.ask(order)
    world.start()  # also by a process that remembers nothing
    world.open_session()
    (second,) = world.ask(order)
    assert codec.pack(first) == codec.pack(second)
    assert left(world, "route") == 1


def test_other_content_under_a_known_id_is_dropped(world: World) -> None:
    order, _ = world.order(("route", 1))
    (first,) = world.ask(order)
    other, _ = world.order(("plan", 1), order_id=order.order_id)
    assert world.ask(other) == []
    assert world.merchant.refused["conflict"] == 1
    (again,) = world.ask(order)
    assert again == first


def test_duplicates_and_conflicts_inside_one_batch(world: World) -> None:
    order, _ = world.order(("route", 1))
    other, _ = world.order(("route", 2))
    clash, _ = world.order(("plan", 1), order_id=order.order_id)
    answers = world.ask(order, other, clash, order, other)
    assert len(answers) == 4
    assert {answer.order_id for answer in answers} == {order.order_id, other.order_id}
    assert len({codec.pack(answer) for answer in answers}) == 2
    assert world.merchant.refused["conflict"] == 1
    assert left(world, "route") == 0
    with world.store.snapshot() as tx:
        orders, lines = schema.orders.c, schema.order_lines.c
        numbers = {
            row["order_id"]: row["number"] for row in tx.all(sa.select(orders.order_id, orders.number))
        }
        quantities = {row["order_number"]: row["quantity"] for row in tx.all(sa.select(lines))}
    assert sorted(numbers.values()) == [1, 2], "what is no new order takes no number"
    assert quantities == {numbers[order.order_id]: 1, numbers[other.order_id]: 2}


def test_one_batch_never_sells_more_than_there_is(world: World) -> None:
    orders = [world.order(("route", 2)) for _ in range(3)]
    answers = world.ask(*(order for order, _ in orders))
    assert sorted(answer.verdict for answer in answers) == ["accepted", "rejected", "rejected"]
    assert left(world, "route") == 1


@pytest.mark.parametrize("field", ["amount", "currency", "deadline", "claim_lock", "status_lock", "sealed"])
def test_an_order_with_a_changed_outer_field_is_a_reject_without_a_reason(world: World, field: str) -> None:
    order, _ = world.order(("route", 1))
    value = getattr(order, field)
    changed: Any = {
        "amount": order.amount + 1,
        "currency": "USD",
        "deadline": order.deadline + 1,
    }.get(field, value[:-1] + bytes([value[-1] ^ 1]) if isinstance(value, bytes) else None)
    tampered = msgspec.structs.replace(order, **{field: changed})
    (answer,) = world.ask(tampered)
    assert (answer.verdict, answer.answer) == ("rejected", b"")
    assert world.state(order.order_id) == "rejected"
    assert left(world, "route") == 3


def test_a_question_in_an_orders_place_is_a_reject(world: World) -> None:
    order, _ = world.order(("plan", 1))
    forward, _ = world.forward(messages.GetProduct(sku="plan"))
    (answer,) = world.ask(msgspec.structs.replace(order, sealed=forward.sealed))
    assert (answer.verdict, answer.answer) == ("rejected", b"")


def test_a_changed_price_is_told(world: World) -> None:
    order, key = world.order(("plan", 1))
    world.inventory.edit("plan", price=1099)
    word, answer = verdict(world, order, key)
    assert word == "rejected"
    assert (answer.code, answer.sku, answer.price) == ("price_changed", "plan", 1099)


def test_a_changed_record_is_told_also_at_the_same_price(world: World) -> None:
    order, key = world.order(("plan", 1))
    world.inventory.edit("plan", title="Another plan")
    _, answer = verdict(world, order, key)
    assert (answer.code, answer.price) == ("price_changed", 999)


def test_missing_stock_is_told(world: World) -> None:
    order, key = world.order(("route", 2), ("route", 2))
    _, answer = verdict(world, order, key)
    assert (answer.code, answer.sku, answer.available) == ("out_of_stock", "route", 3)
    assert left(world, "route") == 3


def test_a_removed_product_is_told(world: World) -> None:
    order, key = world.order(("plan", 1))
    world.inventory.remove("plan")
    _, answer = verdict(world, order, key)
    assert (answer.code, answer.sku) == ("not_found", "plan")


@pytest.mark.parametrize("amount", [1, 998, 1000, config.MAXIMUM_AMOUNT])
def test_an_amount_that_the_lines_do_not_make_up(world: World, amount: int) -> None:
    order, key = world.order(("plan", 1), amount=amount)
    word, answer = verdict(world, order, key)
    assert (word, answer.code, answer.price) == ("rejected", "wrong_amount", 999)


def test_an_order_in_another_currency(world: World) -> None:
    order, key = world.order(("plan", 1), currency="USD")
    word, answer = verdict(world, order, key)
    assert (word, answer.code) == ("rejected", "wrong_currency")


def test_an_order_after_its_deadline(world: World) -> None:
    world.ahead = 0
    order, key = world.order(("plan", 1), deadline=world.clock)
    _, answer = verdict(world, order, key)
    assert answer.code == "deadline"


def test_a_capture_is_a_sale_once(world: World) -> None:
    order, _ = world.order(("route", 1))
    world.ask(order)
    kept = OutcomeKept(order_id=order.order_id, outcome="captured")
    assert outcome(world, order, "captured") == [kept]
    assert outcome(world, order, "captured") == [kept]
    assert world.ask(*[OrderOutcome(order_id=order.order_id, outcome="captured")] * 2) == [kept, kept]
    assert world.state(order.order_id) == "captured"
    assert left(world, "route") == 2


def test_a_void_order_gives_its_stock_back_once(world: World) -> None:
    order, _ = world.order(("route", 2), ("plan", 1), ("route", 1))
    world.ask(order)
    assert left(world, "route") == 0
    kept = OutcomeKept(order_id=order.order_id, outcome="void")
    assert outcome(world, order, "void") == [kept]
    assert outcome(world, order, "void") == [kept]
    assert world.state(order.order_id) == "cancelled"
    assert left(world, "route") == 3


def test_a_void_order_gives_back_only_what_it_had_reserved(world: World) -> None:
    order, _ = world.order(("plan", 2))
    world.ask(order)
    world.inventory.edit("plan", stock=5)
    outcome(world, order, "void")
    assert left(world, "plan") == 5


def test_a_dispute_says_that_its_order_is_paid(world: World) -> None:
    """It may be all that is ever heard: the broker stops telling of a capture once an order is disputed."""
    order, _ = world.order(("route", 1))
    world.ask(order)
    notice = messages.DisputeOpened(
        order_id=order.order_id, kind="not_delivered", decide_by=world.now, arrived=[]
    )
    kept = OutcomeKept(order_id=order.order_id, outcome="disputed")
    # Without `captured` among it: what the broker waits for is the dispute.
    assert [each for each in world.ask(notice) if isinstance(each, OutcomeKept)] == [kept]
    assert world.state(order.order_id) == "captured"
    # So it may give the money back, which ends the dispute.
    refund = Refunds(world.store).ask(order.order_id, None, "sorry", world.now, random_bytes)
    assert refund.state == "queued"
    outcome(world, order, "refunded")
    assert [each for each in world.ask(notice) if isinstance(each, OutcomeKept)] == [kept]
    assert world.state(order.order_id) == "refunded"


def test_outcomes_that_contradict_are_not_confirmed(world: World) -> None:
    paid, _ = world.order(("route", 1))
    rejected, _ = world.order(("route", 9))
    unknown, _ = world.order(("route", 1))
    world.ask(paid, rejected)
    outcome(world, paid, "captured")
    assert outcome(world, paid, "void") == []
    assert outcome(world, rejected, "captured") == []
    assert outcome(world, unknown, "captured") == []
    assert world.merchant.refused["contradiction"] == 3
    assert outcome(world, rejected, "void") == [OutcomeKept(order_id=rejected.order_id, outcome="void")]
    assert outcome(world, unknown, "void") == [OutcomeKept(order_id=unknown.order_id, outcome="void")]
    assert world.state(paid.order_id) == "captured"


def test_a_bad_message_harms_no_other_of_its_batch(world: World) -> None:
    good, key = world.order(("plan", 1))
    spoiled, _ = world.order(("plan", 1))
    forward, _ = world.forward(messages.GetProduct(sku="plan"))
    answers = world.ask(
        msgspec.structs.replace(spoiled, sealed=spoiled.sealed[:-1]),
        msgspec.structs.replace(forward, sealed=forward.sealed[:-1]),
        good,
    )
    verdicts = {answer.order_id: answer for answer in answers}
    assert len(verdicts) == 2
    assert isinstance(key.unseal(verdicts[good.order_id].answer), messages.OrderAccepted)
    assert verdicts[spoiled.order_id].answer == b""
    assert world.merchant.refused["forged"] == 1
