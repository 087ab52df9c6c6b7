"""The cart: the customer's own, on the customer's machine, for any number of merchants.

Rule 1. A line keeps the price that was last shown. `buy` takes that price and no other: a changed one is
shown first, and quoting the cart is what shows it.

Rule 2. A bought line leaves the cart in the transaction in which its order is accepted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from common import config
from common.errors import NotFoundError, RejectedError, UsageError
from common.store import Row, Tx
from customer_node.browse import Browse
from customer_node.context import Context
from customer_node.products import Product, fetch_product
from customer_node.schema import cart_lines
from customer_node.shop import Shop, Visit
from customer_node.views import CartLineView, CartView, QuoteLineView, QuoteView

MAXIMUM_CART_LINES: Final = 200

Statement = TypeVar("Statement", sa.Select[Any], sa.Update, sa.Delete)


@dataclass(frozen=True)
class Wanted:
    """A line to buy. `unit_price` is the one that the customer agreed to; None takes the present one."""

    sku: str
    quantity: int
    unit_price: int | None


class Cart:
    """Lines by merchant and SKU."""

    def __init__(self, context: Context, shop: Shop, browse: Browse) -> None:
        self._context = context
        self._shop = shop
        self._browse = browse

    def add(self, merchant: str, sku: str, quantity: int = 1) -> CartView:
        """Look the product up and add so many of it. Raises `NotFoundError` and what a visit raises."""
        check_quantity(quantity)
        record = self._browse.product(merchant, sku).record
        with self._context.profile.store.immediate() as tx:
            present = _line(tx, merchant, sku)
            total = quantity + (present["quantity"] if present else 0)
            check_quantity(total)
            if present is None:
                _check_room(tx, merchant)
            remove_lines(tx, merchant, [sku])
            tx.execute(
                sa.insert(cart_lines),
                {
                    "merchant": merchant,
                    "sku": sku,
                    "quantity": total,
                    "title": record.title,
                    "unit_price": record.price,
                    "added": present["added"] if present else self._context.clock(),
                },
            )
        return self.view()

    def set(self, merchant: str, sku: str, quantity: int) -> CartView:
        """Change a line's quantity; 0 removes it. Raises `NotFoundError`."""
        if quantity == 0:
            return self.remove(merchant, sku)
        check_quantity(quantity)
        with self._context.profile.store.immediate() as tx:
            changed = tx.changed(_where(sa.update(cart_lines), merchant, sku).values(quantity=quantity))
        if not changed:
            raise _not_in_cart(merchant, sku)
        return self.view()

    def remove(self, merchant: str, sku: str) -> CartView:
        """Remove a line. Raises `NotFoundError`."""
        with self._context.profile.store.immediate() as tx:
            changed = tx.changed(_where(sa.delete(cart_lines), merchant, sku))
        if not changed:
            raise _not_in_cart(merchant, sku)
        return self.view()

    def clear(self) -> None:
        """Remove every line."""
        with self._context.profile.store.immediate() as tx:
            tx.execute(sa.delete(cart_lines))

    def view(self) -> CartView:
        """Show the cart as it lies here, without asking anyone."""
        lines = tuple(
            CartLineView(
                merchant=row["merchant"],
                sku=row["sku"],
                title=row["title"],
                quantity=row["quantity"],
                unit_price=row["unit_price"],
                amount=row["quantity"] * row["unit_price"],
            )
            for row in self._rows()
        )
        totals = _totals([(line.merchant, line.amount) for line in lines])
        return CartView(lines, totals, sum(totals.values()), self._context.profile.market.currency)

    def wanted(self) -> dict[str, list[Wanted]]:
        """Give the lines by merchant, in the order of adding."""
        wanted: dict[str, list[Wanted]] = defaultdict(list)
        for row in self._rows():
            wanted[row["merchant"]].append(Wanted(row["sku"], row["quantity"], row["unit_price"]))
        return dict(wanted)

    def quote(self) -> QuoteView:
        """Read every line's price and stock anew. What it shows is what `buy` then takes.

        Raises `NotFoundError` for a product that is no longer sold, and what a visit raises.
        """
        lines: list[QuoteLineView] = []
        for merchant, wanted in self.wanted().items():
            skus = [line.sku for line in wanted]
            products = self._shop.at(merchant, lambda visit, skus=skus: _fetch(visit, skus))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            lines += [_quote_line(line, product) for line, product in zip(wanted, products, strict=True)]
        with self._context.profile.store.immediate() as tx:
            for line in lines:
                tx.execute(
                    _where(sa.update(cart_lines), line.merchant, line.sku).values(
                        unit_price=line.unit_price, title=line.title
                    )
                )
        totals = _totals([(line.merchant, line.amount) for line in lines])
        return QuoteView(tuple(lines), totals, sum(totals.values()), self._context.profile.market.currency)

    def _rows(self) -> Sequence[Row]:
        with self._context.profile.store.immediate() as tx:
            return tx.all(sa.select(cart_lines).order_by(cart_lines.c.added, cart_lines.c.sku))


def check_quantity(quantity: int) -> None:
    """Raise `UsageError` for a quantity that no order line can have."""
    if not 1 <= quantity <= config.MAXIMUM_QUANTITY:
        raise UsageError(f"A quantity is 1 to {config.MAXIMUM_QUANTITY}.")


def remove_lines(tx: Tx, merchant: str, skus: Sequence[str]) -> None:
    """Take lines out of the cart."""
    tx.execute(
        sa.delete(cart_lines).where(cart_lines.c.merchant == merchant, cart_lines.c.sku.in_(list(skus)))
    )


def _fetch(visit: Visit, skus: Sequence[str]) -> list[Product]:
    return [fetch_product(visit, sku) for sku in skus]


def _quote_line(line: Wanted, product: Product) -> QuoteLineView:
    record = product.record
    return QuoteLineView(
        merchant=record.merchant,
        sku=record.sku,
        title=record.title,
        quantity=line.quantity,
        unit_price=record.price,
        amount=line.quantity * record.price,
        stock=product.stock,
        previous_price=line.unit_price if line.unit_price != record.price else None,
    )


def _line(tx: Tx, merchant: str, sku: str) -> Row | None:
    return tx.one(_where(sa.select(cart_lines), merchant, sku))


def _where(statement: Statement, merchant: str, sku: str) -> Statement:
    return statement.where(cart_lines.c.merchant == merchant, cart_lines.c.sku == sku)


def _check_room(tx: Tx, merchant: str) -> None:
    counts = {
        row["merchant"]: row["count"]
        for row in tx.all(
            sa.select(cart_lines.c.merchant, sa.func.count().label("count")).group_by(cart_lines.c.merchant)
        )
    }
    if counts.get(merchant, 0) >= config.MAXIMUM_LINES or sum(counts.values()) >= MAXIMUM_CART_LINES:
        raise RejectedError(
            f"An order has at most {config.MAXIMUM_LINES} lines.", "Buy what is in the cart first."
        )


def _totals(amounts: Sequence[tuple[str, int]]) -> dict[str, int]:
    totals: dict[str, int] = defaultdict(int)
    for merchant, amount in amounts:
        totals[merchant] += amount
    return dict(totals)


def _not_in_cart(merchant: str, sku: str) -> NotFoundError:
    return NotFoundError(f"The cart holds no {sku} of {merchant}.", "`veilmart cart show` lists its lines.")
