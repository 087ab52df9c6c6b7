"""Disputes as customer and merchant live through them, each with its own store and command."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from client import order_state
from customer_shop import Bazaar, build, content, spoiled
from test_customer_refunds import PRICE, asked, books, deaf, impatient, money

from broker_node import disputes
from broker_node.audit import Audit
from common import clock, messages, sealing
from common.config import DAY_MS, Limits
from common.errors import DeadlineError, RejectedError, UntrustedError, UsageError
from customer_node import Market
from merchant_node import fulfil
from merchant_node.disputes import Disputes

SAID = "nothing came in three days"


@pytest.fixture
def bazaar(tmp_path: Path) -> Iterator[Bazaar]:
    built = build(tmp_path)
    yield built
    built.world.close()


def decide(bazaar: Bazaar, order_id: str, decision: disputes.Decision, reason: str) -> None:
    """What `broker dispute refund|settle` does."""
    audit = Audit(bazaar.world.market.market_id, Limits())
    now, random = clock.now_ms(), clock.random_bytes
    with bazaar.world.broker.store.immediate() as tx:
        disputes.decide(tx, audit, Limits(), bytes.fromhex(order_id), decision, reason, now, random)


def seen_by_operator(bazaar: Bazaar, order_id: str) -> disputes.DisputeView:
    with bazaar.world.broker.store.immediate() as tx:
        return disputes.find(tx, order_id)


def bought(market: Market) -> str:
    return market.buy_now("sports", "PLAN").order_id


def test_a_dispute_is_decided_by_the_operator_and_resume_brings_the_coins(bazaar: Bazaar) -> None:
    with bazaar.customer() as market:
        order_id = bought(market)
        frozen = market.dispute(order_id, "not_delivered", SAID, reveal=True)
        assert (frozen.state, frozen.waits_for) == ("disputed", "operator")
        assert (frozen.waits_until or 0) > clock.now_ms() + 13 * DAY_MS
        shop = bazaar.world.merchants["sports"]
        assert bazaar.world.pump(lambda: bool(Disputes(shop.store).listing()))
        Disputes(shop.store).answer(bytes.fromhex(order_id), "It was there all the time")
        assert bazaar.world.pump(lambda: Disputes(shop.store).listing()[0].sent)
        waiting = seen_by_operator(bazaar, order_id)
        assert (waiting.statement, waiting.answer) == (SAID, "It was there all the time")
        until = frozen.waits_until or 0
        assert (frozen.overdue(until - 1), frozen.overdue(until)) == (False, True)
        assert waiting.evidence is not None
        assert b"PLAN" in waiting.evidence.receipt
        (still,) = market.resume()
        assert (still.outcome, still.error) == ("disputed", None)
        decide(bazaar, order_id, "refunded", "the merchant never served it")
        (done,) = market.resume()
        assert (done.id, done.outcome, done.error) == (order_id, "refunded", None)
        after = market.order(order_id)
        assert (after.decision, after.waits_for) == ("the merchant never served it", None)
        assert money(market) == 4000
        assert market.resume() == []
        assert bazaar.world.pump(lambda: not Disputes(shop.store).listing())
        assert Disputes(shop.store).listing(everything=True)[0].state == "refunded"
        assert shop.reports.order(bytes.fromhex(order_id)).state == "refunded"
    assert books(bazaar)["pending:sports"] == 0


def test_a_dispute_that_the_merchant_wins_is_at_its_end_and_the_file_is_still_there(bazaar: Bazaar) -> None:
    with bazaar.customer() as market:
        order_id = bought(market)
        market.dispute(order_id, "not_delivered", reveal=False)
        decide(bazaar, order_id, "settled", "it was not even asked for")
        (done,) = market.resume()
        assert (done.outcome, done.error) == ("complete", None)
        ended = market.order(order_id)
        assert (ended.decision, ended.files) == ("it was not even asked for", ())
        (file,) = market.download(order_id, market._context.profile.home / "bought")
        assert file.path.exists()
        assert market.order(order_id).files == (file.path,)
        assert market.resume() == []
    assert books(bazaar)["available:sports"] == PRICE


def test_what_has_come_is_told_as_a_claim_and_kept_until_the_dispute_is_over(
    bazaar: Bazaar, tmp_path: Path
) -> None:
    promised, delivered = content("sports PLAN", 150_000), bytes(150_000)
    with bazaar.customer() as market:
        order_id = bought(market)
        with spoiled(bazaar, promised, delivered), pytest.raises(UntrustedError):
            market.download(order_id, tmp_path)
        (wrong,) = market.wrong_files(order_id)
        market.dispute(order_id, "wrong_content", SAID, reveal=True)
        claimed = seen_by_operator(bazaar, order_id).arrived
        assert claimed is not None
        digest = hashlib.sha256(delivered).digest()
        assert claimed.wrong == [messages.WrongFile(sku="PLAN", keys=False, digest=digest)]
        assert claimed.cells == claimed.expected == market.order(order_id).cells
        shop = bazaar.world.merchants["sports"]
        assert bazaar.world.pump(lambda: bool(Disputes(shop.store).listing()))
        assert Disputes(shop.store).listing()[0].arrived == claimed
        market.resume()
        assert wrong.path is not None
        assert wrong.path.read_bytes() == delivered
        decide(bazaar, order_id, "refunded", "it is nothing but zeros")
        market.resume()
        assert market.order(order_id).state == "refunded"
        assert market.wrong_files(order_id) == ()
        assert not wrong.path.exists()


def test_how_much_has_come_is_told_where_not_all_of_it_did(bazaar: Bazaar, tmp_path: Path) -> None:
    with bazaar.customer() as market:
        order_id = bought(market)
        steps = market.download_steps(order_id, tmp_path)
        assert next(steps).cells_done == 0
        steps.close()
        market.dispute(order_id, "not_delivered", reveal=True)
        claimed = seen_by_operator(bazaar, order_id).arrived
        assert claimed == messages.Arrived(cells=0, expected=market.order(order_id).cells or 0, wrong=[])


def test_nothing_of_the_product_is_shown_without_a_word(bazaar: Bazaar) -> None:
    with bazaar.customer() as market:
        order_id = bought(market)
        market.dispute(order_id, "not_delivered", reveal=False)
        seen = seen_by_operator(bazaar, order_id)
        assert (seen.evidence, seen.arrived) == (None, None)
        for path in (bazaar.world.root / "market" / "broker").rglob("*.db*"):
            assert b"PLAN of sports" not in path.read_bytes()


def test_a_dispute_that_was_not_answered_goes_on_with_resume(bazaar: Bazaar) -> None:
    with impatient(bazaar) as market:
        order_id = bought(market)
        deaf_open(bazaar, market, order_id)
        assert market.order(order_id).state == "accepted"
        assert order_state(bazaar.world, bytes.fromhex(order_id)) == "captured"
    with bazaar.again(market) as market:
        (done,) = market.resume()
        assert (done.outcome, done.error) == ("disputed", None)
        assert seen_by_operator(bazaar, order_id).statement == SAID


def deaf_open(bazaar: Bazaar, market: Market, order_id: str) -> None:
    carry_on: Any = market._disputes.carry_on

    def losing(*arguments: Any) -> None:
        with bazaar.tampering(lambda publish: [] if publish.topic.endswith("/up") else [publish]):
            carry_on(*arguments)

    market._disputes.carry_on = losing  # type: ignore[method-assign]
    with pytest.raises(DeadlineError):
        market.dispute(order_id, "not_delivered", SAID, reveal=True)
    market._disputes.carry_on = carry_on  # type: ignore[method-assign]


def test_the_late_answer_to_an_earlier_question_is_no_answer_to_a_dispute(bazaar: Bazaar) -> None:
    with bazaar.customer() as market:
        order_id = bought(market)
    with bazaar.again(market, timeout_s=0.2) as market:
        order = market._load(bytes.fromhex(order_id))
        question = messages.AskOrder(order_id=order.id, status_secret=order.secrets.status)
        market._shop.within(market._downloads.place_of(order), lambda session: session.post(question))
        deaf_open(bazaar, market, order_id)
        assert market.order(order_id).state == "accepted"
        assert order_state(bazaar.world, order.id) == "captured"
    with bazaar.again(market) as market:
        (done,) = market.resume()
        assert (done.outcome, done.error) == ("disputed", None)
        assert seen_by_operator(bazaar, order_id).statement == SAID


def test_a_dispute_that_the_broker_has_is_known_when_it_is_asked(bazaar: Bazaar) -> None:
    with bazaar.customer() as market:
        order_id = bought(market)
        order = market._load(bytes.fromhex(order_id))
        by_another_copy = messages.OpenDispute(
            order_id=order.id,
            attempt=bytes(16),
            claim_secret=order.secrets.claim,
            kind="not_delivered",
            statement=SAID,
            evidence=[],
            arrived=[],
        )
        market._shop.within(
            market._downloads.place_of(order),
            lambda session: session.ask(by_another_copy, messages.OrderAnswer, 5000),
        )
        (told,) = market.resume()
        assert (told.outcome, told.error) == ("disputed", None)
        decide(bazaar, order_id, "refunded", "the merchant never served it")
        market.resume()
        assert (market.order(order_id).state, money(market)) == ("refunded", 4000)


def test_what_is_delivered_placed_or_settled_cannot_be_disputed(bazaar: Bazaar) -> None:
    with impatient(bazaar) as market:
        order_id = bought(market)
        market.download(order_id, market._context.profile.home / "bought")
        with pytest.raises(RejectedError, match="nothing to dispute"):
            market.dispute(order_id, "wrong_content", reveal=True)
        with deaf(bazaar, market, "sports/in"), pytest.raises(DeadlineError):
            market.buy_now("sports", "ROUTE")
        waiting = market.last_order().order_id
        with pytest.raises(RejectedError, match="present state"):
            market.dispute(waiting, "not_delivered", reveal=False)
        assert market.cancel(waiting).state == "refunded"


def test_a_statement_has_its_length(bazaar: Bazaar) -> None:
    with bazaar.customer() as market:
        order_id = bought(market)
        with pytest.raises(UsageError, match="1000"):
            market.dispute(order_id, "not_delivered", "x" * 1001, reveal=False)
        assert market.order(order_id).state == "accepted"


def test_a_merchant_ends_a_dispute_by_giving_the_money_back(bazaar: Bazaar) -> None:
    with bazaar.customer() as market:
        order_id = bought(market)
        market.dispute(order_id, "not_delivered", reveal=False)
        assert asked(bazaar, order_id, None).given == PRICE
        market.resume()
        assert market.order(order_id).state == "refunded"
        assert money(market) == 4000


def lie_about_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The merchant signs a receipt that promises another file than the record that it signed."""
    lines_of = fulfil._receipt_lines

    def lying(*arguments: Any) -> list[messages.ReceiptLine]:
        return [msgspec.structs.replace(line, digest=bytes(32)) for line in lines_of(*arguments)]

    monkeypatch.setattr(fulfil, "_receipt_lines", lying)


def test_a_receipt_that_contradicts_the_record_is_proof_enough(
    bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch
) -> None:
    lie_about_the_digest(monkeypatch)
    with bazaar.customer() as market:
        with pytest.raises(UntrustedError):
            market.buy_now("sports", "PLAN")
        order_id = market.last_order().order_id
        stuck = market.last_order()
        assert (stuck.state, stuck.waits_for) == ("placed", "customer")
        assert money(market) == 4000 - PRICE
        decided = market.dispute(order_id, "wrong_content", reveal=True)
        assert (decided.state, decided.claimed) == ("refunded", PRICE)
        assert "signed" in decided.decision
        assert money(market) == 4000
        assert market.resume() == []
    assert books(bazaar)["pending:sports"] == 0


def test_a_receipt_of_an_impossible_time_is_proof_enough_too(
    bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch
) -> None:
    lie_about_the_digest(monkeypatch)
    monkeypatch.setattr(fulfil, "minute_of", lambda _now: 0)
    with bazaar.customer() as market:
        with pytest.raises(UntrustedError) as refused:
            market.buy_now("sports", "PLAN")
        assert "order dispute" in refused.value.hint
        decided = market.dispute(market.last_order().order_id, "wrong_content", reveal=True)
        assert (decided.state, decided.claimed) == ("refunded", PRICE)
        assert money(market) == 4000


def test_what_is_given_back_comes_though_the_receipt_proves_nothing(
    bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch
) -> None:
    lie_about_the_digest(monkeypatch)
    with bazaar.customer() as market:
        with pytest.raises(UntrustedError):
            market.buy_now("sports", "PLAN")
        order_id = market.last_order().order_id
        assert asked(bazaar, order_id, 234).given == 234
        (part,) = market.resume()
        assert (part.outcome, type(part.error)) == ("placed", UntrustedError)
        assert (market.order(order_id).claimed, money(market)) == (234, 4000 - PRICE + 234)
        assert asked(bazaar, order_id, None).given == 1000
        (rest,) = market.resume()
        assert (rest.outcome, type(rest.error)) == ("refunded", RejectedError)
        assert money(market) == 4000
        assert market.resume() == []
    assert books(bazaar)["pending:sports"] == 0


def test_evidence_that_counts_for_nothing_freezes_the_money_all_the_same(
    bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch
) -> None:
    signing = fulfil.Fulfilment._sign_receipt

    def about_another(fulfilling: Any, order: messages.ForwardOrder, *rest: Any) -> messages.OrderAccepted:
        return signing(fulfilling, msgspec.structs.replace(order, order_id=bytes(16)), *rest)

    monkeypatch.setattr(fulfil.Fulfilment, "_sign_receipt", about_another)
    with bazaar.customer() as market:
        with pytest.raises(UntrustedError):
            market.buy_now("sports", "PLAN")
        waiting = market.dispute(market.last_order().order_id, "wrong_content", SAID, reveal=True)
        assert (waiting.state, waiting.waits_for) == ("disputed", "operator")
        assert "counts for nothing" in waiting.finding


def test_an_answer_that_does_not_open_can_be_disputed_without_a_receipt(
    bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bazaar.customer() as market:
        settle = market._checkout.settle

        def sealing_garbage(*arguments: Any) -> None:
            with monkeypatch.context() as patched:
                patched.setattr(sealing.AnswerKey, "seal", lambda *_, **__: bytes(4200))
                settle(*arguments)

        market._checkout.settle = sealing_garbage  # type: ignore[method-assign]
        with pytest.raises(UntrustedError, match="does not open"):
            market.buy_now("sports", "PLAN")
        market._checkout.settle = settle  # type: ignore[method-assign]
        order_id = market.last_order().order_id
        with pytest.raises(RejectedError, match="no receipt"):
            market.dispute(order_id, "not_delivered", reveal=True)
        assert market.dispute(order_id, "not_delivered", SAID, reveal=False).state == "disputed"
        decide(bazaar, order_id, "refunded", "it cannot be read")
        market.resume()
        assert money(market) == 4000
