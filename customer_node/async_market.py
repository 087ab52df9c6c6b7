"""The Python API for asyncio: everything that `Market` does, as coroutines.

    async with AsyncMarket(profile) as market:
        await market.cart.add("sports", "PLAN-10K")
        order, = await market.buy(idempotency_key="tuesday")
        async for event in order.events(Path("bought")):
            print(event.kind)

Rule 1. A `Market` in a thread of its own does the work, one call after the other, in the order in which they
were made; the event loop is never held up. What lies in the profile can be read meanwhile (`reading`). For
several purchases at once there are several profiles.

Rule 2. What has begun ends, also where its caller was cancelled: nothing is lost, and the same call with the
same key, or `resume`, goes on. What is cancelled before its turn is not done. Leaving the `async with` waits
for what is under way.

Rule 3. There is no second list of parameters and docstrings to drift: each coroutine takes its own from the
method of `Market` that it calls.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar

from common import bus, clock
from common.clock import Random
from common.errors import UsageError
from common.worker import Worker
from customer_node.account_changes import AccountChanges
from customer_node.cart import Cart
from customer_node.connection import Connect
from customer_node.downloads import BATCH
from customer_node.following import Pause, Step
from customer_node.invoices.model import Buyer
from customer_node.market import Market
from customer_node.reading import Reading
from customer_node.seed_file import Protection, Unlock
from customer_node.timing import Clock
from customer_node.views import DeliveredFile, MarketView, OrderEvent, OrderEvents, Progress

Owned = TypeVar("Owned")
Owned_co = TypeVar("Owned_co", covariant=True)
Result = TypeVar("Result")
Parameters = ParamSpec("Parameters")


class Asked(Protocol[Owned_co]):
    """Whoever has something in the market's thread."""

    async def call(self, action: Callable[[Owned_co], Result]) -> Result:
        """Do something with it there."""


def coroutine(
    method: Callable[Concatenate[Owned, Parameters], Result],
) -> Callable[Concatenate[Asked[Owned], Parameters], Coroutine[Any, Any, Result]]:
    """Make a coroutine out of a method, of the same name, parameters and docstring."""

    @functools.wraps(method)
    async def asked(self: Asked[Owned], /, *given: Parameters.args, **named: Parameters.kwargs) -> Result:
        return await self.call(lambda owned: method(owned, *given, **named))

    return asked


def in_a_thread(
    function: Callable[Parameters, Result],
) -> Callable[Parameters, Coroutine[Any, Any, Result]]:
    """Make a coroutine out of a function that needs no open market."""

    @functools.wraps(function)
    async def called(*given: Parameters.args, **named: Parameters.kwargs) -> Result:
        return await asyncio.to_thread(function, *given, **named)

    return called


class _Part(Generic[Owned]):
    """A part of the market, reached by way of the market."""

    def __init__(self, market: AsyncMarket, part: Callable[[Market], Owned]) -> None:
        self._market = market
        self._part = part

    async def call(self, action: Callable[[Owned], Result]) -> Result:
        """Do something with it in the market's thread."""
        return await self._market.call(lambda market: action(self._part(market)))


class AsyncCart(_Part[Cart]):
    """The cart: lines by merchant and SKU."""

    add = coroutine(Cart.add)
    set = coroutine(Cart.set)
    remove = coroutine(Cart.remove)
    clear = coroutine(Cart.clear)
    view = coroutine(Cart.view)
    wanted = coroutine(Cart.wanted)
    quote = coroutine(Cart.quote)


class AsyncAccount(_Part[AccountChanges]):
    """The account itself."""

    change_password = coroutine(AccountChanges.change_password)
    new_secret = coroutine(AccountChanges.new_secret)
    enable_totp = coroutine(AccountChanges.enable_totp)
    disable_totp = coroutine(AccountChanges.disable_totp)
    close = coroutine(AccountChanges.close)


class AsyncMarket:
    """A profile that `async with` opens. One process at a time may have it (`BusyError`)."""

    def __init__(
        self,
        profile: Path,
        *,
        proxy: str | None = None,
        timeout_s: float = 30.0,
        connect: Connect = bus.Connection,
        allow_young: bool = False,
        unlock: Unlock | None = None,
        clock: Clock | None = None,
        random: Random = clock.random_bytes,
    ) -> None:
        """Take what `Market` takes; `async with` opens it, and raises what `Market` raises then."""
        self._open = functools.partial(
            Market,
            profile,
            proxy=proxy,
            timeout_s=timeout_s,
            connect=connect,
            allow_young=allow_young,
            unlock=unlock,
            clock=clock,
            random=random,
        )
        self._worker = Worker(self._opened)
        self._opened_market: Market | None = None
        self.cart = AsyncCart(self, lambda market: market.cart)
        """The cart: `add`, `set`, `remove`, `view`, `clear`."""
        self.account = AsyncAccount(self, lambda market: market.account)
        """The account itself: `change_password`, `new_secret`, `enable_totp`, `disable_totp`, `close`."""

    join = staticmethod(in_a_thread(Market.join))
    restore = staticmethod(in_a_thread(Market.restore))
    protection = staticmethod(Market.protection)

    # --- opening and closing ---------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        opening = loop.run_in_executor(None, self._worker.start)
        try:
            self._opened_market = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # It opens all the same, and nobody else would close it.
            await asyncio.wait([opening])
            if opening.exception() is None:
                await loop.run_in_executor(None, self._worker.stop)
            raise
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Wait for what is under way, then close as `Market.close` does; what had no turn is cancelled."""
        if self._opened_market is None:
            return
        self._opened_market = None
        loop = asyncio.get_running_loop()
        await asyncio.shield(loop.run_in_executor(None, self._worker.stop))

    @contextmanager
    def _opened(self) -> Iterator[Market]:
        with self._open() as market:
            market.followed_by(self._follow)
            yield market

    @property
    def _present(self) -> Market:
        if self._opened_market is None:
            raise UsageError("This market is not open.", "Use it within `async with AsyncMarket(profile)`.")
        return self._opened_market

    async def call(self, action: Callable[[Market], Result]) -> Result:
        """Do something with the `Market` in its thread, several steps in one turn if need be."""
        _ = self._present
        return await self._worker.call(action)

    @property
    def reading(self) -> Reading:
        """What lies in the profile, to be read at once while the market is busy."""
        return self._present.reading

    @property
    def market(self) -> MarketView:
        """The market that this profile joined."""
        return self._present.market

    @property
    def protected_by(self) -> Protection:
        """What opens this profile's wallet."""
        return self._present.protected_by

    # --- the wallet's seal and words -------------------------------------------------------------------

    protect = coroutine(Market.protect)
    words = coroutine(Market.words)
    recover = coroutine(Market.recover)

    # --- account ---------------------------------------------------------------------------------------

    sign_up = coroutine(Market.sign_up)
    log_in = coroutine(Market.log_in)
    log_out = coroutine(Market.log_out)
    balance = coroutine(Market.balance)
    top_up = coroutine(Market.top_up)
    check_top_up = coroutine(Market.check_top_up)
    top_ups = coroutine(Market.top_ups)
    withdraw = coroutine(Market.withdraw)
    plan_withdrawal = coroutine(Market.plan_withdrawal)
    wallet = coroutine(Market.wallet)
    tend = coroutine(Market.tend)

    # --- looking around --------------------------------------------------------------------------------

    merchants = coroutine(Market.merchants)
    search = coroutine(Market.search)
    show = coroutine(Market.show)
    image = coroutine(Market.image)
    leave_shops = coroutine(Market.leave_shops)

    # --- buying ----------------------------------------------------------------------------------------

    quote = coroutine(Market.quote)
    quote_now = coroutine(Market.quote_now)
    check_purchase = coroutine(Market.check_purchase)
    purchase = coroutine(Market.purchase)
    buy = coroutine(Market.buy)
    buy_now = coroutine(Market.buy_now)
    orders = coroutine(Market.orders)
    order = coroutine(Market.order)
    last_order = coroutine(Market.last_order)
    ask = coroutine(Market.ask)
    check_cancel = coroutine(Market.check_cancel)
    cancel = coroutine(Market.cancel)
    check_dispute = coroutine(Market.check_dispute)
    dispute = coroutine(Market.dispute)

    # --- delivery --------------------------------------------------------------------------------------

    async def download(
        self,
        order_id: str,
        folder: Path | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> tuple[DeliveredFile, ...]:
        """Download an order's files into a folder, going on where an earlier call ended.

        `progress` is called after each part. `folder` None goes on in the folder where it began. Raises
        `RejectedError` for an order that was not accepted, `UntrustedError` for content that the merchant
        did not sign, `MerchantOfflineError`, `DeadlineError`, `UsageError`.
        """
        async for step in self.download_steps(order_id, folder):
            if progress is not None:
                progress(step)
        return await self.files(order_id)

    def download_steps(
        self, order_id: str, folder: Path | None = None, *, batch: int = BATCH
    ) -> AsyncIterator[Progress]:
        """Download as `download` does, as an iterator; it may be given up and started again.

        A step is `batch` cells: few are seen sooner, and each is written down, which takes a while.
        """
        _ = self._present
        return self._worker.iterate(lambda market: market.download_steps(order_id, folder, batch=batch))

    files = coroutine(Market.files)
    wrong_files = coroutine(Market.wrong_files)

    def _follow(self, order_id: str, folder: Path | None, timeout_s: float | None) -> OrderEvents:
        return _Events(
            lambda: self._worker.iterate(
                lambda market: market.following.steps(bytes.fromhex(order_id), folder, timeout_s)
            )
        )

    # --- receipts --------------------------------------------------------------------------------------

    receipt = coroutine(Market.receipt)
    export_receipt = coroutine(Market.export_receipt)
    receipt_bundle = coroutine(Market.receipt_bundle)
    verify_receipt = coroutine(Market.verify_receipt)
    invoice = coroutine(Market.invoice)

    async def buyer(self) -> Buyer:
        """Give the name and address that invoices show; kept in this profile, sealed, and sent to nobody."""
        return await self.call(lambda market: market.buyer)

    keep_buyer = coroutine(Market.keep_buyer)

    # --- carrying on -----------------------------------------------------------------------------------

    resume = coroutine(Market.resume)


class _Events:
    """The events of an order of an `AsyncMarket`."""

    def __init__(self, steps: Callable[[], AsyncIterator[Step]]) -> None:
        self._steps = steps

    def __iter__(self) -> Iterator[OrderEvent]:
        """Raise `UsageError`: an event loop must not wait."""
        raise UsageError("This order is an `AsyncMarket`'s: use `async for`.", "`for` is for a `Market`.")

    def __aiter__(self) -> AsyncIterator[OrderEvent]:
        return _EventIteration(self._steps())


class _EventIteration(AsyncIterator[OrderEvent]):
    """Gives others their turn where there is nothing to do."""

    def __init__(self, steps: AsyncIterator[Step]) -> None:
        self._steps: AsyncIterator[Step] | None = steps

    async def __anext__(self) -> OrderEvent:
        if self._steps is None:
            raise StopAsyncIteration
        try:
            async for step in self._steps:
                if not isinstance(step, Pause):
                    return step
                await asyncio.sleep(step.seconds)
        except BaseException:
            # See `common.worker`: let go of it although an exception holds on to this frame.
            self._steps = None
            raise
        raise StopAsyncIteration
