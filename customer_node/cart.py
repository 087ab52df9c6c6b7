"""The cart: the customer's own, on the customer's machine, for any number of merchants.

Rule 1. A line keeps the price that was last shown. `buy` takes that price and no other: a changed one is
shown first, and quoting the cart is what shows it.

Rule 2. A bought line leaves the cart in the transaction in which its order is accepted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from common import config
from common.amounts import add_up, line_amounts
from common.errors import NotFoundError, RejectedError, UsageError
from common.store import Row, Tx
from customer_node.browse import Browse
from customer_node.context import Context
from customer_node.figures import tax_views
from customer_node.quotes import Asked, Quotes
from customer_node.schema import cart_lines
from customer_node.views import CartLineView, CartView, QuoteView

MAXIMUM_CART_LINES: Final = 200

_LINES: Final = sa.select(cart_lines).order_by(cart_lines.c.added, cart_lines.c.sku)

Statement = TypeVar("Statement", sa.Select[Any], sa.Update, sa.Delete)


@dataclass(frozen=True)
class Wanted:
    """A line to buy. `unit_price` is the one that the customer agreed to; None takes the present one."""

    sku: str
    quantity: int
    unit_price: int | None


class Cart:
    """Lines by merchant and SKU."""

    def __init__(self, context: Context, browse: Browse, quotes: Quotes) -> None:
        self._context = context
        self._browse = browse
        self._quotes = quotes

    def add(self, merchant: str, sku: str, quantity: int = 1) -> CartView:
        """Look the product up and add so many of it. Raises `NotFoundError` and what a visit raises."""
        check_quantity(quantity)
        record = self._browse.product(merchant, sku).record
        with self._context.profile.store.immediate() as tx:
            present = _line(tx, merchant, sku)
            total = quantity + (present["quantity"] if present else 0)
            check_quantity(total)
            _check_amount(record.price, total)
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
                    "tax_rate": record.tax_rate,
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
            present = _line(tx, merchant, sku)
            if present is None:
                raise _not_in_cart(merchant, sku)
            _check_amount(present["unit_price"], quantity)
            tx.execute(_where(sa.update(cart_lines), merchant, sku).values(quantity=quantity))
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
        with self._context.profile.store.immediate() as tx:
            return cart_view(tx, self._context.profile.market.currency)

    def wanted(self) -> dict[str, list[Wanted]]:
        """Give the lines by merchant, in the order of adding."""
        wanted: dict[str, list[Wanted]] = defaultdict(list)
        for row in self._rows():
            wanted[row["merchant"]].append(Wanted(row["sku"], row["quantity"], row["unit_price"]))
        return dict(wanted)

    def quote(self, codes: Mapping[str, str]) -> QuoteView:
        """Ask for every line's price and stock anew; `codes` are discount codes by merchant.

        What it shows is what `buy` then takes. Raises `NotFoundError` for a product that is no longer
        sold, `DiscountRefusedError`, and what a visit raises.
        """
        asked: dict[str, list[Asked]] = defaultdict(list)
        for row in self._rows():
            asked[row["merchant"]].append(Asked(row["sku"], row["quantity"], row["title"], row["unit_price"]))
        quote = self._quotes.ask(asked, codes)
        with self._context.profile.store.immediate() as tx:
            for line in quote.lines:
                tx.execute(
                    _where(sa.update(cart_lines), line.merchant, line.sku).values(
                        unit_price=line.unit_price, tax_rate=line.tax_rate
                    )
                )
        return quote

    def _rows(self) -> Sequence[Row]:
        with self._context.profile.store.immediate() as tx:
            return tx.all(_LINES)


def cart_view(tx: Tx, currency: str) -> CartView:
    """Show the cart as it lies in the profile."""
    rows = tx.all(_LINES)
    figures = [line_amounts(row["unit_price"], row["quantity"], 0, row["tax_rate"]) for row in rows]
    lines = tuple(
        CartLineView(
            merchant=row["merchant"],
            sku=row["sku"],
            title=row["title"],
            quantity=row["quantity"],
            unit_price=row["unit_price"],
            amount=each.amount,
            tax_rate=each.tax.rate,
            tax=each.tax.amount,
        )
        for row, each in zip(rows, figures, strict=True)
    )
    totals = _totals([(line.merchant, line.amount) for line in lines])
    return CartView(
        lines=lines,
        totals=totals,
        taxes=tax_views(add_up(figures).taxes),
        total=sum(totals.values()),
        currency=currency,
    )


def check_quantity(quantity: int) -> None:
    """Raise `UsageError` for a quantity that no order line can have."""
    if not 1 <= quantity <= config.MAXIMUM_QUANTITY:
        raise UsageError(f"A quantity is 1 to {config.MAXIMUM_QUANTITY}.")


def _check_amount(unit_price: int, quantity: int) -> None:
    if unit_price * quantity > config.MAXIMUM_AMOUNT:
        raise RejectedError("That is more than a market can handle.", "Buy fewer at a time.")


def remove_lines(tx: Tx, merchant: str, skus: Sequence[str]) -> None:
    """Take lines out of the cart."""
    tx.execute(
        sa.delete(cart_lines).where(cart_lines.c.merchant == merchant, cart_lines.c.sku.in_(list(skus)))
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
