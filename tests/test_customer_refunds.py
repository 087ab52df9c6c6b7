"""Money back, as its customer sees it: orders called off, and what merchants give back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Time
from customer_shop import Bazaar, build, lose

from broker_node import ledger, payouts
from broker_node.exchange import Exchange
from common import clock, config, messages
from common.errors import DeadlineError, RefusedError, RejectedError
from customer_node import Market
from merchant_node.refunds import RefundReport, Refunds
from veilmart.cli.customer_orders import _waits

PRICE = 1234


@pytest.fixture
def bazaar(tmp_path: Path) -> Iterator[Bazaar]:
    built = build(tmp_path)
    yield built
    built.world.close()


def money(market: Market) -> int:
    wallet = market.wallet()
    return wallet.usable + wallet.reserved


def give_back(bazaar: Bazaar, order_id: str, amount: int | None) -> RefundReport:
    """What `merchant refund` does."""
    refunds = Refunds(bazaar.world.merchants["sports"].store)
    return refunds.ask(bytes.fromhex(order_id), amount, "sorry", clock.now_ms(), clock.random_bytes)


def asked(bazaar: Bazaar, order_id: str, amount: int | None) -> RefundReport:
    """Give back, and wait for the broker's answer."""
    store, made = bazaar.world.merchants["sports"].store, give_back(bazaar, order_id, amount)

    def latest() -> RefundReport:
        found = Refunds(store).listing(bytes.fromhex(order_id))
        return next(each for each in found if each.refund == made.refund)

    assert bazaar.world.pump(lambda: latest().state != "queued")
    return latest()


def books(bazaar: Bazaar) -> dict[str, int]:
    with bazaar.world.broker.store.immediate() as tx:
        report = ledger.check(tx)
    assert report.faults == ()
    return dict(report.books)


# --- called off ----------------------------------------------------------------------------------------


@contextmanager
def impatient(bazaar: Bazaar) -> Iterator[Market]:
    """A customer with coins who does not wait long for an answer."""
    with bazaar.customer() as market:
        pass
    with bazaar.again(market, timeout_s=2.0) as market:
        yield market


@contextmanager
def deaf(bazaar: Bazaar, market: Market, leg: str) -> Iterator[None]:
    """Lose everything on topics that end so, from the moment when an order is sent."""
    checkout: Any = market._checkout
    settle = checkout.settle

    def losing(*arguments: Any) -> None:
        with bazaar.tampering(lose(leg)):
            settle(*arguments)

    checkout.settle = losing
    try:
        yield
    finally:
        checkout.settle = settle


@contextmanager
def deaf_to(bazaar: Bazaar, kind: type) -> Iterator[None]:
    """Let the broker drop one kind of message."""
    broker = bazaar.world.broker.broker
    handlers = broker._handlers
    broker._handlers = {**handlers, kind: lambda *_: []}
    try:
        yield
    finally:
        broker._handlers = handlers


def place_unheard(bazaar: Bazaar, market: Market) -> str:
    """Order from a merchant that does not hear of it."""
    with deaf(bazaar, market, "sports/in"), pytest.raises(DeadlineError) as told:
        market.buy_now("sports", "PLAN")
    assert told.value.hop == "merchant"
    return market.last_order().order_id


def test_an_order_that_waits_is_called_off_and_its_coins_come_back(bazaar: Bazaar) -> None:
    with impatient(bazaar) as market:
        order_id = place_unheard(bazaar, market)
        waiting = market.order(order_id)
        assert (waiting.state, waiting.waits_for) == ("placed", "merchant")
        assert waiting.waits_until == waiting.deadline
        assert money(market) == 4000 - PRICE
        cancelled = market.cancel(order_id)
        assert (cancelled.state, cancelled.failure) == ("refunded", "cancelled")
        assert (cancelled.refunded, cancelled.claimed, cancelled.waits_for) == (PRICE, PRICE, None)
        assert money(market) == 4000
        assert market.resume() == []
        # Whoever did not hear of it says it again.
        assert market.cancel(order_id) == market.order(order_id)
    assert books(bazaar).get("escrow", 0) == 0
    # Its merchant hears of the order and of its end in whatever order, and sells nothing.
    assert all(order.state == "cancelled" for order in bazaar.world.merchants["sports"].reports.orders())


def test_a_cancel_that_was_not_answered_goes_on_with_resume(bazaar: Bazaar) -> None:
    with impatient(bazaar) as market:
        order_id = place_unheard(bazaar, market)
        with bazaar.tampering(lose("/down")), pytest.raises(DeadlineError):
            market.cancel(order_id)
        assert market.order(order_id).state == "placed"
    with bazaar.again(market) as market:
        market.resume()
        assert (market.order(order_id).state, market.order(order_id).failure) == ("refunded", "cancelled")
        assert money(market) == 4000


def test_a_cancel_that_the_broker_never_heard_is_sent_by_resume(bazaar: Bazaar) -> None:
    with impatient(bazaar) as market:
        order_id = place_unheard(bazaar, market)
        with bazaar.tampering(lose("/up")), pytest.raises(DeadlineError):
            market.cancel(order_id)
        market.resume()
        assert market.order(order_id).failure == "cancelled"
        assert money(market) == 4000


def test_what_the_broker_never_heard_of_is_called_off_at_once(bazaar: Bazaar) -> None:
    with impatient(bazaar) as market:
        market.show("sports", "PLAN")

        with deaf(bazaar, market, "/up"), pytest.raises(DeadlineError):
            market.buy_now("sports", "PLAN")
        order_id = market.last_order().order_id
        assert market.last_order().state == "draft"
        assert market.cancel(order_id).state == "refused"
        assert (market.wallet().usable, market.wallet().reserved) == (4000, 0)


def test_a_cancel_that_came_too_late_tells_so_and_nothing_is_lost(bazaar: Bazaar) -> None:
    with impatient(bazaar) as market:
        with deaf(bazaar, market, "/down"), pytest.raises(DeadlineError):
            market.buy_now("sports", "PLAN")
        order_id = market.last_order().order_id
        with pytest.raises(RejectedError, match="accepted the order already"):
            market.cancel(order_id)
        assert (market.order(order_id).state, market.order(order_id).failure) == ("accepted", None)
        with pytest.raises(RejectedError, match="cannot be called off"):
            market.cancel(order_id)
        assert len(market.download(order_id, bazaar.profile("bought"))) == 1


# --- given back ----------------------------------------------------------------------------------------


def test_a_part_is_given_back_and_comes_with_the_next_word(bazaar: Bazaar) -> None:
    with bazaar.customer() as market:
        order_id = market.buy_now("sports", "PLAN").order_id
        paid_for = market.order(order_id)
        assert (paid_for.waits_for, paid_for.state) == ("customer", "accepted")
        assert (paid_for.waits_until or 0) > clock.now_ms() + 6 * config.DAY_MS
        refund = asked(bazaar, order_id, 200)
        assert (refund.state, refund.given, refund.code) == ("done", 200, None)
        market.download(order_id, market._context.profile.home / "bought")
        after = market.order(order_id)
        assert (after.state, after.refunded, after.claimed, after.waits_for) == ("complete", 200, 200, None)
        assert money(market) == 4000 - PRICE + 200
        assert market.resume() == []
    assert books(bazaar)["available:sports"] == PRICE - 200


def test_all_is_given_back_in_two_parts_also_after_settlement(bazaar: Bazaar) -> None:
    with bazaar.customer() as market:
        order_id = market.buy_now("sports", "PLAN").order_id
        market.download(order_id, market._context.profile.home / "bought")
        assert asked(bazaar, order_id, 34).given == 34
        assert market.ask(order_id).claimed == 34
        assert asked(bazaar, order_id, None).given == PRICE - 34
        assert bazaar.world.merchants["sports"].reports.order(bytes.fromhex(order_id)).state == "refunded"
        after = market.ask(order_id)
        assert (after.state, after.claimed, after.waits_for) == ("refunded", PRICE, None)
        assert money(market) == 4000
        with pytest.raises(RejectedError, match="nothing to download"):
            market.download(order_id)
    assert books(bazaar)["available:sports"] == books(bazaar)["escrow"] == 0


def test_resume_finds_what_was_given_back_before_the_download(bazaar: Bazaar) -> None:
    with bazaar.customer() as market:
        order_id = market.buy_now("sports", "PLAN").order_id
        asked(bazaar, order_id, None)
        (done,) = market.resume()
        assert (done.outcome, done.error) == ("refunded", None)
        assert money(market) == 4000


def test_resume_asks_about_delivered_orders_once_a_day(bazaar: Bazaar, time: Time) -> None:
    with bazaar.customer(clock=time.now) as market:
        order_id = market.buy_now("sports", "PLAN").order_id
        market.download(order_id, market._context.profile.home / "bought")
        asked(bazaar, order_id, 50)
        assert market.resume() == []
    time.advance(config.DAY_MS + config.MINUTE_MS)
    bazaar.world.pump(lambda: False, 0.2)
    with bazaar.again(market, clock=time.now) as market:
        (done,) = market.resume()
        assert (done.id, done.outcome, done.error) == (order_id, "complete", None)
        assert market.order(order_id).claimed == 50
        assert market.resume() == []


def test_a_claim_that_was_not_answered_is_repeated_and_comes_once(bazaar: Bazaar) -> None:
    with impatient(bazaar) as market:
        order_id = market.buy_now("sports", "PLAN").order_id
        asked(bazaar, order_id, 300)
        market._shop.within("merchant/sports", lambda _: None)

        class LostError(Exception):
            """Played: the process ends between question and answer."""

        refunds = market._checkout._refunds
        collect, seen = refunds._claim, []

        def lose_the_answer(session: Any, order: Any, request: Any) -> int:
            seen.append(request)
            session.post(request)
            bazaar.world.pump(lambda: False, 0.3)
            raise LostError

        refunds._claim = lose_the_answer
        with pytest.raises(LostError):
            market.ask(order_id)
        refunds._claim = collect
        waiting = market.order(order_id)
        assert (waiting.waits_for, waiting.waits_until) == ("broker", None)
        assert "without a limit" in _waits(waiting)
    with bazaar.again(market) as market:
        market.ask(order_id)
        assert market.order(order_id).claimed == 300
        assert money(market) == 4000 - PRICE + 300
        assert len(seen) == 1
    assert books(bazaar)["escrow"] == 0


def test_a_claim_that_is_refused_when_it_is_repeated_is_made_anew_at_once(
    bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bazaar.customer() as market:
        order_id = market.buy_now("sports", "PLAN").order_id
        asked(bazaar, order_id, 300)
    unheard = deaf_to(bazaar, messages.ClaimRefund)
    with bazaar.again(market, timeout_s=0.3) as hurried, unheard, pytest.raises(DeadlineError):
        hurried.ask(order_id)
    check, months = Exchange._check_claim, ["over"]

    def in_the_next_month(*arguments: Any) -> Any:
        if months:
            months.pop()
            raise RefusedError("unknown_key")
        return check(*arguments)

    monkeypatch.setattr(Exchange, "_check_claim", in_the_next_month)
    with bazaar.again(market) as market:
        market.ask(order_id)
        assert market.order(order_id).claimed == 300
        assert (money(market), market.wallet().pending) == (4000 - PRICE + 300, ())
        # One that is new and refused is the end of this call, and not of the money.
        asked(bazaar, order_id, 200)
        months.append("over")
        with pytest.raises(RejectedError):
            market.ask(order_id)
        market.ask(order_id)
        assert money(market) == 4000 - PRICE + 500
    assert books(bazaar)["escrow"] == 0


# --- asked for by the merchant ---------------------------------------------------------------------------


def test_a_refund_asked_for_off_line_is_given_when_the_broker_is_back(bazaar: Bazaar) -> None:
    with bazaar.customer() as market:
        order_id = market.buy_now("sports", "PLAN").order_id
        bazaar.world.stop("broker")
        made = give_back(bazaar, order_id, 100)
        bazaar.world.pump(lambda: False, 0.1)
        store = bazaar.world.merchants["sports"].store
        assert Refunds(store).listing()[0].state == "queued"
        bazaar.world.start_broker()
        assert bazaar.world.pump(lambda: Refunds(store).listing()[0].state == "done")
        assert Refunds(store).listing()[0].refund == made.refund
        market.ask(order_id)
        assert money(market) == 4000 - PRICE + 100


def test_what_cannot_be_given_back_is_told_at_once(bazaar: Bazaar) -> None:
    with bazaar.customer() as market:
        order_id = market.buy_now("sports", "PLAN").order_id
        with pytest.raises(RejectedError, match="left to give back"):
            give_back(bazaar, order_id, PRICE + 1)
        give_back(bazaar, order_id, 1000)
        with pytest.raises(RejectedError, match="234 minor units"):
            give_back(bazaar, order_id, 235)
        give_back(bazaar, order_id, None)
        with pytest.raises(RejectedError, match="being given back already"):
            give_back(bazaar, order_id, 1)
        refunds = Refunds(bazaar.world.merchants["sports"].store)
        assert bazaar.world.pump(lambda: all(each.state == "done" for each in refunds.listing()))
        assert [each.given for each in refunds.listing()] == [234, 1000]
        with pytest.raises(RejectedError, match="refunded"):
            give_back(bazaar, order_id, 1)
        market.ask(order_id)
        assert money(market) == 4000


def test_a_refusal_is_kept_with_its_code(bazaar: Bazaar) -> None:
    with bazaar.customer() as market:
        order_id = market.buy_now("sports", "PLAN").order_id
        market.download(order_id, market._context.profile.home / "bought")
    with bazaar.world.broker.store.immediate() as tx:
        wanted = messages.RequestPayout(payout_id=bytes(16), amount=PRICE, destination="a bank")
        payouts._requested(tx, "sports", wanted, clock.now_ms())
    refused = asked(bazaar, order_id, None)
    assert (refused.state, refused.code, refused.given) == ("refused", "insufficient_funds", 0)
    books(bazaar)
