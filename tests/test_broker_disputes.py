"""Disputes at the broker: frozen before they settle, decided by proof, operator or merchant."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from client import Customer, Order, Session, Shopkeeper, accept, blinded, dump, fresh, order_state, settle
from conftest import Time
from cryptography.hazmat.primitives.serialization import Encoding
from test_broker_settlement import books, bought, events
from world import World

from broker_node import disputes, operator_actions, order_rows
from broker_node.audit import Audit
from broker_node.evidence import finding
from common import clock, codec, messages
from common.amounts import line_amounts, total_of
from common.config import DAY_MS, HOUR_MS, MINUTE_MS, Limits
from common.credentials import PRODUCT_RECORD_LABEL, RECEIPT_LABEL
from common.errors import NotFoundError, RejectedError, UsageError
from common.keys import identity_fingerprint

PRICE = 100


def decide(world: World, order: Order, decision: disputes.Decision, reason: str = "looked at it") -> Any:
    """What `broker dispute refund|settle` does."""
    audit = Audit(world.market.market_id, Limits())
    with world.broker.store.immediate() as tx:
        return disputes.decide(
            tx, audit, Limits(), order.id, decision, reason, clock.now_ms(), clock.random_bytes
        )


def disputed(customer: Customer, session: Session, keeper: Shopkeeper, **changes: Any) -> Order:
    order = bought(customer, session, keeper)
    answer = session.ask(order.dispute(**changes), messages.OrderAnswer)
    assert (answer.state, answer.settles) == ("disputed", 0)
    return order


# --- evidence ------------------------------------------------------------------------------------------


def record_of(**changes: Any) -> messages.ProductRecord:
    fields: dict[str, Any] = {
        "merchant": "sports", "sku": "GPX-1", "version": 1, "title": "Ridge", "description": "",
        "category": "", "tags": [], "group": "", "variant": "", "price": PRICE, "currency": "EUR",
        "tax_rate": 1900, "file_name": "ridge.gpx", "size": 10, "digest": bytes(32), "cells": 1,
        "image_digest": b"", "image_alt": "",
    }  # fmt: skip
    return messages.ProductRecord(**(fields | changes))


def evidence(
    world: World, keeper: Shopkeeper, order: Order, line: dict[str, Any] | None = None, **changes: Any
) -> messages.Evidence:
    """What the merchant signed: as it should be, but for what the test makes it sign."""
    record = record_of()
    packed = codec.pack(record)
    figures = line_amounts(PRICE, 1, 0, record.tax_rate)
    sums = total_of([figures])
    fields: dict[str, Any] = {
        "sku": record.sku, "title": record.title, "record": hashlib.sha256(packed).digest(), "quantity": 1,
        "unit_price": PRICE, "discount": 0, "amount": figures.amount, "tax": figures.tax,
        "file_name": record.file_name, "size": record.size, "digest": record.digest, "first_cell": 0,
        "cells": record.cells,
    }  # fmt: skip
    whole: dict[str, Any] = {
        "market": world.market.market_id, "merchant": "sports", "order_id": order.id,
        "lines": [messages.ReceiptLine(**(fields | (line or {})))], "subtotal": sums.subtotal,
        "discount": sums.discount, "taxes": list(sums.taxes), "total": sums.total, "currency": "EUR",
        "at": clock.now_ms() // MINUTE_MS * MINUTE_MS,
    }  # fmt: skip
    receipt = codec.pack(messages.Receipt(**(whole | changes)))
    signed = messages.SignedRecord(
        record=packed, signature=keeper.identity.sign(PRODUCT_RECORD_LABEL, packed)
    )
    return messages.Evidence(
        certificate=keeper.certificate,
        receipt=receipt,
        signature=keeper.identity.sign(RECEIPT_LABEL, receipt),
        records=[signed],
    )


# --- opened --------------------------------------------------------------------------------------------


def test_a_dispute_freezes_the_money_and_its_merchant_is_told_until_it_knows(
    world: World, customer: Customer, keeper: Shopkeeper, time: Time
) -> None:
    session = customer.shop()
    order = disputed(customer, session, keeper)
    notice = keeper.hear(messages.DisputeOpened)
    assert (notice.order_id, notice.kind) == (order.id, "not_delivered")
    assert abs(notice.decide_by - clock.now_ms() - 14 * DAY_MS) < MINUTE_MS
    assert "veilmart.order.disputed" in events(world)
    time.advance(MINUTE_MS)
    assert keeper.hear(messages.DisputeOpened) == notice
    # What it kept of the capture does not stop it.
    keeper.say(messages.OutcomeKept(order_id=order.id, outcome="captured"))
    time.advance(2 * MINUTE_MS)
    assert keeper.hear(messages.DisputeOpened) == notice
    keeper.say(messages.OutcomeKept(order_id=order.id, outcome="disputed"))
    settle(world)
    time.advance(30 * DAY_MS)
    settle(world)
    # Nobody decides by waiting.
    assert order_state(world, order.id) == "disputed"
    assert books(world)["pending:sports"] == PRICE


def test_a_dispute_again_is_one_dispute(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    order = disputed(customer, session, keeper)
    keeper.hear(messages.DisputeOpened)
    before = dump(world)
    again = customer.shop().ask(order.dispute(), messages.OrderAnswer)
    assert (again.state, again.answer) == ("disputed", b"sealed: yes")
    assert again.decide_by > clock.now_ms()
    assert session.refused(order.dispute(statement="something else")) == "idempotency_conflict"
    after = dump(world)
    assert {name: after[name] for name in ("orders", "disputes", "ledger")} == {
        name: before[name] for name in ("orders", "disputes", "ledger")
    }


def test_what_is_not_captured_cannot_be_disputed(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    held = customer.order(32)
    session.say(held.place)
    keeper.hear(messages.ForwardOrder)
    over = bought(customer, session, keeper)
    session.ask(over.confirmed, messages.OrderAnswer)
    fine = bought(customer, session, keeper, 4)
    before = dump(world)
    assert session.refused(held.dispute()) == "wrong_state"
    assert session.refused(over.dispute()) == "wrong_state"
    assert session.refused(fine.dispute(claim_secret=fine.status_secret)) == "wrong_secret"
    assert session.refused(fine.dispute(order_id=fresh())) == "not_found"
    after = dump(world)
    assert {name: after[name] for name in ("orders", "disputes", "ledger")} == {
        name: before[name] for name in ("orders", "disputes", "ledger")
    }


def test_a_confirmation_and_time_settle_nothing_that_is_disputed(
    world: World, customer: Customer, keeper: Shopkeeper, time: Time
) -> None:
    session = customer.shop()
    order = disputed(customer, session, keeper)
    assert session.ask(order.confirmed, messages.OrderAnswer).state == "disputed"
    time.advance(8 * DAY_MS)
    settle(world)
    assert order_state(world, order.id) == "disputed"
    assert books(world)["pending:sports"] == PRICE


# --- decided by proof ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "changes"),
    [
        ({"digest": bytes(31) + b"\1"}, {}),
        ({"size": 11}, {}),
        ({"file_name": "other.gpx"}, {}),
        ({"cells": 2}, {}),
        ({"title": "Valley"}, {}),
        ({}, {"total": 99}),
        ({}, {"discount": 1}),
        ({}, {"currency": "USD"}),
        ({"amount": 99}, {}),
        # Signed at a time which the certificate does not cover: the merchant chose it, and nobody else can.
        ({}, {"at": 0}),
        ({"digest": bytes(31) + b"\1"}, {"at": MINUTE_MS}),
        ({}, {"at": 2**52}),
    ],
)
def test_a_merchant_that_contradicts_itself_is_refunded_at_once(
    world: World, customer: Customer, keeper: Shopkeeper, line: dict[str, Any], changes: dict[str, Any]
) -> None:
    session = customer.shop()
    order = bought(customer, session, keeper)
    shown = evidence(world, keeper, order, line, **changes)
    answer = session.ask(order.dispute(kind="wrong_content", evidence=[shown]), messages.OrderAnswer)
    assert (answer.state, answer.refunded, answer.decide_by) == ("refunded", PRICE, 0)
    assert "signed" in answer.decision
    assert keeper.hear(messages.OrderOutcome).outcome == "refunded"
    assert {"veilmart.order.disputed", "veilmart.order.refunded"} <= set(events(world))
    session.ask(order.claim(blinded(world, [64, 32, 4])), messages.RefundIssued)
    after = books(world)
    assert (after["pending:sports"], after["escrow"]) == (0, 0)


def test_evidence_that_agrees_is_no_proof_and_waits_for_the_operator(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    order = bought(customer, session, keeper)
    shown = evidence(world, keeper, order)
    answer = session.ask(order.dispute(kind="wrong_content", evidence=[shown]), messages.OrderAnswer)
    assert (answer.state, answer.decision) == ("disputed", "")
    with world.broker.store.immediate() as tx:
        found = disputes.find(tx, order.id.hex()[:8])
    assert found.evidence == shown
    assert "agrees" in found.finding


def forgeries(world: World, keeper: Shopkeeper, order: Order, other: Shopkeeper) -> Iterator[Any]:
    true, wrong = evidence(world, keeper, order), {"digest": bytes(31) + b"\1"}
    replace = msgspec.structs.replace
    yield replace(true, signature=bytes(64))
    yield replace(true, receipt=true.receipt + b"\0")
    yield replace(true, records=[replace(true.records[0], signature=bytes(64))])
    yield evidence(world, keeper, order, wrong, order_id=fresh())
    yield evidence(world, keeper, order, wrong, market=bytes(16))
    # Signed by another merchant, whose certificate is as good.
    yield evidence(world, other, order, wrong)
    yield replace(evidence(world, other, order, wrong), certificate=true.certificate)
    # Signed by the right one, and no receipt: of which order it speaks cannot be told.
    yield replace(true, receipt=b"\0", signature=keeper.identity.sign(RECEIPT_LABEL, b"\0"))
    record = messages.SignedRecord(record=b"\0", signature=keeper.identity.sign(PRODUCT_RECORD_LABEL, b"\0"))
    yield replace(true, records=[record])


FORGERIES = 9


@pytest.mark.parametrize("number", range(FORGERIES))
def test_evidence_that_is_not_this_orders_counts_for_nothing_and_the_operator_decides(
    world: World, customer: Customer, keeper: Shopkeeper, number: int
) -> None:
    session, other = customer.shop(), Shopkeeper(world, "films")
    order = bought(customer, session, keeper)
    forged = list(forgeries(world, keeper, order, other))
    assert len(forged) == FORGERIES
    request = order.dispute(kind="wrong_content", evidence=[forged[number]])
    answer = session.ask(request, messages.OrderAnswer)
    # Frozen all the same: a merchant could sign what proves nothing, to be rid of disputes.
    assert (answer.state, answer.refunded) == ("disputed", 0)
    assert "counts for nothing" in answer.finding
    with world.broker.store.immediate() as tx:
        found = disputes.find(tx, order.id.hex())
    assert (found.finding, found.evidence) == (answer.finding, None)
    assert books(world)["pending:sports"] == PRICE


def test_evidence_is_judged_by_the_certificate_as_it_was_when_the_order_was_paid(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    order = bought(customer, session, keeper)
    shown = evidence(world, keeper, order, {"digest": bytes(31) + b"\1"})
    with world.broker.store.immediate() as tx:
        row = order_rows.get(tx, order.id)
    ended = {**row, "captured_at": clock.now_ms() + 1000 * DAY_MS}
    market, fingerprint = world.market, identity_fingerprint(keeper.identity.public)
    rest = (market.ca().public_bytes(Encoding.DER), market.market_id, fingerprint, "EUR")
    assert finding(row, shown, *rest).weight == "proof"
    assert finding(ended, shown, *rest).weight == "nothing"


# --- decided by a person -------------------------------------------------------------------------------


def test_the_operator_gives_it_back(world: World, customer: Customer, keeper: Shopkeeper, time: Time) -> None:
    session = customer.shop()
    order = disputed(customer, session, keeper)
    keeper.hear(messages.DisputeOpened)
    keeper.ask(
        messages.AnswerDispute(order_id=order.id, statement="It was fetched"), messages.DisputeAnswered
    )
    with world.broker.store.immediate() as tx:
        (waiting,) = disputes.listing(tx, everything=False)
    assert (waiting.statement, waiting.answer, waiting.left) == ("nothing came", "It was fetched", PRICE)
    decided = decide(world, order, "refunded", "no cell was ever relayed")
    assert (decided.state, decided.reason) == ("refunded", "no cell was ever relayed")
    # The running broker tells the merchant by itself, the customer when it asks.
    time.advance(1000)
    assert keeper.hear(messages.OrderOutcome).outcome == "refunded"
    answer = session.ask(order.asked, messages.OrderAnswer)
    assert (answer.state, answer.decision) == ("refunded", "no cell was ever relayed")
    session.ask(order.claim(blinded(world, [64, 32, 4])), messages.RefundIssued)
    with world.broker.store.immediate() as tx:
        assert disputes.listing(tx, everything=False) == []
        (action,) = operator_actions.listing(tx, order.id.hex())
    assert (action.action, action.reason) == ("dispute.refund", "no cell was ever relayed")
    assert books(world)["pending:sports"] == 0


def test_the_operator_pays_the_merchant(
    world: World, customer: Customer, keeper: Shopkeeper, time: Time
) -> None:
    session = customer.shop()
    order = disputed(customer, session, keeper)
    keeper.hear(messages.DisputeOpened)
    decide(world, order, "settled", "the file was delivered")
    time.advance(1000)
    assert keeper.hear(messages.OrderOutcome).outcome == "settled"
    answer = session.ask(order.asked, messages.OrderAnswer)
    assert (answer.state, answer.refunded, answer.decision) == ("settled", 0, "the file was delivered")
    assert session.refused(order.claim(blinded(world, [64]))) == "wrong_state"
    after = books(world)
    assert (after["pending:sports"], after["available:sports"]) == (0, PRICE)


def test_a_dispute_is_decided_once_with_a_reason(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    order = disputed(customer, session, keeper)
    with pytest.raises(UsageError):
        decide(world, order, "refunded", "  ")
    assert order_state(world, order.id) == "disputed"
    decide(world, order, "settled")
    for decision in ("refunded", "settled"):
        with pytest.raises(RejectedError, match="decided"):
            decide(world, order, decision)  # type: ignore[arg-type] # one of both
    with world.broker.store.immediate() as tx, pytest.raises(NotFoundError):
        disputes.find(tx, fresh().hex())
    books(world)


def test_a_merchant_that_gives_all_back_ends_the_dispute(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    order = disputed(customer, session, keeper)
    keeper.hear(messages.DisputeOpened)
    part = messages.RefundOrder(order_id=order.id, refund=fresh(), amount=36)
    assert keeper.ask(part, messages.RefundTaken).left == 64
    assert order_state(world, order.id) == "disputed"
    keeper.ask(messages.RefundOrder(order_id=order.id, refund=fresh(), amount=0), messages.RefundTaken)
    with world.broker.store.immediate() as tx:
        ended = disputes.find(tx, order.id.hex())
    assert (ended.state, ended.reason) == ("refunded", "the merchant gave all of it back")
    session.collect()
    assert session.ask(order.asked, messages.OrderAnswer).state == "refunded"
    books(world)


def test_what_was_given_back_before_is_not_decided_about(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session = customer.shop()
    order = bought(customer, session, keeper)
    keeper.ask(messages.RefundOrder(order_id=order.id, refund=fresh(), amount=36), messages.RefundTaken)
    session.collect()
    session.ask(order.dispute(), messages.OrderAnswer)
    decide(world, order, "settled")
    after = books(world)
    assert (after["available:sports"], after["escrow"]) == (64, 36)


# --- what the merchant says ----------------------------------------------------------------------------


def test_a_merchant_says_its_part_once_and_only_to_its_own(
    world: World, customer: Customer, keeper: Shopkeeper
) -> None:
    session, other = customer.shop(), Shopkeeper(world, "films")
    order = disputed(customer, session, keeper)
    said = messages.AnswerDispute(order_id=order.id, statement="It was fetched")
    assert other.refused(said) == "not_found"
    keeper.ask(said, messages.DisputeAnswered)
    keeper.ask(said, messages.DisputeAnswered)
    changed = messages.AnswerDispute(order_id=order.id, statement="No, wait")
    assert keeper.refused(changed) == "idempotency_conflict"
    fine = bought(customer, session, keeper, 4)
    assert keeper.refused(messages.AnswerDispute(order_id=fine.id, statement="?")) == "not_found"
    decide(world, order, "settled")
    # A repetition is still confirmed: its first confirmation may be lost.
    keeper.ask(said, messages.DisputeAnswered)


def test_what_is_said_after_the_end_is_refused(world: World, customer: Customer, keeper: Shopkeeper) -> None:
    session = customer.shop()
    order = disputed(customer, session, keeper)
    decide(world, order, "settled")
    late = messages.AnswerDispute(order_id=order.id, statement="It was fetched")
    assert keeper.refused(late) == "wrong_state"


def test_evidence_and_what_both_said_are_erased_thirty_days_after_the_end(
    world: World, customer: Customer, keeper: Shopkeeper, time: Time
) -> None:
    session = customer.shop()
    order = bought(customer, session, keeper)
    shown = evidence(world, keeper, order)
    wrong = messages.WrongFile(sku="ridge", keys=False, digest=bytes(32))
    claimed = messages.Arrived(cells=1, expected=2, wrong=[wrong])
    opened = order.dispute(evidence=[shown], arrived=[claimed], statement="the maps of the ridge are empty")
    answer = messages.AnswerDispute(order_id=order.id, statement="that ridge has no paths")
    session.ask(opened, messages.OrderAnswer)
    # The merchant is told what is claimed, to answer it; nothing else of what was shown.
    assert keeper.hear(messages.DisputeOpened).arrived == [claimed]
    keeper.ask(answer, messages.DisputeAnswered)
    time.advance(40 * DAY_MS)
    settle(world)
    with world.broker.store.immediate() as tx:
        kept = disputes.find(tx, order.id.hex())
    assert (kept.evidence, kept.arrived) == (shown, claimed)
    assert (kept.statement, kept.answer) == (opened.statement, answer.statement)
    decide(world, order, "refunded")
    time.advance(30 * DAY_MS + HOUR_MS)
    settle(world)
    with world.broker.store.immediate() as tx:
        erased = disputes.find(tx, order.id.hex())
    assert (erased.evidence, erased.arrived, erased.statement, erased.answer) == (None, None, "", "")
    assert not any("ridge" in str(row) for rows in dump(world).values() for row in rows)
    keeper.open()
    keeper.say(answer)
    assert keeper.hear(messages.Refused).code == "idempotency_conflict"


def test_nothing_of_a_dispute_reaches_the_log(
    world: World, customer: Customer, keeper: Shopkeeper, capsys: pytest.CaptureFixture[str]
) -> None:
    session = customer.shop()
    order = bought(customer, session, keeper)
    capsys.readouterr()
    session.say(order.dispute(statement="a secret word", evidence=[evidence(world, keeper, order)]))
    session.hear(messages.OrderAnswer)
    keeper.say(accept(messages.ForwardOrder(
        order_id=order.id, amount=PRICE, currency="EUR", deadline=order.place.deadline,
        claim_lock=bytes(32), status_lock=bytes(32), sealed=order.place.sealed,
    )))  # fmt: skip
    settle(world)
    printed = capsys.readouterr()
    assert "a secret word" not in printed.out + printed.err
    assert "Ridge" not in printed.out + printed.err
    assert "a secret word" not in repr(order.dispute(statement="a secret word"))
