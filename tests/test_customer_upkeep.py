"""The wallet looks after itself, against a real broker: what is due is done, at its own time and apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from conftest import Time
from customer_shop import PASSWORD, Bazaar, build, home
from months import go_to, to_grace_end

from broker_node import ledger
from common import clock, slots
from common.config import DAY_MS, HOUR_MS, MINUTE_MS
from customer_node import InsufficientFundsError, Market, OutOfTicketsError
from customer_node.refusals import RetiredKeyError
from customer_node.schema import issuer_keys, tokens
from customer_node.views import TendView


def now() -> int:
    """The clock as the test has set it: a market's own would not follow."""
    return clock.now_ms()


@contextmanager
def market_with(root: Path, **options: Any) -> Iterator[Bazaar]:
    bazaar = build(root, **options)
    try:
        yield bazaar
    finally:
        with bazaar.world.broker.store.immediate() as tx:
            faults = ledger.check(tx).faults
        bazaar.world.close()
        assert faults == ()


@pytest.fixture
def bazaar(tmp_path: Path) -> Iterator[Bazaar]:
    """A market without a minimum age."""
    with market_with(tmp_path) as built:
        yield built


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Bazaar]:
    """A market whose coins rest for an hour."""
    with market_with(tmp_path, minimum_age_seconds=3600) as built:
        yield built


def wait(bazaar: Bazaar, time: Time, milliseconds: int) -> None:
    """Let time pass, and the broker see it: at midnight its card is another one."""
    go_to(bazaar.world, time, now() + milliseconds)


def login_of(bazaar: Bazaar, market: Market) -> Callable[[], None]:
    name = home(market).name
    return lambda: market.log_in(name, PASSWORD)


def works(tended: TendView) -> list[tuple[str, str]]:
    return [(each.work, each.outcome) for each in tended.done]


def due(tended: TendView) -> dict[str, int]:
    return {each.work: each.at for each in tended.due}


# --- at once -------------------------------------------------------------------------------------------


def test_a_new_wallet_is_filled_and_then_left_alone(bazaar: Bazaar) -> None:
    with bazaar.customer(0) as market:
        bazaar.world.fund(home(market).name, 3000)
        assert [each.work for each in market.wallet().due] == ["draw"]
        assert works(market.tend()) == [("draw", "done")]
        held = market.wallet()
        assert (held.usable, held.tickets, held.exact_up_to) == (2000, 4, 2000)
        # Tickets alone: the account could not pay another bundle, and need not.
        assert works(market.tend()) == [("draw", "done")]
        held = market.wallet()
        assert (held.usable, held.tickets, held.due) == (2000, 8, ())
        assert works(market.tend()) == []
        assert market.balance().amount == 1000


def test_a_gap_is_filled_so_that_the_next_purchase_needs_no_swap(bazaar: Bazaar) -> None:
    with bazaar.customer(1) as market:
        bazaar.world.fund(home(market).name, 2000)
        market.buy_now("sports", "PLAN")
        before = market.wallet()
        assert before.exact_up_to < before.usable // 2
        assert works(market.tend()) == [("spread", "done"), ("draw", "done")]
        after = market.wallet()
        assert after.usable == before.usable + 2000
        assert after.exact_up_to >= before.usable // 2
        bazaar.world.bus.passed.clear()
        market.buy_now("sports", "ROUTE")
        assert market.wallet().usable == after.usable - 77


def test_an_account_that_holds_too_little_is_asked_again_a_day_later(bazaar: Bazaar) -> None:
    with bazaar.customer(0) as market:
        (poor,) = market.tend().done
        assert isinstance(poor.error, InsufficientFundsError)
        (after,) = market.tend().due
        assert after.at > now() + DAY_MS - MINUTE_MS
        assert market.tend().done == ()


def test_without_a_session_a_draw_waits_for_a_login(bazaar: Bazaar) -> None:
    with bazaar.customer(0) as market:
        bazaar.world.fund(home(market).name, 2000)
        market.log_out()
        tended = market.tend()
        assert tended.done == ()
        assert not tended.logged_in
        assert due(tended)["draw"] <= now()
        assert works(market.tend(log_in=login_of(bazaar, market))) == [("draw", "done")]


# --- at times of its own -------------------------------------------------------------------------------


def test_a_draw_has_a_time_of_its_own_that_outlives_the_process(slow: Bazaar, time: Time) -> None:
    with slow.customer(0, clock=now) as market:
        slow.world.fund(home(market).name, 4000)
        tended = market.tend()
        assert tended.done == ()
        at = due(tended)["draw"]
        assert now() - MINUTE_MS < at < now() + 6 * HOUR_MS
    with slow.again(market, clock=now) as market:
        assert due(market.tend()) == {"draw": at}
        assert [each.at for each in market.wallet().due] == [at]
        wait(slow, time, at - now() - MINUTE_MS)
        assert market.tend(log_in=login_of(slow, market)).done == ()
        wait(slow, time, 2 * MINUTE_MS)
        assert works(market.tend(log_in=login_of(slow, market))) == [("draw", "done")]


def test_no_draw_comes_next_to_a_purchase_or_a_swap(slow: Bazaar, time: Time) -> None:
    with slow.customer(1, clock=now) as market:
        slow.world.fund(home(market).name, 4000)
        wait(slow, time, 2 * HOUR_MS)
        market.tend()
        market.buy_now("sports", "ROUTE")
        done = {"buy": now()}
        while not {"draw", "spread"} <= set(done):
            wait(slow, time, 20 * MINUTE_MS)
            done |= {work: now() for work, _ in works(market.tend(log_in=login_of(slow, market)))}
            assert now() < done["buy"] + 12 * HOUR_MS
        draw = done.pop("draw")
        assert all(abs(draw - at) >= HOUR_MS - MINUTE_MS for at in done.values())


def test_no_draw_comes_next_to_any_shop_session(slow: Bazaar, time: Time) -> None:
    with slow.customer(1, clock=now) as market:
        slow.world.fund(home(market).name, 4000)
        wait(slow, time, 2 * HOUR_MS)
        order = market.buy_now("sports", "PLAN").order_id
        market.log_out()
        # Without a login the draw waits, long due, and everything else is done.
        while (open_ := due(market.tend())).keys() > {"draw"} or open_["draw"] > now():
            wait(slow, time, 20 * MINUTE_MS)
        # Asking takes up the order in a session of its own: neither a visit nor a purchase.
        assert market.ask(order).order_id == order
        asked = now()
        while not (tended := market.tend(log_in=login_of(slow, market))).done:
            assert due(tended)["draw"] >= asked + HOUR_MS - MINUTE_MS
            wait(slow, time, 20 * MINUTE_MS)
        assert works(tended) == [("draw", "done")]
        assert now() - asked >= HOUR_MS - MINUTE_MS


def test_no_swap_comes_next_to_the_account(slow: Bazaar, time: Time) -> None:
    with slow.customer(1, clock=now) as market:
        wait(slow, time, 2 * HOUR_MS)
        market.buy_now("sports", "PLAN")
        at = due(market.tend())["spread"]
        wait(slow, time, at - now() + MINUTE_MS)
        market.log_in(home(market).name, PASSWORD)
        assert due(market.tend())["spread"] >= now() + HOUR_MS - MINUTE_MS


def test_hurry_does_not_wait(slow: Bazaar) -> None:
    with slow.customer(0, allow_young=True) as market:
        slow.world.fund(home(market).name, 2000)
        assert works(market.tend()) == [("draw", "done")]


# --- months --------------------------------------------------------------------------------------------


def test_coins_of_an_ending_month_are_announced_and_renewed(bazaar: Bazaar, time: Time) -> None:
    month = slots.month_of(now())
    with bazaar.customer(2, clock=now) as market:
        ends = slots.grace_end(month)
        go_to(bazaar.world, time, slots.month_start(slots.next_month(month)) + DAY_MS)
        market.log_in(home(market).name, PASSWORD)
        assert market.wallet().ending == 0
        bazaar.world.fund(home(market).name, 2000)
        market.withdraw()
        go_to(bazaar.world, time, ends - 3 * DAY_MS)
        held = market.wallet()
        assert (held.ending, held.ending_at, held.usable) == (4000, ends, 6000)
        assert ("renew", "done") in works(market.tend(log_in=login_of(bazaar, market)))
        held = market.wallet()
        assert (held.ending, held.usable) == (0, 6000)


def ended_wallet(bazaar: Bazaar, market: Market, time: Time) -> str:
    """Let the coins of this month end, and come back with an account that can pay for new tickets."""
    month = slots.month_of(now())
    to_grace_end(bazaar.world, time, month)
    bazaar.world.fund(home(market).name, 2000)
    (ended,) = market.wallet().ended
    assert (ended.month, ended.worth, ended.at) == (month, 4000, slots.grace_end(month))
    assert not ended.lost
    # Its tickets are of that month too: a session can be opened only with new ones.
    first, draw = market.tend(log_in=login_of(bazaar, market)).done
    assert isinstance(first.error, OutOfTicketsError)
    assert (draw.work, draw.outcome) == ("draw", "done")
    return month


def test_coins_that_ended_are_shown_asked_about_once_and_then_never_again(bazaar: Bazaar, time: Time) -> None:
    with bazaar.customer(2, clock=now) as market:
        month = ended_wallet(bazaar, market, time)
        # One of them was spent in its time: that is not lost.
        with market._context.profile.store.immediate() as tx:
            key = sa.select(issuer_keys.c.key_id).where(
                issuer_keys.c.month == month, issuer_keys.c.value == 512
            )
            coin = (tokens.c.key_id == tx.scalar(key), tokens.c.counter == 0)
            tx.execute(sa.update(tokens).where(*coin).values(state="spent"))
        lost = next(each for each in market.tend().done if each.work == "exchange")
        assert lost.outcome == "lost"
        assert isinstance(lost.error, RetiredKeyError)
        assert slots.month_of(lost.error.ended - 1) == slots.next_month(month)
        (ended,) = market.wallet().ended
        assert (ended.worth, ended.lost) == (4000 - 512, True)
        assert all(each.work != "exchange" for each in market.tend().done)
        assert "exchange" not in due(market.tend())
        held = market.wallet()
        assert held.usable == 2000
        market.buy_now("sports", "PLAN")


def test_coins_that_ended_come_back_where_the_operator_still_swaps_them(tmp_path: Path, time: Time) -> None:
    with (
        market_with(tmp_path, limits={"retired_exchange_ms": 30 * DAY_MS}) as bazaar,
        bazaar.customer(2, clock=now) as market,
    ):
        ended_wallet(bazaar, market, time)
        assert ("exchange", "done") in works(market.tend())
        held = market.wallet()
        assert (held.usable, held.ended) == (6000, ())
