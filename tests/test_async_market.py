"""`AsyncMarket`: the same API as `Market`, for asyncio, and safe to cancel anywhere."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from customer_shop import PASSWORD, PRICES, Bazaar, build, content

from common.errors import BusyError, NotFoundError, OutOfStockError, UsageError
from customer_node import AsyncMarket, Market, fetching
from customer_node.account_changes import AccountChanges
from customer_node.async_market import AsyncAccount, AsyncCart
from customer_node.cart import Cart
from customer_node.purchasing import Purchasing
from customer_node.views import Progress

LONG = 9_000_000


@pytest.fixture(scope="module")
def bazaar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bazaar]:
    built = build(tmp_path_factory.mktemp("bazaar"))
    built.add("sports", "LONG", 100, content("long", LONG))
    built.add("sports", "RARE", 5, b"rare", stock=2)
    yield built
    built.world.close()


@pytest.fixture
def profile(bazaar: Bazaar) -> Path:
    """A profile with coins, that nobody has open."""
    with bazaar.customer():
        return bazaar.profile(f"customer{bazaar.customers}")


def run(bazaar: Bazaar, profile: Path, work: Callable[[AsyncMarket], Awaitable[Any]], **options: Any) -> Any:
    async def working() -> Any:
        async with AsyncMarket(profile, connect=bazaar.world.connect, **options) as market:
            return await work(market)

    return asyncio.run(working())


# --- the same API --------------------------------------------------------------------------------------


def public(kind: type) -> dict[str, Any]:
    return {name: value for name, value in vars(kind).items() if not name.startswith("_")}


INSIDE = {"following", "followed_by"}
"""What `AsyncMarket` itself needs of a `Market`."""


@pytest.mark.parametrize(
    ("waits", "coroutines"), [(Market, AsyncMarket), (Cart, AsyncCart), (AccountChanges, AsyncAccount)]
)
def test_both_have_the_same_names_parameters_and_docstrings(waits: type, coroutines: type) -> None:
    ours, theirs = public(coroutines), public(waits)
    only_async = {"call", "reading"} if coroutines is AsyncMarket else set()
    assert set(ours) - only_async == set(theirs) - INSIDE
    for name in set(theirs) - INSIDE:
        if isinstance(theirs[name], property):
            continue
        waiting, asked = getattr(waits, name), getattr(coroutines, name)
        assert inspect.cleandoc(asked.__doc__) == inspect.cleandoc(waiting.__doc__) or name == "close", name
        mine, other = inspect.signature(asked), inspect.signature(waiting)
        assert list(mine.parameters.values()) == list(other.parameters.values()), name
        if name not in {"download_steps", "protection"}:
            assert inspect.iscoroutinefunction(asked), name


def test_both_are_opened_alike() -> None:
    parameters = [inspect.signature(kind.__init__).parameters for kind in (Market, AsyncMarket)]  # type: ignore[misc]
    assert list(parameters[0].values()) == list(parameters[1].values())


def test_attributes_are_the_same(bazaar: Bazaar, profile: Path) -> None:
    with Market(profile, connect=bazaar.world.connect) as market:
        attributes = {name for name in vars(market) if not name.startswith("_")} - INSIDE
        kept = (market.market, market.protected_by, market.buyer)

    async def look(found: AsyncMarket) -> None:
        assert attributes == {"cart", "account", "reading"}
        assert all(hasattr(found, name) for name in attributes)
        assert (found.market, found.protected_by, await found.buyer()) == kept

    run(bazaar, profile, look)


# --- what it does --------------------------------------------------------------------------------------


def test_from_joining_to_the_receipt(bazaar: Bazaar, tmp_path: Path) -> None:
    async def shopping() -> None:
        profile = tmp_path / "me"
        joined = await AsyncMarket.join(profile, bazaar.world.market_path)
        assert AsyncMarket.protection(profile) == "none"
        async with AsyncMarket(profile, connect=bazaar.world.connect) as market:
            assert market.market == joined
            await market.sign_up("async-alice", PASSWORD)
            bazaar.world.fund("async-alice", 2000)
            await market.withdraw()
            await market.account.change_password(PASSWORD, "another long password")
            assert [each.id for each in await market.merchants()] == ["maps", "sports"]
            await market.cart.add("sports", "PLAN")
            assert (await market.quote()).total == PRICES["PLAN"]
            (order,) = await market.buy("monday")
            kinds = [event.kind async for event in order.events(tmp_path / "bought")]
            assert (kinds[0], kinds[-1]) == ("accepted", "complete")
            assert (await market.buy("monday"))[0].order_id == order.order_id
            steps: list[Progress] = []
            (file,) = await market.download(order.order_id, tmp_path / "again", steps.append)
            assert file.path.read_bytes() == content("sports PLAN", 150_000)
            assert steps[-1].bytes_done == 150_000
            assert (await market.receipt(order.order_id)).total == PRICES["PLAN"]
            assert await market.resume() == []
            with pytest.raises(OutOfStockError) as failure:
                await market.buy_now("sports", "RARE", 3)
            assert failure.value.available == 2

    asyncio.run(shopping())


def test_others_have_their_turn_between_two_parts_of_a_download(
    bazaar: Bazaar, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Cells that went astray meanwhile would not be asked for again.
    monkeypatch.setattr(fetching, "PATIENCE_MS", 600_000)

    async def work(market: AsyncMarket) -> None:
        order = await market.buy_now("sports", "LONG")
        done: list[int] = []
        async for step in market.download_steps(order.order_id, tmp_path):
            done.append(step.cells_done)
            if len(done) == 2:
                assert (await market.cart.add("sports", "PLAN")).total == PRICES["PLAN"]
                assert (await market.order(order.order_id)).state == "downloading"
                assert (await market.show("sports", "PLAN")).stock == "in", "in the delivery's own session"
                with pytest.raises(BusyError):
                    await market.download(order.order_id, tmp_path)
            if len(done) == 3:
                assert (await market.balance()).amount == 0, "on a connection of its own"
        assert len(done) > 2
        assert (await market.order(order.order_id)).state == "complete"

    run(bazaar, profile, work, timeout_s=3)


def test_an_order_is_followed_with_async_for_alone(bazaar: Bazaar, profile: Path) -> None:
    async def work(market: AsyncMarket) -> None:
        order = await market.buy_now("sports", "PLAN")
        with pytest.raises(UsageError, match="async for"):
            list(order.events())
        with pytest.raises(NotFoundError):
            await market.download("ff" * 16)

    run(bazaar, profile, work)


def test_a_market_that_is_not_open(bazaar: Bazaar, profile: Path) -> None:
    async def work() -> None:
        market = AsyncMarket(profile, connect=bazaar.world.connect)
        for call in (market.wallet, market.cart.view, lambda: market.download("00")):
            with pytest.raises(UsageError, match="not open"):
                await call()
        async with market:
            await market.wallet()
            await market.close()
            with pytest.raises(UsageError, match="not open"):
                await market.wallet()
        with pytest.raises(UsageError, match="joined no market"):
            async with AsyncMarket(profile / "nothing"):
                pass

    asyncio.run(work())


def test_two_at_once_on_one_profile(bazaar: Bazaar, profile: Path) -> None:
    async def work(market: AsyncMarket) -> None:
        with pytest.raises(BusyError):
            async with AsyncMarket(profile):
                pass
        assert (await market.wallet()).usable == 4000

    run(bazaar, profile, work)


# --- cancelled -----------------------------------------------------------------------------------------


class Gate:
    """Holds up what the market's thread does until it is opened."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = threading.Event()
        self._loop = asyncio.get_running_loop()

    def before(self, action: Callable[..., Any]) -> Callable[..., Any]:
        def held(*given: Any, **named: Any) -> Any:
            self._loop.call_soon_threadsafe(self.reached.set)
            assert self.open.wait(20)
            return action(*given, **named)

        return held


def test_a_purchase_whose_caller_was_cancelled_ends_and_is_not_paid_twice(
    bazaar: Bazaar, profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(market: AsyncMarket) -> None:
        gate = Gate()
        with monkeypatch.context() as patched:
            patched.setattr(Purchasing, "purchase", gate.before(Purchasing.purchase))
            buying = asyncio.create_task(market.buy_now("sports", "PLAN", idempotency_key="monday"))
            waiting = asyncio.create_task(market.buy_now("maps", "ROUTE", idempotency_key="later"))
            await gate.reached.wait()
            for task in (buying, waiting):
                task.cancel()
            assert all(
                isinstance(each, asyncio.CancelledError)
                for each in await asyncio.gather(buying, waiting, return_exceptions=True)
            )
            gate.open.set()
            (order,) = await market.orders()
        assert (order.merchant, order.state) == ("sports", "accepted"), "what had no turn was not done"
        again = await market.buy_now("sports", "PLAN", idempotency_key="monday")
        assert again.order_id == order.order_id
        assert (await market.wallet()).usable == 4000 - PRICES["PLAN"]

    run(bazaar, profile, work)


def test_leaving_waits_for_what_has_begun(
    bazaar: Bazaar, profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        gate = Gate()
        monkeypatch.setattr(Purchasing, "purchase", gate.before(Purchasing.purchase))
        async with AsyncMarket(profile, connect=bazaar.world.connect) as market:
            buying = asyncio.create_task(market.buy_now("sports", "PLAN"))
            await gate.reached.wait()
            waiting = asyncio.create_task(market.wallet())
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_later(0.05, gate.open.set)
        assert (await buying).state == "accepted"
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(work())
    with Market(profile) as market:
        assert market.last_order().state == "accepted"


def test_a_download_is_left_anywhere_and_goes_on_at_once(
    bazaar: Bazaar, profile: Path, tmp_path: Path
) -> None:
    async def work(market: AsyncMarket) -> None:
        order = await market.buy_now("sports", "LONG")
        async for step in market.download_steps(order.order_id, tmp_path):
            if step.cells_done:
                break
        async for step in market.download_steps(order.order_id):
            assert step.cells_done >= 64, "what was there is not asked for again"
            break
        async for event in order.events():
            if event.progress:
                break
        kept: list[BaseException] = []
        for _ in range(3):
            begun = asyncio.Event()
            said = functools.partial(_say, begun)
            downloading = asyncio.create_task(market.download(order.order_id, None, said))
            await begun.wait()
            downloading.cancel()
            try:
                await downloading
            except asyncio.CancelledError as error:
                kept.append(error)  # its traceback holds on to every frame
        (file,) = await market.download(order.order_id)
        assert len(kept) == 3
        assert file.path.read_bytes() == content("long", LONG)

    run(bazaar, profile, work)


def _say(begun: asyncio.Event, _: Progress) -> None:
    begun.set()


def test_an_iteration_that_is_open_at_the_end_is_closed_before_the_market(
    bazaar: Bazaar, profile: Path, tmp_path: Path
) -> None:
    async def begun(market: AsyncMarket) -> tuple[str, Any]:
        order = await market.buy_now("sports", "LONG")
        steps = market.download_steps(order.order_id, tmp_path)
        await anext(steps)
        assert (await anext(steps)).cells_done >= 64
        return order.order_id, steps

    order_id, steps = run(bazaar, profile, begun)
    with Market(profile, connect=bazaar.world.connect) as market:
        assert market.order(order_id).cells_done >= 64, "it was written down"
        assert next(market.download_steps(order_id)).cells_done >= 64
    del steps


def test_opening_that_is_cancelled_leaves_the_profile_free(
    bazaar: Bazaar, profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        gate = Gate()
        monkeypatch.setattr(Market, "__init__", gate.before(Market.__init__))

        async def opening() -> None:
            async with AsyncMarket(profile, connect=bazaar.world.connect):
                raise AssertionError("nobody waits for it any more")

        task = asyncio.create_task(opening())
        await gate.reached.wait()
        task.cancel()
        await asyncio.sleep(0)
        gate.open.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        monkeypatch.undo()

    asyncio.run(work())
    with Market(profile) as market:
        assert market.wallet().usable == 4000
