"""Money: sales as they happen, what the broker owes, its statement, and who the shop is."""

from __future__ import annotations

import msgspec

from common.web.endpoints import Endpoint, Limit
from merchant_node.treasury import Balance, Line
from merchant_node.web.api.orders import Before, Order, shown
from merchant_node.web.desk import Desk


class Shop(msgspec.Struct, frozen=True):
    """How the shop presents itself. `tax_rate`, in basis points, is for products that say nothing else."""

    merchant: str
    name: str
    description: str
    currency: str
    tax_rate: int


class After(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sales after the one with this number, the oldest first: where a program goes on."""

    after: Before = 0
    limit: Limit = 50


class Sale(msgspec.Struct, frozen=True):
    """An order that was paid for at `at`; numbers rise."""

    number: int
    at: int
    order: Order


class Sales(msgspec.Struct, frozen=True):
    """Sales, the oldest first; `last` is the number of the last one, to ask for what comes after it."""

    sales: tuple[Sale, ...]
    last: int


class Newest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The newest entries, or those before an earlier page's."""

    before: Before = 0
    limit: Limit = 50


class StatementLine(msgspec.Struct, frozen=True):
    """A line of the broker's statement: what it changed, and the sums after it.

    `reference` is the order's id or the payout's.
    """

    line: int
    at: int
    kind: str
    reference: str
    amount: int
    pending: int
    available: int
    reserved: int


class Statement(msgspec.Struct, frozen=True):
    """Lines, the newest first. `before` gives the next page, null where there is none."""

    lines: tuple[StatementLine, ...]
    currency: str
    before: int | None


class Owed(msgspec.Struct, frozen=True):
    """What the broker owes the shop, as of `read` (0: never asked yet)."""

    balance: Balance
    currency: str


class SalesEndpoints:
    """`/shop`, `/sales`, `/balance` and `/statement`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def endpoints(self) -> list[Endpoint]:
        """Give the endpoints."""
        return [
            Endpoint("GET", "/shop", self.shop),
            Endpoint("GET", "/sales", self.sales),
            Endpoint("GET", "/balance", self.balance),
            Endpoint("GET", "/statement", self.statement),
        ]

    async def shop(self) -> Shop:
        """Show how the shop presents itself."""
        shop = self._desk.books.shop
        return Shop(shop.merchant, shop.name, shop.description, shop.currency, shop.tax_rate)

    async def sales(self, query: After) -> Sales:
        """Follow sales: those after a number, the oldest first."""
        found = await self._desk.ask(lambda books: books.reports.sales_since(query.after, limit=query.limit))
        currency = self._desk.currency
        sales = tuple(Sale(each.number, each.at, shown(each.order, currency)) for each in found)
        return Sales(sales, sales[-1].number if sales else query.after)

    async def balance(self) -> Owed:
        """Show what is pending, available and reserved, as of the last statement."""
        balance = await self._desk.read(lambda books: books.treasury.balance())
        return Owed(balance, self._desk.currency)

    async def statement(self, query: Newest) -> Statement:
        """List the broker's statement, the newest line first."""
        before = query.before or 2**40
        lines, more = await self._desk.read(lambda books: books.treasury.newest(before, query.limit))
        return Statement(tuple(map(_line, lines)), self._desk.currency, more or None)


def _line(line: Line) -> StatementLine:
    return StatementLine(
        line.line,
        line.at,
        line.kind,
        line.reference.hex(),
        line.amount,
        line.pending,
        line.available,
        line.reserved,
    )
