"""Following an order: it is carried on, and what happens with it is told, until it needs nothing more.

    draft, placed      asked about, until there is an answer
    accepted           downloaded, each part told
    disputed           said until it is answered, then asked about until it is decided
    refundable, or given back in part    claimed

Rule 1. Nothing here sleeps: a `Pause` says for how long there is nothing to do. `Events` waits in the
caller's thread, `AsyncMarket` lets whatever else it was asked for have its turn.

Rule 2. Each wait has an end: the caller's own, or else the order's. Past it `DeadlineError` names the hop.

Rule 3. Silence is told once, and asked again. What asking again would not change is raised, except where it
is the order's end: then it is told with that.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from common.errors import DeadlineError, UnreachableError, UsageError, VeilmartError
from common.states import CUSTOMER_ORDER
from customer_node import order_views, orders
from customer_node.checkout import Checkout
from customer_node.context import Context
from customer_node.disputes import Disputes, unanswered
from customer_node.downloads import Downloads
from customer_node.orders import Order
from customer_node.rejections import CANCELLED, rejection_error
from customer_node.shop import Shop, ShopSession, merchant_away
from customer_node.views import OrderEvent, OrderView, Progress

FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 10.0

_OVER: Final = ("refused", *(state for state, then in CUSTOMER_ORDER.items() if not then))


@dataclass(frozen=True)
class Pause:
    """For so long there is nothing to do."""

    seconds: float


Step: TypeAlias = OrderEvent | Pause


class Following:
    """Shop scope: takes one order to its end. `shown` makes of an order what the caller is given."""

    def __init__(
        self,
        context: Context,
        shop: Shop,
        checkout: Checkout,
        downloads: Downloads,
        disputes: Disputes,
        shown: Callable[[OrderView], OrderView],
    ) -> None:
        self._context = context
        self._shop = shop
        self._checkout = checkout
        self._downloads = downloads
        self._disputes = disputes
        self._shown = shown

    def steps(
        self, order_id: bytes, folder: Path | None, timeout_s: float | None
    ) -> Generator[Step, None, None]:
        """Follow an order. Raises as `OrderView.events` does."""
        told: OrderView | None = None
        silent: VeilmartError | None = None
        reason: VeilmartError | None = None
        since, pause_s, done = self._context.clock(), FIRST_PAUSE_S, -1
        while True:
            order = self._view(order_id)
            if told is None or _differ(told, order):
                yield self._event(order, error=reason or self._why(order))
                told, silent = order, None
                since, pause_s = self._context.clock(), FIRST_PAUSE_S
            if not self._open(order):
                return
            error: VeilmartError | None = None
            try:
                with closing(self._carry_on(order_id, folder)) as parts:
                    for progress in parts:
                        if progress.cells_done <= done:
                            continue  # what an earlier attempt brought
                        done = progress.cells_done
                        told = self._view(order_id)
                        yield self._event(told, progress=progress)
                        since, silent = self._context.clock(), None
            except VeilmartError as failure:
                error = failure
            after = self._view(order_id)
            if error is not None and not error.retryable and after.state not in _OVER:
                raise error
            if _differ(told, after) or not self._open(after):
                reason = error
                continue
            if error is not None and (silent is None or silent.code != error.code):
                yield self._waiting(after, error)
            silent = error
            self._check_time(after, silent, since, timeout_s)
            yield Pause(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    # --- what there is to do ---------------------------------------------------------------------------

    def _open(self, order: OrderView) -> bool:
        """Tell whether something is left to be done for an order."""
        if order.refunded > order.claimed or self._unanswered(order.order_id):
            return True
        return order.state in (*orders.OPEN, *orders.TO_DELIVER, "disputed")

    def _unanswered(self, order_id: str) -> bool:
        with self._context.profile.store.immediate() as tx:
            return bytes.fromhex(order_id) in unanswered(tx)

    def _carry_on(self, order_id: bytes, folder: Path | None) -> Generator[Progress, None, None]:
        """Do once what can be done now. Raises what asking raises."""
        order = self._load(order_id)
        if self._unanswered(order_id.hex()):
            # What was said not to have arrived does not arrive behind the dispute's back.
            self._within(order, self._disputes.carry_on)
        elif order.state == "draft" or (order.state == "placed" and order.failure == CANCELLED):
            self._within(order, self._checkout.settle)
        else:
            self._within(order, self._ask)
            if order.state in orders.TO_DELIVER and self._load(order_id).state in orders.TO_DELIVER:
                yield from self._downloads.steps(order_id, self._folder(order, folder))

    def _ask(self, session: ShopSession, order_id: bytes) -> None:
        self._checkout.ask(session, order_id)
        order = self._load(order_id)
        if (
            order.state in ("placed", *orders.TO_DELIVER)
            and session.link.merchant_online(order.merchant) is False
        ):
            raise merchant_away(order.merchant)

    def _within(self, order: Order, action: Callable[[ShopSession, bytes], None]) -> None:
        self._shop.within(self._downloads.place_of(order), lambda session: action(session, order.id))

    def _folder(self, order: Order, folder: Path | None) -> Path | None:
        if folder is not None or order.state == "downloading":
            return folder
        return self._context.profile.home / "downloads" / order.id.hex()

    # --- what is told ----------------------------------------------------------------------------------

    def _event(
        self, order: OrderView, *, progress: Progress | None = None, error: VeilmartError | None = None
    ) -> OrderEvent:
        return OrderEvent(
            kind=order.state,
            at=self._context.clock(),
            order=self._shown(order),
            hop=order.waits_for,
            deadline=order.waits_until,
            progress=progress,
            error=error,
        )

    def _waiting(self, order: OrderView, error: VeilmartError) -> OrderEvent:
        return OrderEvent(
            kind="waiting",
            at=self._context.clock(),
            order=self._shown(order),
            hop=_hop(order, error),
            deadline=order.waits_until,
            error=error,
        )

    def _why(self, order: OrderView) -> VeilmartError | None:
        if order.state != "refunded":
            return None
        return rejection_error(self._load(bytes.fromhex(order.order_id)))

    def _check_time(
        self, order: OrderView, silent: VeilmartError | None, since: int, timeout_s: float | None
    ) -> None:
        """Raise `DeadlineError` where the present wait is over."""
        if timeout_s is not None:
            end = since + int(timeout_s * 1000)
        else:
            # What ends by itself at the broker is heard of a moment later.
            end = (since if order.waits_until is None else order.waits_until) + self._context.timeout_ms
        if self._context.clock() < end:
            return
        hop = _hop(order, silent) or "broker"
        raise DeadlineError(
            f"Order {order.order_id} is still {order.state}: nothing was heard of the {hop} in time.",
            "It stays open; following it again, or `veilmart resume`, goes on from here.",
            hop=hop,
        ) from silent

    def _view(self, order_id: bytes) -> OrderView:
        with self._context.profile.store.immediate() as tx:
            found = order_views.views(tx, order_id=order_id)
        if not found:
            raise orders.no_order(order_id.hex())
        return found[0]

    def _load(self, order_id: bytes) -> Order:
        with self._context.profile.store.immediate() as tx:
            return orders.load(tx, order_id)


def _differ(old: OrderView, new: OrderView) -> bool:
    return (old.state, old.refunded, old.claimed) != (new.state, new.refunded, new.claimed)


def _hop(order: OrderView, error: VeilmartError | None) -> str | None:
    """Name who is waited for: the one who is silent, or else whose turn it is."""
    if isinstance(error, DeadlineError | UnreachableError):
        return error.hop
    # An order that could be downloaded waits for nobody but its merchant's cells.
    return "merchant" if order.waits_for == "customer" else order.waits_for


class Events:
    """The events of an order of a `Market`, for one loop in its own thread."""

    def __init__(self, steps: Callable[[], Iterator[Step]]) -> None:
        self._steps = steps

    def __iter__(self) -> Iterator[OrderEvent]:
        """Give each event as it comes; between two the caller's thread waits."""
        for step in self._steps():
            if isinstance(step, Pause):
                time.sleep(step.seconds)
            else:
                yield step

    def __aiter__(self) -> AsyncIterator[OrderEvent]:
        """Raise `UsageError`: a `Market` is for programs that wait."""
        raise UsageError("This order is a `Market`'s: use `for`.", "`async for` is for an `AsyncMarket`.")
