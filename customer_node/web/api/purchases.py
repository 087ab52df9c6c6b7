"""Buying: the cart or one line, at totals that were agreed to, once for each idempotency key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from common import messages
from common.errors import IdempotencyConflictError, PriceChangedError, UsageError, VeilmartError
from common.messages import MerchantId
from common.web.endpoints import Endpoint, IdempotencyKey, PartlyError
from common.web.forms import FieldErrors
from common.web.statuses import Failure, failure
from customer_node.market import Market
from customer_node.views import OrderView
from customer_node.web.api.cart import Line
from customer_node.web.api.shown import Order, shown
from customer_node.web.api.sides import Sides

Errors = dict[str, VeilmartError]


class Agreement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is bought: `line`, or without it the cart. `totals` are what was agreed to, by merchant.

    `codes` are discount codes by merchant, as they were quoted.
    """

    totals: Annotated[dict[MerchantId, messages.Amount], Meta(min_length=1, max_length=200)]
    currency: messages.Currency
    line: Line | None = None
    codes: dict[MerchantId, messages.DiscountCode] = {}


class Purchase(msgspec.Struct, frozen=True):
    """One independent order per merchant; `failures` say, by merchant, what went wrong with it."""

    idempotency_key: str
    orders: tuple[Order, ...]
    failures: dict[str, Failure]


class PurchaseEndpoints:
    """`POST /orders`."""

    def __init__(self, sides: Sides) -> None:
        self._sides = sides

    def endpoints(self) -> list[Endpoint]:
        """Give the endpoints."""
        return [Endpoint("POST", "/orders", self.buy, status=201)]

    async def buy(self, key: IdempotencyKey, body: Agreement) -> Purchase:
        """Buy the cart, or one line past it, for the totals that were agreed to.

        All merchants are attempted. The same key again gives the same orders, or goes on with what was
        interrupted; with other content it is a conflict. Where something failed `data` stands beside `error`.
        """
        if body.currency != self._sides.desk.currency:
            raise FieldErrors({"currency": f"This market's currency is {self._sides.desk.currency}."})
        _check_line(body)

        def buy(market: Market) -> tuple[tuple[OrderView, ...], Errors]:
            _check_key(market.reading.purchase(key), key, body)
            errors = _cart(market, key, body) if body.line is None else _line(market, key, body, body.line)
            return market.reading.purchase(key), errors

        orders, errors = await self._sides.shops(buy)
        bought = Purchase(
            key,
            tuple(shown(each, self._sides.desk.delivery(each.order_id)) for each in orders),
            {merchant: failure(error) for merchant, error in errors.items()},
        )
        if errors:
            raise PartlyError(next(iter(errors.values())), bought)
        return bought


def _check_line(body: Agreement) -> None:
    if body.line is not None and set(body.totals) != {body.line.merchant}:
        raise FieldErrors({"totals": "Agree to the total of the line's merchant, and to no other."})
    strangers = set(body.codes) - set(body.totals)
    if strangers:
        raise FieldErrors({"codes": f"There is a code for {min(strangers)}, and no total."})


def _check_key(present: tuple[OrderView, ...], key: str, body: Agreement) -> None:
    """Demand that the orders which a key has become are what is asked for: nothing else is made of it."""
    for order in present:
        agreed = body.totals.get(order.merchant), body.codes.get(order.merchant, "")
        if agreed != (order.total, order.code):
            raise IdempotencyConflictError(
                "This key stands for another purchase.", "Use a new key for a new purchase.", key=key
            )


def _cart(market: Market, key: str, body: Agreement) -> Errors:
    wanted = market.cart.wanted()
    if not market.reading.purchase(key):
        _check_merchants(wanted, body)
    bought = market.purchase(key, codes=body.codes, totals=body.totals)
    return {each.merchant: each.error for each in bought.results if each.error is not None}


def _check_merchants(wanted: Mapping[str, object], body: Agreement) -> None:
    if not wanted:
        raise UsageError("The cart is empty: there is nothing to buy.", "Put something into it first.")
    if set(wanted) != set(body.totals):
        raise PriceChangedError(
            "The cart holds things of other merchants than those agreed to.", "Ask for a quote again."
        )


def _line(market: Market, key: str, body: Agreement, line: Line) -> Errors:
    try:
        market.buy_now(
            line.merchant,
            line.sku,
            line.quantity,
            key,
            code=body.codes.get(line.merchant, ""),
            total=body.totals[line.merchant],
        )
    except IdempotencyConflictError:
        raise
    except VeilmartError as error:
        return {line.merchant: error}
    return {}
