"""Crashes: the customer's process ends at any send or commit, and nothing is lost or paid twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from customer_shop import PASSWORD, Bazaar, build, content
from world import MemoryConnection

from common import bus
from common.errors import AuthenticationError
from common.store import Tx
from customer_node import Market
from customer_node.schema import issuer_keys, tokens

SMALL = 31
_TICKETS = sa.select(issuer_keys.c.key_id).where(issuer_keys.c.purpose == "ticket")
BUNDLE = 2000


class Crash(BaseException):
    """The process ends here: no handler runs."""


class Fuse:
    """Burns down by one at each send and around each commit of the customer's, then crashes."""

    def __init__(self, length: int) -> None:
        self.left = length

    def burn(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Crash


class FusedConnection(MemoryConnection):
    fuse: Fuse

    def put(self, topic: str, payload: bytes, *, retain: bool = False, expiry_ms: int | None = None) -> bool:
        self.fuse.burn()
        return super().put(topic, payload, retain=retain, expiry_ms=expiry_ms)


@contextmanager
def fused(bazaar: Bazaar, profile: Path, fuse: Fuse) -> Iterator[Market]:
    """Open a profile whose process crashes when the fuse has burnt down."""

    def connect(settings: bus.Settings) -> Any:
        connection = FusedConnection(bazaar.world, settings)
        connection.fuse = fuse
        return connection

    with Market(profile, connect=connect) as market:
        store = market._context.profile.store
        immediate = store.immediate

        @contextmanager
        def burning() -> Iterator[Tx]:
            with immediate() as tx:
                yield tx
                # Before the commit: the transaction is rolled back.
                fuse.burn()
            fuse.burn()

        store.immediate = burning  # type: ignore[method-assign]
        yield market


@pytest.fixture(scope="module")
def bazaar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bazaar]:
    built = build(tmp_path_factory.mktemp("bazaar"))
    built.add("maps", "SMALL", SMALL, content("small", 100_000))
    built.add("maps", "RARE", SMALL, b"rare", stock=0)
    yield built
    built.world.close()


def money(market: Market) -> int:
    wallet = market.wallet()
    return wallet.usable + wallet.reserved


def some_or_all(some: int) -> pytest.MarkDecorator:
    """Let every run of the tests try each so many-th point, and the exhaustive set all of them."""
    return pytest.mark.parametrize(
        "every",
        [
            pytest.param(some, id="some"),
            pytest.param(1, id="all", marks=[pytest.mark.exhaustive, pytest.mark.timeout(600)]),
        ],
    )


def crash_points(crashed: list[bool], every: int = 1) -> Iterator[int]:
    """Count up until a run ends without a crash."""
    point = 0
    while point == 0 or crashed[-1]:
        point += every
        yield point
        assert point < 200


def lose_change(market: Market) -> int:
    """Throw small coins away, so that the next purchase has to swap first; gives what is left."""
    small = sa.select(issuer_keys.c.key_id).where(issuer_keys.c.value < 64)
    with market._context.profile.store.immediate() as tx:
        tx.execute(
            sa.update(tokens)
            .where(tokens.c.state == "free", tokens.c.key_id.in_(small), tokens.c.key_id.not_in(_TICKETS))
            .values(state="spent")
        )
    return money(market)


@some_or_all(7)
def test_a_purchase_survives_a_crash_anywhere(bazaar: Bazaar, tmp_path: Path, every: int):
    crashed: list[bool] = []
    with bazaar.customer(bundles=15) as market:
        profile = market._context.profile.home
    for number, point in enumerate(crash_points(crashed, every), start=1):
        folder, key = tmp_path / str(number), f"purchase {number}"
        with Market(profile, connect=bazaar.world.connect) as market:
            before = lose_change(market)
        try:
            with fused(bazaar, profile, Fuse(point)) as market:
                order = market.buy_now("maps", "SMALL", idempotency_key=key)
                market.download(order.order_id, folder)
            crashed.append(False)
        except Crash:
            crashed.append(True)
        with Market(profile, connect=bazaar.world.connect) as market:
            assert [item.error for item in market.resume(folder) if item.error] == []
            order = market.buy_now("maps", "SMALL", idempotency_key=key)
            (file,) = market.download(order.order_id, None if order.state == "complete" else folder)
            assert file.path.read_bytes() == content("small", 100_000)
            assert [order.state for order in market.orders()] == ["complete"] * number
            assert money(market) == before - SMALL
            assert market.wallet().reserved == 0
            assert market.wallet().open_operations == 0
    assert len(crashed) * every > 20


def test_a_withdrawal_survives_a_crash_anywhere(bazaar: Bazaar):
    crashed: list[bool] = []
    with bazaar.customer(bundles=0) as market:
        profile = market._context.profile.home
    drawn = 0
    for point in crash_points(crashed):
        bazaar.world.fund(profile.name, BUNDLE)
        try:
            with fused(bazaar, profile, Fuse(point)) as market:
                market.withdraw()
            crashed.append(False)
        except Crash:
            crashed.append(True)
        with Market(profile, connect=bazaar.world.connect) as market:
            assert [item.error for item in market.resume() if item.error] == []
            if market.balance().amount:
                market.withdraw()
            drawn += BUNDLE
            assert market.balance().amount == 0
            assert money(market) == drawn
            assert market.wallet().open_operations == 0
    assert len(crashed) > 5


@some_or_all(5)
def test_a_refund_survives_a_crash_anywhere(bazaar: Bazaar, monkeypatch: pytest.MonkeyPatch, every: int):
    # Stock is shown as out: the wish to be refused has to come past that.
    monkeypatch.setattr("customer_node.drafts._check_offer", lambda *_: None)
    crashed: list[bool] = []
    with bazaar.customer(bundles=1) as market:
        profile = market._context.profile.home
    for number, point in enumerate(crash_points(crashed, every), start=1):
        key = f"refused {number}"
        try:
            with (
                fused(bazaar, profile, Fuse(point)) as market,
                pytest.raises(Exception, match="money is back"),
            ):
                market.buy_now("maps", "RARE", idempotency_key=key)
            crashed.append(False)
        except Crash:
            crashed.append(True)
        with Market(profile, connect=bazaar.world.connect) as market:
            market.resume()
            with pytest.raises(Exception, match="money is back"):
                market.buy_now("maps", "RARE", idempotency_key=key)
            assert {order.state for order in market.orders()} == {"refunded"}
            assert len(market.orders()) == number
            assert money(market) == BUNDLE
            assert market.wallet().reserved == 0
    assert len(crashed) * every > 20


def test_signing_up_survives_a_crash(bazaar: Bazaar):
    crashed: list[bool] = []
    for point in crash_points(crashed):
        name = f"crashing{point}"
        profile = bazaar.profile(name)
        Market.join(profile, bazaar.world.market_path)
        try:
            with fused(bazaar, profile, Fuse(point)) as market:
                market.sign_up(name, PASSWORD)
            crashed.append(False)
        except Crash:
            crashed.append(True)
        with Market(profile, connect=bazaar.world.connect) as market:
            try:
                market.balance()
            except AuthenticationError:
                try:
                    market.log_in(name, PASSWORD)
                except AuthenticationError:
                    market.sign_up(name, PASSWORD)
            assert market.balance().amount == 0
