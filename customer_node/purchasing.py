"""Purchases: what an idempotency key stands for, and one independent order per merchant.

Rule 1. The same key with the same lines and discount code gives the same orders and carries them on; others
under it are a conflict. A part of the lines is the same purchase: bought lines have left the cart.

Rule 2. Without a key a purchase is new. But a cart whose order to a merchant is still open, with the very
same lines, goes on with that order, whatever code is typed now: whoever types `buy` again after a crash
does not pay twice.

Rule 3. All merchants are attempted. What goes wrong with one is in its result and hides nothing of the
others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import sqlalchemy as sa

from common import codec
from common.errors import IdempotencyConflictError, UsageError, VeilmartError
from common.store import Tx
from customer_node import numbers, order_views, orders
from customer_node.cart import Wanted
from customer_node.checkout import Checkout
from customer_node.context import Context
from customer_node.downloads import Downloads
from customer_node.drafts import Drafts, nothing_to_buy
from customer_node.orders import Order
from customer_node.quotes import Terms
from customer_node.schema import orders as order_rows
from customer_node.schema import purchases
from customer_node.shop import Shop, Visit
from customer_node.views import OrderResult, PurchaseView

Origin: TypeAlias = Literal["cart", "direct"]
MAXIMUM_KEY: Final = 200
MOST_RENUMBERED: Final = 64

_OF_KEY: Final = (
    sa.select(purchases).where(purchases.c.key == sa.bindparam("of")).order_by(purchases.c.position)
)


class Purchasing:
    """Turns a cart, or a single line, into orders."""

    def __init__(
        self,
        context: Context,
        shop: Shop,
        drafts: Drafts,
        checkout: Checkout,
        downloads: Downloads,
    ) -> None:
        self._context = context
        self._shop = shop
        self._drafts = drafts
        self._checkout = checkout
        self._downloads = downloads

    def purchase(
        self,
        wanted: Mapping[str, Sequence[Wanted]],
        key: str | None,
        origin: Origin,
        deadline_ms: int | None,
        terms: Mapping[str, Terms],
    ) -> PurchaseView:
        """Order from every merchant; `terms` are by merchant, none are none.

        Raises `UsageError` where there is nothing to buy, `IdempotencyConflictError`. What goes wrong
        with a merchant's order stands in its result.
        """
        if key is not None and not 1 <= len(key) <= MAXIMUM_KEY:
            raise UsageError(f"An idempotency key has 1 to {MAXIMUM_KEY} characters.")
        with self._context.profile.store.immediate() as tx:
            chosen = key or self._context.random(16).hex()
            merchants = self._register(tx, wanted, chosen, origin, terms, known=key is not None)
            strangers = sorted(merchant for merchant in terms if merchant not in merchants)
            if strangers and merchants:
                raise UsageError(f"There is a discount code for {strangers[0]}, and nothing to buy there.")
        if not merchants:
            raise nothing_to_buy()
        results = [
            self._result(
                merchant, purchase, wanted.get(merchant, ()), deadline_ms, terms.get(merchant, Terms())
            )
            for merchant, purchase in merchants.items()
        ]
        return PurchaseView(chosen, tuple(results))

    def _register(
        self,
        tx: Tx,
        wanted: Mapping[str, Sequence[Wanted]],
        key: str,
        origin: Origin,
        terms: Mapping[str, Terms],
        *,
        known: bool,
    ) -> dict[str, str]:
        """Store what the key stands for; gives merchant to purchase key, the key's other merchants too."""
        rows = tx.all(_OF_KEY, {"of": key}) if known else []
        present = {row["merchant"]: (row["content"], row["code"]) for row in rows}
        merchants = dict.fromkeys(present, key)
        for position, (merchant, lines) in enumerate(wanted.items()):
            content = _content(lines)
            code = terms.get(merchant, Terms()).code
            if present and present.get(merchant) != (content, code):
                raise IdempotencyConflictError(
                    f"The key {key!r} stands for another purchase.",
                    "Use a new key for a new purchase.",
                    key=key,
                )
            if present:
                continue
            open_purchase = _open_purchase(tx, merchant, content) if origin == "cart" and not known else None
            merchants[merchant] = open_purchase or key
            if open_purchase is None:
                row = {
                    "key": key,
                    "merchant": merchant,
                    "position": position,
                    "content": content,
                    "origin": origin,
                    "created": self._context.clock(),
                    "code": code,
                }
                tx.execute(sa.insert(purchases), row)
        return merchants

    def _result(
        self, merchant: str, purchase: str, lines: Sequence[Wanted], deadline_ms: int | None, terms: Terms
    ) -> OrderResult:
        error: VeilmartError | None = None
        try:
            self._order(merchant, purchase, lines, deadline_ms, terms)
        except VeilmartError as failure:
            error = failure
        with self._context.profile.store.immediate() as tx:
            order_id = _order_of(tx, purchase, merchant)
            shown = order_views.views(tx, order_id=order_id) if order_id is not None else []
        return OrderResult(merchant, shown[0] if shown else None, error)

    def _order(
        self, merchant: str, purchase: str, lines: Sequence[Wanted], deadline_ms: int | None, terms: Terms
    ) -> None:
        present = self._present(merchant, purchase)
        if present is not None:
            if present.state not in (*orders.OPEN, "refunded"):
                return
            place = self._downloads.place_of(present)
            self._shop.within(place, lambda session: self._checkout.settle(session, present.id))
            return

        def order(visit: Visit) -> None:
            # After a session that ended half-way this runs again, and the order may be there already.
            there = self._present(merchant, purchase) or self._recalled(visit, merchant, purchase)
            if there:
                self._checkout.settle(visit.session, there.id)
                return
            for tries in range(MOST_RENUMBERED):
                skipped = min(tries, numbers.MOST_SKIPPED) or None
                order_id = self._drafts.draft(visit, lines, purchase, deadline_ms, terms, skipped)
                try:
                    self._checkout.settle(visit.session, order_id)
                except IdempotencyConflictError:
                    # The number was used before the profile came back from a copy: the next one.
                    continue
                return
            raise IdempotencyConflictError(
                "The wallet's numbers are used elsewhere.",
                "Two copies of one wallet cannot be used side by side.",
            )

        if not lines:
            raise UsageError(
                "The broker refused this part of the purchase; its lines are gone from the cart."
            )
        self._shop.at(merchant, order)

    def _recalled(self, visit: Visit, merchant: str, purchase: str) -> Order | None:
        """Give an order of this purchase that the broker refused and took after all."""
        with self._context.profile.store.immediate() as tx:
            refused = tx.all(_refused(purchase, merchant))
        for row in refused:
            if self._checkout.recall(visit.session, row["order_id"]):
                return self._present(merchant, purchase)
        return None

    def _present(self, merchant: str, purchase: str) -> Order | None:
        with self._context.profile.store.immediate() as tx:
            order_id = _order_of(tx, purchase, merchant)
            return orders.load(tx, order_id) if order_id is not None else None


def _content(lines: Sequence[Wanted]) -> bytes:
    """Hash SKUs and quantities; prices are not part of what a key stands for."""
    return hashlib.sha256(codec.pack(sorted((line.sku, line.quantity) for line in lines))).digest()


def _order_of(tx: Tx, purchase: str, merchant: str) -> bytes | None:
    order_id: bytes | None = tx.scalar(
        sa.select(order_rows.c.order_id).where(
            order_rows.c.purchase == purchase,
            order_rows.c.merchant == merchant,
            order_rows.c.state != "refused",
        )
    )
    return order_id


def _refused(purchase: str, merchant: str) -> sa.Select[Any]:
    return sa.select(order_rows.c.order_id).where(
        order_rows.c.purchase == purchase,
        order_rows.c.merchant == merchant,
        order_rows.c.state == "refused",
    )


def _open_purchase(tx: Tx, merchant: str, content: bytes) -> str | None:
    """Give the key of a cart's purchase whose order to this merchant is still open."""
    key: str | None = tx.scalar(
        sa.select(purchases.c.key)
        .join(
            order_rows,
            sa.and_(order_rows.c.purchase == purchases.c.key, order_rows.c.merchant == purchases.c.merchant),
        )
        .where(
            purchases.c.merchant == merchant,
            purchases.c.content == content,
            purchases.c.origin == "cart",
            order_rows.c.state.in_(orders.OPEN),
        )
    )
    return key
