"""`order.events()`: what happens with an order, one thing after the other, until it needs nothing more."""

from __future__ import annotations

import asyncio
import dataclasses
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from customer_shop import Bazaar, build, content, home, lose
from test_customer_disputes import decide
from test_customer_market import leaving
from test_customer_refunds import asked, deaf, money

from common.clock import now_ms
from common.errors import (
    BrokerUnreachableError,
    BusyError,
    DeadlineError,
    MerchantOfflineError,
    NotFoundError,
    OutOfStockError,
    RejectedError,
    UsageError,
)
from customer_node import Market
from customer_node.views import OrderEvent, OrderView


@pytest.fixture(scope="module")
def bazaar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bazaar]:
    built = build(tmp_path_factory.mktemp("bazaar"))
    yield built
    built.world.close()


@pytest.fixture
def fragile(tmp_path: Path) -> Iterator[Bazaar]:
    """One whose nodes may be stopped."""
    built = build(tmp_path)
    yield built
    built.world.close()


def kinds(events: list[OrderEvent]) -> list[str]:
    """The kinds of events, repetitions left out."""
    return [event.kind for n, event in enumerate(events) if not n or events[n - 1].kind != event.kind]


def test_an_order_is_followed_into_its_folder(bazaar: Bazaar, tmp_path: Path) -> None:
    with bazaar.customer() as market:
        order = market.buy_now("sports", "PLAN")
        events = list(order.events(tmp_path / "out"))
        assert kinds(events) == ["accepted", "downloading", "complete"]
        parts = [event.progress for event in events if event.progress is not None]
        assert [part.cells_done for part in parts] == sorted({part.cells_done for part in parts})
        assert (parts[0].cells_done, parts[-1].bytes_done) == (0, 150_000)
        assert {event.kind for event in events if event.progress} == {"downloading"}
        assert events[0].hop == "customer"
        assert (events[0].deadline or 0) > events[0].at, "until then it could be disputed"
        assert [event.at for event in events] == sorted(event.at for event in events)
        last = events[-1].order
        assert last.files == (tmp_path / "out" / "plan.bin",)
        assert last.files[0].read_bytes() == content("sports PLAN", 150_000)
        assert kinds(list(last.events())) == ["complete"], "an event's order can be followed too"


def test_without_a_folder_it_is_the_one_that_resume_takes(bazaar: Bazaar) -> None:
    with bazaar.customer() as market:
        order = market.buy_now("sports", "PLAN")
        *_, last = order.events()
        assert last.order.files[0].parent == home(market) / "downloads" / order.order_id


def test_given_up_and_followed_again_it_goes_on(bazaar: Bazaar, tmp_path: Path) -> None:
    bazaar.add("sports", "LONG", 100, content("long", 9_000_000))
    with bazaar.customer() as market:
        order = market.buy_now("sports", "LONG")
        events = iter(order.events(tmp_path))
        for event in events:
            if event.progress is not None and event.progress.cells_done:
                break
        with pytest.raises(BusyError, match="being downloaded already"):
            market.download(order.order_id, tmp_path)
        events.close()  # type: ignore[attr-defined]  # what `for` itself does at its end
        again = [each.progress for each in order.events() if each.progress is not None]
        assert again[0].cells_done >= 64
    assert (tmp_path / "long.bin").read_bytes() == content("long", 9_000_000)


def test_an_absent_merchant_is_waited_for_and_told_of_once(
    fragile: Bazaar, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = fragile.world
    with fragile.customer(timeout_s=0.5) as market:
        with monkeypatch.context() as patched:
            leaving(world, patched)
            with pytest.raises(MerchantOfflineError):
                market.buy_now("sports", "PLAN")
        order = market.last_order()
        seen: list[OrderEvent] = []
        with pytest.raises(DeadlineError, match="still placed") as failure:
            seen.extend(order.events(timeout_s=1))  # what came before it is kept
        assert failure.value.hop == "merchant"
        for event in order.events():
            seen.append(event)
            if event.kind == "waiting":
                world.start_merchant("sports")
    assert kinds(seen) == ["placed", "waiting", "placed", "waiting", "accepted", "downloading", "complete"]
    waiting = seen[1]
    assert isinstance(waiting.error, MerchantOfflineError)
    assert (waiting.hop, waiting.deadline) == ("merchant", order.deadline)
    assert waiting.error.hop == "merchant"


def test_a_broker_that_is_away_is_named_until_the_orders_own_deadline(
    fragile: Bazaar, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = 0
    with fragile.customer(timeout_s=0.3, clock=lambda: now_ms() + ahead) as market:
        leaving(fragile.world, monkeypatch)
        with pytest.raises(MerchantOfflineError):
            market.buy_now("sports", "PLAN")
        fragile.world.stop("broker")
        seen: list[OrderEvent] = []
        with pytest.raises(DeadlineError) as failure:
            seen.extend(market.last_order().events(timeout_s=0.5))
        assert failure.value.hop == "broker"
        assert isinstance(failure.value.__cause__, BrokerUnreachableError)
        assert [(event.kind, event.hop) for event in seen] == [("placed", "merchant"), ("waiting", "broker")]

        for event in (events := iter(market.last_order().events())):
            if event.kind == "waiting":
                # Without a time of the caller's it is the order's deadline, and a moment to hear of that.
                ahead = (event.deadline or 0) + 400 - now_ms()
                with pytest.raises(DeadlineError):
                    next(events)


def test_a_merchant_that_leaves_with_the_files_is_waited_for(fragile: Bazaar, tmp_path: Path) -> None:
    fragile.add("sports", "LONG", 100, content("long", 9_000_000))
    with fragile.customer(timeout_s=0.5) as market:
        order = market.buy_now("sports", "LONG")
        seen: list[OrderEvent] = []

        def follow(timeout_s: float) -> None:
            for event in order.events(tmp_path, timeout_s=timeout_s):
                seen.append(event)
                if event.progress is not None and event.progress.cells_done == 64:
                    fragile.world.stop("sports")

        with pytest.raises(DeadlineError) as failure:
            follow(1)
        assert failure.value.hop == "merchant"
        assert [event.kind for event in seen[-2:]] == ["downloading", "waiting"]
        done = [event.progress.cells_done for event in seen if event.progress is not None]
        assert len(done) == len(set(done)), "no part is told twice"
        fragile.world.start_merchant("sports")
        with fragile.tampering(lose("sports/cells")), pytest.raises(DeadlineError):
            follow(1.5)
        assert [event.kind for event in seen[-2:]] == ["downloading", "waiting"]
        assert sum(event.progress == seen[-2].progress for event in seen[-6:]) == 1, "told once, tried again"
        follow(20)
        assert seen[-1].kind == "complete"


def test_why_an_order_came_to_nothing_is_in_its_last_event(bazaar: Bazaar) -> None:
    bazaar.add("sports", "RARE", 100, b"rare", stock=2)
    with bazaar.customer(timeout_s=0.5) as market:
        with deaf(bazaar, market, "/down"), pytest.raises(DeadlineError):
            market.buy_now("sports", "RARE", 3)
        events = list(market.last_order().events())
        assert kinds(events)[-1] == "refunded"
        error = events[-1].error
        assert isinstance(error, OutOfStockError)
        assert (error.available, error.sku) == (2, "RARE")
        assert money(market) == 4000
        assert (events[-1].hop, events[-1].deadline) == (None, None)


def test_a_dispute_is_followed_to_its_decision(bazaar: Bazaar) -> None:
    with bazaar.customer() as market:
        order = market.buy_now("sports", "PLAN")
        market.dispute(order.order_id, "not_delivered", reveal=False)
        seen = []
        for event in order.events(timeout_s=20):
            seen.append(event)
            if event.kind == "disputed":
                assert event.hop == "operator"
                decide(bazaar, order.order_id, "refunded", "it never came")
        assert kinds(seen) == ["disputed", "refunded"]
        assert (seen[-1].order.refunded, seen[-1].order.claimed) == (1234, 1234)
        assert isinstance(seen[-1].error, RejectedError)


def test_what_was_given_back_in_part_is_claimed(bazaar: Bazaar, tmp_path: Path) -> None:
    with bazaar.customer() as market:
        order = market.buy_now("sports", "PLAN")
        assert asked(bazaar, order.order_id, 234).state == "done"
        events = list(order.events(tmp_path))
        assert kinds(events) == ["accepted", "downloading", "complete"]
        assert events[-1].order.claimed == 234
        assert money(market) == 4000 - 1000


# --- what carries them ---------------------------------------------------------------------------------


def test_the_way_back_to_the_market_is_in_no_field(bazaar: Bazaar) -> None:
    with bazaar.customer() as market:
        order = market.buy_now("sports", "PLAN")
        (listed,) = market.orders()
        (read,) = market.reading.orders()
        assert order == listed == read
        assert "Market" not in repr(order)
        assert "follow" not in dataclasses.asdict(order)
        assert {field.name for field in dataclasses.fields(OrderView)}.isdisjoint({"follow", "_follow"})
        for loose in (read, pickle.loads(pickle.dumps(order)), dataclasses.replace(order, code="")):  # noqa: S301 - our own
            assert loose == order
            with pytest.raises(UsageError, match="not given by an open market"):
                loose.events()
        for bound in (market.order(order.order_id), market.ask(order.order_id), market.last_order()):
            assert bound.events()
        market.cart.add("maps", "ROUTE")
        (bought,) = market.purchase().orders
        assert bought.events()


def test_an_event_loop_is_refused_a_market_that_waits(bazaar: Bazaar) -> None:
    async def follow(order: OrderView) -> Any:
        return [event async for event in order.events()]

    with bazaar.customer() as market, pytest.raises(UsageError, match="use `for`"):
        asyncio.run(follow(market.buy_now("sports", "PLAN")))


def test_an_order_of_nobody(bazaar: Bazaar) -> None:
    with bazaar.customer() as market:
        order = market.buy_now("sports", "PLAN")
        stranger = dataclasses.replace(order, order_id="00" * 16, follow=market._follow)
        with pytest.raises(NotFoundError):
            list(stranger.events())
        assert isinstance(market, Market)
