"""What the storefront's pages share: the market in its thread, and what goes on between two pages.

Rule 1. A purchase and a delivery are tasks of the desk and of no request: whoever closes the page has
bought all the same, and finds both under the address that the page had.

Rule 2. Whatever asks the market for a shop's page is refused in the market's own thread while the account is
open, and the other way round: two tabs that race each other open no more than one of them.

Rule 3. A quote is kept here under the key of the purchase that it may become: it is bought once, in
whichever tab, and not after it has expired.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from common.errors import NotFoundError, RejectedError, VeilmartError
from common.web.site import Site
from common.worker import Worker
from customer_node.browse import LISTED_MS
from customer_node.market import Market
from customer_node.reading import Reading
from customer_node.seed_file import Protection
from customer_node.views import MerchantView, Progress, PurchaseView, QuoteView

Result = TypeVar("Result")
Side: TypeAlias = Literal["shop", "account", "local"]

SIDE: Final[ContextVar[Side]] = ContextVar("SIDE", default="local")
"""For which side the present request, and every task that it begins, asks the market."""

MOST_QUOTES: Final = 32
MOST_PURCHASES: Final = 200
MOST_DELIVERIES: Final = 100
BATCH: Final = 16
"""Cells that come before a page may ask the market something else: 1 MiB."""

STEPS_A_TURN: Final = 8
"""Then another delivery has its turn: each change of merchant is a connection of its own."""

DELIVERABLE: Final = frozenset({"accepted", "downloading"})


class BothOpenError(RejectedError):
    """The other side was opened meanwhile, in another tab."""


class AccountOpenError(BothOpenError):
    """A shop was to be asked while the account is open."""

    code = "account_open"

    def __init__(self) -> None:
        super().__init__(
            "Your account is open: the shops are closed meanwhile.", "Log out, then go on shopping."
        )


@dataclass(frozen=True)
class Offer:
    """A quote that was shown, and the discount codes in it, by merchant."""

    quote: QuoteView
    codes: Mapping[str, str]


@dataclass
class Purchase:
    """A purchase that was begun; `result` is set at its end, `error` where it had none."""

    task: asyncio.Task[None] | None = None
    result: PurchaseView | None = None
    error: VeilmartError | None = None

    @property
    def running(self) -> bool:
        """Whether it goes on."""
        return self.task is not None and not self.task.done()


@dataclass
class Delivery:
    """A delivery under way, or the reason why it stopped."""

    task: asyncio.Task[None] | None = None
    error: VeilmartError | None = None
    progress: Progress | None = None
    is_paused: bool = False

    @property
    def running(self) -> bool:
        """Whether it goes on."""
        return self.task is not None and not self.task.done()


class Desk:
    """Made before the server starts; `market` opens the profile, in the worker's thread."""

    def __init__(self, site: Site, market: Callable[[], Market], downloads: Path) -> None:
        self.site = site
        self.worker = Worker(market)
        self.downloads = downloads
        self.wait_until = 0
        """Until when the customer chose to wait before the account is opened; 0 for no wait."""
        self.accepted_until = 0
        """Until when the account comes next to a visit that was left, as the customer accepted."""
        self.names: dict[str, str] = {}
        """The merchants' names by their ids, as far as they were read off their cards."""
        self._listed: tuple[int, tuple[MerchantView, ...]] | None = None
        self._offers: OrderedDict[str, Offer] = OrderedDict()
        self._purchases: OrderedDict[str, Purchase] = OrderedDict()
        self._deliveries: dict[str, Delivery] = {}
        self._turns = asyncio.Lock()
        self._reading: Reading | None = None
        self._currency = ""
        self.protected_by: Protection = "none"
        """What opens the wallet."""

    def start(self) -> None:
        """Open the profile. Raises what `Market` raises."""
        market = self.worker.start()
        self._reading, self._currency = market.reading, market.market.currency
        self.protected_by = market.protected_by
        self.site.frame = self.frame

    async def stop(self) -> None:
        """Let what is under way come to its next stop. Deliveries go on when they are asked for again."""
        # A purchase that ends begins its deliveries.
        while tasks := [each.task for each in self._tasks() if each.running and each.task is not None]:
            await asyncio.gather(*tasks, return_exceptions=True)

    def _tasks(self) -> list[Purchase | Delivery]:
        return [*self._purchases.values(), *self._deliveries.values()]

    @property
    def reading(self) -> Reading:
        """What lies in the profile, to be read while the market is busy."""
        if self._reading is None:
            raise RuntimeError("a desk that was not opened")
        return self._reading

    @property
    def currency(self) -> str:
        """The market's currency."""
        return self._currency

    async def ask(self, action: Callable[[Market], Result]) -> Result:
        """Do something with the market, after what was asked for before. Raises `BothOpenError`."""
        side = SIDE.get()

        def guarded(market: Market) -> Result:
            self._demand_closed(side)
            return action(market)

        return await self.worker.call(guarded)

    def _demand_closed(self, side: Side) -> None:
        """Demand that the other side is not open."""
        is_account_open = self.reading.logged_in()
        if side == "shop" and is_account_open:
            raise AccountOpenError
        if side == "account" and not is_account_open and self.reading.visit() is not None:
            raise BothOpenError("A visit to a shop was opened meanwhile.", "Leave the shops, then log in.")

    async def merchants(self, *, fresh: bool = False) -> tuple[MerchantView, ...]:
        """List the merchants, `fresh` or of a moment ago; every page knows their names from then on."""
        now = self.reading.now()
        if fresh or self._listed is None or not self._listed[1] or now >= self._listed[0] + LISTED_MS:
            found = await self.ask(lambda market: market.merchants())
            self._listed = now, found
            self.names.update({each.id: each.name for each in found})
        return self._listed[1]

    def page(self, request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
        """Make a page."""
        return self.site.render(request, template, status=status, **values)

    def frame(self) -> dict[str, Any]:
        """Give what every page shows: the cart's count, and whether a visit or the account is open."""
        return {
            "in_cart": sum(line.quantity for line in self.reading.cart().lines),
            "logged_in": self.reading.logged_in(),
            "visit": self.reading.visit(),
            "currency": self.currency,
            "names": self.names,
            "now": self.reading.now(),
        }

    # --- quotes and purchases --------------------------------------------------------------------------

    def offer(self, quote: QuoteView, codes: Mapping[str, str]) -> str:
        """Keep a quote that is shown; gives the key under which it may be bought."""
        key = secrets.token_hex(16)
        self._offers[key] = Offer(quote, dict(codes))
        while len(self._offers) > MOST_QUOTES:
            self._offers.popitem(last=False)
        return key

    def offered(self, key: str) -> Offer | None:
        """Give the quote of a key, if it is known and has not expired."""
        found = self._offers.get(key)
        return found if found is not None and found.quote.valid_until > self.reading.now() else None

    def purchase(self, key: str) -> Purchase | None:
        """Give the purchase of a key, one of an earlier run too."""
        present = self._purchases.get(key)
        if present is None and self.reading.purchase(key):
            present = Purchase()
        return present

    def buy(self, key: str, offer: Offer) -> Purchase:
        """Begin to buy what was offered, or give the purchase that the key became."""
        present = self.purchase(key)
        if present is not None:
            return present
        purchase = self._purchases[key] = Purchase()
        while len(self._purchases) > MOST_PURCHASES:
            self._purchases.popitem(last=False)
        purchase.task = _begun(self._buying(key, offer, purchase))
        return purchase

    async def _buying(self, key: str, offer: Offer, purchase: Purchase) -> None:
        totals, codes = offer.quote.totals, offer.codes
        try:
            purchase.result = await self.ask(lambda it: it.purchase(key, codes=codes, totals=totals))
        except VeilmartError as error:
            purchase.error = error
            return
        for order in purchase.result.orders:
            self.deliver(order.order_id)

    # --- deliveries ------------------------------------------------------------------------------------

    def delivery(self, order_id: str) -> Delivery | None:
        """Give an order's delivery, if one was begun since the server was started."""
        return self._deliveries.get(order_id)

    def deliver(self, order_id: str, *, again: bool = False) -> None:
        """Begin to fetch an order's files, where it has any to fetch and nobody fetches them yet.

        `again` fetches those of a complete order, which is asked for where they are gone.
        """
        state = self.reading.order(order_id).state
        present = self._deliveries.get(order_id)
        if (present is not None and present.running) or not (again or state in DELIVERABLE):
            return
        delivery = self._deliveries[order_id] = Delivery()
        delivery.task = _begun(self._delivering(order_id, delivery))

    async def _delivering(self, order_id: str, delivery: Delivery) -> None:
        folder = self.downloads / order_id
        with suppress(NotFoundError):
            folder = self.reading.folder(order_id)
        steps: Iterator[Progress] | None = None
        try:
            # The first step only plans: the account may be open.
            steps = iter(await self.ask(lambda market: market.download_steps(order_id, folder, batch=BATCH)))
            while await self._turn(delivery, steps):
                pass
        except VeilmartError as error:
            delivery.error = error
        finally:
            if steps is not None:
                # What has come is written down in the thread that has the store.
                with suppress(asyncio.CancelledError):
                    await self.worker.call(lambda _: _close(steps))

    async def _turn(self, delivery: Delivery, steps: Iterator[Progress]) -> bool:
        """Take a delivery some steps on; tell whether it goes on."""
        async with self._turns:
            for _ in range(STEPS_A_TURN):
                if self.site.stopping or delivery.is_paused:
                    return False
                delivery.progress = await self.ask(lambda _: next(steps, None))
                if delivery.progress is None:
                    return False
        return True

    async def leave_shops(self) -> None:
        """End every visit, and let the deliveries in them pause: the next try goes on from there."""
        await _paused(self._deliveries.values())
        await self.worker.call(lambda market: market.leave_shops())

    async def pause(self, order_id: str) -> None:
        """Let an order's delivery come to a stop: what is said not to have arrived does not arrive then."""
        delivery = self._deliveries.get(order_id)
        await _paused([delivery] if delivery is not None else [])

    # --- taking up again -------------------------------------------------------------------------------

    async def carry_on(self) -> None:
        """Take open orders on, and fetch what they bring. Raises nothing of what goes no further."""
        await self.ask(lambda market: market.resume(part="orders"))
        waiting, _ = self.reading.newest(tuple(DELIVERABLE), limit=MOST_DELIVERIES)
        for order in waiting:
            if self.reading.dispute(order.order_id) is None:
                self.deliver(order.order_id)


async def _paused(deliveries: Iterable[Delivery]) -> None:
    running = [each for each in deliveries if each.running]
    for each in running:
        each.is_paused = True
    await asyncio.gather(*(each.task for each in running if each.task), return_exceptions=True)


def _begun(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(work)


def _close(steps: Iterator[Progress] | None) -> None:
    close = getattr(steps, "close", None)
    if callable(close):
        close()
