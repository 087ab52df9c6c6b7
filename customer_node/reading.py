"""What of a profile may be read from any thread, while another one waits for a merchant's answer.

Rule. Nothing here writes, asks anybody or keeps anything in memory: each call reads one state of the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from common.errors import NotFoundError
from common.states import CUSTOMER_ORDER
from customer_node import apart, kept, order_views, orders
from customer_node.cart import cart_view
from customer_node.context import Context
from customer_node.disputes import dispute_view
from customer_node.holdings import wallet_view
from customer_node.invoices.issue import kept_buyer
from customer_node.invoices.model import Buyer
from customer_node.schema import account_sessions, deliveries, visits
from customer_node.topups import top_up_views
from customer_node.views import CartView, DisputeView, OrderView, TopUpView, VisitView, WalletView

ORDER_STATES: Final = tuple(CUSTOMER_ORDER)


class Reading:
    """The local side of a market, for as long as that is open."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def orders(self) -> tuple[OrderView, ...]:
        """List the orders, oldest first."""
        with self._context.profile.store.snapshot() as tx:
            return tuple(order_views.views(tx))

    def purchase(self, idempotency_key: str) -> tuple[OrderView, ...]:
        """List the orders of one purchase, oldest first."""
        with self._context.profile.store.snapshot() as tx:
            return tuple(order_views.of_purchase(tx, idempotency_key))

    def newest(
        self, states: Sequence[str] = ORDER_STATES, limit: int = 50, offset: int = 0
    ) -> tuple[tuple[OrderView, ...], int]:
        """List so many orders in these states, newest first; gives how many there are in all too."""
        with self._context.profile.store.snapshot() as tx:
            found, count = order_views.newest(tx, states, limit, offset)
        return tuple(found), count

    def order(self, order_id: str) -> OrderView:
        """Give an order by its whole id. Raises `NotFoundError`."""
        try:
            wanted = bytes.fromhex(order_id)
        except ValueError:
            raise orders.no_order(order_id) from None
        with self._context.profile.store.snapshot() as tx:
            found = order_views.views(tx, order_id=wanted)
        if not found:
            raise orders.no_order(order_id)
        return found[0]

    def dispute(self, order_id: str) -> DisputeView | None:
        """Give what was said when an order was disputed, None where it never was."""
        with self._context.profile.store.snapshot() as tx:
            return dispute_view(tx, bytes.fromhex(order_id))

    def buyer(self) -> Buyer:
        """Give the name and address that are kept for invoices, without any words where none are."""
        with self._context.profile.store.snapshot() as tx:
            return kept_buyer(tx)

    def folder(self, order_id: str) -> Path:
        """Give the folder that an order's files are in or on their way to. Raises `NotFoundError`."""
        with self._context.profile.store.snapshot() as tx:
            found: str | None = tx.scalar(
                sa.select(deliveries.c.folder).where(deliveries.c.order_id == bytes.fromhex(order_id))
            )
        if found is None:
            raise NotFoundError("Nothing was downloaded of this order yet.")
        return Path(found)

    def cart(self) -> CartView:
        """Show the cart as it lies here."""
        with self._context.profile.store.snapshot() as tx:
            return cart_view(tx, self._context.profile.market.currency)

    def wallet(self) -> WalletView:
        """Count what the wallet holds; what is due next stands in `Market.wallet` alone."""
        context, now = self._context, self._context.clock()
        currency = context.profile.market.currency
        with context.profile.store.snapshot() as tx:
            logged_in = bool(kept.usable(tx, account_sessions, now))
            return wallet_view(tx, context.wallet, now, currency, (), logged_in=logged_in)

    def top_ups(self) -> tuple[TopUpView, ...]:
        """List the top-ups, oldest first."""
        with self._context.profile.store.snapshot() as tx:
            return top_up_views(tx)

    def logged_in(self) -> bool:
        """Whether an account session is open."""
        with self._context.profile.store.snapshot() as tx:
            return bool(kept.usable(tx, account_sessions, self._context.clock()))

    def visit(self) -> VisitView | None:
        """Give the shop visits that are open, None where none is."""
        with self._context.profile.store.snapshot() as tx:
            found = kept.usable(tx, visits, self._context.clock())
        return VisitView(len(found), max(each.last_used + each.idle_ms for each in found)) if found else None

    def account_free_at(self) -> int:
        """Give the moment from which on the account does not come next to a visit, 0 where it is far."""
        context, now = self._context, self._context.clock()
        with context.profile.store.snapshot() as tx:
            # A visit that is open stands in the way without a minimum age too.
            free_at = max(apart.visit_until(tx, now), apart.account_free_at(tx, context.age_ms, now))
        return free_at if free_at > now else 0

    def next_to_a_visit_until(self) -> int:
        """Give until when the market's minimum age after a visit lasts; 0 where none does."""
        context, now = self._context, self._context.clock()
        with context.profile.store.snapshot() as tx:
            free_at = apart.account_free_at(tx, context.age_ms, now)
        return free_at if free_at > now else 0

    def now(self) -> int:
        """Give the time as this market counts it, in milliseconds since 1970."""
        return self._context.clock()
