"""The customer's API over a whole market in memory: account, wallet, looking around, cart, purchases."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from cli import Terminal, veilmart
from customer_shop import PASSWORD, PRICES, Bazaar, build, content, home, lose
from profile_rows import profile_rows
from world import MemoryConnection, Publish, World

from common import bus, topics
from common.config import MINUTE_MS
from common.errors import (
    AuthenticationError,
    BrokerUnreachableError,
    BusUnreachableError,
    BusyError,
    DeadlineError,
    IdempotencyConflictError,
    InsufficientFundsError,
    MerchantOfflineError,
    NotFoundError,
    OutOfStockError,
    OutOfTicketsError,
    PriceChangedError,
    RejectedError,
    UntrustedError,
    UsageError,
)
from common.store import Store
from customer_node import Market, TicketsNeededError, schema
from customer_node.checkout import Checkout
from customer_node.schema import metadata
from customer_node.timing import steady_clock


@pytest.fixture(scope="module")
def bazaar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bazaar]:
    built = build(tmp_path_factory.mktemp("bazaar"))
    yield built
    built.world.close()


def money(market: Market) -> int:
    wallet = market.wallet()
    return wallet.usable + wallet.young + wallet.reserved


# --- joining -------------------------------------------------------------------------------------------


def test_joining_shows_the_market_and_can_be_repeated(bazaar: Bazaar, tmp_path: Path):
    view = Market.join(tmp_path / "me", bazaar.world.market_path)
    seed = (tmp_path / "me" / "seed").read_bytes()
    assert view.currency == "EUR"
    assert view.minimum_age_seconds == 0
    assert Market.join(tmp_path / "me", bazaar.world.market_path) == view
    assert (tmp_path / "me" / "seed").read_bytes() == seed
    assert (tmp_path / "me" / "seed").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "me" / "profile.db").stat().st_mode & 0o777 == 0o600
    assert seed.hex() not in repr(Market)


def test_another_markets_file_is_not_to_be_trusted(bazaar: Bazaar, tmp_path: Path):
    other = World(tmp_path / "other", minimum_age_seconds=60)
    other.close()
    Market.join(tmp_path / "me", bazaar.world.market_path)
    with pytest.raises(UntrustedError, match="another market"):
        Market.join(tmp_path / "me", other.market_path)
    Market.join(tmp_path / "me", bazaar.world.market_path)


def test_a_profile_that_joined_nothing_is_a_usage_error(tmp_path: Path):
    with pytest.raises(UsageError, match="joined no market"):
        Market(tmp_path)


def test_connections_of_one_profile_never_overlap(bazaar: Bazaar):
    """Two at a time, from one address, would tie the account to what is bought."""
    at_once: list[tuple[str, int]] = []
    made: list[MemoryConnection] = []

    class Counted(MemoryConnection):
        def connect(self) -> None:
            super().connect()
            audience = "shop" if topics.ALL_MERCHANT_CARDS in self.patterns else "account"
            at_once.append((audience, sum(each.ready for each in made)))

    def connect(settings: bus.Settings) -> Counted:
        made.append(Counted(bazaar.world, settings))
        return made[-1]

    with bazaar.customer(bundles=0) as known:
        name = home(known).name
        bazaar.world.fund(name, 4000)
    with Market(home(known), connect=connect) as market:
        market.log_in(name, PASSWORD)
        market.withdraw()
        market.buy_now("sports", "PLAN")
        assert market.balance().amount == 2000
        market.withdraw()
        market.show("maps", "PLAN")
    assert [audience for audience, _ in groupby(at_once, lambda each: each[0])] == ["account", "shop"] * 2
    assert {count for _, count in at_once} == {1}
    assert not any(each.ready for each in made)


def test_two_processes_on_one_profile(bazaar: Bazaar):
    with (
        bazaar.customer(bundles=0) as market,
        pytest.raises(BusyError),
        bazaar.again(market),
    ):
        pass
    with bazaar.again(market):
        pass


def test_a_market_that_is_closed_does_nothing_more(bazaar: Bazaar):
    with bazaar.customer() as market:
        first = market.buy_now("sports", "PLAN")
        steps = market.download_steps(first.order_id)
    with bazaar.again(market) as other:
        for action in (
            market.wallet,
            market.merchants,
            market.cart.view,
            market.reading.orders,
            lambda: market.buy_now("sports", "PLAN", idempotency_key="late"),
            lambda: next(steps),
            lambda: next(iter(first.events())),
        ):
            with pytest.raises(UsageError, match="closed"):
                action()
        assert [each.order_id for each in other.orders()] == [first.order_id]
    market.close()


def test_the_migrations_make_exactly_the_schema(tmp_path: Path):
    Store.in_home(tmp_path, "profile.db", "customer_node.migrations").close()
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'profile.db'}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


# --- account -------------------------------------------------------------------------------------------


def test_sign_up_log_in_log_out(bazaar: Bazaar):
    with bazaar.customer(bundles=0) as market:
        assert market.balance().amount == 0
        name = home(market).name
        with pytest.raises(RejectedError, match="exists already"):
            market.sign_up(name, PASSWORD)
        market.log_out()
        market.log_out()
        with pytest.raises(AuthenticationError, match="No account session"):
            market.balance()
        with pytest.raises(AuthenticationError, match="wrong"):
            market.log_in(name, "not the password")
        with pytest.raises(AuthenticationError, match="wrong"):
            market.log_in("nobody", PASSWORD)
        market.log_in(name, PASSWORD)
        assert market.balance().currency == "EUR"
        with pytest.raises(UsageError):
            market.log_in("x" * 65, PASSWORD)


def test_the_account_session_serves_a_later_process(bazaar: Bazaar):
    with bazaar.customer(bundles=0) as market:
        bazaar.world.fund(home(market).name, 2000)
    with bazaar.again(market) as market:
        assert market.withdraw().balance == 0
        assert market.wallet().usable == 2000
        assert market.wallet().tickets == 4
        with pytest.raises(InsufficientFundsError, match=r"holds 0\.00 EUR, 1 bundles are 20\.00 EUR"):
            market.withdraw()


def test_sessions_of_a_clock_that_was_set_back_are_not_used(bazaar: Bazaar):
    right = steady_clock()
    with bazaar.customer(bundles=1, clock=lambda: right() + 50 * MINUTE_MS) as market:
        market.search(merchant="sports")
    with bazaar.again(market, timeout_s=2.0, allow_young=True) as market:
        # Every message of them would be stale, until the clock comes to where it was.
        assert market.search(merchant="sports").products
        assert not market.wallet().logged_in


def test_a_lost_answer_costs_the_account_once(bazaar: Bazaar):
    with bazaar.customer(bundles=0, timeout_s=1.0) as market:
        bazaar.world.fund(home(market).name, 6000)
        balance = market.balance().amount
        passed = 0

        def lose_the_third(publish: Publish) -> list[Publish]:
            # Balance goes through, what answers the withdrawal does not.
            nonlocal passed
            if not publish.topic.endswith("/down"):
                return [publish]
            passed += 1
            return [publish] if passed <= 1 else []

        with bazaar.tampering(lose_the_third), pytest.raises(DeadlineError) as failure:
            market.withdraw()
        assert failure.value.hop == "broker"
        assert market.wallet().open_operations == 1
    with bazaar.again(market) as market:
        assert [(done.kind, done.outcome) for done in market.resume()] == [("withdrawal", "done")]
        assert market.wallet().usable == 2000
        assert market.balance().amount == balance - 2000
        assert market.resume() == []


def test_a_withdrawal_is_repeated_in_its_own_accounts_session_alone(bazaar: Bazaar):
    def lose_what_is_withdrawn(publish: Publish) -> list[Publish]:
        # A Balance fits into a kilobyte, blind signatures do not.
        return [] if publish.topic.endswith("/down") and len(publish.payload) > 2048 else [publish]

    with bazaar.customer(bundles=0, timeout_s=1.0) as market:
        first = home(market).name
        bazaar.world.fund(first, 2000)
        with bazaar.tampering(lose_what_is_withdrawn), pytest.raises(DeadlineError):
            market.withdraw()
        market.log_out()
        market.sign_up(f"{first}-second", PASSWORD)
        (left,) = market.resume()
        assert (left.kind, left.outcome) == ("withdrawal", "open")
        assert isinstance(left.error, AuthenticationError)
        assert "Another account" in left.error.message
        bazaar.world.fund(f"{first}-second", 2000)
        market.withdraw()
        assert (money(market), market.wallet().open_operations) == (2000, 1)
        market.log_out()
        market.log_in(first, PASSWORD)
        assert [(done.outcome, done.error) for done in market.resume()] == [("done", None)]
        assert (money(market), market.wallet().open_operations) == (4000, 0)
        assert market.balance().amount == 0
        database = b"".join(path.read_bytes() for path in home(market).glob("profile.db*"))
        assert b"withdraw" in database
        assert first.encode() not in database, "the profile names no account"


# --- looking around ------------------------------------------------------------------------------------


def test_merchants_and_searches(bazaar: Bazaar):
    with bazaar.customer() as market:
        tickets = market.wallet().tickets
        assert [merchant.id for merchant in market.merchants()] == ["maps", "sports"]
        assert all(merchant.online for merchant in market.merchants())
        assert market.wallet().tickets == tickets, "looking at cards takes no ticket"
        found = market.search(sort="price")
        assert len(found.products) == 2 * len(PRICES)
        assert [product.price for product in found.products] == sorted(
            product.price for product in found.products
        )
        assert market.wallet().tickets == tickets - 2
        assert [product.sku for product in market.search("plan", merchant="sports").products] == ["PLAN"]
        assert market.search("nothing of the kind").products == ()
        assert market.search(limit=1).products == market.search().products[:1]
        assert market.wallet().tickets == tickets - 2, "a visit goes on"
    with bazaar.again(market) as market:
        assert market.show("sports", "PLAN").price == PRICES["PLAN"]
        assert market.wallet().tickets == tickets - 2, "and serves a later process"


def test_what_does_not_exist(bazaar: Bazaar):
    with bazaar.customer() as market:
        tickets = market.wallet().tickets
        for name in ("nobody", "broker", "No/Such", "x" * 40):
            with pytest.raises(NotFoundError, match="no merchant"):
                market.show(name, "PLAN")
        assert market.wallet().tickets == tickets
        with pytest.raises(NotFoundError):
            market.show("sports", "NOTHING")
        with pytest.raises(UsageError):
            market.show("sports", "not a sku")
        with pytest.raises(NotFoundError):
            market.image("sports", "PLAN")
        with pytest.raises(NotFoundError):
            market.order("00")
        with pytest.raises(NotFoundError):
            market.last_order()


def test_a_search_asks_before_it_uses_many_tickets(bazaar: Bazaar):
    with bazaar.customer() as market:
        with pytest.raises(TicketsNeededError, match="2 tickets") as failure:
            market.search(max_tickets=1)
        assert (failure.value.needed, failure.value.code) == (2, "rejected")
        assert market.search(max_tickets=2).total == 2 * len(PRICES)


def test_without_tickets(bazaar: Bazaar):
    with bazaar.customer(bundles=0) as market, pytest.raises(OutOfTicketsError, match="No ticket"):
        market.show("sports", "PLAN")


# --- cart ----------------------------------------------------------------------------------------------


def test_the_cart_is_kept_and_changed(bazaar: Bazaar):
    with bazaar.customer() as market:
        market.cart.add("sports", "PLAN")
        market.cart.add("maps", "ROUTE", 2)
        market.cart.add("sports", "PLAN", 2)
    with bazaar.again(market) as market:
        view = market.cart.view()
        assert [(line.merchant, line.sku, line.quantity) for line in view.lines] == [
            ("sports", "PLAN", 3),
            ("maps", "ROUTE", 2),
        ]
        assert view.totals == {"sports": 3 * 1234, "maps": 2 * 77}
        assert view.total == 3 * 1234 + 2 * 77
        market.cart.set("sports", "PLAN", 1)
        assert market.cart.remove("maps", "ROUTE").total == 1234
        assert market.cart.set("sports", "PLAN", 0).lines == ()
        with pytest.raises(NotFoundError):
            market.cart.remove("sports", "PLAN")
        with pytest.raises(NotFoundError):
            market.cart.set("sports", "PLAN", 2)
        for quantity in (0, -1, 1001):
            with pytest.raises(UsageError):
                market.cart.add("sports", "PLAN", quantity)
        with pytest.raises(UsageError, match="nothing to buy"):
            market.buy()


# --- buying --------------------------------------------------------------------------------------------


def test_two_merchants_in_one_cart_are_two_orders(bazaar: Bazaar, tmp_path: Path):
    with bazaar.customer(bundles=2) as market:
        market.cart.add("sports", "PLAN", 2)
        market.cart.add("sports", "EMPTY")
        market.cart.add("maps", "ROUTE")
        assert not market.quote().changed
        bought = market.buy()
        assert {order.merchant: order.total for order in bought} == {"sports": 2 * 1234 + 3, "maps": 77}
        assert {order.state for order in bought} == {"accepted"}
        assert market.cart.view().lines == ()
        assert money(market) == 4000 - sum(order.total for order in bought)
        for order in bought:
            market.download(order.order_id, tmp_path / order.merchant)
        assert {order.state for order in market.orders()} == {"complete"}
    assert (tmp_path / "sports" / "plan.bin").read_bytes() == content("sports PLAN", 150_000)
    assert (tmp_path / "sports" / "empty.bin").read_bytes() == b""
    assert (tmp_path / "maps" / "route.bin").read_bytes() == content("maps ROUTE", 150_000)


def test_buying_opens_no_account_session(bazaar: Bazaar):
    with bazaar.customer() as market:
        market.log_out()
        assert market.buy_now("sports", "PLAN").state == "accepted"
        assert not market.wallet().logged_in


def test_exact_payment_needs_a_swap(bazaar: Bazaar):
    bazaar.add("maps", "SMALL", 31, b"small")
    with bazaar.customer(bundles=1) as market:
        swapped = 0
        for count in range(1, 16):
            before = sum(coin.usable for coin in market.wallet().coins)
            market.buy_now("maps", "SMALL")
            swapped += sum(coin.usable for coin in market.wallet().coins) > before
            assert money(market) == 2000 - 31 * count
        assert swapped, "no purchase needed change"
        market.buy_now("maps", "EMPTY", 500)
        assert money(market) == 35
        with pytest.raises(InsufficientFundsError):
            market.buy_now("maps", "ROUTE")
        assert money(market) == 35


def test_the_same_key_is_the_same_purchase(bazaar: Bazaar):
    with bazaar.customer() as market:
        market.cart.add("sports", "PLAN")
        market.cart.add("maps", "ROUTE")
        first = market.buy("monday")
        left = money(market)
        assert market.buy("monday") == first
    with bazaar.again(market) as market:
        market.cart.add("sports", "PLAN")
        assert {order.order_id for order in market.buy("monday")} == {order.order_id for order in first}
        market.cart.set("sports", "PLAN", 2)
        with pytest.raises(IdempotencyConflictError):
            market.buy("monday")
        with pytest.raises(IdempotencyConflictError):
            market.buy_now("maps", "PLAN", idempotency_key="monday")
        assert money(market) == left
        assert len(market.orders()) == 2
        market.cart.set("sports", "PLAN", 1)
        market.buy()
        assert len(market.orders()) == 3
        assert money(market) == left - 1234


def test_a_changed_price_is_shown_and_never_silently_taken(bazaar: Bazaar):
    bazaar.add("sports", "MOVES", 100, b"moves")
    with bazaar.customer() as market:
        market.cart.add("sports", "MOVES")
        bazaar.world.merchants["sports"].inventory.edit("MOVES", price=150)
        with pytest.raises(PriceChangedError, match=r"1\.50 EUR instead of 1\.00 EUR"):
            market.buy()
        assert market.orders() == ()
        quote = market.quote()
        assert quote.changed
        assert quote.lines[0].previous_price == 100
        assert market.buy()[0].total == 150
        with pytest.raises(PriceChangedError):
            market.buy_now("sports", "MOVES", unit_price=100)


def test_a_refused_order_comes_back_as_coins(bazaar: Bazaar):
    bazaar.add("sports", "RARE", 100, b"rare", stock=2)
    with bazaar.customer() as market:
        with pytest.raises(OutOfStockError, match=r"only 2.*money is back") as failure:
            market.buy_now("sports", "RARE", 3, "greedy")
        assert failure.value.available == 2
        assert money(market) == 4000
        order = market.last_order()
        assert (order.state, order.failure) == ("refunded", "out_of_stock")
        with pytest.raises(OutOfStockError):
            market.buy_now("sports", "RARE", 3, "greedy")
        assert len(market.orders()) == 1
        market.buy_now("sports", "RARE", 2)
        with pytest.raises(OutOfStockError):
            market.buy_now("sports", "RARE", 1)
        assert money(market) == 3800
        assert market.wallet().reserved == 0


def test_one_merchants_failure_hides_nothing_of_the_others(bazaar: Bazaar):
    bazaar.add("maps", "GONE", 100, b"gone")
    with bazaar.customer() as market:
        market.cart.add("maps", "GONE")
        market.cart.add("sports", "PLAN")
        bazaar.world.merchants["maps"].inventory.remove("GONE")
        bought = market.purchase("mixed")
        by_merchant = {result.merchant: result for result in bought.results}
        assert isinstance(by_merchant["maps"].error, NotFoundError)
        assert by_merchant["maps"].order is None
        assert by_merchant["sports"].order is not None
        assert by_merchant["sports"].order.state == "accepted"
        assert [line.sku for line in market.cart.view().lines] == ["GONE"]
        with pytest.raises(NotFoundError):
            market.buy("mixed")
        assert len(market.orders()) == 1


# --- hops that are away --------------------------------------------------------------------------------


def test_hops_that_are_away(tmp_path: Path):
    bazaar = build(tmp_path)
    world = bazaar.world
    try:
        with bazaar.customer(timeout_s=1.0) as market:
            market.show("maps", "PLAN")
            world.stop("maps")
            with pytest.raises(MerchantOfflineError):
                market.show("maps", "PLAN")
            assert set(market.search().failures) == {"maps"}
            market.cart.add("sports", "PLAN")
            world.stop("sports")
            with pytest.raises(MerchantOfflineError):
                market.buy()
            world.start_merchant("sports")
            with bazaar.tampering(lose("sports/out")), pytest.raises(DeadlineError) as failure:
                market.show("sports", "PLAN")
            assert failure.value.hop == "merchant"
            with bazaar.tampering(lose("/up")), pytest.raises(DeadlineError) as failure:
                market.show("sports", "PLAN")
            assert failure.value.hop == "broker"
            world.stop("broker")
            with pytest.raises(BrokerUnreachableError):
                market.show("sports", "PLAN")
            with pytest.raises(BrokerUnreachableError):
                market.log_in("someone", PASSWORD)
            world.bus.up = False
            market._context.uplink.close()
            with pytest.raises(BusUnreachableError):
                market.merchants()
    finally:
        world.close()


def leaving(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the sports merchant leave after the product was shown, before the order is sent."""
    settle = Checkout.settle

    def leave_then_settle(checkout: Checkout, session: Any, order_id: bytes) -> None:
        if "sports" in world.running:
            world.stop("sports")
            # In one batch with the order the broker would still take it for present, and say nothing.
            world.pump(lambda: False, 0.05)
        settle(checkout, session, order_id)

    monkeypatch.setattr(Checkout, "settle", leave_then_settle)


def test_an_order_waits_for_its_merchant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bazaar = build(tmp_path)
    world = bazaar.world
    try:
        with bazaar.customer(timeout_s=1.0) as market:
            market.cart.add("sports", "PLAN")
            with monkeypatch.context() as patched:
                leaving(world, patched)
                with pytest.raises(MerchantOfflineError, match="away") as failure:
                    market.buy()
            assert "stays open" in failure.value.hint
            assert market.last_order().state == "placed"
            with pytest.raises(MerchantOfflineError):
                market.buy()
            assert len(market.orders()) == 1, "the same cart goes on with the same order"
        world.start_merchant("sports")
        with bazaar.again(market, timeout_s=5.0) as market:
            done = market.resume(tmp_path / "out")
            assert [(item.kind, item.error) for item in done] == [("order", None), ("order", None)]
            assert market.last_order().state == "complete"
            assert money(market) == 4000 - 1234
            assert market.cart.view().lines == ()
    finally:
        world.close()


def test_an_order_past_its_deadline_is_refunded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bazaar = build(tmp_path, limits={"order_deadline_minimum_ms": 100})
    world = bazaar.world
    try:
        leaving(world, monkeypatch)
        with bazaar.customer() as market:
            with pytest.raises(RejectedError, match=r"deadline.*money is back"):
                market.buy_now("sports", "PLAN", deadline_ms=1500)
            assert market.last_order().state == "refunded"
            assert money(market) == 4000
            assert market.wallet().reserved == 0
    finally:
        world.close()


def test_secrets_of_the_profile_are_in_no_repr(bazaar: Bazaar):
    with bazaar.customer() as market:
        market.buy_now("sports", "PLAN")
        secrets = [row[0] for row in profile_rows(home(market), schema.order_secrets.c.secret)]
        keys = [row[0] for row in profile_rows(home(market), schema.visits.columns["keys"])]
        text = repr(market._context) + repr(market.orders()) + repr(market.wallet())
        assert secrets
        assert keys
        for secret in [*secrets, *keys, (home(market) / "seed").read_bytes()]:
            assert secret.hex()[:32] not in text
            assert repr(secret)[2:20] not in text


def test_the_wallet_claims_no_crowd_that_nobody_counted(bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch):
    with bazaar.customer() as market:
        pass
    monkeypatch.setattr("veilmart.cli.profiles.Market", partial(Market, connect=bazaar.world.connect))
    shown = veilmart("wallet", "--profile", home(market))
    assert shown.code == 0
    assert "0.01 EUR\t4\t0\t0\tunknown" in shown.out.splitlines()
    assert "how many coins yours hide among is unknown" in shown.out


def test_the_command_asks_before_a_search_uses_many_tickets(bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch):
    with bazaar.customer() as market:
        pass
    monkeypatch.setattr("veilmart.cli.profiles.Market", partial(Market, connect=bazaar.world.connect))
    words = ("search", "--max-tickets", "1", "--profile", home(market))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    piped = veilmart(*words)
    assert piped.code == 4
    assert "--max-tickets 2" in piped.err
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    refused = veilmart(*words)
    assert refused.code == 130
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    agreed = veilmart(*words)
    assert agreed.code == 0
    assert "would use 2 tickets. Use them? [y/N]" in agreed.err
    assert "PLAN of sports" in agreed.out
