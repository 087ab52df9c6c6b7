"""What the broker refuses for now: it takes an order after all, payments are stopped, or it is too soon."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from cli import veilmart
from customer_shop import PASSWORD, Bazaar, build, home
from profile_rows import profile_rows
from test_customer_crash import lose_change
from test_payments import break_the_books, examine, mend
from world import Publish

from broker_node.exchange import Exchange
from broker_node.orders import Orders
from common import clock, coins, config, slots
from common.config import HOUR_MS, MINUTE_MS
from common.errors import (
    InsufficientFundsError,
    PaymentsStoppedError,
    RefusedError,
    RejectedError,
    TooSoonError,
)
from customer_node import Market, apart, orders, schema
from customer_node.old_copy import WITHDRAW
from customer_node.refunds import Refunds
from customer_node.sessions import FRESHNESS_MS
from customer_node.shop import ShopSession

PRICE = 1234


@pytest.fixture(scope="module")
def bazaar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bazaar]:
    built = build(tmp_path_factory.mktemp("bazaar"))
    built.add("maps", "RARE", 31, b"rare", stock=1)
    yield built
    built.world.close()


def money(market: Market) -> int:
    return market.wallet().usable + market.wallet().reserved


def buy_refused(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker knows no such merchant for a moment."""

    def refuse(*_: Any) -> None:
        raise RefusedError("not_found")

    with monkeypatch.context() as patched:
        patched.setattr(Orders, "_check", refuse)
        with pytest.raises(Exception, match="does not know"):
            market.buy_now("sports", "PLAN", idempotency_key="monday")
    assert [order.state for order in market.orders()] == ["refused"]
    assert market.wallet().reserved == 0
    assert market.wallet().usable == 4000


def repeat(bazaar: Bazaar, market: Market) -> None:
    """A repetition of the refused `PlaceOrder` that was under way arrives."""
    with market._context.profile.store.immediate() as tx:
        order = orders.load(tx, bytes.fromhex(market.last_order().order_id))
    market._shop.within("merchant/sports", lambda session: session.post(order.place_order))
    bazaar.world.pump(lambda: False, 0.05)


def test_resume_finds_a_refused_order_that_was_taken(bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch):
    with bazaar.customer() as market:
        buy_refused(market, monkeypatch)
        repeat(bazaar, market)
    with bazaar.again(market) as market:
        done = market.resume()
        assert [(item.kind, item.error) for item in done] == [("order", None), ("order", None)]
        assert market.last_order().state == "complete"
        assert money(market) == 4000 - PRICE
        assert market.resume() == []


def test_buying_again_goes_on_with_it(bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch):
    with bazaar.customer() as market:
        buy_refused(market, monkeypatch)
        repeat(bazaar, market)
        order = market.buy_now("sports", "PLAN", idempotency_key="monday")
        assert order.state == "accepted"
        assert len(market.orders()) == 1
        assert money(market) == 4000 - PRICE


def test_what_stays_refused_is_bought_anew_and_erased_in_time(
    bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch
):
    with bazaar.customer() as market:
        buy_refused(market, monkeypatch)
        refused = market.last_order().order_id
        assert market.resume() == []
        with pytest.raises(RejectedError, match="nothing to download"):
            market.download(refused)
        assert market.buy_now("sports", "PLAN", idempotency_key="monday").state == "accepted"
        assert sorted(order.state for order in market.orders()) == ["accepted", "refused"]
        assert money(market) == 4000 - PRICE
        later = market.order(refused).deadline + config.HOUR_MS
        recall = market._resume._checkout.recall

        def recall_later(session: Any, order_id: bytes) -> bool:
            # The broker's clock has moved on by the time the answer is here.
            ask = session.ask

            def ask_and_wait(*question: Any) -> Any:
                try:
                    return ask(*question)
                finally:
                    session.kept = dataclasses.replace(session.kept, offset=later - market._context.clock())

            session.ask = ask_and_wait
            return bool(recall(session, order_id))

        monkeypatch.setattr(market._resume._checkout, "recall", recall_later)
        market.resume()
        assert [order.state for order in market.orders()] == ["complete"]
        # A restored wallet finds no hole where the refused one was.
        assert market.buy_now("sports", "ROUTE").order_id == refused


# --- withdrawals ---------------------------------------------------------------------------------------


def draw_too_late(bazaar: Bazaar, market: Market, asks: int) -> list[Publish]:
    """Begin a withdrawal of what another device then draws, and ask for it so often.

    The first frames go out late, the last one is refused; gives all of them.
    """
    world, name, account = bazaar.world, home(market).name, market._account
    world.fund(name, 2000)
    session = account._session()
    operation = account._begin(session, coins.BUNDLE, 4)
    with world.customer(f"{name}'s other device") as other:
        other.log_in(name, PASSWORD)
        other.withdraw()
    sent: list[Publish] = []

    def hold(publish: Publish) -> list[Publish]:
        if not publish.topic.endswith("/up"):
            return [publish]
        sent.append(publish)
        return [] if len(sent) < asks else [publish]

    with bazaar.tampering(hold):
        for _ in range(asks - 1):
            session.post(WITHDRAW.unpack(operation.request))
        with pytest.raises(InsufficientFundsError):
            account._finish(session, operation)
    return sent


@pytest.mark.parametrize(("asks", "restarts"), [(2, False), (1, True)], ids=["a late copy", "a restart"])
def test_a_refused_withdrawal_is_not_made_by_a_copy_of_it(
    bazaar: Bazaar, asks: int, *, restarts: bool
) -> None:
    world = bazaar.world
    with bazaar.customer(0) as market:
        sent = draw_too_late(bazaar, market, asks)
        if restarts:
            world.stop("broker")
            world.start_broker()
        world.fund(home(market).name, 2000)
        world.bus.deliver(sent[0])
        world.pump(lambda: False, 0.2)
        assert market.resume() == []
        assert (market.balance().amount, market.wallet().usable) == (2000, 0)
        # It is another one that draws the money.
        market.withdraw()
        assert (market.balance().amount, market.wallet().usable) == (0, 2000)


# --- payments are stopped ------------------------------------------------------------------------------


def resume_payments(bazaar: Bazaar) -> None:
    mend(bazaar.world)
    assert examine(bazaar.world) == "running"


def outcomes(market: Market) -> list[str]:
    return sorted(item.outcome for item in market.resume())


def test_what_a_stopped_broker_refused_is_done_once_payments_go_on(
    bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bazaar.customer(bundles=1) as market:
        bazaar.world.fund(home(market).name, 2000)
        order_id = market.buy_now("sports", "ROUTE").order_id
        collect = Refunds.collect

        def stopping(refunds: Refunds, *arguments: Any) -> int:
            break_the_books(bazaar.world)
            return collect(refunds, *arguments)

        with monkeypatch.context() as patched:
            patched.setattr("customer_node.drafts._check_offer", lambda *_: None)
            patched.setattr(Refunds, "collect", stopping)
            bazaar.world.merchants["maps"].inventory.edit("RARE", stock=0)
            with pytest.raises(PaymentsStoppedError):
                market.buy_now("maps", "RARE")
        with pytest.raises(PaymentsStoppedError):
            market.dispute(order_id, "not_delivered", "It never came.", reveal=False)
        for _ in range(2):
            with pytest.raises(PaymentsStoppedError):
                market.withdraw()
        assert market.wallet().open_operations == 2
        assert outcomes(market) == ["accepted", "open", "refundable"]
        assert market.wallet().open_operations == 2

        resume_payments(bazaar)
        assert outcomes(market) == ["disputed", "done", "refunded"]
        shown = market.wallet()
        assert (shown.usable, shown.reserved, shown.open_operations) == (4000 - 77, 0, 0)
        assert [order.state for order in market.orders()] == ["disputed", "refunded"]


def given(market: Market) -> dict[str, int]:
    """How many numbers of each kind were given."""
    with market._context.profile.store.immediate() as tx:
        return {row["kind"]: row["next"] for row in tx.all(sa.select(schema.numbers))}


def test_trying_while_payments_are_stopped_uses_up_no_numbers(bazaar: Bazaar) -> None:
    """A restored wallet looks for numbers one after the other: a hole must not grow wider than it looks."""
    with bazaar.customer(bundles=1) as market:
        break_the_books(bazaar.world)
        for _ in range(3):
            with pytest.raises(PaymentsStoppedError):
                market.buy_now("sports", "ROUTE", idempotency_key="monday")
        assert given(market) == {"order": 1}
        left = lose_change(market)
        for _ in range(3):
            with pytest.raises(PaymentsStoppedError):
                market.buy_now("sports", "ROUTE")
        assert given(market) == {"order": 1}
        assert money(market) == left
        resume_payments(bazaar)
        assert market.buy_now("sports", "ROUTE", idempotency_key="monday").state == "accepted"


def test_a_swap_that_meets_stopped_payments_is_done_later(bazaar: Bazaar) -> None:
    with bazaar.customer(bundles=1) as market:
        left = lose_change(market)
        break_the_books(bazaar.world)
        for _ in range(3):
            with pytest.raises(PaymentsStoppedError):
                market.buy_now("sports", "ROUTE")
        assert given(market) == {"swap": 1}
        assert [(item.kind, item.outcome) for item in market.resume()] == [("swap", "open")]
        resume_payments(bazaar)
        assert outcomes(market) == ["done"]
        assert market.buy_now("sports", "ROUTE").state == "accepted"
        assert market.wallet().usable == left - 77


@contextmanager
def refusing_swaps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*_: Any) -> None:
        raise RefusedError("wrong_amount")

    with monkeypatch.context() as patched:
        patched.setattr(Exchange, "_check_swap", refuse)
        yield


def test_a_refused_swaps_number_is_given_again_when_no_answer_to_it_can_come(
    bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bazaar.customer(bundles=1) as market:
        lose_change(market)
        with refusing_swaps(monkeypatch), pytest.raises(RejectedError):
            market.buy_now("sports", "ROUTE")
        assert given(market) == {"swap": 1}
        (free_from,) = profile_rows(home(market), schema.freed_numbers.c.usable_from)
        assert free_from[0] > clock.now_ms() + 2 * FRESHNESS_MS - config.MINUTE_MS
        with market._context.profile.store.immediate() as tx:
            tx.execute(sa.update(schema.freed_numbers).values(usable_from=0))
        assert market.buy_now("sports", "ROUTE").state == "accepted"
        assert given(market) == {"swap": 1, "order": 1}


def test_a_refusal_that_comes_again_is_not_taken_for_another_swaps(
    bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that dies before it has acknowledged what it refused refuses it once more."""
    world, sent = bazaar.world, []

    def keep(publish: Publish) -> list[Publish]:
        if publish.topic.endswith("/up"):
            sent.append(publish)
        return [publish]

    def swap(market: Market, session: ShopSession) -> None:
        with market._context.profile.store.immediate() as tx:
            begun = market._resume._funds._begin(tx, [64], [32, 32], slots.month_of(session.now))
        market._resume._funds.finish(session, begun)

    def swap_twice(session: ShopSession) -> None:
        with bazaar.tampering(keep), refusing_swaps(monkeypatch), pytest.raises(RejectedError):
            swap(market, session)
        world.stop("broker")
        world.start_broker()
        with bazaar.tampering(
            lambda publish: [*sent, publish] if publish.topic.endswith("/up") else [publish]
        ):
            swap(market, session)

    with bazaar.customer(bundles=1) as market:
        market._shop.within("merchant/sports", swap_twice)
        assert {coin.value: coin.usable for coin in market.wallet().coins}[32] == 3
        assert money(market) == 2000


def test_an_earlier_withdrawal_that_is_refused_does_not_stop_the_next_one(bazaar: Bazaar) -> None:
    with bazaar.customer(bundles=0) as market:
        bazaar.world.fund(home(market).name, 2000)
        account = market._account
        account.within(lambda session: account._begin(session, (2**14,), 0))
        assert market.withdraw().balance == 0
        assert market.wallet().open_operations == 0
        account.within(lambda session: account._begin(session, (2**14,), 0))
        assert market.account.close(PASSWORD) is None


# --- account and shop apart in time -------------------------------------------------------------------------


def resting(market: Market) -> None:
    """Let the market have a minimum age."""
    profile = market._context.profile
    profile.market = msgspec.structs.replace(profile.market, minimum_age_seconds=3600)


def an_hour_ago(market: Market, side: apart.Side) -> None:
    """Let an hour pass since a side's last use."""
    earlier = sa.update(schema.tending).where(schema.tending.c.what == side)
    with market._context.profile.store.immediate() as tx:
        tx.execute(earlier.values(at=schema.tending.c.at - HOUR_MS - MINUTE_MS))


def test_shop_work_does_not_come_next_to_the_account(bazaar: Bazaar) -> None:
    with bazaar.customer(bundles=1) as market:
        market.buy_now("sports", "ROUTE")
        resting(market)
        (waiting,) = market.resume()
        assert (waiting.kind, waiting.outcome) == ("order", "waiting")
        assert isinstance(waiting.error, TooSoonError)
        assert "60 min" in waiting.error.hint
        assert market.last_order().state == "accepted"
        an_hour_ago(market, "account")
        assert [item.outcome for item in market.resume()] == ["complete"]
        # A question in the account session counts as well, and `--now` does not wait.
        market.balance()
        market.buy_now("sports", "EMPTY")
        assert [item.outcome for item in market.resume()] == ["waiting"]
    with bazaar.again(market, allow_young=True) as market:
        resting(market)
        assert [item.outcome for item in market.resume()] == ["complete"]


def test_nothing_is_drawn_next_to_a_visit(bazaar: Bazaar) -> None:
    with bazaar.customer(bundles=1) as market:
        bazaar.world.fund(home(market).name, 6000)
        resting(market)
        assert market.withdraw().coins, "no shop was visited yet"
        market.buy_now("sports", "ROUTE")
        with pytest.raises(TooSoonError):
            market.withdraw()
        an_hour_ago(market, "shop")
        with pytest.raises(TooSoonError):
            market.withdraw()  # the visit is still open
        market.leave_shops()
        assert market.withdraw().balance == 2000
        market.search()
        market.leave_shops()
        asked = len(bazaar.world.bus.passed)
        with pytest.raises(TooSoonError) as refused:
            market.withdraw()
        assert "60 min" in refused.value.hint
        assert len(bazaar.world.bus.passed) == asked, "nobody was asked for anything"
        assert market.withdraw(hurried=True).balance == 0
        bazaar.world.fund(home(market).name, 2000)
    with bazaar.again(market, allow_young=True) as market:
        resting(market)
        assert market.withdraw().balance == 0


def test_an_account_is_not_closed_next_to_a_visit(bazaar: Bazaar) -> None:
    with bazaar.customer(bundles=1) as market:
        resting(market)
        market.search(merchant="sports")
        market.leave_shops()
        asked = len(bazaar.world.bus.passed)
        with pytest.raises(TooSoonError) as refused:
            market.account.close(PASSWORD)
        assert "`veilmart account close` in 60 min" in refused.value.hint
        assert len(bazaar.world.bus.passed) == asked, "nobody was asked for anything"
        assert market.account.close(PASSWORD, hurried=True) is None


def test_resume_does_nothing_in_the_account_next_to_a_visit(bazaar: Bazaar) -> None:
    with bazaar.customer(bundles=1) as market:
        bazaar.world.fund(home(market).name, 2000)
        account = market._account
        drawn = account.within(lambda session: account._begin(session, coins.BUNDLE, 0)).id
        resting(market)
        an_hour_ago(market, "account")
        market.search(merchant="sports")
        market.leave_shops()
        asked = len(bazaar.world.bus.passed)
        (waiting,) = market.resume()
        assert (waiting.kind, waiting.id, waiting.outcome) == ("withdrawal", drawn.hex(), "waiting")
        assert isinstance(waiting.error, TooSoonError)
        assert "`veilmart resume` in 60 min" in waiting.error.hint
        assert len(bazaar.world.bus.passed) == asked, "nobody was asked for anything"
        an_hour_ago(market, "shop")
        assert [item.outcome for item in market.resume()] == ["done"]


def test_who_uses_the_account_next_to_a_visit_is_warned(
    bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bazaar.customer(bundles=1) as market:
        profile = home(market)
        market.search(merchant="sports")
        market.leave_shops()

    def rested(*given: Any, **options: Any) -> Market:
        opened = Market(*given, connect=bazaar.world.connect, **options)
        resting(opened)
        return opened

    monkeypatch.setattr("veilmart.cli.profiles.Market", rested)
    ran = veilmart("balance", "--json", "--profile", profile)
    assert ran.data["amount"] == 0
    assert "warning: a shop was visited a moment ago" in ran.err
    with rested(profile) as market:
        an_hour_ago(market, "shop")
    assert veilmart("balance", "--profile", profile).err == ""
