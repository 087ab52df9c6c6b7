"""Crashes while money comes back: the customer's process ends at a send or commit, and it comes back once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from customer_shop import Bazaar, build
from test_customer_crash import Crash, Fuse, crash_points, fused, some_or_all
from test_customer_disputes import decide
from test_customer_refunds import asked, books, deaf, money

from common.errors import DeadlineError
from customer_node import Market


@pytest.fixture(scope="module")
def bazaar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bazaar]:
    built = build(tmp_path_factory.mktemp("bazaar"))
    yield built
    built.world.close()


def dying(
    bazaar: Bazaar,
    profile: Path,
    every: int,
    begin: Callable[[Market], str],
    act: Callable[[Market, str], object],
) -> Iterator[str]:
    """Begin something, and let the process that goes on with it die at each step; gives the orders."""
    crashed: list[bool] = []
    for point in crash_points(crashed, every):
        with Market(profile, connect=bazaar.world.connect, timeout_s=1.0) as market:
            order_id = begin(market)
        try:
            with fused(bazaar, profile, Fuse(point)) as market:
                act(market, order_id)
            crashed.append(False)
        except Crash:
            crashed.append(True)
        yield order_id
    assert len(crashed) * every > 12


def customer(bazaar: Bazaar) -> Path:
    with bazaar.customer(bundles=8) as market:
        return Path(market._context.profile.home)


def has_all(bazaar: Bazaar, profile: Path) -> None:
    with Market(profile, connect=bazaar.world.connect) as market:
        assert money(market) == 16_000
        wallet = market.wallet()
        assert (wallet.reserved, wallet.open_operations) == (0, 0)
        assert {order.state for order in market.orders()} == {"refunded"}
        assert all(order.claimed == order.total for order in market.orders())
    assert books(bazaar).get("escrow", 0) == 0


@some_or_all(7)
def test_what_was_given_back_survives_a_crash_anywhere(bazaar: Bazaar, every: int) -> None:
    profile = customer(bazaar)

    def begin(market: Market) -> str:
        order_id = market.buy_now("sports", "ROUTE").order_id
        assert asked(bazaar, order_id, 30).state == "done"
        return order_id

    def take_both(market: Market, order_id: str) -> None:
        market.ask(order_id)
        asked(bazaar, order_id, None)
        market.ask(order_id)

    for order_id in dying(bazaar, profile, every, begin, take_both):
        with Market(profile, connect=bazaar.world.connect) as market:
            if market.order(order_id).state != "refunded" and market.order(order_id).refunded <= 30:
                asked_already = market.ask(order_id).refunded
                if asked_already <= 30:
                    asked(bazaar, order_id, None)
            market.resume()
            market.ask(order_id)
        has_all(bazaar, profile)


@some_or_all(9)
def test_a_cancel_survives_a_crash_anywhere(bazaar: Bazaar, every: int) -> None:
    profile = customer(bazaar)

    def begin(market: Market) -> str:
        with deaf(bazaar, market, "sports/in"), pytest.raises(DeadlineError):
            market.buy_now("sports", "ROUTE")
        return market.last_order().order_id

    for order_id in dying(bazaar, profile, every, begin, Market.cancel):
        with Market(profile, connect=bazaar.world.connect) as market:
            if market.order(order_id).failure is None:
                # Died before it was noted: nobody was told anything.
                assert market.order(order_id).state == "placed"
                market.cancel(order_id)
            market.resume()
            assert market.order(order_id).failure == "cancelled"
        has_all(bazaar, profile)


@some_or_all(7)
def test_a_dispute_survives_a_crash_anywhere(bazaar: Bazaar, every: int) -> None:
    profile = customer(bazaar)

    def begin(market: Market) -> str:
        return market.buy_now("sports", "ROUTE").order_id

    def open_it(market: Market, order_id: str) -> None:
        market.dispute(order_id, "not_delivered", "nothing came", reveal=True)

    for order_id in dying(bazaar, profile, every, begin, open_it):
        with Market(profile, connect=bazaar.world.connect) as market:
            # The same call again, as a person would: what was stored is said, and nothing twice.
            if market.order(order_id).state != "disputed":
                open_it(market, order_id)
            assert market.order(order_id).waits_for == "operator"
            decide(bazaar, order_id, "refunded", "looked at it")
            market.resume()
        has_all(bazaar, profile)
